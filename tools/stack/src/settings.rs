//! Where a stack lives and what it may use, read once.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::Context;
use secrecy::SecretString;
use serde::Deserialize;

use crate::ports::Ports;

/// One set of services: its folders, its ports, and what may be used in place of own processes.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Data, logs, run files and secrets of this set of services.
    pub state: PathBuf,
    /// The folder into which missing tools are installed. Several stacks can share it.
    pub tools: PathBuf,
    /// Where the search for free ports starts.
    pub ports: Ports,
    /// Services that may run already; taken instead of an own process when they answer.
    pub existing: Existing,
    /// Where programs are looked for.
    pub search: Search,
}

impl Settings {
    /// The workspace's own stack: state in `.outflow/`, the usual ports, and what the environment points at.
    pub fn workspace() -> anyhow::Result<Self> {
        let state = workspace_root().join(".outflow");
        let existing = envy::prefixed("OUTFLOW_")
            .from_env::<Existing>()
            .context("an OUTFLOW_… variable could not be read")?;
        let tools = state.join("tools");
        Ok(Self { tools, state, ports: Ports::USUAL, existing, search: Search::from_env() })
    }

    /// A stack of its own beside all others: any free ports, nothing that runs already, and the tools that
    /// the workspace has installed. For tests.
    pub fn isolated(state: impl Into<PathBuf>) -> Self {
        Self {
            state: state.into(),
            tools: workspace_root().join(".outflow/tools"),
            ports: Ports::ANY,
            existing: Existing::default(),
            search: Search::from_env(),
        }
    }
}

/// Services that the environment points at: the variables `OUTFLOW_…` that the functions read, too.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Existing {
    /// `OUTFLOW_DATABASE_URL`, with user, password and database.
    pub database_url: Option<SecretString>,
    /// `OUTFLOW_DATABASE_ADMIN_URL`, for what only an administrator may do. [`Self::database_url`] if absent.
    pub database_admin_url: Option<SecretString>,
    /// `OUTFLOW_KAFKA_BROKERS`, a comma-separated list of `host:port`.
    pub kafka_brokers: Option<String>,
    /// `OUTFLOW_CLICKHOUSE_URL`, the HTTP interface.
    pub clickhouse_url: Option<String>,
    /// `OUTFLOW_CLICKHOUSE_USER`.
    pub clickhouse_user: Option<String>,
    /// `OUTFLOW_CLICKHOUSE_PASSWORD`.
    pub clickhouse_password: Option<SecretString>,
    /// `OUTFLOW_CLICKHOUSE_DATABASE`.
    pub clickhouse_database: Option<String>,
}

/// Where programs are looked for before anything is installed.
#[derive(Debug, Clone, Default)]
pub struct Search {
    /// `PATH`.
    pub path: OsString,
    /// `KAFKA_HOME`, an unpacked Kafka distribution.
    pub kafka_home: Option<PathBuf>,
    /// `JAVA_HOME`.
    pub java_home: Option<PathBuf>,
    /// `CARGO`, which cargo sets for what it runs.
    pub cargo: Option<PathBuf>,
    /// A `clickhouse-front` that is built already; cargo is asked to build it if there is none here.
    pub clickhouse_front: Option<PathBuf>,
}

impl Search {
    /// What the environment says.
    pub fn from_env() -> Self {
        let folder = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        Self {
            path: std::env::var_os("PATH").unwrap_or_default(),
            kafka_home: folder("KAFKA_HOME"),
            java_home: folder("JAVA_HOME"),
            cargo: folder("CARGO"),
            clickhouse_front: None,
        }
    }

    /// The first executable of this name on PATH, or in /usr/sbin, which Debian leaves out of a user's PATH.
    pub(crate) fn program(&self, name: &str) -> Option<PathBuf> {
        use std::os::unix::fs::PermissionsExt;
        let executable = |path: &PathBuf| {
            std::fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
        };
        std::env::split_paths(&self.path)
            .chain([PathBuf::from("/usr/sbin")])
            .filter(|folder| folder.is_absolute())
            .map(|folder| folder.join(name))
            .find(executable)
    }
}

/// The workspace that this library was built in.
pub fn workspace_root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_on_the_path_and_in_usr_sbin_only() {
        let dir = tempfile::tempdir().unwrap();
        let plain = dir.path().join("not-executable");
        std::fs::write(&plain, "").unwrap();
        let search = Search { path: std::env::join_paths([dir.path()]).unwrap(), ..Search::default() };
        assert_eq!(search.program("not-executable"), None);
        assert_eq!(search.program("no-such-program"), None);
        let search = Search { path: "/usr/bin:/bin".into(), ..Search::default() };
        assert!(search.program("sh").is_some());
    }

    #[test]
    fn the_workspace_is_where_its_lock_file_is() {
        assert!(workspace_root().join("Cargo.lock").is_file());
    }
}
