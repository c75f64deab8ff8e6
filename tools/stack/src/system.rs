//! The functions under `cargo lambda watch`, and the event sources that call them: what runs on top of the services.
//!
//! Every process of a system carries its state folder in its environment, and so does whatever it starts. That is how
//! all of them are found again, and nothing stays behind: neither the emulator, nor the supervisor of a function (in a
//! session of its own), nor a function whose emulator was killed.

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use nix::sys::signal::Signal;
use tokio::process::Child;

use crate::install::Installer;
use crate::ports::pick;
use crate::process::{Launch, ProcessId, end_of};
use crate::progress::{Progress, track};
use crate::settings::{Search, workspace_root};
use crate::state::{FileLock, Layout};
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
    /// What the functions read: the services' addresses and the registry. Where the relay is nudged is added.
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

/// Held by the one who runs a system in a state folder, until that process ends, however it ends. Without it, two
/// of them would end each other: each takes what the other has started for leftovers.
#[derive(Debug)]
pub struct SystemLock {
    _lock: FileLock,
}

impl SystemLock {
    /// An error that says what to do while someone else holds it.
    pub fn acquire(state: &Path) -> anyhow::Result<Self> {
        Self::try_acquire(state)?.context(
            "a `cargo xtask watch` or `demo` is running here already: stop it first (Ctrl-C in its terminal)",
        )
    }

    /// None while someone else holds it.
    pub fn try_acquire(state: &Path) -> anyhow::Result<Option<Self>> {
        let layout = Layout::new(state)?;
        layout.create()?;
        let lock = FileLock::try_acquire(&layout.run().join("system.lock"))?;
        Ok(lock.map(|lock| Self { _lock: lock }))
    }
}

/// Carried by every process of a system: the state folder that it belongs to.
const MARK: &str = "OUTFLOW_SYSTEM";
/// Where a function nudges the relay after a commit.
const NUDGE_URL: &str = "OUTFLOW_NUDGE_URL";
/// The function that is nudged.
const RELAY: &str = "outbox-relay";

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
        std::fs::create_dir_all(settings.state.join("logs")).context("could not make the folder for logs")?;
        Self::stop_leftovers(&settings.state).await?;
        let cargo_lambda = installer.cargo_lambda(progress).await?;
        track(progress, "starting the functions", async {
            let functions_port = pick(None, settings.port, &BTreeSet::new())?;
            if settings.port != 0 && functions_port != settings.port {
                progress
                    .note(&format!("the functions listen on {functions_port}: {} is taken", settings.port));
            }
            let events_port = pick(
                None,
                settings.port.saturating_add(u16::from(settings.port != 0)),
                &BTreeSet::from([functions_port]),
            )?;
            let functions_url = format!("http://{HOST}:{functions_port}");
            let events_url = format!("http://{HOST}:{events_port}");
            let emulator = launch_emulator(&settings, &cargo_lambda, functions_port, &events_url)?;
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
        let left = members(state);
        for process in &left {
            process.signal(Signal::SIGTERM)?;
        }
        for process in &left {
            process.gone(GRACE).await;
        }
        kill_members(state).await
    }

    async fn become_ready(&mut self) -> anyhow::Result<()> {
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
        members(&self.settings.state).into_iter().filter(is_function).collect()
    }

    /// The event sources' process.
    pub fn event_sources_process(&self) -> &ProcessId {
        &self.event_sources.process
    }

    /// Starts the event sources again after they were killed.
    pub async fn restart_event_sources(&mut self) -> anyhow::Result<()> {
        self.event_sources.process.stop(GRACE).await?;
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
        kill_members(&self.settings.state).await
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
        self.process.stop(GRACE).await?;
        // It is gone; this takes away its remains.
        self.child.wait().await.context("could not wait for a process")?;
        Ok(())
    }
}

fn launch_emulator(
    settings: &SystemSettings,
    cargo_lambda: &Path,
    port: u16,
    events_url: &str,
) -> anyhow::Result<Running> {
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
    // Asynchronous invocations go to the event sources: the emulator would let the caller wait for the relay's answer.
    launch = launch.env(NUDGE_URL, format!("{events_url}/2015-03-31/functions/{RELAY}/invocations"));
    for (name, value) in &settings.env {
        launch = launch.env(name, value);
    }
    launch = launch.env(MARK, &settings.state);
    // Relative, since cargo splits it at spaces: the workspace's own path may have some.
    launch = launch.env(&runner_variable(), "tools/stack/supervise.sh");
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
        .args(["--listen", &format!("{HOST}:{port}")])
        .env(MARK, &settings.state);
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

/// The living processes that carry the mark of this state folder.
fn members(state: &Path) -> Vec<ProcessId> {
    let mark = [MARK.as_bytes(), b"=", state.as_os_str().as_bytes()].concat();
    let carries = |pid: &u32| {
        // Another user's process, or one that has just ended, cannot be read: it is none of ours.
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|variable| variable == mark)
    };
    let entries = std::fs::read_dir("/proc").into_iter().flatten();
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(carries).filter_map(|pid| ProcessId::of(pid).ok().flatten()).collect()
}

/// SIGKILL to whoever is left, until nobody is: a supervisor may start its function once more in between.
async fn kill_members(state: &Path) -> anyhow::Result<()> {
    let deadline = tokio::time::Instant::now() + GRACE;
    loop {
        let left = members(state);
        if left.is_empty() {
            return Ok(());
        }
        for process in &left {
            process.signal(Signal::SIGKILL)?;
        }
        anyhow::ensure!(
            tokio::time::Instant::now() < deadline,
            "{} processes do not end: {left:?}",
            left.len()
        );
        tokio::time::sleep(POLL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn everything_that_a_system_has_started_is_found_and_ended_also_in_other_sessions() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("a.log");
        let script = "(trap '' TERM; setsid sleep 600) & echo up; wait";
        let launch = Launch::new("bash", "/").args(["-c", script]).env(MARK, dir.path());
        let (mut child, leader) = launch.spawn(&log).unwrap();
        while crate::process::log_tail(&log, 1).is_empty() || members(dir.path()).len() < 2 {
            tokio::time::sleep(POLL).await;
        }
        leader.destroy().await.unwrap();
        assert!(!members(dir.path()).is_empty(), "the leader's death alone ended what it had started");

        System::stop_leftovers(dir.path()).await.unwrap();

        assert!(members(dir.path()).is_empty());
        child.wait().await.unwrap();
    }
}
