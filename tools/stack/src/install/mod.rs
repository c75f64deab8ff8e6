//! Finds each tool, and installs what is missing into a folder of its own.
//!
//! An installed tool lies in a folder named after it and its version, with a marker that holds its recipe.
//! It is made under another name and then put in place, under a lock: two installations at once end in one,
//! and one that was cut off leaves nothing that looks whole. What a tool needs from the system (Java, Maven,
//! npm, …) is installed by apt where this process is root on Debian; elsewhere the command is named.

mod apt;
pub(crate) mod cargo_lambda;
pub(crate) mod clickhouse;
pub(crate) mod debezium;
pub(crate) mod kafka;
pub(crate) mod mysql;
mod version;
mod wasm;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;

use crate::process::Launch;
use crate::progress::{Progress, track};
use crate::settings::{Search, Settings};
use crate::state::FileLock;

/// Proves that a folder is whole, and by which recipe it was made.
const MARKER: &str = ".installed";

/// Finds and installs tools.
#[derive(Debug, Clone)]
pub struct Installer {
    tools: PathBuf,
    search: Search,
    apt: Arc<tokio::sync::Mutex<apt::Apt>>,
    front: Arc<tokio::sync::OnceCell<PathBuf>>,
}

impl Installer {
    /// An installer into `settings.tools`.
    pub fn new(settings: &Settings) -> Self {
        let front = settings.search.clickhouse_front.clone();
        Self {
            tools: settings.tools.clone(),
            search: settings.search.clone(),
            apt: Arc::default(),
            front: Arc::new(tokio::sync::OnceCell::new_with(front)),
        }
    }

    /// Finds or installs all there is: the services' tools, `cargo lambda`, and what builds transforms.
    pub async fn everything(&self, progress: &(dyn Progress + Sync)) -> anyhow::Result<()> {
        let (mysql, kafka, clickhouse, lambda, wasm, npm) = tokio::join!(
            self.mysql(progress),
            self.kafka(progress),
            self.clickhouse(progress),
            self.cargo_lambda(progress),
            self.wasm_target(progress),
            self.need(&[apt::NPM], progress),
        );
        mysql?;
        kafka?;
        clickhouse?;
        lambda?;
        wasm?;
        npm
    }

    /// The folder `name`, made by `make` if it isn't there yet by this `recipe`.
    ///
    /// `make` gets an empty folder and the log for its commands. The folder is put in place when it is done.
    async fn folder(
        &self,
        name: &str,
        recipe: &str,
        progress: &(dyn Progress + Sync),
        make: impl AsyncFnOnce(PathBuf, PathBuf) -> anyhow::Result<()>,
    ) -> anyhow::Result<PathBuf> {
        let folder = std::path::absolute(self.tools.join(name))?;
        if is_whole(&folder, recipe) {
            return Ok(folder);
        }
        let _lock = self.lock(name, progress).await?;
        if is_whole(&folder, recipe) {
            return Ok(folder);
        }
        let partial = self.tools.join(format!("{name}.partial"));
        let partial = std::path::absolute(partial)?;
        let log = self.log(name)?;
        let install = async {
            remove(&partial)?;
            std::fs::create_dir_all(&partial)
                .with_context(|| format!("could not make {}", partial.display()))?;
            make(partial.clone(), log.clone()).await?;
            write(&partial.join(MARKER), recipe)?;
            remove(&folder)?;
            std::fs::rename(&partial, &folder)
                .with_context(|| format!("could not put {} in place", folder.display()))
        };
        track(progress, &format!("installing {name}"), install).await.with_context(|| {
            format!("{name} could not be installed; everything it said is in {}", log.display())
        })?;
        Ok(folder)
    }

    async fn lock(&self, name: &str, progress: &(dyn Progress + Sync)) -> anyhow::Result<FileLock> {
        std::fs::create_dir_all(&self.tools)
            .with_context(|| format!("could not make the folder {}", self.tools.display()))?;
        let path = self.tools.join(format!("{name}.lock"));
        FileLock::acquire(&path, progress, &format!("another command installs {name}")).await
    }

    fn log(&self, name: &str) -> anyhow::Result<PathBuf> {
        let logs = self.tools.join("logs");
        std::fs::create_dir_all(&logs).with_context(|| format!("could not make {}", logs.display()))?;
        Ok(logs.join(format!("{name}.log")))
    }

    /// A program that the system has to have.
    fn system(&self, name: &str) -> anyhow::Result<PathBuf> {
        self.search.program(name).with_context(|| format!("{name} is not on PATH"))
    }

    /// Makes sure that these commands are on PATH; installs their Debian packages where that is allowed.
    async fn need(&self, commands: &[apt::Command], progress: &(dyn Progress + Sync)) -> anyhow::Result<()> {
        let missing = |command: &&apt::Command| self.search.program(command.name).is_none();
        if commands.iter().any(|command| missing(&command)) {
            let mut apt = self.apt.lock().await;
            // Another tool may have installed it while this one waited.
            let packages: Vec<apt::Command> = commands.iter().filter(missing).copied().collect();
            if !packages.is_empty() {
                let log = self.log("apt")?;
                apt.install(&packages, &self.search, &log, progress).await?;
            }
        }
        Ok(())
    }
}

/// What a short command prints, on stdout and stderr together; none if it can't be run or fails.
async fn output_of(program: &Path, args: &[&str]) -> Option<String> {
    let mut command = tokio::process::Command::new(program);
    command.args(args).stdin(std::process::Stdio::null()).env_remove("LD_LIBRARY_PATH").kill_on_drop(true);
    let output = command.output().await.ok().filter(|output| output.status.success())?;
    let text = [output.stdout, output.stderr].concat();
    Some(String::from_utf8_lossy(&text).into_owned())
}

/// Runs a step of an installation to its end.
async fn step(what: &str, launch: Launch, log: &Path) -> anyhow::Result<()> {
    launch.run(what, log).await
}

fn is_whole(folder: &Path, recipe: &str) -> bool {
    std::fs::read_to_string(folder.join(MARKER)).is_ok_and(|text| text == recipe)
}

fn remove(folder: &Path) -> anyhow::Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("could not remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(path, text).with_context(|| format!("could not write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::progress::Quiet;

    fn installer(tools: &Path) -> Installer {
        let mut settings = Settings::isolated(tools);
        settings.tools = tools.to_owned();
        Installer::new(&settings)
    }

    #[tokio::test]
    async fn two_at_once_install_once() {
        let dir = tempfile::tempdir().unwrap();
        let made = AtomicU32::new(0);
        let install = async || {
            installer(dir.path())
                .folder("tool-1", "recipe", &Quiet, async |partial, _| {
                    made.fetch_add(1, Ordering::Relaxed);
                    tokio::task::yield_now().await;
                    write(&partial.join("file"), "content")
                })
                .await
                .unwrap()
        };
        let (a, b) = tokio::join!(install(), install());
        assert_eq!(a, b);
        assert_eq!(std::fs::read_to_string(a.join("file")).unwrap(), "content");
        assert_eq!(made.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn a_failed_one_leaves_nothing_that_looks_whole_and_the_next_starts_afresh() {
        let dir = tempfile::tempdir().unwrap();
        let installer = installer(dir.path());
        let error = installer
            .folder("tool-1", "recipe", &Quiet, async |partial, log| {
                write(&partial.join("half"), "")?;
                Launch::new("sh", "/").args(["-c", "echo no network; exit 1"]).run("the download", &log).await
            })
            .await
            .unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains("tool-1.log") && text.contains("no network"), "{text}");
        assert!(!dir.path().join("tool-1").exists());
        let folder = installer.folder("tool-1", "recipe", &Quiet, async |_, _| Ok(())).await.unwrap();
        assert!(!folder.join("half").exists(), "remains of the failed installation");
    }

    #[tokio::test]
    async fn another_recipe_replaces_the_folder() {
        let dir = tempfile::tempdir().unwrap();
        let installer = installer(dir.path());
        for recipe in ["one", "two"] {
            let folder = installer
                .folder("tool", recipe, &Quiet, async |partial, _| write(&partial.join(recipe), ""))
                .await
                .unwrap();
            assert!(folder.join(recipe).exists());
        }
        assert!(!dir.path().join("tool/one").exists());
    }
}
