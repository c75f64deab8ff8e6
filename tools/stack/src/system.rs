//! The functions under `cargo lambda watch`, and the event sources that call them: what runs on top of the services.
//!
//! Everything is started in a session of its own and stopped by that session, so that nothing stays behind: neither
//! the emulator, nor the `cargo run` it starts for a function, nor the function itself.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};
use tokio::process::Child;

use crate::install::Installer;
use crate::ports::pick;
use crate::process::{Launch, ProcessId, end_of};
use crate::progress::{Progress, track};
use crate::secrets::write_private;
use crate::settings::{Search, workspace_root};
use crate::versions::HOST;

/// How long the emulator may take to answer its first request.
const READY: Duration = Duration::from_secs(60);
/// How long a process may take to end by itself: an invocation that runs is let finish.
const GRACE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(50);

/// Where and with what a system runs.
#[derive(Debug, Clone)]
pub struct SystemSettings {
    /// Logs and run files lie below it, as those of the services do.
    pub state: PathBuf,
    /// What the functions read: the services' addresses and the registry.
    pub env: Vec<(String, String)>,
    /// Where the search for the functions' port starts; 0 is any.
    pub port: u16,
}

/// A running system. Dropped, it goes on running; call [`System::stop`].
#[derive(Debug)]
pub struct System {
    settings: SystemSettings,
    emulator: Running,
    event_sources: Running,
    /// `http://127.0.0.1:9100`: the functions, by path as in `template.yaml` or by name as Lambda's own API.
    pub functions_url: String,
    /// `http://127.0.0.1:9101`: asynchronous invocations.
    pub events_url: String,
}

#[derive(Debug)]
struct Running {
    child: Child,
    process: ProcessId,
    log: PathBuf,
}

/// What the next start finds of a system that was killed.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Leftovers(Vec<ProcessId>);

impl System {
    /// Compiles the functions and the event sources. Quick when nothing has changed.
    pub async fn build(state: &Path, progress: &(dyn Progress + Sync)) -> anyhow::Result<()> {
        let log = state.join("logs/build.log");
        std::fs::create_dir_all(state.join("logs")).context("could not make the folder for logs")?;
        let cargo = Search::from_env().cargo.unwrap_or_else(|| PathBuf::from("cargo"));
        track(progress, "compiling the functions", async {
            // Not in one call: together, the tools' features would reach the functions.
            let build = Launch::new(&cargo, workspace_root()).args(["build", "--quiet"]);
            build.clone().run("compiling the functions", &log).await?;
            build.args(["--package", "outflow-event-sources"]).run("compiling the event sources", &log).await
        })
        .await
    }

    /// Starts the emulator and the event sources and waits until both answer. Call [`System::build`] before.
    pub async fn start(
        settings: SystemSettings,
        installer: &Installer,
        progress: &(dyn Progress + Sync),
    ) -> anyhow::Result<Self> {
        let run = settings.state.join("run");
        std::fs::create_dir_all(&run).context("could not make the folder for run files")?;
        Self::stop_leftovers(&settings.state).await?;
        let cargo_lambda = installer.cargo_lambda(progress).await?;
        track(progress, "starting the functions", async {
            let functions_port = pick(None, settings.port, &BTreeSet::new())?;
            let events_port = pick(
                None,
                settings.port.saturating_add(u16::from(settings.port != 0)),
                &BTreeSet::from([functions_port]),
            )?;
            let functions_url = format!("http://{HOST}:{functions_port}");
            let events_url = format!("http://{HOST}:{events_port}");
            let emulator = launch_emulator(&settings, &cargo_lambda, functions_port)?;
            let event_sources = match launch_event_sources(&settings, &functions_url, events_port) {
                Ok(running) => running,
                Err(error) => {
                    emulator.stop().await?;
                    return Err(error);
                }
            };
            let mut system = Self { settings, emulator, event_sources, functions_url, events_url };
            if let Err(error) = system.become_ready().await {
                system.stop().await?;
                return Err(error);
            }
            Ok(system)
        })
        .await
    }

    /// Stops what a start or a run that was cut off has left behind.
    pub async fn stop_leftovers(state: &Path) -> anyhow::Result<()> {
        let file = leftovers_file(state);
        let Ok(bytes) = std::fs::read(&file) else { return Ok(()) };
        let Leftovers(processes) = serde_json::from_slice(&bytes).unwrap_or_default();
        // The event sources were started last and call the functions: they go first.
        for process in processes.iter().rev() {
            stop_session(process).await?;
        }
        remove(&file)
    }

    async fn become_ready(&mut self) -> anyhow::Result<()> {
        let leftovers = Leftovers(vec![self.emulator.process.clone(), self.event_sources.process.clone()]);
        write_private(&leftovers_file(&self.settings.state), &serde_json::to_vec(&leftovers)?)?;
        let deadline = tokio::time::Instant::now() + READY;
        for (url, which) in
            [(self.functions_url.clone(), Which::Emulator), (self.events_url.clone(), Which::EventSources)]
        {
            // Any answer will do: it shows that somebody listens.
            while reqwest::get(&url).await.is_err() {
                let running = self.running(which);
                if let Some(status) = running.child.try_wait()? {
                    anyhow::bail!("{} ended at its start ({status})\n{}", which.name(), end_of(&running.log));
                }
                anyhow::ensure!(
                    tokio::time::Instant::now() < deadline,
                    "{} does not answer at {url} after {} s\n{}",
                    which.name(),
                    READY.as_secs(),
                    end_of(&running.log)
                );
                tokio::time::sleep(POLL).await;
            }
        }
        Ok(())
    }

    fn running(&mut self, which: Which) -> &mut Running {
        match which {
            Which::Emulator => &mut self.emulator,
            Which::EventSources => &mut self.event_sources,
        }
    }

    /// An error as soon as one of the two has ended by itself.
    pub fn check(&mut self) -> anyhow::Result<()> {
        for which in [Which::Emulator, Which::EventSources] {
            let running = self.running(which);
            if let Some(status) = running.child.try_wait()? {
                anyhow::bail!("{} ended ({status})\n{}", which.name(), end_of(&running.log));
            }
        }
        Ok(())
    }

    /// The processes of this function that run now.
    pub fn function_processes(&self, function: &str) -> Vec<ProcessId> {
        let is_function = |process: &ProcessId| {
            std::fs::read_link(format!("/proc/{}/exe", process.pid))
                .is_ok_and(|exe| exe.file_name().is_some_and(|name| name == function))
        };
        session(self.emulator.process.pid).into_iter().filter(is_function).collect()
    }

    /// The event sources' process.
    pub fn event_sources_process(&self) -> &ProcessId {
        &self.event_sources.process
    }

    /// Starts the event sources again after they were killed.
    pub async fn restart_event_sources(&mut self) -> anyhow::Result<()> {
        stop_session(&self.event_sources.process).await?;
        let port =
            reqwest::Url::parse(&self.events_url)?.port().context("the event sources' address has a port")?;
        self.event_sources = launch_event_sources(&self.settings, &self.functions_url, port)?;
        self.become_ready().await
    }

    /// Where the two write: the functions' log, then the event sources'.
    pub fn logs(&self) -> [&Path; 2] {
        [&self.emulator.log, &self.event_sources.log]
    }

    /// Stops both with all they have started: the event sources first, so that no invocation is cut.
    pub async fn stop(self) -> anyhow::Result<()> {
        self.event_sources.stop().await?;
        self.emulator.stop().await?;
        remove(&leftovers_file(&self.settings.state))
    }
}

#[derive(Clone, Copy)]
enum Which {
    Emulator,
    EventSources,
}

impl Which {
    fn name(self) -> &'static str {
        match self {
            Self::Emulator => "`cargo lambda watch`",
            Self::EventSources => "the event sources",
        }
    }
}

impl Running {
    async fn stop(mut self) -> anyhow::Result<()> {
        stop_session(&self.process).await?;
        // It is gone; this takes away its remains.
        self.child.wait().await.context("could not wait for a process")?;
        Ok(())
    }
}

fn launch_emulator(settings: &SystemSettings, cargo_lambda: &Path, port: u16) -> anyhow::Result<Running> {
    let mut launch = Launch::new(cargo_lambda, workspace_root()).args([
        "lambda",
        "watch",
        // Changes are taken up by the next start: a rebuild in mid-run would cut the invocations that run.
        "--ignore-changes",
        "--invoke-address",
        HOST,
        "--invoke-port",
        &port.to_string(),
    ]);
    for (name, value) in &settings.env {
        launch = launch.env(name, value);
    }
    launch = launch.env(&runner_variable(), workspace_root().join("tools/stack/supervise.sh"));
    run(launch, settings.state.join("logs/functions.log"))
}

/// The variable by which cargo starts a program through another one, for the target that this was built for.
fn runner_variable() -> String {
    let system = if cfg!(target_os = "macos") { "APPLE_DARWIN" } else { "UNKNOWN_LINUX_GNU" };
    format!("CARGO_TARGET_{}_{system}_RUNNER", std::env::consts::ARCH.to_uppercase())
}

fn launch_event_sources(
    settings: &SystemSettings,
    functions_url: &str,
    port: u16,
) -> anyhow::Result<Running> {
    let brokers = settings.env.iter().find(|(name, _)| name == "OUTFLOW_KAFKA_BROKERS");
    let (_, brokers) = brokers.context("OUTFLOW_KAFKA_BROKERS is not among the functions' variables")?;
    let launch = Launch::new(target_dir().join("event-sources"), workspace_root())
        .args(["--template", "template.yaml", "--functions", functions_url, "--kafka", brokers])
        .args(["--listen", &format!("{HOST}:{port}")]);
    run(launch, settings.state.join("logs/event-sources.log"))
}

fn run(launch: Launch, log: PathBuf) -> anyhow::Result<Running> {
    let (child, process) = launch.spawn(&log)?;
    Ok(Running { child, process, log })
}

/// Where cargo puts the programs of this workspace: beside the one that runs, tests lie one folder deeper.
pub fn target_dir() -> PathBuf {
    let own = std::env::current_exe().unwrap_or_default();
    let folder = own.parent().unwrap_or(Path::new("target/debug"));
    let folder = if folder.ends_with("deps") || folder.ends_with("examples") {
        folder.parent().unwrap_or(folder)
    } else {
        folder
    };
    folder.to_owned()
}

fn remove(file: &Path) -> anyhow::Result<()> {
    match std::fs::remove_file(file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("could not remove {}", file.display()))
        }
        _ => Ok(()),
    }
}

fn leftovers_file(state: &Path) -> PathBuf {
    state.join("run/system.json")
}

/// Ends a process and everything in its session: SIGTERM to the leader, then SIGKILL to whoever is left.
///
/// A session outlives its leader, and its id is given to nobody else while one member lives. Where leader and members
/// are all gone, a new session with this id could exist: it is told by its leader's start time and left alone.
async fn stop_session(leader: &ProcessId) -> anyhow::Result<()> {
    if ProcessId::of(leader.pid)?.is_some_and(|now| now != *leader) {
        return Ok(());
    }
    leader.stop(GRACE).await?;
    for process in session(leader.pid) {
        process.signal(Signal::SIGKILL)?;
        process.gone(GRACE).await;
    }
    Ok(())
}

/// The living processes of a session.
fn session(leader: u32) -> Vec<ProcessId> {
    let pids = std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(|pid| session_of(*pid) == Some(leader))
        .filter_map(|pid| ProcessId::of(pid).ok().flatten())
        .collect()
}

/// Field 6 of `/proc/PID/stat`, counted from behind the program's name, which may hold spaces.
fn session_of(pid: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_session_ends_with_all_its_processes_also_when_the_leader_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("a.log");
        // A child in a process group of its own, as the emulator gives each function.
        let launch =
            Launch::new("bash", "/").args(["-c", "set -m; (trap '' TERM; sleep 600) & echo up; wait"]);
        let (mut child, leader) = launch.spawn(&log).unwrap();
        while crate::process::log_tail(&log, 1).is_empty() || session(leader.pid).len() < 2 {
            tokio::time::sleep(POLL).await;
        }
        leader.destroy().await.unwrap();
        assert!(!session(leader.pid).is_empty(), "the leader's death alone ended the session");

        stop_session(&leader).await.unwrap();

        assert!(session(leader.pid).is_empty());
        child.wait().await.unwrap();
    }
}
