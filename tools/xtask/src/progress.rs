//! Draws what is going on: a spinner a step on a terminal, a plain line a step elsewhere. Always on stderr.

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use outflow_stack::{Lines, Progress};
use std::{
    collections::HashMap,
    io::IsTerminal,
    sync::Mutex,
    time::{Duration, Instant},
};

/// How often a spinner turns: often enough to look alive.
const TICK: Duration = Duration::from_millis(100);

/// Progress for people.
#[derive(Debug)]
pub struct Terminal {
    bars: MultiProgress,
    spinners: Mutex<HashMap<String, ProgressBar>>,
    is_terminal: bool,
}

impl Default for Terminal {
    fn default() -> Self {
        Self::new()
    }
}

impl Terminal {
    pub fn new() -> Self {
        Self {
            bars: MultiProgress::new(),
            spinners: Mutex::default(),
            is_terminal: std::io::stderr().is_terminal(),
        }
    }

    /// A bar of `length` steps; hidden where stderr is no terminal.
    ///
    /// # Panics
    /// Never: the template is a constant.
    pub fn bar(&self, name: &str, length: u64) -> ProgressBar {
        if !self.is_terminal {
            eprintln!("{name} …");
            return ProgressBar::hidden();
        }
        let style = ProgressStyle::with_template("{msg:<32} {bar:30} {pos}/{len} {per_sec} {eta}")
            .expect("the template is well formed");
        self.bars.add(ProgressBar::new(length).with_style(style).with_message(name.to_owned()))
    }

    /// Runs `work` as the step `name`.
    ///
    /// # Errors
    /// Those of `work`.
    pub async fn track<T>(
        &self,
        name: &str,
        work: impl Future<Output = anyhow::Result<T>>,
    ) -> anyhow::Result<T> {
        self.step(name);
        let started = Instant::now();
        let result = work.await;
        match &result {
            Ok(_) => self.done(name, started.elapsed()),
            Err(_) => self.failed(name),
        }
        result
    }

    fn take(&self, name: &str) -> Option<ProgressBar> {
        self.spinners.lock().expect("no holder of this lock panics").remove(name)
    }

    fn line(&self, text: &str) {
        // A line above the bars; where it cannot be written there is nobody to read it.
        let _ = self.bars.println(text);
    }
}

impl Progress for Terminal {
    fn step(&self, name: &str) {
        if !self.is_terminal {
            return Lines.step(name);
        }
        let spinner = self.bars.add(ProgressBar::new_spinner().with_message(name.to_owned()));
        spinner.enable_steady_tick(TICK);
        self.spinners.lock().expect("no holder of this lock panics").insert(name.to_owned(), spinner);
    }

    fn done(&self, name: &str, took: Duration) {
        if !self.is_terminal {
            return Lines.done(name, took);
        }
        if let Some(spinner) = self.take(name) {
            spinner.finish_and_clear();
        }
        self.line(&format!("✓ {name} ({}.{} s)", took.as_secs(), took.subsec_millis() / 100));
    }

    fn failed(&self, name: &str) {
        if !self.is_terminal {
            return Lines.failed(name);
        }
        if let Some(spinner) = self.take(name) {
            spinner.finish_and_clear();
        }
        self.line(&format!("✗ {name}"));
    }

    fn note(&self, text: &str) {
        if self.is_terminal { self.line(text) } else { Lines.note(text) }
    }
}
