//! `cargo xtask fuzz`: looks for bytes that break a promise, for as long as it is told to. `fuzz/README.md` tells of each
//! target.

use anyhow::{Context, ensure};
use clap::{Args, ValueEnum};
use outflow_stack::workspace_root;
use std::{process::ExitCode, time::Duration};
use tokio::process::Command;

#[derive(Debug, Args)]
pub(crate) struct FuzzArgs {
    /// One target; all of them, one after the other, if none is named
    target: Option<Target>,
    /// How long each is run
    #[arg(long, default_value_t = 300)]
    seconds: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Target {
    /// A module's answer
    Decode,
    /// Events on their way to a module
    Batch,
    /// A column's type and a cell
    Cell,
    /// A Kafka record: event or dead letter
    Envelope,
    /// What Lambda hands over
    Invocation,
}

/// Cases may not take longer: one that does is a finding.
const LONGEST_CASE: Duration = Duration::from_secs(5);

pub(crate) async fn run(args: FuzzArgs) -> anyhow::Result<ExitCode> {
    let targets = args.target.map_or_else(|| Target::value_variants().to_vec(), |target| vec![target]);
    let installed = cargo_fuzz(&["--version"]).output().await;
    let has_it = installed.is_ok_and(|output| output.status.success());
    ensure!(has_it, "run `rustup toolchain install nightly` and `cargo install cargo-fuzz` first");
    let mut broken = Vec::new();
    for target in targets {
        let name = target.to_possible_value().context("a target has a name")?.get_name().to_owned();
        let folder = workspace_root().join("fuzz");
        let corpus = folder.join("corpus").join(&name);
        tokio::fs::create_dir_all(&corpus).await.context("making the corpus's folder")?;
        eprintln!("== {name}");
        let status = cargo_fuzz(&["run", &name])
            .arg(corpus)
            // Read alone: what is found goes into the first folder.
            .arg(folder.join("seeds").join(&name))
            .arg("--")
            .arg(format!("-max_total_time={}", args.seconds))
            .arg(format!("-timeout={}", LONGEST_CASE.as_secs()))
            .args(["-max_len=4096", "-print_final_stats=1"])
            .status()
            .await
            .context("cargo could not be run")?;
        if !status.success() {
            broken.push(name);
        }
    }
    if broken.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("broken: {}; the cases are in fuzz/artifacts", broken.join(", "));
    Ok(ExitCode::from(1))
}

/// With the nightly toolchain, which the sanitizer and coverage need; the workspace pins a stable one.
fn cargo_fuzz(args: &[&str]) -> Command {
    let mut command = Command::new("rustup");
    command.args(["run", "nightly", "cargo", "fuzz"]).args(args).current_dir(workspace_root());
    // Its own build, whose flags would throw away everybody else's.
    command.env("CARGO_TARGET_DIR", workspace_root().join("fuzz/target"));
    // Those of the cargo that runs this.
    for name in ["CARGO", "RUSTC", "RUSTUP_TOOLCHAIN"] {
        command.env_remove(name);
    }
    command
}
