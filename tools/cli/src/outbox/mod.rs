//! `outflow outbox …`: how the outbox stands, what became of an event, and what an operator does about it.
//!
//! The library does the work; here are arguments, questions and tables.

mod audit;
mod change;
mod group;
mod list;
mod show;
mod status;
pub(crate) mod text;
pub(crate) mod when;

use crate::output::Finding;
use anyhow::Context;
use clap::{Args, Subcommand};
use outflow_outbox::operator::{Operator, OperatorError, Signature};
use outflow_store::Store;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use sqlx::MySqlPool;

#[derive(Debug, Subcommand)]
pub(crate) enum OutboxCommand {
    /// Shows how each relay group stands: backlog, gaps, lease, parked events. Exits 1 where somebody has to look.
    Status(status::StatusArgs),
    /// Lists parked events: those that could not be delivered, and what waits behind them.
    List(list::ListArgs),
    /// Shows an event, what became of it, and its neighbours. Exits 1 where it is unknown.
    Show(show::ShowArgs),
    /// Has parked events tried again now. Exits 1 where a named event could not be.
    Retry(change::RetryArgs),
    /// Gives parked events up: they are never delivered, and kept in the audit. Exits 1 where a named event could not be.
    Discard(change::DiscardArgs),
    /// Deletes delivered rows, in steps that stall nobody.
    Prune(group::PruneArgs),
    /// Stops publishing: what is written waits.
    Pause(group::PauseArgs),
    /// Ends a pause.
    Resume(group::ResumeArgs),
    /// Lists what operators did.
    Audit(audit::AuditArgs),
}

pub(crate) async fn run(command: OutboxCommand) -> anyhow::Result<Finding> {
    let config: Config = outflow_telemetry::config::from_env()?;
    let store = Store::new(config.database_url.expose_secret())?;
    let pool = store.pool();
    match command {
        OutboxCommand::Status(args) => status::run(args, pool).await,
        OutboxCommand::List(args) => list::run(args, pool).await,
        OutboxCommand::Show(args) => show::run(args, pool).await,
        OutboxCommand::Retry(args) => change::retry(args, pool).await,
        OutboxCommand::Discard(args) => change::discard(args, pool).await,
        OutboxCommand::Prune(args) => group::prune(args, pool).await,
        OutboxCommand::Pause(args) => group::pause(args, pool).await,
        OutboxCommand::Resume(args) => group::resume(args, pool).await,
        OutboxCommand::Audit(args) => audit::run(args, pool).await,
    }
}

/// Where the outbox is, from the environment.
#[derive(Debug, Deserialize)]
struct Config {
    /// `OUTFLOW_DATABASE_URL`
    database_url: SecretString,
}

/// Which relay group is meant.
#[derive(Debug, Args)]
struct Group {
    /// The relay group.
    #[arg(long, value_name = "NAME", default_value = "default")]
    group: String,
}

impl Group {
    fn operator(&self, pool: &MySqlPool) -> anyhow::Result<Operator> {
        Ok(Operator::new(pool.clone(), &self.group)?)
    }
}

/// Who does it; kept with why in the audit.
#[derive(Debug, Args)]
pub(crate) struct By {
    /// Who does this; at most 128 characters. [default: user@host]
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
}

impl By {
    pub(crate) fn sign(&self, why: &str) -> anyhow::Result<Signature> {
        let by = self.by.clone().unwrap_or_else(user_at_host);
        Ok(Signature::new(by, why)?)
    }

    /// As [`By::sign`]; a dry run, which leaves nothing in the audit, needs no reason.
    fn sign_unless_dry(&self, why: Option<&str>) -> anyhow::Result<Signature> {
        self.sign(why.unwrap_or("dry run"))
    }
}

fn user_at_host() -> String {
    let user = nix::unistd::User::from_uid(nix::unistd::geteuid()).ok().flatten();
    let host = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    let name = user.map_or_else(|| "unknown".to_owned(), |user| user.name);
    host.map_or_else(|| name.clone(), |host| format!("{name}@{host}"))
}

/// What to do next where MySQL, and not a wish, is at fault.
fn explained(error: OperatorError) -> anyhow::Error {
    let is_database = matches!(error, OperatorError::Database { .. });
    let error = anyhow::Error::from(error);
    if is_database {
        return error.context(
            "the outbox did not answer: is MySQL running, and is its schema up to date (`outflow init`)?",
        );
    }
    error
}

/// Whether a person agrees to `what`.
///
/// # Errors
/// Where nobody can be asked, and where the answer is no.
pub(crate) fn confirm(yes: bool, what: &str) -> anyhow::Result<()> {
    use std::io::{IsTerminal, Write};
    if yes {
        return Ok(());
    }
    let (stdin, mut stderr) = (std::io::stdin(), std::io::stderr());
    anyhow::ensure!(
        stdin.is_terminal() && stderr.is_terminal(),
        "not done: {what}? There is no terminal to ask at, so say --yes; --dry-run shows what it would do"
    );
    write!(stderr, "{what}? [y/N] ").context("asking")?;
    stderr.flush().context("asking")?;
    let mut answer = String::new();
    stdin.read_line(&mut answer).context("reading the answer")?;
    anyhow::ensure!(matches!(answer.trim(), "y" | "Y" | "yes"), "not confirmed, nothing was changed");
    Ok(())
}
