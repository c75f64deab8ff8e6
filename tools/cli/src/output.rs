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

/// Told before anything is done: a change whose result can't be written would be one that nobody hears of.
fn a_file(text: &str) -> Result<PathBuf, String> {
    let file = PathBuf::from(text);
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !folder.is_dir() {
        return Err(format!("the folder {} is not there", folder.display()));
    }
    if file.is_dir() {
        return Err("it is a folder".to_owned());
    }
    Ok(file)
}

/// `--json FILE`, to be flattened into a command's arguments.
#[derive(Debug, clap::Args)]
pub(crate) struct Json {
    /// Writes the result as JSON to FILE; `-` is stdout, and then nothing else is written there.
    #[arg(long = "json", value_name = "FILE", value_parser = a_file)]
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
