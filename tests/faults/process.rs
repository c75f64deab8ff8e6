//! A relay as a process of its own, and what can be done to it.

use nix::sys::signal::Signal;
use outflow_stack::{ProcessId, target_dir, workspace_root};
use std::{
    ffi::OsString,
    fs::File,
    path::{Path, PathBuf},
    process::Stdio,
    sync::OnceLock,
    time::Duration,
};
use tokio::process::{Child, Command};

/// How long a delivery may take; what ends a relay that was killed is [`LEASE`].
const DELIVERY_TIMEOUT: Duration = Duration::from_millis(1_500);
/// Short, so that takeovers are; longer than a delivery and what emptying the producer takes.
pub(crate) const LEASE: Duration = Duration::from_secs(4);
/// Short, so that gaps are closed while the test runs: what is closed too early is lost, and the judge sees it.
const GAP_GRACE: Duration = Duration::from_secs(1);
/// A relay that was asked to end ends its slice of work, its deliveries and its last move.
const END: Duration = Duration::from_secs(20);

/// How a relay is started.
#[derive(Clone, Debug, Default)]
pub(crate) struct RelayStart {
    /// Added to the time of day that it is shown, in seconds.
    pub(crate) clock_shift_s: Option<i64>,
    /// Carries what waits, then ends.
    pub(crate) once: bool,
}

/// Ends with the test, by SIGKILL if by nothing else.
#[derive(Debug)]
pub(crate) struct RelayProcess {
    child: Child,
    id: ProcessId,
    log: PathBuf,
}

impl RelayProcess {
    /// `cargo xtask test faults` has built it.
    pub(crate) fn start(
        start: &RelayStart,
        database_url: &str,
        brokers: &str,
        logs: &Path,
        name: &str,
    ) -> Self {
        let relay = target_dir().join("examples/relay");
        assert!(relay.is_file(), "{} is missing: run `cargo xtask test faults`", relay.display());
        let mut command = Command::new(relay);
        if let Some(shift) = start.clock_shift_s {
            command.env("LD_PRELOAD", shifting_clock()).env("CLOCK_SHIFT_S", shift.to_string());
        }
        let millis = |duration: Duration| OsString::from(duration.as_millis().to_string());
        command
            .arg("--lease-ms")
            .arg(millis(LEASE))
            .arg("--delivery-timeout-ms")
            .arg(millis(DELIVERY_TIMEOUT))
            .arg("--gap-grace-ms")
            .arg(millis(GAP_GRACE))
            .args(start.once.then_some("--once"))
            .env("OUTFLOW_DATABASE_URL", database_url)
            .env("OUTFLOW_KAFKA_BROKERS", brokers)
            .env("NO_COLOR", "1");
        let (out, log) = (logs.join(format!("{name}.out")), logs.join(format!("{name}.log")));
        let file = |path: &Path| Stdio::from(File::create(path).unwrap());
        command.stdin(Stdio::null()).stdout(file(&out)).stderr(file(&log)).kill_on_drop(true);
        let child = command.spawn().expect("the relay can be run");
        let id = ProcessId::of(child.id().unwrap()).unwrap().expect("it has only just begun");
        Self { child, id, log }
    }

    /// SIGTERM; it has to end by itself.
    pub(crate) async fn stop(mut self) {
        assert!(self.id.signal(Signal::SIGTERM).unwrap(), "the relay ended by itself: {}", self.log());
        let ended = tokio::time::timeout(END, self.child.wait()).await;
        assert!(ended.is_ok(), "the relay did not end within {END:?}: {}", self.log());
    }

    /// SIGTERM where nothing is amiss, once it has begun to listen for that: it has to end well.
    pub(crate) async fn stop_well(self) {
        let listening = async {
            while !self.listens() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let listens = tokio::time::timeout(END, listening).await;
        assert!(listens.is_ok(), "the relay has not begun within {END:?}: {}", self.log());
        assert!(self.id.signal(Signal::SIGTERM).unwrap(), "the relay ended by itself: {}", self.log());
        self.end().await;
    }

    /// Waits until it ends by itself, and wants that it ends well.
    pub(crate) async fn end(mut self) {
        let ended = tokio::time::timeout(END, self.child.wait()).await;
        let status = ended.unwrap_or_else(|_| panic!("it goes on and on: {}", self.log())).unwrap();
        assert!(status.success(), "{status}: {}", self.log());
    }

    /// SIGKILL.
    pub(crate) async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }

    /// SIGSTOP.
    pub(crate) fn freeze(&self) {
        assert!(self.id.signal(Signal::SIGSTOP).unwrap(), "the relay ended by itself: {}", self.log());
    }

    /// SIGCONT.
    pub(crate) fn thaw(&self) {
        assert!(self.id.signal(Signal::SIGCONT).unwrap(), "the relay ended by itself: {}", self.log());
    }

    /// Before that, SIGTERM ends a process where it stands.
    fn listens(&self) -> bool {
        let id = self.child.id().expect("nobody has waited for it");
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
        u64::from_str_radix(caught.trim(), 16).unwrap() >> (Signal::SIGTERM as i32 - 1) & 1 == 1
    }

    /// What it has said on stderr.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

/// A library that shows its process another time of day, compiled from `clock.c` once.
fn shifting_clock() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let library = target_dir().join("libshifting_clock.so");
        let source = workspace_root().join("tests/faults/clock.c");
        let mut compiler = std::process::Command::new("cc");
        compiler
            .args(["-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror", "-o"])
            .args([&library, &source]);
        let status = compiler.arg("-ldl").status().expect("cc is there, which Kafka's client needs as well");
        assert!(status.success(), "clock.c does not compile: {status}");
        library
    })
}
