//! Debian's packages, for commands that the installations need.

use std::path::Path;

use anyhow::Context;

use crate::process::Launch;
use crate::progress::{Progress, track};
use crate::settings::Search;

/// A command, and the Debian package that brings it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Command {
    pub name: &'static str,
    pub package: &'static str,
}

pub(super) const JAVA: Command = Command { name: "java", package: "default-jre-headless" };
pub(super) const MAVEN: Command = Command { name: "mvn", package: "maven" };
pub(super) const NPM: Command = Command { name: "npm", package: "npm" };
pub(super) const PYTHON: Command = Command { name: "python3", package: "python3-venv" };
pub(super) const MMDEBSTRAP: Command = Command { name: "mmdebstrap", package: "mmdebstrap" };

/// What apt has done so far in this process.
#[derive(Debug, Default)]
pub(super) struct Apt {
    updated: bool,
}

impl Apt {
    /// Installs the packages, or says which command would.
    pub(super) async fn install(
        &mut self,
        missing: &[Command],
        search: &Search,
        log: &Path,
        progress: &(dyn Progress + Sync),
    ) -> anyhow::Result<()> {
        let names = join(missing.iter().map(|command| command.name));
        let packages = join(missing.iter().map(|command| command.package));
        let apt_get = search.program("apt-get").filter(|_| Path::new("/etc/debian_version").exists());
        let Some(apt_get) = apt_get else {
            anyhow::bail!("missing: {names}. Install it with your system's packages, then run this again");
        };
        anyhow::ensure!(
            is_root()?,
            "missing: {names}. Run `sudo apt-get update && sudo apt-get install -y {packages}`, then run this again"
        );
        let run = |args: &[&str]| {
            Launch::new(&apt_get, "/")
                .env("DEBIAN_FRONTEND", "noninteractive")
                // Another apt may be at work: a machine that has just started updates itself.
                .args(["-o", "DPkg::Lock::Timeout=300", "-y"])
                .args(args)
        };
        let install = async {
            if !self.updated {
                // One source that can't be reached need not be the one that has the package.
                if let Err(error) = run(&["update"]).run("apt-get update", log).await {
                    progress
                        .note(&format!("apt-get update failed, going on with the lists there are: {error}"));
                }
                self.updated = true;
            }
            let mut args = vec!["install", "--no-install-recommends"];
            args.extend(missing.iter().map(|command| command.package));
            run(&args).run(&format!("apt-get install {packages}"), log).await
        };
        track(progress, &format!("installing {packages} with apt"), install).await?;
        for command in missing {
            search.program(command.name).with_context(|| {
                format!("{} is installed, but {} is not on PATH", command.package, command.name)
            })?;
        }
        Ok(())
    }
}

fn join<'a>(words: impl Iterator<Item = &'a str>) -> String {
    words.collect::<Vec<_>>().join(" ")
}

/// Whether this process may install packages.
pub(crate) fn is_root() -> anyhow::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let own = std::fs::metadata("/proc/self").context("this system has no /proc: the stack runs on Linux")?;
    Ok(own.uid() == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Quiet;

    #[tokio::test]
    async fn what_is_missing_is_named() {
        let search = Search { path: "/nonexistent".into(), ..Search::default() };
        let log = tempfile::NamedTempFile::new().unwrap();
        let error = Apt::default()
            .install(&[MAVEN, JAVA], &search, log.path(), &Quiet)
            .await
            .unwrap_err()
            .to_string();
        assert!(error.starts_with("missing: mvn java."), "{error}");
    }
}
