//! `outflow`: the operator's command. Arguments, exit codes and the `--json` convention live here; each
//! subcommand has a module of its own.
//!
//! Exit codes are a contract: 0 = done, 1 = done and something is wrong, 2 = could not run (with what to
//! do next on stderr).

mod dlq;
mod init;
mod outbox;
mod output;
mod transform;
mod verify;

use clap::{Parser, Subcommand};
use output::Finding;
use std::process::ExitCode;

/// Operates the pipe from MySQL to ClickHouse.
#[derive(Debug, Parser)]
#[command(name = "outflow", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Sets up schema, topics and views in MySQL, Kafka and ClickHouse; safe to repeat.
    Init(init::InitArgs),
    /// Compares MySQL's orders with ClickHouse's figures; exit code 1 where they differ.
    Verify(verify::VerifyArgs),
    /// Shows and mends what the relays carry from MySQL's outbox to the broker.
    #[command(subcommand)]
    Outbox(outbox::OutboxCommand),
    /// Shows dead letters, sends them back to the function that gave them up, or gives them up for good.
    #[command(subcommand)]
    Dlq(dlq::DlqCommand),
    /// Builds, publishes and activates WASM transforms.
    #[command(subcommand)]
    Transform(transform::TransformCommand),
}

#[tokio::main]
async fn main() -> ExitCode {
    outflow_telemetry::init();
    // clap itself leaves with 2 on a bad argument, which is what the contract says.
    match run(Cli::parse().command).await {
        Ok(finding) => finding.into(),
        Err(error) => {
            eprintln!("outflow: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// An error means that the command could not run; what a command found wrong is a [`Finding`].
async fn run(command: Command) -> anyhow::Result<Finding> {
    match command {
        Command::Init(args) => init::run(args).await,
        Command::Verify(args) => verify::run(args).await,
        Command::Outbox(command) => outbox::run(command).await,
        Command::Dlq(command) => dlq::run(command).await,
        Command::Transform(command) => transform::run(command).await,
    }
}
