//! `clickhouse-front`: ClickHouse's HTTP interface over libchdb, as a process of its own.

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;

use anyhow::Context;
use clap::Parser;
use outflow_stack::front::{FrontSettings, serve};
use tracing_subscriber::EnvFilter;

/// Serves ClickHouse's HTTP interface over libchdb.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// libchdb.so, 26.7 or newer
    #[arg(long)]
    lib: PathBuf,
    /// The data folder; created when absent
    #[arg(long)]
    data: PathBuf,
    /// Address and port; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:8123")]
    listen: SocketAddr,
    /// A JSON array of {name, password, readonly, settings}
    #[arg(long)]
    users: PathBuf,
    /// Queries that run at once; more wait
    #[arg(long, default_value_t = 32)]
    max_concurrent: usize,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    in_utc()?;
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info")))
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
    let settings = FrontSettings {
        library: arguments.lib,
        data: arguments.data,
        listen: arguments.listen,
        users: arguments.users,
        max_concurrent: arguments.max_concurrent,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(serve(settings))?;
    // Dropping the runtime would wait for the threads of queries that were given up.
    std::process::exit(0)
}

/// The engine takes its server time zone from `TZ` alone, once. Stored times mean UTC on every machine,
/// so this process starts itself anew with it; the process id stays.
fn in_utc() -> anyhow::Result<()> {
    if std::env::var_os("TZ").is_some_and(|zone| zone == "UTC") {
        return Ok(());
    }
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let error = std::process::Command::new(program).args(std::env::args_os().skip(1)).env("TZ", "UTC").exec();
    Err(error).context("cannot restart with TZ=UTC")
}
