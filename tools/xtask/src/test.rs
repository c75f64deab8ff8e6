//! `cargo xtask test`: every suite, or the ones named.

use crate::interrupt::interrupted;
use anyhow::{Context, anyhow, ensure};
use clap::{Args, ValueEnum};
use outflow_stack::{Settings, Stack, System, workspace_root};
use secrecy::ExposeSecret;
use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Instant,
};
use tokio::process::Command;
use xtask::{
    pipe::{Outflow, Pipe},
    progress::Terminal,
};

#[derive(Debug, Args)]
pub(crate) struct TestArgs {
    /// The suites to run; all of them if none is named
    suites: Vec<Suite>,
    /// More rows, more rounds and longer outages: minutes instead of seconds
    #[arg(long)]
    long: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Suite {
    /// Formatting and lints
    Lint,
    /// What needs no service
    Unit,
    /// Each part against the real services
    Integration,
    /// Relays that start, stop, freeze and die, beside a Kafka and a MySQL that do
    Faults,
    /// The whole pipe under `cargo lambda watch`, with faults
    E2e,
    /// template.yaml, docker-compose.yml and the dashboards' files
    Templates,
}

impl Suite {
    const ALL: [Self; 6] =
        [Self::Lint, Self::Unit, Self::Integration, Self::Faults, Self::E2e, Self::Templates];

    fn name(self) -> &'static str {
        match self {
            Self::Lint => "lint",
            Self::Unit => "unit",
            Self::Integration => "integration",
            Self::Faults => "faults",
            Self::E2e => "e2e",
            Self::Templates => "templates",
        }
    }

    /// Where services of this suite keep their state, beside those of `cargo xtask stack`.
    fn own_state(self) -> Option<PathBuf> {
        let name = match self {
            Self::Integration | Self::Faults => "test",
            Self::E2e => "e2e",
            Self::Lint | Self::Unit | Self::Templates => return None,
        };
        Some(workspace_root().join(".outflow").join(name))
    }
}

/// Tests whose services are real take most of their time in waiting; two cores carry this many.
const TEST_THREADS: &str = "2";

pub(crate) async fn run(args: TestArgs) -> anyhow::Result<ExitCode> {
    let suites = if args.suites.is_empty() { Suite::ALL.to_vec() } else { args.suites.clone() };
    let progress = Terminal::new();
    let settings = Settings::workspace()?;
    if suites
        .iter()
        .any(|suite| matches!(suite, Suite::Integration | Suite::Faults | Suite::E2e | Suite::Unit))
    {
        Stack::new(settings.clone()).installer().everything(&progress).await?;
    }
    let mut failed = Vec::new();
    let mut totals = Totals::default();
    for suite in &suites {
        let started = Instant::now();
        eprintln!("== {}", suite.name());
        let outcome = tokio::select! {
            outcome = run_suite(*suite, &args, &settings, &progress, &mut totals) => outcome,
            interrupted = interrupted() => interrupted.and(Err(anyhow!("interrupted"))),
        };
        // Whatever came of it, nothing that a suite started goes on running.
        if let Some(own) = suite.own_state() {
            Pipe::stop_everything(&Settings::isolated(own)).await?;
        }
        let passed = outcome?;
        eprintln!(
            "== {}: {} in {} s",
            suite.name(),
            if passed { "passed" } else { "FAILED" },
            started.elapsed().as_secs()
        );
        if !passed {
            failed.push(suite.name());
        }
    }
    if !failed.is_empty() {
        eprintln!("failed: {}", failed.join(", "));
    }
    // The one line that CI reads; it stands last.
    println!("{} passed, {} failed", totals.passed, totals.failed);
    Ok(if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// Tests counted from the runners' own closing lines.
#[derive(Debug, Default)]
struct Totals {
    passed: u64,
    failed: u64,
}

async fn run_suite(
    suite: Suite,
    args: &TestArgs,
    settings: &Settings,
    progress: &Terminal,
    totals: &mut Totals,
) -> anyhow::Result<bool> {
    let mut env = Vec::new();
    let stack = suite.own_state().map(|state| Stack::new(Settings::isolated(state)));
    if let Some(stack) = &stack {
        // What an earlier run has left must not decide this one.
        stack.reset().await?;
    }
    if let (Suite::Integration | Suite::Faults, Some(stack)) = (suite, &stack) {
        let endpoints = stack.up(progress).await?;
        env = endpoints.env();
        env.push((
            "OUTFLOW_DATABASE_ADMIN_URL".to_owned(),
            endpoints.admin_database_url().expose_secret().to_owned(),
        ));
    }
    let mut passed = true;
    for mut command in commands(suite, args.long, settings, progress).await? {
        command.envs(env.iter().map(|(name, value)| (name, value)));
        if args.long {
            command.env("OUTFLOW_TEST_LONG", "1");
        }
        passed &= stream(command, totals).await?;
    }
    Ok(passed)
}

async fn commands(
    suite: Suite,
    long: bool,
    settings: &Settings,
    progress: &Terminal,
) -> anyhow::Result<Vec<Command>> {
    Ok(match suite {
        Suite::Lint => vec![
            cargo(&["fmt", "--all", "--check"]),
            in_workspace(WITH_S3, "clippy", &["--quiet", "--all-targets", "--", "--deny", "warnings"]),
            cargo_in("transforms", &["fmt", "--all", "--check"]),
            cargo_in("fuzz", &["fmt", "--check"]),
            cargo_in(
                "transforms",
                &["clippy", "--quiet", "--workspace", "--all-targets", "--", "--deny", "warnings"],
            ),
        ],
        Suite::Unit => vec![
            in_workspace(USUAL, "test", &["--no-fail-fast", "--lib", "--bins"]),
            // What must not compile is told by its examples.
            in_workspace(USUAL, "test", &["--no-fail-fast", "--doc"]),
            tests(&["host", "fixtures", "transform_command"]),
            // On a folder and on S3: they start a server of their own.
            in_workspace(WITH_S3, "test", &["--no-fail-fast", "--test", "registry"]),
            cargo_in("transforms", &["test", "--workspace", "--no-fail-fast"]),
        ],
        Suite::Integration => vec![
            with_threads(tests(&["front", "lifecycle"]), "1"),
            with_threads(tests(&["invocations", "kafka", "killed_broker", "integration"]), TEST_THREADS),
            with_threads(benchmarks(long), "1"),
        ],
        Suite::Faults => vec![
            in_workspace(USUAL, "build", &["--quiet", "--example", "relay"]),
            with_threads(tests(&["faults"]), TEST_THREADS),
        ],
        Suite::E2e => {
            System::build(&settings.state, progress).await?;
            Outflow::build(Vec::new(), progress).await?;
            vec![with_threads(tests(&["e2e"]), "1")]
        }
        Suite::Templates => {
            let python = python_with_checkers(&settings.tools).await?;
            vec![
                python_in_root(&python, &["-m", "pytest", "--quiet", "tests/templates"]),
                python_in_root(&python, &["tests/templates/check_template.py"]),
            ]
        }
    })
}

/// That of transforms builds the compiler of WASM with other features than everything else, which takes minutes.
fn benchmarks(long: bool) -> Command {
    let mut command = tests(&["bench"]);
    if !long {
        command.args(["--", "--skip", "every_figure_of_transforms"]);
    }
    command
}

fn cargo(args: &[&str]) -> Command {
    cargo_in(".", args)
}

/// Features of nearly everything that is built here.
const USUAL: &str = "outflow-transform/compile";
/// Not where reqwest is used elsewhere: with S3's features it wants to be told its cryptography first.
const WITH_S3: &str = "outflow-transform/compile,outflow-transform/s3";

/// On the whole workspace: of fewer packages the crates have other features, and each of them would be built again.
fn in_workspace(features: &str, subcommand: &str, args: &[&str]) -> Command {
    let mut command = cargo(&[subcommand, "--workspace", "--features", features]);
    command.args(args);
    command
}

/// Test targets of the workspace, by their names.
fn tests(targets: &[&str]) -> Command {
    let mut command = in_workspace(USUAL, "test", &["--no-fail-fast"]);
    command.args(targets.iter().flat_map(|target| ["--test", target]));
    command
}

fn cargo_in(folder: &str, args: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(args).current_dir(workspace_root().join(folder));
    command
}

fn with_threads(mut command: Command, threads: &str) -> Command {
    command.env("RUST_TEST_THREADS", threads);
    command
}

fn python_in_root(python: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(python);
    command.args(args).current_dir(workspace_root());
    command
}

/// Python in a virtual environment with the pinned checkers of the deployment files.
async fn python_with_checkers(tools: &Path) -> anyhow::Result<PathBuf> {
    let root = workspace_root();
    let requirements = root.join("tests/templates/requirements.txt");
    let venv = tools.join("lint-venv");
    let wanted = std::fs::read(&requirements).context("reading tests/templates/requirements.txt")?;
    let marker = venv.join(".installed");
    if std::fs::read(&marker).ok().as_deref() != Some(wanted.as_slice()) {
        eprintln!("installing the checkers of tests/templates/requirements.txt …");
        let steps = [
            ("python3".into(), vec!["-m".into(), "venv".into(), venv.clone().into_os_string()]),
            (
                venv.join("bin/pip").into_os_string(),
                vec![
                    "install".into(),
                    "--quiet".into(),
                    "--requirement".into(),
                    requirements.into_os_string(),
                ],
            ),
        ];
        for (program, args) in steps {
            let status =
                Command::new(&program).args(&args).status().await.context("python3 could not be run")?;
            ensure!(status.success(), "{} failed: see above", program.display());
        }
        std::fs::write(&marker, wanted)?;
    }
    Ok(venv.join("bin/python"))
}

/// Runs a command with its output shown as it comes, and counts the tests that its closing lines tell of.
async fn stream(mut command: Command, totals: &mut Totals) -> anyhow::Result<bool> {
    use tokio::io::{AsyncBufReadExt, BufReader};
    let mut child = command
        .stdout(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("{:?} could not be run", command.as_std().get_program()))?;
    let stdout = child.stdout.take().context("stdout is piped")?;
    let mut lines = BufReader::new(stdout).lines();
    let (passed, failed) = (totals.passed, totals.failed);
    while let Some(line) = lines.next_line().await.context("reading a test's output")? {
        println!("{line}");
        totals.passed += count(&line, "passed");
        totals.failed += count(&line, "failed");
    }
    let status = child.wait().await.context("waiting for a test run")?;
    // A run that failed before its first test must not look like none.
    if !status.success() && totals.failed == failed {
        totals.failed += 1;
    } else if status.success() && totals.passed == passed {
        // A linter counts as one check.
        totals.passed += 1;
    }
    Ok(status.success())
}

/// The number before this word in a closing line: `test result: ok. 3 passed; 0 failed` or `3 passed, 1 failed in 2s`.
fn count(line: &str, word: &str) -> u64 {
    let is_closing = line.starts_with("test result:") || (line.contains(" in ") && line.ends_with('s'));
    if !is_closing {
        return 0;
    }
    let words: Vec<&str> =
        line.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty()).collect();
    words.windows(2).filter(|pair| pair[1] == word).filter_map(|pair| pair[0].parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closing_lines_of_both_runners_are_counted_and_others_are_not() {
        let cargo = "test result: FAILED. 12 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.03s";
        let pytest = "1 failed, 7 passed in 0.41s";
        assert_eq!((count(cargo, "passed"), count(cargo, "failed")), (12, 3));
        assert_eq!((count(pytest, "passed"), count(pytest, "failed")), (7, 1));
        assert_eq!(count("test that_5 passed ... ok", "passed"), 0);
    }
}
