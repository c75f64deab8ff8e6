//! What every subcommand shares: its verdict, and `--json FILE`.

use anyhow::Context;
use serde::Serialize;
use std::{
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
};

/// What a command that could run has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Finding {
    /// Exit code 0.
    Fine,
    /// Exit code 1: the command did its work, and what it looked at isn't right.
    Wrong,
}

impl From<Finding> for ExitCode {
    fn from(finding: Finding) -> Self {
        match finding {
            Finding::Fine => ExitCode::SUCCESS,
            Finding::Wrong => ExitCode::from(1),
        }
    }
}

/// `--json FILE`, to be flattened into a command's arguments.
#[derive(Debug, clap::Args)]
pub(crate) struct Json {
    /// Writes the result as JSON to FILE; `-` is stdout, and then nothing else is written there.
    #[arg(long = "json", value_name = "FILE")]
    file: Option<PathBuf>,
}

impl Json {
    /// Writes the result for machines, where one is asked for, and prints the line for people where stdout
    /// isn't taken by the JSON.
    pub(crate) fn report(
        &self,
        result: &impl Serialize,
        for_people: impl std::fmt::Display,
    ) -> anyhow::Result<()> {
        let mut stdout = std::io::stdout().lock();
        match self.file.as_deref() {
            Some(file) if file == Path::new("-") => {
                serde_json::to_writer_pretty(&mut stdout, result).context("writing JSON to stdout")?;
                writeln!(stdout)?;
                return Ok(());
            }
            Some(file) => {
                let mut text = serde_json::to_vec_pretty(result).context("encoding the result")?;
                text.push(b'\n');
                std::fs::write(file, text).with_context(|| format!("writing {}", file.display()))?;
            }
            None => {}
        }
        writeln!(stdout, "{for_people}")?;
        Ok(())
    }
}
