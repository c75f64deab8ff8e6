//! Detached processes, known by their pid and the moment they started.
//!
//! A pid alone is not an identity: the kernel gives it away again. A process is therefore known by its pid,
//! its start time and the boot it belongs to, and a signal goes only to a process that matches all three.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use tokio::process::{Child, Command};

/// How often a process is asked whether it is gone. A look costs one read in /proc.
const POLL: Duration = Duration::from_millis(20);

/// A log is set aside at the next start once it is larger than this.
const LOG_LIMIT_BYTES: u64 = 16 << 20;

/// A process of this machine and boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    /// The process id.
    pub pid: u32,
    /// Clock ticks between boot and the start of the process (`/proc/PID/stat`, field 22).
    pub started: u64,
    /// The kernel's id of this boot.
    pub boot: String,
}

impl ProcessId {
    /// The process that has this pid now; none if there is no such process, or only its remains.
    pub fn of(pid: u32) -> io::Result<Option<Self>> {
        let Some(stat) = read_if_there(&format!("/proc/{pid}/stat"))? else { return Ok(None) };
        let Some(Stat { state, threads, started }) = parse_stat(&stat) else {
            return Err(io::Error::other(format!("/proc/{pid}/stat has an unknown form: {stat}")));
        };
        // A first thread that has ended is a zombie while others still hold the files and the ports.
        if matches!(state, 'Z' | 'X') && threads <= 1 {
            return Ok(None);
        }
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned();
        Ok(Some(Self { pid, started, boot }))
    }

    /// Whether this very process still runs.
    pub fn is_alive(&self) -> bool {
        matches!(Self::of(self.pid), Ok(Some(now)) if now == *self)
    }

    /// Sends a signal. False if the process is gone; a process that got its pid since is left alone.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<bool> {
        if !self.is_alive() {
            return Ok(false);
        }
        let pid = i32::try_from(self.pid).context("a pid is larger than the kernel allows")?;
        match kill(Pid::from_raw(pid), signal) {
            Ok(()) => Ok(true),
            Err(nix::errno::Errno::ESRCH) => Ok(false),
            Err(error) => Err(error).with_context(|| format!("could not send {signal} to process {pid}")),
        }
    }

    /// Waits until the process is gone; false if it still runs after `within`.
    pub async fn gone(&self, within: Duration) -> bool {
        let deadline = Instant::now() + within;
        while self.is_alive() {
            if Instant::now() >= deadline {
                return false;
            }
            tokio::time::sleep(POLL).await;
        }
        true
    }

    /// SIGTERM, then SIGKILL if it still runs after `grace`. True if it ended by itself.
    pub async fn stop(&self, grace: Duration) -> anyhow::Result<bool> {
        if !self.signal(Signal::SIGTERM)? || self.gone(grace).await {
            return Ok(true);
        }
        self.destroy().await?;
        Ok(false)
    }

    /// SIGKILL, and waits until the kernel has taken the process away.
    pub async fn destroy(&self) -> anyhow::Result<()> {
        /// The kernel needs milliseconds, unless the process hangs in the disk.
        const KERNEL: Duration = Duration::from_secs(30);
        self.signal(Signal::SIGKILL)?;
        anyhow::ensure!(
            self.gone(KERNEL).await,
            "process {} is still there {} s after SIGKILL: it hangs in the kernel, look at the disk",
            self.pid,
            KERNEL.as_secs()
        );
        Ok(())
    }
}

/// What to start.
#[derive(Debug, Clone)]
pub(crate) struct Launch {
    pub program: PathBuf,
    pub args: Vec<OsString>,
    pub env: Vec<(String, OsString)>,
    pub cwd: PathBuf,
}

impl Launch {
    pub(crate) fn new(program: impl Into<PathBuf>, cwd: impl Into<PathBuf>) -> Self {
        Self { program: program.into(), args: Vec::new(), env: Vec::new(), cwd: cwd.into() }
    }

    pub(crate) fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    pub(crate) fn args<I: Into<OsString>>(mut self, args: impl IntoIterator<Item = I>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    pub(crate) fn env(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.env.push((name.to_owned(), value.into()));
        self
    }

    /// The command, with its output appended to `log` and nothing on stdin.
    pub(crate) fn command(&self, program: &Path, log: &Path) -> anyhow::Result<Command> {
        let out = open_log(log)?;
        let err = out.try_clone().with_context(|| format!("could not write {}", log.display()))?;
        let mut command = Command::new(program);
        command.current_dir(&self.cwd).stdin(Stdio::null()).stdout(out).stderr(err);
        // Cargo points this at Rust's libraries; a service has its own.
        command.env_remove("LD_LIBRARY_PATH");
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        Ok(command)
    }

    /// Runs it to its end; an error names `log` and shows its end.
    pub(crate) async fn run(&self, what: &str, log: &Path) -> anyhow::Result<()> {
        let mut command = self.command(&self.program, log)?;
        command.args(&self.args).kill_on_drop(true);
        let status = command
            .status()
            .await
            .with_context(|| format!("could not run {} ({what})", self.program.display()))?;
        anyhow::ensure!(status.success(), "{what} failed ({status})\n{}", end_of(log));
        Ok(())
    }

    /// Starts it in a session of its own, so that it outlives the caller and its terminal.
    ///
    /// The child is handed back so that the caller can see it die; dropping it leaves the process running.
    pub(crate) fn spawn(&self, log: &Path) -> anyhow::Result<(Child, ProcessId)> {
        // `setsid` calls setsid(2) and then becomes the program: the pid stays the same. Where it is
        // missing, a process group of its own at least keeps Ctrl-C away.
        let setsid =
            [Path::new("/usr/bin/setsid"), Path::new("/bin/setsid")].into_iter().find(|p| p.exists());
        let mut command = match setsid {
            Some(setsid) => {
                let mut command = self.command(setsid, log)?;
                command.arg(&self.program);
                command
            }
            None => {
                let mut command = self.command(&self.program, log)?;
                command.process_group(0);
                command
            }
        };
        command.args(&self.args);
        let child = command.spawn().with_context(|| format!("could not start {}", self.program.display()))?;
        let pid = child.id().context("the process ended before its pid was known")?;
        // An ended child stays a zombie until it is waited for, so its pid can't be someone else's here;
        // but then there is no start time to remember, and the caller learns of the death from the child.
        let process =
            ProcessId::of(pid)?.unwrap_or_else(|| ProcessId { pid, started: 0, boot: "ended".to_owned() });
        Ok((child, process))
    }
}

/// The end of a log, in the form in which it goes into an error.
pub(crate) fn end_of(log: &Path) -> String {
    /// As many lines as fit on a screen beside the error itself.
    const LINES: usize = 25;
    let tail = log_tail(log, LINES);
    if tail.is_empty() {
        return format!("its log {} is empty", log.display());
    }
    format!("the end of {}:\n{}", log.display(), tail.join("\n"))
}

/// The last lines of a log; none if it isn't there. Reads at most [`TAIL_BYTES`].
pub(crate) fn log_tail(log: &Path, lines: usize) -> Vec<String> {
    use std::io::{Read, Seek, SeekFrom};
    /// Enough for some thousand lines, and no more than fits in memory without a thought.
    const TAIL_BYTES: u64 = 1 << 20;
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let text = String::from_utf8_lossy(&read().unwrap_or_default()).into_owned();
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].iter().map(|line| (*line).to_owned()).collect()
}

fn open_log(log: &Path) -> anyhow::Result<File> {
    if std::fs::metadata(log).is_ok_and(|meta| meta.len() > LOG_LIMIT_BYTES) {
        let old = log.with_extension("log.old");
        std::fs::rename(log, &old).with_context(|| format!("could not set {} aside", log.display()))?;
    }
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(log)
        .with_context(|| format!("could not open the log {}", log.display()))
}

fn read_if_there(path: &str) -> io::Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        // ESRCH: the process ended between open and read.
        Err(error) if error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(3) => Ok(None),
        Err(error) => Err(error),
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Stat {
    state: char,
    threads: u32,
    started: u64,
}

/// Fields 3, 20 and 22. The second field is the program's name in parentheses, which may itself hold
/// spaces and parentheses, so counting starts behind the last one.
fn parse_stat(stat: &str) -> Option<Stat> {
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let field = |number: usize| fields.get(number - 3).copied();
    Some(Stat {
        state: field(3)?.chars().next()?,
        threads: field(20)?.parse().ok()?,
        started: field(22)?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper() -> (Child, ProcessId) {
        let log = tempfile::NamedTempFile::new().unwrap();
        Launch::new("sleep", "/").arg("600").spawn(log.path()).unwrap()
    }

    #[test]
    fn stat_is_read_behind_the_last_parenthesis() {
        let stat = "42 (a) b (c) S 1 42 42 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 3 0 777 5 6";
        assert_eq!(parse_stat(stat), Some(Stat { state: 'S', threads: 3, started: 777 }));
        assert_eq!(parse_stat("42 (cut"), None);
        assert_eq!(parse_stat("42 (cut) S 1 2"), None);
    }

    #[test]
    fn this_process_is_alive_and_a_recycled_pid_is_not_it() {
        let own = ProcessId::of(std::process::id()).unwrap().unwrap();
        assert!(own.is_alive());
        let recycled = ProcessId { started: own.started - 1, ..own.clone() };
        assert!(!recycled.is_alive());
        assert!(!recycled.signal(Signal::SIGKILL).unwrap(), "someone else's process was signalled");
        let other_boot = ProcessId { boot: "another".to_owned(), ..own };
        assert!(!other_boot.is_alive());
    }

    #[tokio::test]
    async fn a_process_stops_by_its_own_pid_and_its_remains_do_not_count_as_alive() {
        let (_child, process) = sleeper();
        assert!(process.is_alive());
        assert!(process.stop(Duration::from_secs(10)).await.unwrap());
        assert!(!process.is_alive());
        assert!(process.stop(Duration::from_secs(1)).await.unwrap(), "stopping twice is harmless");
    }

    #[tokio::test]
    async fn a_process_has_a_session_of_its_own() {
        let (_child, process) = sleeper();
        // `setsid` is still itself for a moment before it becomes the program.
        let deadline = Instant::now() + Duration::from_secs(10);
        let session = loop {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.pid)).unwrap();
            let session: u32 =
                stat.rsplit_once(')').unwrap().1.split_ascii_whitespace().nth(3).unwrap().parse().unwrap();
            if session == process.pid || Instant::now() > deadline {
                break session;
            }
            tokio::time::sleep(POLL).await;
        };
        process.destroy().await.unwrap();
        assert_eq!(session, process.pid);
    }

    #[tokio::test]
    async fn what_ignores_sigterm_is_killed() {
        let log = tempfile::NamedTempFile::new().unwrap();
        let (_child, process) = Launch::new("sh", "/")
            .args(["-c", "trap '' TERM; echo deaf; while :; do sleep 0.05; done"])
            .spawn(log.path())
            .unwrap();
        while log_tail(log.path(), 1).is_empty() {
            tokio::time::sleep(POLL).await;
        }
        assert!(!process.stop(Duration::from_millis(200)).await.unwrap());
        assert!(!process.is_alive());
    }

    #[tokio::test]
    async fn a_failed_command_shows_the_end_of_its_log() {
        let log = tempfile::NamedTempFile::new().unwrap();
        let error = Launch::new("sh", "/")
            .args(["-c", "echo first; echo the reason >&2; exit 3"])
            .run("the attempt", log.path())
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains("the attempt failed (exit status: 3)"), "{error}");
        assert!(error.ends_with("first\nthe reason"), "{error}");
    }

    #[test]
    fn the_tail_is_the_last_lines() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("a.log");
        assert!(log_tail(&log, 3).is_empty());
        std::fs::write(&log, "1\n2\n3\n").unwrap();
        assert_eq!(log_tail(&log, 2), ["2", "3"]);
        assert_eq!(log_tail(&log, 9), ["1", "2", "3"]);
    }
}
