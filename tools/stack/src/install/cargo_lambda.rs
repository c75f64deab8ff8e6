//! `cargo lambda`: the one on PATH if it is the pinned version, else from PyPI, in a venv of its own.

use std::path::PathBuf;

use super::apt::PYTHON;
use super::{Installer, MARKER, is_whole, output_of, remove, step, version, write};
use crate::process::Launch;
use crate::progress::{Progress, track};
use crate::versions::CARGO_LAMBDA;

/// The wheels for Linux, by their content: pip refuses any other.
const WHEELS: [&str; 2] = [
    "db2c0b1d53d7ed0055198fd045f641addc91b180b20d794fcf78cc9a9efacb38", // x86_64
    "3350315e8b4e88f7134967f51546bf51aa5db37a6d39a17380545362ae27e289", // aarch64
];

impl Installer {
    /// Finds or installs `cargo-lambda`, and answers its path.
    pub async fn cargo_lambda(&self, progress: &(dyn Progress + Sync)) -> anyhow::Result<PathBuf> {
        if let Some(program) = self.search.program("cargo-lambda") {
            let found = output_of(&program, &["lambda", "--version"]).await.unwrap_or_default();
            if version::first(&found) == version::first(CARGO_LAMBDA) {
                return Ok(program);
            }
            progress.note(&format!("{} is not taken: it isn't {CARGO_LAMBDA}", program.display()));
        }
        let recipe = requirement();
        // A venv holds its own path, so it can't be made elsewhere and put in place: the marker, written
        // last, is what makes it whole.
        let venv = std::path::absolute(self.tools.join("venv"))?;
        let program = venv.join("bin/cargo-lambda");
        if is_whole(&venv, &recipe) {
            return Ok(program);
        }
        let _lock = self.lock("venv", progress).await?;
        if is_whole(&venv, &recipe) {
            return Ok(program);
        }
        let log = self.log("venv")?;
        track(progress, &format!("installing cargo-lambda-{CARGO_LAMBDA}"), async {
            self.python(progress).await?;
            remove(&venv)?;
            let make = Launch::new(self.system("python3")?, &self.tools).args(["-m", "venv"]).arg(&venv);
            step("making a Python venv", make, &log).await?;
            let requirements = venv.join("requirements.txt");
            write(&requirements, &recipe)?;
            let pip = Launch::new(venv.join("bin/python"), &self.tools)
                .args(["-m", "pip", "install", "--no-deps", "--require-hashes", "--only-binary=:all:", "-r"])
                .arg(requirements);
            step("fetching cargo-lambda with pip", pip, &log).await?;
            let found = output_of(&program, &["lambda", "--version"]).await.unwrap_or_default();
            anyhow::ensure!(
                version::first(&found) == version::first(CARGO_LAMBDA),
                "{} does not run; it says {found:?}",
                program.display()
            );
            write(&venv.join(MARKER), &recipe)
        })
        .await?;
        Ok(program)
    }

    /// Python with what a venv needs, which Debian puts into a package of its own.
    async fn python(&self, progress: &(dyn Progress + Sync)) -> anyhow::Result<()> {
        self.need(&[PYTHON], progress).await?;
        if output_of(&self.system("python3")?, &["-c", "import ensurepip, venv"]).await.is_none() {
            let log = self.log("apt")?;
            self.apt.lock().await.install(&[PYTHON], &self.search, &log, progress).await?;
        }
        Ok(())
    }
}

fn requirement() -> String {
    let hashes: String = WHEELS.iter().map(|hash| format!(" --hash=sha256:{hash}")).collect();
    format!("cargo-lambda=={CARGO_LAMBDA}{hashes}\n")
}
