//! `outflow transform`: a transform's whole life, from `new` to `rollback`. Arguments live here; each step has a module.
//!
//! The functions carry no compiler: what they run is compiled and signed here.

mod activate;
mod bench;
mod build;
mod fixtures;
mod key;
mod live;
mod new;
mod progress;
mod publish;
mod record;
mod shadow;
mod source;
mod status;

use crate::output::Finding;
use anyhow::Context;
use clap::{Args, Subcommand};
use outflow_transform::{Registry, Signed, SigningKey, TrustedKeys};
use std::path::{Path, PathBuf};
use time::OffsetDateTime;

#[derive(Debug, Subcommand)]
pub(crate) enum TransformCommand {
    /// Writes a guest's crate that builds and passes its own fixture at once.
    New(new::NewArgs),
    /// Builds a guest and wraps it into a component.
    Build(build::BuildArgs),
    /// Runs a guest's fixtures in the real host and shows what differs, or records them from Kafka. Exits 1 where something
    /// differs.
    Test(fixtures::TestArgs),
    /// Time and instructions a record, beside the active module's.
    Bench(bench::BenchArgs),
    /// Makes the key that publishes, or shows its public half, which the functions trust.
    Key(key::KeyArgs),
    /// Builds a guest (or takes a component file), runs its fixtures, compiles it for each machine, signs and stores it.
    Publish(publish::PublishArgs),
    /// Runs a published module beside the active one on live records, without writing its rows, and shows what differs. Exits
    /// 1 where something does, or a record was not decided in its time.
    Shadow(shadow::ShadowArgs),
    /// Makes a published module the active one of its tables, from each function's next batch on.
    Activate(activate::ActivateArgs),
    /// Goes back to the module that was active before the present one.
    Rollback(activate::RollbackArgs),
    /// Leaves tables without a transform: their events are skipped from the next batch on.
    Deactivate(activate::DeactivateArgs),
    /// Shows what is active and what it does, its predecessors, and what else is published. Exits 1 where nothing is active.
    Status(status::StatusArgs),
}

pub(crate) async fn run(command: TransformCommand) -> anyhow::Result<Finding> {
    match command {
        TransformCommand::New(args) => new::run(&args),
        TransformCommand::Build(args) => build::run(&args),
        TransformCommand::Test(args) => fixtures::run(&args).await,
        TransformCommand::Bench(args) => bench::run(&args).await,
        TransformCommand::Key(args) => key::run(&args),
        TransformCommand::Publish(args) => publish::run(&args).await,
        TransformCommand::Shadow(args) => shadow::run(&args).await,
        TransformCommand::Activate(args) => activate::run(&args).await,
        TransformCommand::Rollback(args) => activate::roll_back(&args).await,
        TransformCommand::Deactivate(args) => activate::deactivate(&args).await,
        TransformCommand::Status(args) => status::run(&args).await,
    }
}

/// Where guests are.
#[derive(Debug, Args)]
struct Sources {
    /// The workspace of the guests.
    #[arg(long, value_name = "DIR", default_value = "transforms")]
    transforms: PathBuf,
}

/// Where modules are, and whose native code is believed.
#[derive(Debug, Args)]
struct RegistryArgs {
    /// file:///folder, a plain folder, or s3://bucket/prefix.
    #[arg(long = "registry", value_name = "URL", env = "OUTFLOW_TRANSFORM_REGISTRY")]
    location: Option<String>,
    /// Public keys in hex, comma separated: native code that none of them signed for is not run.
    #[arg(long = "trusted-keys", value_name = "KEYS", env = "OUTFLOW_TRANSFORM_TRUSTED_KEYS")]
    trusted: Option<String>,
}

const LOCAL: &str = "`cargo xtask stack env` prints the local values";

impl RegistryArgs {
    fn open(&self) -> anyhow::Result<Registry> {
        let location = self.location.as_deref().with_context(|| {
            format!("environment variable OUTFLOW_TRANSFORM_REGISTRY is missing: set it ({LOCAL}), or give --registry")
        })?;
        let trusted = self.trusted.as_deref().with_context(|| {
            format!(
                "environment variable OUTFLOW_TRANSFORM_TRUSTED_KEYS is missing: set it ({LOCAL}; `outflow transform key` \
                 prints the one of a signing key), or give --trusted-keys"
            )
        })?;
        let trusted: TrustedKeys = trusted.parse().context("OUTFLOW_TRANSFORM_TRUSTED_KEYS")?;
        Registry::open(location, trusted).context("give another --registry or OUTFLOW_TRANSFORM_REGISTRY")
    }
}

/// The key that signs native code.
#[derive(Debug, Args)]
struct SigningArgs {
    /// The file with the signing key, 64 hex digits.
    #[arg(long = "key", value_name = "FILE", env = "OUTFLOW_TRANSFORM_SIGNING_KEY")]
    signing_key: Option<PathBuf>,
}

impl SigningArgs {
    fn load(&self) -> anyhow::Result<SigningKey> {
        let file = self.signing_key.as_deref().with_context(|| {
            format!(
                "environment variable OUTFLOW_TRANSFORM_SIGNING_KEY is missing: set it to the key's file ({LOCAL}; \
                 `outflow transform key --new FILE` makes one), or give --key"
            )
        })?;
        read_key(file)
    }
}

fn read_key(file: &Path) -> anyhow::Result<SigningKey> {
    let text = std::fs::read_to_string(file).with_context(|| {
        format!("reading {}: `outflow transform key --new FILE` makes a key", file.display())
    })?;
    text.parse().with_context(|| format!("{} holds no signing key", file.display()))
}

/// Who changes what is active, and why; kept with the change.
#[derive(Debug, Args)]
struct By {
    /// Who does this.
    #[arg(long, env = "USER", default_value = "unknown")]
    by: String,
    /// Why.
    #[arg(long, value_name = "TEXT")]
    why: Option<String>,
}

impl By {
    fn signed(&self) -> Signed {
        Signed { by: self.by.clone(), at: now(), why: self.why.clone() }
    }
}

/// To the second: people read it.
fn now() -> OffsetDateTime {
    let now = OffsetDateTime::now_utc();
    now.replace_nanosecond(0).unwrap_or(now)
}

/// The command did its work, and the module is at fault.
fn refused(what: impl std::fmt::Display, error: &anyhow::Error) -> Finding {
    eprintln!("outflow: {what} is refused: {error:#}");
    Finding::Wrong
}

/// Asks on the terminal; without one the answer is no.
fn confirmed(question: &str, yes: bool) -> anyhow::Result<bool> {
    use std::io::{IsTerminal, Write};
    if yes {
        return Ok(true);
    }
    if !std::io::stdin().is_terminal() {
        eprintln!("{question} Nobody can be asked here: --yes says yes.");
        return Ok(false);
    }
    eprint!("{question} [y/N] ");
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).context("reading the answer")?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
