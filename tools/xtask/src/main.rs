//! `cargo xtask`: what developers do with Outflow. Exit codes: 0 done, 1 something is wrong, 2 could not run.

mod bench;
mod compose;
mod demo;
mod fuzz;
mod interrupt;
mod test;
mod watch;

use clap::{Parser, Subcommand};
use outflow_stack::{Settings, Stack, cli::StackCommand};
use std::process::ExitCode;
use xtask::progress::Terminal;

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about = "Developer commands of Outflow")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Sets everything up, sends orders through the whole pipe, and holds every figure against MySQL
    Demo(demo::DemoArgs),
    /// Runs the tests: all of them, or the suites named
    Test(test::TestArgs),
    /// Looks for bytes that break what the transform host and the envelope promise
    Fuzz(fuzz::FuzzArgs),
    /// Measures the relay and those it is compared with
    Bench(bench::BenchArgs),
    /// MySQL, Kafka and ClickHouse as plain processes
    #[command(subcommand)]
    Stack(StackCommand),
    /// Serves the functions under `cargo lambda watch` with services and event sources, until Ctrl-C
    Watch,
}

#[tokio::main]
async fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Demo(args) => demo::run(args).await,
        Command::Test(args) => test::run(args).await,
        Command::Fuzz(args) => fuzz::run(args).await,
        Command::Bench(args) => bench::run(args).await,
        Command::Stack(command) => stack(command).await,
        Command::Watch => watch::run().await,
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::from(2)
    })
}

async fn stack(command: StackCommand) -> anyhow::Result<ExitCode> {
    outflow_stack::cli::run(command, &Stack::new(Settings::workspace()?), &Terminal::new()).await
}
