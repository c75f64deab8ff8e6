//! The whole pipe, started from nothing: services, schema, catalogue, first transform, functions, event sources.

use crate::{catalogue, figures, progress::Terminal};
use anyhow::{Context, ensure};
use outflow_stack::{Endpoints, Settings, Stack, System, SystemSettings, target_dir, workspace_root};
use outflow_store::Store;
use secrecy::ExposeSecret;
use serde_json::Value;
use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};
use tokio::process::Command;

/// The transforms that a new pipe starts with, beside [`FIRST_TRANSFORM`].
pub const OTHER_TRANSFORMS: [&str; 2] = ["order-items-analytics", "inventory-analytics"];
/// The one that gives orders their rows, at first.
pub const FIRST_TRANSFORM: &str = "order-analytics";
/// The same with orders sorted into bands by their total: what a changed mapping looks like.
pub const CHANGED_TRANSFORM: &str = "order-analytics-banded";

/// How long figures may take to arrive: some ticks of the relay, each reader's batch window, a service that comes back.
const PATIENCE: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(250);

/// A pipe that runs.
#[derive(Debug)]
pub struct Pipe {
    pub stack: Stack,
    pub endpoints: Endpoints,
    pub system: System,
    pub outflow: Outflow,
}

impl Pipe {
    /// Starts what is not running and sets up what is not there. `functions_port` 0 is any that is free.
    ///
    /// # Errors
    /// The first step that failed; what was started by then still runs, see [`Pipe::stop_everything`].
    pub async fn start(settings: Settings, functions_port: u16, progress: &Terminal) -> anyhow::Result<Self> {
        let state = settings.state.clone();
        let stack = Stack::new(settings);
        let endpoints = stack.up(progress).await?;
        System::build(&state, progress).await?;
        let registry = stack.registry()?;
        std::fs::create_dir_all(&registry)
            .with_context(|| format!("could not make {}", registry.display()))?;
        let env = stack.env()?;
        let outflow = Outflow::build(env.clone(), progress).await?;
        // The command that has just been built compiles the transforms, here and in whoever calls it later.
        stack.installer().wasm_target(progress).await?;
        progress
            .track("setting up schema, topics and catalogue", async {
                outflow.run(&["init"]).await?;
                catalogue::put(&Store::new(endpoints.mysql.url.expose_secret())?).await
            })
            .await?;
        progress
            .track("looking for the active transforms", async {
                // What somebody has activated stays: only an empty registry is given the first ones.
                let (code, _) = outflow.try_run(&["transform", "status"]).await?;
                if code != 0 {
                    for transform in [FIRST_TRANSFORM].into_iter().chain(OTHER_TRANSFORMS) {
                        outflow.switch_to(transform).await?;
                    }
                }
                anyhow::Ok(())
            })
            .await?;
        let settings = SystemSettings { state, env, port: functions_port };
        let system = System::start(settings, stack.installer(), progress).await?;
        Ok(Self { stack, endpoints, system, outflow })
    }

    /// Runs a query on ClickHouse; see [`figures::query`].
    ///
    /// # Errors
    /// As there.
    pub async fn query(&self, sql: &str) -> anyhow::Result<Vec<Value>> {
        figures::query(&self.endpoints.clickhouse, sql).await
    }

    /// As [`Pipe::query`], for a query that answers one row.
    ///
    /// # Errors
    /// Also where it answers none.
    pub async fn query_one(&self, sql: &str) -> anyhow::Result<Value> {
        self.query(sql).await?.into_iter().next().with_context(|| format!("no row for {sql}"))
    }

    /// Waits until the column `n` that the query answers is as wanted.
    ///
    /// # Errors
    /// Where that takes too long: names the last answer and the logs to look into.
    pub async fn wait_for(&self, what: &str, sql: &str, wanted: impl Fn(u64) -> bool) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let last = match self.query_one(sql).await {
                Ok(row) => match figures::number(&row, "n")? {
                    n if wanted(n) => return Ok(()),
                    n => n.to_string(),
                },
                Err(error) => format!("{error:#}"),
            };
            ensure!(
                Instant::now() < deadline,
                "{what}: not after {} s, the last answer was {last}; look into {}",
                PATIENCE.as_secs(),
                self.system.logs().map(|log| log.display().to_string()).join(" and ")
            );
            tokio::time::sleep(POLL).await;
        }
    }

    /// Stops the functions and the event sources, and the services too unless they are to stay.
    ///
    /// # Errors
    /// Where a process does not end.
    pub async fn stop(self, keep_services: bool) -> anyhow::Result<()> {
        self.system.stop().await?;
        if !keep_services {
            self.stack.down().await?;
        }
        Ok(())
    }

    /// Stops whatever runs of this stack, however far its start had come.
    ///
    /// # Errors
    /// Where a process does not end.
    pub async fn stop_everything(settings: &Settings) -> anyhow::Result<()> {
        System::stop_leftovers(&settings.state).await?;
        Stack::new(settings.clone()).down().await?;
        Ok(())
    }
}

/// How a call of the operator's command has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Called {
    /// 0: done; 1: done, and something is wrong; 2: could not run.
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

/// The operator's command, as a person calls it.
#[derive(Clone, Debug)]
pub struct Outflow {
    program: PathBuf,
    env: Vec<(String, String)>,
}

impl Outflow {
    /// Compiles it. Quick when nothing has changed.
    ///
    /// # Errors
    /// What the compiler said.
    pub async fn build(env: Vec<(String, String)>, progress: &Terminal) -> anyhow::Result<Self> {
        progress
            .track("compiling the outflow command", async {
                let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
                let mut build = Command::new(cargo);
                build.args(["build", "--quiet", "--package", "outflow-cli"]).current_dir(workspace_root());
                let output = build.kill_on_drop(true).output().await.context("cargo could not be run")?;
                ensure!(
                    output.status.success(),
                    "outflow does not compile:\n{}",
                    String::from_utf8_lossy(&output.stderr)
                );
                Ok(())
            })
            .await?;
        Ok(Self { program: target_dir().join("outflow"), env })
    }

    pub fn program(&self) -> &Path {
        &self.program
    }

    /// The variables that it is called with, beside this process's own.
    pub fn env(&self) -> impl Iterator<Item = (&str, &str)> {
        self.env.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// Where it could not be started, and where it ended as the command never does by itself: by a signal, or with another
    /// exit code than 0, 1 and 2, as after a panic.
    pub async fn call(&self, args: &[&str]) -> anyhow::Result<Called> {
        let mut command = Command::new(&self.program);
        command
            .args(args)
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .current_dir(workspace_root());
        let output = command
            // Nobody sees what it asks.
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .with_context(|| format!("{} could not be run", self.program.display()))?;
        let (stdout, stderr) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let code = output.status.code().filter(|code| (0..=2).contains(code));
        let code = code
            .with_context(|| format!("outflow {} ended with {}: {stderr}", args.join(" "), output.status))?;
        Ok(Called { code, stdout: stdout.into_owned(), stderr: stderr.into_owned() })
    }

    /// Runs it and returns what it printed, with its exit code.
    ///
    /// # Errors
    /// As [`Outflow::call`], and where it says that it could not run (exit code 2).
    pub async fn try_run(&self, args: &[&str]) -> anyhow::Result<(i32, String)> {
        let Called { code, stdout, stderr } = self.call(args).await?;
        ensure!(code < 2, "outflow {} failed: {}", args.join(" "), stderr.trim());
        Ok((code, stdout))
    }

    /// As [`Outflow::try_run`], and everything must be well.
    ///
    /// # Errors
    /// Also where it found something wrong (exit code 1).
    pub async fn run(&self, args: &[&str]) -> anyhow::Result<String> {
        let (code, stdout) = self.try_run(args).await?;
        ensure!(code == 0, "outflow {} found something wrong: {}", args.join(" "), stdout.trim());
        Ok(stdout)
    }

    /// Builds and publishes a transform of this workspace; its digest.
    ///
    /// # Errors
    /// Where it does not build, or is refused.
    pub async fn publish(&self, transform: &str) -> anyhow::Result<String> {
        let published: Value =
            serde_json::from_str(&self.run(&["transform", "publish", transform, "--json", "-"]).await?)
                .context("outflow transform publish prints JSON")?;
        let digest = published["digest"].as_str().context("a published transform has a digest")?;
        Ok(digest.to_owned())
    }

    /// Makes a published transform the one that counts from the next batch on.
    ///
    /// # Errors
    /// Where it is refused.
    pub async fn activate(&self, digest: &str) -> anyhow::Result<()> {
        self.run(&["transform", "activate", digest]).await.map(drop)
    }

    /// Builds, publishes and activates a transform of this workspace; its digest.
    ///
    /// # Errors
    /// Where it does not build, or is refused.
    pub async fn switch_to(&self, transform: &str) -> anyhow::Result<String> {
        let digest = self.publish(transform).await?;
        self.activate(&digest).await?;
        Ok(digest)
    }

    /// MySQL's truth against ClickHouse's figures: the report, and whether all is well.
    ///
    /// # Errors
    /// Where it could not compare.
    pub async fn verify(&self) -> anyhow::Result<(bool, Value)> {
        let (code, report) = self.try_run(&["verify", "--json", "-"]).await?;
        Ok((code == 0, serde_json::from_str(&report).context("outflow verify prints JSON")?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_three_exit_codes_of_the_contract_are_an_answer() {
        let shell = Outflow { program: "/bin/sh".into(), env: Vec::new() };
        let run = async |script: &str| shell.call(&["-c", script]).await;
        for code in 0..=2 {
            let called =
                run(&format!("echo out; echo err >&2; exit {code}")).await.expect("the contract has it");
            let expected = Called { code, stdout: "out\n".to_owned(), stderr: "err\n".to_owned() };
            assert_eq!(called, expected);
        }
        for (script, told) in
            [("echo why >&2; exit 101", "why"), ("exit 3", "3"), ("kill -KILL $$", "signal")]
        {
            let error = run(script).await.expect_err(script);
            assert!(format!("{error:#}").contains(told), "{script}: {error:#}");
        }
        assert!(shell.try_run(&["-c", "exit 2"]).await.is_err(), "it could not run");
    }
}
