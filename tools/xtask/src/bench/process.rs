//! A process under test: what it costs, and its clean end.

use anyhow::{Context, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    fs::File,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};
use tokio::process::{Child, Command};

/// `/proc` counts time in ticks of 1/100 s, whatever the kernel's own clock does.
const TICK: Duration = Duration::from_millis(10);
/// A process that does not end by itself by then is killed, and that is an error.
const GRACE: Duration = Duration::from_secs(30);

/// A process that is measured. Dropped, it is killed.
#[derive(Debug)]
pub(super) struct Process {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts it with its output in `log`.
    pub(super) fn start(name: &'static str, mut command: Command, log: &Path) -> anyhow::Result<Self> {
        let out = File::options().create(true).append(true).open(log).context("opening a log")?;
        command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out).kill_on_drop(true);
        // Cargo points this at Rust's libraries.
        command.env_remove("LD_LIBRARY_PATH");
        let child = command.spawn().with_context(|| format!("could not start {name}"))?;
        Ok(Self { name, child, log: log.to_owned() })
    }

    /// An error if it has ended.
    pub(super) fn check(&mut self) -> anyhow::Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("{} ended ({status}), its log is {}", self.name, self.log.display());
        }
        Ok(())
    }

    /// Processor time so far, all threads.
    pub(super) fn cpu(&self) -> anyhow::Result<Duration> {
        let stat = std::fs::read_to_string(self.proc("stat")?).context("reading a process's times")?;
        cpu_of(&stat).context("a process's times have an unknown form")
    }

    /// The most memory it has had so far, in bytes.
    pub(super) fn memory_high(&self) -> anyhow::Result<u64> {
        let status = std::fs::read_to_string(self.proc("status")?).context("reading a process's memory")?;
        memory_high_of(&status).context("a process's memory has an unknown form")
    }

    /// SIGTERM, and waits. An error if it does not end, or ends with one.
    pub(super) async fn stop(mut self) -> anyhow::Result<()> {
        self.check()?;
        kill(Pid::from_raw(i32::try_from(self.pid()?)?), Signal::SIGTERM).context("ending a process")?;
        let Ok(status) = tokio::time::timeout(GRACE, self.child.wait()).await else {
            bail!("{} still ran {} s after SIGTERM", self.name, GRACE.as_secs());
        };
        let status = status?;
        // A JVM that was asked to end says 143, as a shell would of a signal.
        ensure!(
            status.success() || status.code() == Some(143),
            "{} ended with {status}, its log is {}",
            self.name,
            self.log.display()
        );
        Ok(())
    }

    fn pid(&self) -> anyhow::Result<u32> {
        self.child.id().with_context(|| format!("{} has ended", self.name))
    }

    fn proc(&self, file: &str) -> anyhow::Result<PathBuf> {
        Ok(format!("/proc/{}/{file}", self.pid()?).into())
    }
}

/// Fields 14 and 15, user and system time, counted from behind the name, which may hold anything.
fn cpu_of(stat: &str) -> Option<Duration> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut times = rest.split_ascii_whitespace().skip(11).map(str::parse::<u32>);
    Some(TICK * (times.next()?.ok()? + times.next()?.ok()?))
}

fn memory_high_of(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1_024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_behind_the_name() {
        let stat = "7 (a (b) c) S 1 7 7 0 -1 4194560 1 0 0 0 150 25 9 9 20 0 3 0 777 5 6";
        assert_eq!(cpu_of(stat), Some(Duration::from_millis(1_750)));
        assert_eq!(cpu_of("7 (cut"), None);
    }

    #[test]
    fn the_high_water_of_memory_is_in_bytes() {
        assert_eq!(memory_high_of("VmPeak:\t  9 kB\nVmHWM:\t    2048 kB\n"), Some(2 << 20));
        assert_eq!(memory_high_of("VmRSS:\t 1 kB\n"), None);
    }

    #[tokio::test]
    async fn this_machine_tells_of_a_process_and_it_ends_when_asked() {
        let log = std::env::temp_dir().join(format!("outflow-bench-{}.log", std::process::id()));
        let mut shell = Command::new("sh");
        shell.args(["-c", "trap 'exit 0' TERM; while :; do :; done"]);
        let mut process = Process::start("a loop", shell, &log).unwrap();
        while process.cpu().unwrap() < 3 * TICK {
            tokio::task::yield_now().await;
        }
        assert!(process.memory_high().unwrap() > 0);
        process.check().unwrap();

        process.stop().await.unwrap();

        std::fs::remove_file(log).unwrap();
    }
}
