//! The key that publishes.

use super::{SigningArgs, read_key};
use crate::output::{Finding, Json};
use anyhow::Context;
use clap::Args;
use outflow_transform::SigningKey;
use serde::Serialize;
use std::{
    fs::OpenOptions,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

#[derive(Debug, Args)]
pub(crate) struct KeyArgs {
    /// Makes a key in this file, which must not exist; only its owner can read it.
    #[arg(long = "new", value_name = "FILE")]
    new: Option<PathBuf>,
    #[command(flatten)]
    signing: SigningArgs,
    #[command(flatten)]
    json: Json,
}

#[derive(Serialize)]
struct Report {
    public_key: String,
}

pub(crate) fn run(args: &KeyArgs) -> anyhow::Result<Finding> {
    let key = match &args.new {
        Some(file) => {
            make(file)?;
            read_key(file)?
        }
        None => args.signing.load()?,
    };
    let public_key = key.public().to_string();
    args.json.report(&Report { public_key: public_key.clone() }, public_key)?;
    Ok(Finding::Fine)
}

fn make(file: &Path) -> anyhow::Result<()> {
    let key = SigningKey::from_seed(rand::random());
    // Never over another one: what it has signed would be lost with it.
    let mut made =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(file).with_context(|| {
            format!("making {}: give a file that does not exist, in a folder that does", file.display())
        })?;
    writeln!(made, "{}", key.to_hex()).and_then(|()| made.sync_all()).context("writing the key")
}
