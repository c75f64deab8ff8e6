//! How the stack tells what it is doing. Drawing it is the caller's business.

use std::fmt::Debug;
use std::time::{Duration, Instant};

/// Hears the steps of an installation or of a start. Steps run side by side, and a step is known by its name.
pub trait Progress: Debug {
    /// A step starts.
    fn step(&self, name: &str);
    /// A step is done.
    fn done(&self, name: &str, took: Duration);
    /// A step failed; the error itself comes back from the call that was made.
    fn failed(&self, name: &str);
    /// Something worth a line, that is no step.
    fn note(&self, text: &str);
}

/// Says nothing: for tests.
#[derive(Debug, Clone, Copy, Default)]
pub struct Quiet;

impl Progress for Quiet {
    fn step(&self, _: &str) {}
    fn done(&self, _: &str, _: Duration) {}
    fn failed(&self, _: &str) {}
    fn note(&self, _: &str) {}
}

/// One plain line on stderr for each event: for logs and pipes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Lines;

impl Progress for Lines {
    fn step(&self, name: &str) {
        eprintln!("{name} …");
    }
    fn done(&self, name: &str, took: Duration) {
        eprintln!("{name}: done in {}.{} s", took.as_secs(), took.subsec_millis() / 100);
    }
    fn failed(&self, name: &str) {
        eprintln!("{name}: failed");
    }
    fn note(&self, text: &str) {
        eprintln!("{text}");
    }
}

/// Runs `work` as the step `name`.
pub(crate) async fn track<T>(
    progress: &(dyn Progress + Sync),
    name: &str,
    work: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    progress.step(name);
    let start = Instant::now();
    let result = work.await;
    match &result {
        Ok(_) => progress.done(name, start.elapsed()),
        Err(_) => progress.failed(name),
    }
    result
}
