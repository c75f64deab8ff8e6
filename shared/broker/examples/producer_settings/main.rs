//! Measures what the relay's producer is set to, and what was decided against: compression, linger, fencing.
//!
//! `cargo run --release --package outflow-broker --example producer_settings -- --brokers 127.0.0.1:9092`
//!
//! Each figure is of one run on one machine that the broker shares: compare the lines of a run, not two runs.

// Figures are for people.
#![allow(clippy::float_arithmetic)]

mod fencing;
mod load;
mod settings;
mod stored;

use anyhow::Context;
use clap::{Parser, ValueEnum};
use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use serde::Serialize;
use std::collections::BTreeMap;

#[derive(Clone, Debug, Parser)]
struct Args {
    /// `host:port`, comma separated
    #[arg(long, env = "OUTFLOW_KAFKA_BROKERS")]
    brokers: String,
    /// What to measure; all if none is named
    #[arg(long)]
    only: Vec<Subject>,
    /// Records of a drain
    #[arg(long, default_value_t = 200_000)]
    records: usize,
    /// Seconds of 600 records a second
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Rounds; the middle one of each line counts
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// The broker's process, where it runs here: its CPU time is told as well
    #[arg(long)]
    broker_pid: Option<u32>,
    /// One JSON document in place of the table
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Subject {
    Compression,
    Linger,
    Batch,
    InFlight,
    Fencing,
}

/// One line: what was measured, under which setting, and its figures by name.
#[derive(Clone, Debug, Serialize)]
struct Line {
    subject: &'static str,
    setting: String,
    figures: BTreeMap<&'static str, f64>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let wanted = |subject| args.only.is_empty() || args.only.contains(&subject);
    let mut rounds: Vec<Vec<Line>> = Vec::new();
    for round in 0..args.rounds {
        eprintln!("round {} of {}", round + 1, args.rounds);
        let mut lines = Vec::new();
        if wanted(Subject::Compression) {
            lines.extend(settings::compression(&args).await.context("measuring compression")?);
        }
        if wanted(Subject::Linger) {
            lines.extend(settings::linger(&args).await.context("measuring linger")?);
        }
        if wanted(Subject::Batch) {
            lines.extend(settings::batch(&args).await.context("measuring batches")?);
        }
        if wanted(Subject::InFlight) {
            lines.extend(settings::in_flight(&args).await.context("measuring what is in flight")?);
        }
        if wanted(Subject::Fencing) {
            lines.extend(fencing::measure(&args).await.context("measuring transactions")?);
        }
        rounds.push(lines);
    }
    let lines = middle(&rounds);
    if args.json {
        println!("{}", serde_json::to_string_pretty(&lines)?);
    } else {
        print_tables(&lines);
    }
    Ok(())
}

/// The median of each figure over the rounds.
fn middle(rounds: &[Vec<Line>]) -> Vec<Line> {
    let mut lines = rounds.first().cloned().unwrap_or_default();
    for (index, line) in lines.iter_mut().enumerate() {
        for (name, figure) in &mut line.figures {
            let mut all: Vec<f64> = rounds.iter().map(|round| round[index].figures[name]).collect();
            all.sort_by(f64::total_cmp);
            *figure = all[all.len() / 2];
        }
    }
    lines
}

fn print_tables(lines: &[Line]) {
    for subject in lines.chunk_by(|a, b| a.subject == b.subject) {
        let names: Vec<_> = subject.iter().flat_map(|line| line.figures.keys()).collect();
        let names: std::collections::BTreeSet<_> = names.into_iter().collect();
        let mut table = Table::new();
        table.load_preset(UTF8_FULL_CONDENSED);
        let header = std::iter::once(subject[0].subject.to_owned());
        table.set_header(header.chain(names.iter().map(|name| (**name).to_owned())));
        for line in subject {
            let figure = |name: &&&'static str| {
                line.figures.get(**name).map_or(String::new(), |figure| format!("{figure:.2}"))
            };
            table.add_row(std::iter::once(line.setting.clone()).chain(names.iter().map(figure)));
        }
        println!("{table}");
    }
}
