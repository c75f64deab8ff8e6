//! The figures of transforms. They are measured by a program of their own, since it links the compiler and a guest.

use super::{Scale, entry::Entry};
use anyhow::{Context, ensure};
use outflow_stack::workspace_root;
use std::process::Stdio;
use tokio::process::Command;
use xtask::progress::Terminal;

const PACKAGE: &str = "outflow-transform-bench";

/// What is measured together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Group {
    Record,
    Registry,
    Function,
}

impl Group {
    fn name(self) -> &'static str {
        match self {
            Self::Record => "record",
            Self::Registry => "registry",
            Self::Function => "function",
        }
    }

    pub(super) fn entries(self) -> &'static [&'static str] {
        match self {
            Self::Record => &["transform.record", "transform.record_instructions", "transform.instance"],
            Self::Registry => &["transform.load", "transform.swap", "transform.pointer"],
            Self::Function => &[
                "transform.memory",
                "transform.activations",
                "transform.activations_seen",
                "transform.activations_records",
                "transform.activations_lost",
                "transform.activations_doubled",
                "transform.activations_out_of_order",
                "transform.activations_memory",
                "transform.binary_size",
            ],
        }
    }
}

pub(super) async fn run(group: Group, scale: Scale, progress: &Terminal) -> anyhow::Result<Vec<Entry>> {
    let built = progress.track("compiling the benchmark of transforms, the first time for minutes", async {
        cargo("build").output().await.context("cargo could not be run")
    });
    let built = built.await?;
    ensure!(
        built.status.success(),
        "{PACKAGE} does not compile:\n{}",
        String::from_utf8_lossy(&built.stderr)
    );
    let mut command = cargo("run");
    command.args(["--", group.name()]).stderr(Stdio::inherit());
    if scale.quick {
        command.arg("--quick");
    }
    let output = progress
        .track(&format!("measuring transforms: {}", group.name()), async {
            command.output().await.context("cargo could not be run")
        })
        .await?;
    ensure!(output.status.success(), "{PACKAGE} ended with {}", output.status);
    let entries: Vec<Entry> = serde_json::from_slice(&output.stdout).context("its figures are JSON")?;
    Ok(entries.into_iter().map(Entry::finished).collect())
}

/// With optimisation, but for a test of the commands themselves.
fn cargo(action: &str) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args([action, "--quiet", "--package", PACKAGE]).current_dir(workspace_root()).kill_on_drop(true);
    if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    command
}
