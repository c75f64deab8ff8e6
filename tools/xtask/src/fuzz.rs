//! `cargo xtask fuzz`: looks for bytes that break a promise, for as long as it is told to, and installs what it needs.
//! `fuzz/README.md` tells of each target.

use anyhow::{Context, ensure};
use clap::{Args, ValueEnum};
use outflow_stack::{Settings, workspace_root};
use std::{path::Path, process::ExitCode, time::Duration};
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
    /// The bytes that a module answers
    Answer,
    /// Outcomes as bytes and as typed values
    Outcomes,
    /// What a module says of itself
    Describe,
    /// A Kafka record: event or dead letter
    Envelope,
    /// What Lambda hands over
    Invocation,
}

impl Target {
    /// As cargo-fuzz and the command line have it.
    fn name(self) -> String {
        self.to_possible_value().expect("no target is hidden").get_name().to_owned()
    }
}

/// Cases may not take longer: one that does is a finding.
const LONGEST_CASE: Duration = Duration::from_secs(5);
/// Which cargo-fuzz is installed where there is none.
const CARGO_FUZZ: &str = "0.13.2";

pub(crate) async fn run(args: FuzzArgs) -> anyhow::Result<ExitCode> {
    let targets = args.target.map_or_else(|| Target::value_variants().to_vec(), |target| vec![target]);
    let names: Vec<String> = targets.into_iter().map(Target::name).collect();
    let tools = Settings::workspace()?.tools.join("cargo-fuzz");
    install(&tools).await?;
    // All of them before any is run: a run that ends badly is a finding then.
    for name in &names {
        build(&tools, name).await?;
    }
    let mut broken = Vec::new();
    for name in names {
        let folder = workspace_root().join("fuzz");
        let corpus = folder.join("corpus").join(&name);
        tokio::fs::create_dir_all(&corpus).await.context("making the corpus's folder")?;
        eprintln!("== {name}");
        let status = nightly_cargo(&tools, &["fuzz", "run", &name])?
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

async fn build(tools: &Path, name: &str) -> anyhow::Result<()> {
    let mut command = nightly_cargo(tools, &["fuzz", "build", name])?;
    let status = command.status().await.context("cargo could not be run")?;
    ensure!(
        status.success(),
        "{name} does not build, so nothing was fuzzed: mend what the compiler says above, or run `rustup update nightly` \
         where the toolchain is at fault, then `cargo xtask fuzz {name}` again"
    );
    Ok(())
}

/// The nightly toolchain, beside the others of rustup, and cargo-fuzz, into `tools`; each where it is missing.
async fn install(tools: &Path) -> anyhow::Result<()> {
    let is_there = async |mut command: Command| {
        command.output().await.is_ok_and(|output: std::process::Output| output.status.success())
    };
    if !is_there(nightly_cargo(tools, &["--version"])?).await {
        eprintln!("installing the nightly toolchain …");
        let status = Command::new("rustup")
            .args(["toolchain", "install", "nightly", "--profile", "minimal"])
            .status()
            .await
            .context("rustup could not be run: the fuzzer needs its nightly toolchain")?;
        ensure!(status.success(), "rustup could not install the nightly toolchain: see above");
    }
    if !is_there(nightly_cargo(tools, &["fuzz", "--version"])?).await {
        eprintln!("installing cargo-fuzz {CARGO_FUZZ} into {} …", tools.display());
        let status = nightly_cargo(tools, &["install", "--quiet", "--locked", "--version", CARGO_FUZZ])?
            .arg("--root")
            .arg(tools)
            .arg("cargo-fuzz")
            .status()
            .await
            .context("cargo could not be run")?;
        ensure!(status.success(), "cargo could not install cargo-fuzz: see above");
    }
    Ok(())
}

/// Of the nightly toolchain, which the sanitizer and coverage need; the workspace pins a stable one.
fn nightly_cargo(tools: &Path, args: &[&str]) -> anyhow::Result<Command> {
    let mut command = Command::new("rustup");
    command.args(["run", "nightly", "cargo"]).args(args).current_dir(workspace_root());
    let usual = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::split_paths(&usual).chain([tools.join("bin")]);
    command.env("PATH", std::env::join_paths(path).context("PATH names a folder with a colon in it")?);
    // Its own build, whose flags would throw away everybody else's.
    command.env("CARGO_TARGET_DIR", workspace_root().join("fuzz/target"));
    // Those of the cargo that runs this.
    for name in ["CARGO", "RUSTC", "RUSTUP_TOOLCHAIN"] {
        command.env_remove(name);
    }
    Ok(command)
}
