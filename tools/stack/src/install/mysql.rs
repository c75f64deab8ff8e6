//! `mysqld`: the one on PATH, else Debian's, unpacked into a folder and run through that folder's own loader.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::apt::{MMDEBSTRAP, is_root};
use super::{Installer, output_of, remove, step, version};
use crate::process::{Launch, log_tail};
use crate::progress::Progress;
use crate::versions::{MYSQL, MYSQL_OLDEST};

/// The suite that has MySQL; Debian's stable ones carry MariaDB alone.
const SUITE: &str = "sid";
const PACKAGES: &str = "mysql-server-core,mysql-client-core";

/// A `mysqld` that runs here.
#[derive(Debug, Clone)]
pub(crate) struct Mysqld {
    program: PathBuf,
    /// What comes before all other arguments.
    leading: Vec<OsString>,
}

impl Mysqld {
    /// The command with what every call of this `mysqld` needs.
    pub(crate) fn launch(&self, cwd: &Path) -> Launch {
        Launch::new(&self.program, cwd).args(&self.leading)
    }

    fn on_path(program: PathBuf) -> anyhow::Result<Self> {
        Ok(Self { program, leading: common()? })
    }

    fn unpacked(root: &Path) -> anyhow::Result<Self> {
        let (triplet, loader) = match std::env::consts::ARCH {
            "x86_64" => ("x86_64-linux-gnu", "ld-linux-x86-64.so.2"),
            "aarch64" => ("aarch64-linux-gnu", "ld-linux-aarch64.so.1"),
            other => anyhow::bail!("no unpacked MySQL for {other}: install mysqld 8.0.19 or newer"),
        };
        let libraries = root.join("usr/lib").join(triplet);
        let share = root.join("usr/share/mysql");
        let flag = |name: &str, path: &Path| {
            let mut flag = OsString::from(name);
            flag.push(path);
            flag
        };
        let mut leading = vec![
            OsString::from("--library-path"),
            libraries.clone().into(),
            root.join("usr/sbin/mysqld").into(),
        ];
        leading.extend(common()?);
        leading.extend([
            flag("--lc-messages-dir=", &share),
            flag("--character-sets-dir=", &share.join("charsets")),
            flag("--plugin-dir=", &root.join("usr/lib/mysql/plugin")),
        ]);
        Ok(Self { program: libraries.join(loader), leading })
    }

    async fn version(&self) -> Option<(u32, u32, u32)> {
        let mut args: Vec<&str> = self.leading.iter().filter_map(|arg| arg.to_str()).collect();
        args.push("--version");
        version::first(&output_of(&self.program, &args).await?)
    }
}

/// The machine's own configuration stays out; files are neither read nor written by SQL.
fn common() -> anyhow::Result<Vec<OsString>> {
    let mut args = vec!["--no-defaults".into(), "--secure-file-priv=NULL".into()];
    if is_root()? {
        // mysqld refuses to run as root unless it is told to.
        args.push("--user=root".into());
    }
    Ok(args)
}

impl Installer {
    /// Finds or installs `mysqld`.
    pub(crate) async fn mysql(&self, progress: &(dyn Progress + Sync)) -> anyhow::Result<Mysqld> {
        if let Some(program) = self.search.program("mysqld") {
            match accepted(&output_of(&program, &["--version"]).await.unwrap_or_default()) {
                Ok(()) => return Mysqld::on_path(program),
                Err(why) => progress.note(&format!("{} is not taken: {why}", program.display())),
            }
        }
        let name = format!("mysql-{MYSQL}");
        let recipe = format!("{SUITE} {PACKAGES}");
        let folder = self
            .folder(&name, &recipe, progress, async |partial, log| {
                self.unpack(&partial, &log, progress).await
            })
            .await?;
        Mysqld::unpacked(&folder.join("root"))
    }

    async fn unpack(
        &self,
        partial: &Path,
        log: &Path,
        progress: &(dyn Progress + Sync),
    ) -> anyhow::Result<()> {
        self.need(&[MMDEBSTRAP], progress).await?;
        let root = partial.join("root");
        let mmdebstrap = self.system("mmdebstrap")?;
        let extract = |options: &[&str]| {
            Launch::new(&mmdebstrap, partial)
                .args(["--variant=extract", &format!("--include={PACKAGES}")])
                .args(options)
                .arg(SUITE)
                .arg(&root)
        };
        let what = "unpacking Debian's MySQL";
        if let Err(error) = step(what, extract(&[]), log).await {
            // A mirror that is a few days behind has an index past its date. The signatures still hold;
            // only its age is let pass.
            if !log_tail(log, 10).iter().any(|line| line.contains("is expired")) {
                return Err(error);
            }
            progress.note("the Debian mirror is behind its date: its signed index is taken all the same");
            remove(&root)?;
            step(what, extract(&["--aptopt=Acquire::Check-Valid-Until \"false\""]), log).await?;
        }
        let found = Mysqld::unpacked(&root)?.version().await.context("the unpacked mysqld does not run")?;
        if format!("{}.{}", found.0, found.1) != MYSQL {
            progress
                .note(&format!("Debian's MySQL is {}.{}.{} by now, not {MYSQL}", found.0, found.1, found.2));
        }
        anyhow::ensure!(found >= MYSQL_OLDEST, "Debian's MySQL {found:?} is older than {MYSQL_OLDEST:?}");
        Ok(())
    }
}

/// Whether a `mysqld --version` will do, else why not.
fn accepted(text: &str) -> Result<(), String> {
    if text.contains("MariaDB") {
        return Err("it is MariaDB".to_owned());
    }
    let (a, b, c) = MYSQL_OLDEST;
    match version::first(text) {
        Some(found) if found >= MYSQL_OLDEST => Ok(()),
        Some(found) => Err(format!("{}.{}.{} is older than {a}.{b}.{c}", found.0, found.1, found.2)),
        None => Err("it does not tell its version".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_mysql_that_is_new_enough_is_taken() {
        assert_eq!(accepted("mysqld  Ver 8.0.19 for Linux on x86_64"), Ok(()));
        assert_eq!(accepted("mysqld  Ver 9.7.4-2 for Linux on x86_64 ((Debian))"), Ok(()));
        assert_eq!(accepted("mysqld  Ver 8.0.18 for Linux"), Err("8.0.18 is older than 8.0.19".to_owned()));
        assert!(accepted("mysqld  Ver 10.11.6-MariaDB-0+deb12u1").is_err());
        assert!(accepted("").is_err());
    }
}
