//! ClickHouse: a server on PATH, else the engine as a library from npm, behind the front in this package.

use std::path::PathBuf;

use anyhow::Context;

use super::apt::NPM;
use super::{Installer, output_of, step, version, write};
use crate::process::{Launch, end_of};
use crate::progress::{Progress, track};
use crate::settings::workspace_root;
use crate::versions::{CHDB, CHDB_PACKAGE};

const PACKAGE: &str = include_str!("clickhouse/package.json");
/// Holds the package's sha512: npm refuses any other content.
const PACKAGE_LOCK: &str = include_str!("clickhouse/package-lock.json");

/// The oldest server taken from PATH: refreshable views are no experiment there any more.
const SERVER_OLDEST_MAJOR: u32 = 25;

const FRONT: &str = "clickhouse-front";

/// A ClickHouse that runs here.
#[derive(Debug, Clone)]
pub(crate) enum Clickhouse {
    /// Our HTTP front, over the engine as a library.
    Front { front: PathBuf, lib: PathBuf },
    /// The real server.
    Server { program: PathBuf },
}

impl Installer {
    /// Finds or installs ClickHouse.
    pub(crate) async fn clickhouse(&self, progress: &(dyn Progress + Sync)) -> anyhow::Result<Clickhouse> {
        if let Some(program) = self.search.program("clickhouse") {
            let text = output_of(&program, &["server", "--version"]).await.unwrap_or_default();
            match version::first(&text) {
                Some(found) if found.0 >= SERVER_OLDEST_MAJOR => return Ok(Clickhouse::Server { program }),
                _ => progress.note(&format!(
                    "{} is not taken: it is no server of version {SERVER_OLDEST_MAJOR} or newer",
                    program.display()
                )),
            }
        }
        // Both to their end: half a download is lost when the other fails first.
        let (lib, front) = tokio::join!(self.libchdb(progress), self.clickhouse_front(progress));
        Ok(Clickhouse::Front { front: front?, lib: lib? })
    }

    /// Finds or installs `libchdb.so`, and answers its path.
    pub async fn libchdb(&self, progress: &(dyn Progress + Sync)) -> anyhow::Result<PathBuf> {
        anyhow::ensure!(
            cfg!(all(target_os = "linux", target_arch = "x86_64")),
            "{CHDB_PACKAGE} {CHDB} is for Linux on x86_64: put a `clickhouse` server on PATH instead, or use \
             docker-compose.yml"
        );
        let library = PathBuf::from("node_modules").join(CHDB_PACKAGE).join("libchdb.so");
        let folder = self
            .folder(&format!("libchdb-{CHDB}"), PACKAGE_LOCK, progress, async |partial, log| {
                self.need(&[NPM], progress).await?;
                write(&partial.join("package.json"), PACKAGE)?;
                write(&partial.join("package-lock.json"), PACKAGE_LOCK)?;
                let npm = Launch::new(self.system("npm")?, &partial).args([
                    "ci",
                    "--ignore-scripts",
                    "--no-audit",
                    "--no-fund",
                ]);
                step("fetching ClickHouse's engine with npm", npm, &log).await?;
                std::fs::metadata(partial.join(&library)).context("npm brought no libchdb.so").map(|_| ())
            })
            .await?;
        Ok(folder.join(library))
    }

    /// Builds the front if it is missing or older than its source, once a process, and answers its path.
    pub async fn clickhouse_front(&self, progress: &(dyn Progress + Sync)) -> anyhow::Result<PathBuf> {
        self.front.get_or_try_init(|| self.build_front(progress)).await.cloned()
    }

    async fn build_front(&self, progress: &(dyn Progress + Sync)) -> anyhow::Result<PathBuf> {
        let beside = front_beside_this_program();
        let Some(cargo) = self.search.cargo.clone().or_else(|| self.search.program("cargo")) else {
            return beside.context("cargo is not on PATH: install Rust from https://rustup.rs");
        };
        track(progress, "building clickhouse-front", async {
            let log = self.log(FRONT)?;
            let mut launch = Launch::new(cargo, workspace_root()).args([
                "build",
                "--quiet",
                "--package=outflow-stack",
                "--message-format=json-render-diagnostics",
                "--bin",
                FRONT,
            ]);
            if !cfg!(debug_assertions) {
                launch = launch.arg("--release");
            }
            // What it builds is asked from cargo itself: the target folder may be anywhere.
            let mut command = launch.command(&launch.program, &log)?;
            command.args(&launch.args).stdout(std::process::Stdio::piped()).kill_on_drop(true);
            let output = command.spawn().context("could not run cargo")?.wait_with_output().await?;
            anyhow::ensure!(output.status.success(), "{FRONT} could not be built\n{}", end_of(&log));
            executable(&output.stdout).with_context(|| format!("cargo built no {FRONT}"))
        })
        .await
    }
}

/// The executable among cargo's messages.
fn executable(messages: &[u8]) -> Option<PathBuf> {
    messages
        .split(|byte| *byte == b'\n')
        .filter_map(|line| serde_json::from_slice::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == FRONT)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
}

/// target/debug/xtask, target/debug/deps/a_test and target/debug/examples/up all find target/debug/….
fn front_beside_this_program() -> Option<PathBuf> {
    let program = std::env::current_exe().ok()?;
    program.ancestors().skip(1).take(2).map(|folder| folder.join(FRONT)).find(|front| front.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lock_file_pins_version_and_content() {
        let lock: serde_json::Value = serde_json::from_str(PACKAGE_LOCK).unwrap();
        let package = &lock["packages"][format!("node_modules/{CHDB_PACKAGE}")];
        assert_eq!(package["version"], CHDB);
        assert!(package["integrity"].as_str().unwrap().starts_with("sha512-"));
        let package: serde_json::Value = serde_json::from_str(PACKAGE).unwrap();
        assert_eq!(package["dependencies"][CHDB_PACKAGE], CHDB);
    }

    #[test]
    fn the_executable_is_read_from_cargos_messages() {
        let messages = br#"{"reason":"compiler-artifact","target":{"name":"other"},"executable":"/x"}
{"reason":"compiler-artifact","target":{"name":"clickhouse-front"},"executable":"/t/clickhouse-front"}
{"reason":"build-finished","success":true}
"#;
        assert_eq!(executable(messages), Some(PathBuf::from("/t/clickhouse-front")));
        assert_eq!(executable(b""), None);
    }
}
