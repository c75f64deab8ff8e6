//! The figures of transforms, each with its baselines in the same run, for `cargo xtask bench transform`.
//!
//! Takes names of groups and `--quick`; prints a JSON list of `{name, value, unit, baseline, baseline_value}`.
#![allow(clippy::float_arithmetic, clippy::unwrap_used, reason = "times and rates of a benchmark")]

mod baselines;
mod events;
mod function;
mod record;
mod registry;

use serde::Serialize;
use std::time::{Duration, Instant};

/// Events a batch.
const BATCH: usize = 500;

/// A figure, or a comparison.
#[derive(Debug, Serialize)]
struct Entry {
    name: &'static str,
    value: f64,
    unit: &'static str,
    baseline: Option<&'static str>,
    baseline_value: Option<f64>,
}

impl Entry {
    fn alone(name: &'static str, value: f64, unit: &'static str) -> Self {
        Self { name, value, unit, baseline: None, baseline_value: None }
    }

    fn against(name: &'static str, value: f64, unit: &'static str, baseline: (&'static str, f64)) -> Self {
        Self {
            baseline: Some(baseline.0),
            baseline_value: Some(baseline.1),
            ..Self::alone(name, value, unit)
        }
    }
}

/// How long and how often.
#[derive(Clone, Copy, Debug)]
struct Scale {
    quick: bool,
}

impl Scale {
    /// Rounds in which the contenders take turns.
    fn rounds(self) -> usize {
        if self.quick { 5 } else { 400 }
    }

    /// Batches behind which memory is read.
    fn batches(self) -> u64 {
        if self.quick { 5 } else { 300 }
    }

    fn activations(self) -> (u32, Duration) {
        if self.quick { (20, Duration::from_secs(1)) } else { (1_000, Duration::from_secs(60)) }
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let scale = Scale { quick: arguments.iter().any(|argument| argument == "--quick") };
    let wanted = |name: &str| {
        let names = || arguments.iter().filter(|argument| !argument.starts_with("--"));
        names().count() == 0 || names().any(|wanted| name == wanted)
    };
    let mut entries = Vec::new();
    if wanted("record") {
        entries.extend(record::run(scale));
    }
    if wanted("registry") {
        entries.extend(registry::run(scale).await);
    }
    if wanted("function") {
        entries.extend(function::run(scale).await?);
    }
    println!("{}", serde_json::to_string(&entries)?);
    Ok(())
}

/// The middle one of so many times of `work`, in microseconds.
fn median_us(times: usize, mut work: impl FnMut()) -> f64 {
    let mut taken: Vec<f64> = (0..times)
        .map(|_| {
            let began_at = Instant::now();
            work();
            began_at.elapsed().as_secs_f64() * 1e6
        })
        .collect();
    median(&mut taken)
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
