//! `cargo xtask stack …`: the stack by hand.

use std::io::{BufRead, IsTerminal, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Subcommand;

use crate::progress::Progress;
use crate::services::Service;
use crate::stack::{ServiceStatus, Stack};
use crate::system::{System, SystemLock};

/// How often a followed log is looked at.
const FOLLOW: Duration = Duration::from_millis(200);

/// What can be done with the stack.
#[derive(Debug, Clone, Subcommand)]
pub enum StackCommand {
    /// Start MySQL, Kafka and ClickHouse, or what isn't running of them; installs what is missing
    Up,
    /// Stop them; data and logs stay
    Down,
    /// Stop them and remove their data, logs, published modules and passwords
    Reset {
        /// Don't ask
        #[arg(long)]
        yes: bool,
    },
    /// Show what runs where; exit code 1 if a service isn't ready
    Status {
        /// Write JSON to FILE, or to stdout for `-` or no FILE
        #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "-")]
        json: Option<PathBuf>,
    },
    /// Print what the functions and `outflow` read, for `eval "$(cargo xtask stack env)"`; holds passwords
    Env,
    /// Show the end of the logs
    Logs {
        /// One service; all of them if not given
        service: Option<Service>,
        /// How many lines of each log
        #[arg(long, short = 'n', default_value_t = 40)]
        lines: usize,
        /// Go on as the log grows; wants one service
        #[arg(long, short, requires = "service")]
        follow: bool,
    },
}

/// Runs a command; results go to stdout. An error means that it could not run.
pub async fn run(
    command: StackCommand,
    stack: &Stack,
    progress: &(dyn Progress + Sync),
) -> anyhow::Result<ExitCode> {
    match command {
        StackCommand::Up => {
            stack.up(progress).await?;
            print_table(&stack.status().await?)?;
            Ok(ExitCode::SUCCESS)
        }
        StackCommand::Down => {
            match SystemLock::try_acquire(stack.state())? {
                // Functions and event sources that a killed `watch` or `demo` has left.
                Some(_lock) => System::stop_leftovers(stack.state()).await?,
                None => progress.note(
                    "a `cargo xtask watch` or `demo` is running and goes on without services; Ctrl-C there stops all of it",
                ),
            }
            let stopped = stack.down().await?;
            match stopped.len() {
                0 => println!("nothing was running"),
                n => println!("stopped {n}: {}", names(&stopped)),
            }
            Ok(ExitCode::SUCCESS)
        }
        StackCommand::Reset { yes } => reset(stack, yes).await,
        StackCommand::Status { json } => {
            let status = stack.status().await?;
            match json {
                Some(path) => write_json(&path, &status)?,
                None => print_table(&status)?,
            }
            Ok(if status.iter().all(|service| service.ready) { ExitCode::SUCCESS } else { ExitCode::from(1) })
        }
        StackCommand::Env => {
            for (name, value) in stack.env()? {
                // A quote ends the quoting, stands for itself, and begins it again.
                println!("export {name}='{}'", value.replace('\'', "'\\''"));
            }
            Ok(ExitCode::SUCCESS)
        }
        StackCommand::Logs { service, lines, follow } => {
            let services = service.map_or(Service::ALL.to_vec(), |service| vec![service]);
            for service in &services {
                if services.len() > 1 {
                    println!("== {service}: {}", stack.log(*service)?.display());
                }
                for line in stack.log_tail(*service, lines)? {
                    println!("{line}");
                }
            }
            if let (true, [service]) = (follow, services.as_slice()) {
                follow_log(&stack.log(*service)?).await?;
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

async fn reset(stack: &Stack, yes: bool) -> anyhow::Result<ExitCode> {
    if !yes {
        anyhow::ensure!(
            std::io::stdin().is_terminal(),
            "reset removes all data of the stack: add --yes to mean it"
        );
        print!("Remove all data, logs, published modules and passwords of the stack? [y/N] ");
        std::io::stdout().flush()?;
        let mut answer = String::new();
        std::io::stdin().lock().read_line(&mut answer)?;
        if !matches!(answer.trim(), "y" | "Y" | "yes") {
            println!("nothing was removed");
            return Ok(ExitCode::SUCCESS);
        }
    }
    let _lock = SystemLock::acquire(stack.state())?;
    System::stop_leftovers(stack.state()).await?;
    let removed = stack.reset().await?;
    println!(
        "stopped {} services, removed {} files ({} MB)",
        removed.stopped,
        removed.files,
        removed.bytes / 1_000_000
    );
    Ok(ExitCode::SUCCESS)
}

fn names(services: &[Service]) -> String {
    services.iter().map(|service| service.name()).collect::<Vec<_>>().join(", ")
}

fn print_table(status: &[ServiceStatus]) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    for service in status {
        let state = match (service.ready, service.pid, &service.url) {
            (true, _, _) => "ready",
            (false, Some(_), _) => "not ready",
            (false, None, Some(_)) => "dead",
            (false, None, None) => "down",
        };
        let pid = service.pid.map_or("-".to_owned(), |pid| pid.to_string());
        let url = service.url.as_deref().unwrap_or("-");
        writeln!(out, "{:<11} {state:<10} {pid:>7}  {url:<32} {}", service.name, service.log.display())?;
    }
    Ok(())
}

fn write_json(path: &Path, status: &[ServiceStatus]) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(status)?;
    if path == Path::new("-") {
        println!("{text}");
        return Ok(());
    }
    std::fs::write(path, text + "\n").with_context(|| format!("could not write {}", path.display()))
}

/// Prints what is appended, until it is interrupted. A log that was set aside starts again from its top.
async fn follow_log(path: &Path) -> anyhow::Result<()> {
    let mut at = std::fs::metadata(path).map_or(0, |meta| meta.len());
    loop {
        let length = std::fs::metadata(path).map_or(0, |meta| meta.len());
        at = if length < at { 0 } else { at };
        if length > at {
            let mut file = std::fs::File::open(path)?;
            file.seek(SeekFrom::Start(at))?;
            let mut bytes = Vec::new();
            file.take(length - at).read_to_end(&mut bytes)?;
            let mut out = std::io::stdout().lock();
            out.write_all(&bytes)?;
            out.flush()?;
            at += bytes.len() as u64;
        }
        tokio::time::sleep(FOLLOW).await;
    }
}
