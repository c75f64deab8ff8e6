//! The relay under test: a plain process, as whoever lifts it out would run it.

use super::{
    process::Process,
    site::{Database, Site},
};
use anyhow::{Context, ensure};
use outflow_stack::{target_dir, workspace_root};
use std::path::PathBuf;
use tokio::process::Command;
use xtask::progress::Terminal;

/// As template.yaml sets it for the function.
const ALLOCATOR: (&str, &str) = ("GLIBC_TUNABLES", "glibc.malloc.mxfast=0:glibc.malloc.tcache_count=127");

/// The program, built.
#[derive(Clone, Debug)]
pub(super) struct Relay {
    program: PathBuf,
}

impl Relay {
    /// Builds it with the same profile as the benchmarks themselves.
    pub(super) async fn build(progress: &Terminal) -> anyhow::Result<Self> {
        let args = ["--package", "outflow-broker", "--example", "relay"];
        progress.track("compiling the relay", build(&args)).await?;
        Ok(Self { program: target_dir().join("examples/relay") })
    }

    /// A relay that goes on until it is stopped.
    pub(super) fn start(&self, site: &Site, database: &Database) -> anyhow::Result<Process> {
        Process::start("the relay", self.command(site, database), &site.folder().join("relay.log"))
    }

    /// One relay that carries what waits and ends, as each call of the schedule does.
    pub(super) async fn once(&self, site: &Site, database: &Database) -> anyhow::Result<()> {
        let mut command = self.command(site, database);
        let output = command.arg("--once").output().await.context("could not start the relay")?;
        ensure!(
            output.status.success(),
            "the relay failed: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }

    fn command(&self, site: &Site, database: &Database) -> Command {
        let mut command = Command::new(&self.program);
        command
            .env("OUTFLOW_DATABASE_URL", &database.url)
            .env("OUTFLOW_KAFKA_BROKERS", &site.brokers)
            .env(ALLOCATOR.0, ALLOCATOR.1)
            .kill_on_drop(true);
        command
    }

    /// Lets the relay begin again behind `position`, as if it had delivered what is before it and nothing else.
    pub(super) async fn rewind(&self, database: &Database, position: u64) -> anyhow::Result<()> {
        for statement in
            ["DELETE FROM outbox_gaps", "DELETE FROM outbox_failures", "DELETE FROM outbox_checkpoints"]
        {
            sqlx::query(statement).execute(&database.pool).await.context("emptying a table of the relay")?;
        }
        let moved =
            sqlx::query("UPDATE outbox_position SET position = ?, lease_owner = NULL, lease_until = NULL")
                .bind(position)
                .execute(&database.pool)
                .await
                .context("setting the relay's position")?;
        ensure!(moved.rows_affected() <= 1, "more than one relay group");
        Ok(())
    }
}

/// Runs `cargo build` with these arguments, optimised if this program is.
pub(super) async fn build(args: &[&str]) -> anyhow::Result<()> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--quiet"]).args(args).current_dir(workspace_root()).kill_on_drop(true);
    if !cfg!(debug_assertions) {
        cargo.arg("--release");
    }
    let status = cargo.status().await.context("cargo could not be run")?;
    ensure!(status.success(), "cargo build {} failed: see above", args.join(" "));
    Ok(())
}
