//! Measures what the relay's producer is set to, and what was decided against: fencing, linger, compression.
//!
//! `cargo run --release --package outflow-broker --example producer_settings -- --brokers 127.0.0.1:9092`
//!
//! The broker shares the machine: compare the lines of a run, not two runs. All of them send the same records, with the
//! settings of the relay's producer but for the one that is measured, and are looked at in the same way. The relay's own
//! settings stand in each table, and were measured once.

// Figures are for people.
#![allow(clippy::float_arithmetic)]

mod contender;
mod load;
mod measure;
mod reader;
mod stored;
mod transactions;

use anyhow::Context;
use clap::{Parser, ValueEnum};
use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use contender::Contender;
use rand::seq::SliceRandom;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

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
    /// Drains of a round, one after the other
    #[arg(long, default_value_t = 3)]
    drains: usize,
    /// Seconds of 600 records a second
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Rounds that count, after one that does not; the median of each figure is told, with the lowest and the highest
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// The broker's process, where it runs here: its CPU time is told as well
    #[arg(long)]
    broker_pid: Option<u32>,
    /// One JSON document in place of the tables
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
enum Subject {
    Fencing,
    Linger,
    Compression,
    Batch,
    InFlight,
}

/// What one contender came to in one round, by name.
type Figures = BTreeMap<&'static str, f64>;

/// A figure over the rounds.
#[derive(Clone, Copy, Debug, Serialize)]
struct Spread {
    median: f64,
    lowest: f64,
    highest: f64,
}

/// A line of a table.
#[derive(Clone, Debug, Serialize)]
struct Line {
    subject: Subject,
    setting: &'static str,
    figures: BTreeMap<&'static str, Spread>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let subjects: Vec<Subject> = match args.only.is_empty() {
        true => Subject::value_variants().to_vec(),
        false => args.only.clone(),
    };
    let contenders: Vec<Contender> = contender::all()
        .into_iter()
        .filter(|contender| contender.lines.iter().any(|(subject, _)| subjects.contains(subject)))
        .filter(|contender| contender.is_possible(&args.brokers))
        .collect();
    let mut rounds: Vec<Vec<Figures>> = vec![Vec::new(); contenders.len()];
    let mut order: Vec<usize> = (0..contenders.len()).collect();
    // The first round warms up: a broker that has just started still compiles itself, for a minute and more.
    for round in 0..=args.rounds {
        order.shuffle(&mut rand::rng());
        for &index in &order {
            let contender = &contenders[index];
            let figures = measure::round(&args, contender).await;
            let figures = figures.with_context(|| format!("measuring {}", contender.name()))?;
            eprintln!("round {round} of {}, {}: {figures:.1?}", args.rounds, contender.name());
            if round > 0 {
                rounds[index].push(figures);
            }
        }
    }
    let lines = lines(&subjects, &contenders, &rounds);
    if args.json {
        println!("{}", serde_json::to_string_pretty(&lines)?);
    } else {
        subjects.iter().for_each(|subject| print_table(*subject, &lines));
    }
    Ok(())
}

fn lines(subjects: &[Subject], contenders: &[Contender], rounds: &[Vec<Figures>]) -> Vec<Line> {
    let mut lines = Vec::new();
    for &subject in subjects {
        for (contender, rounds) in contenders.iter().zip(rounds) {
            let setting = contender.lines.iter().find(|(of, _)| *of == subject).map(|(_, setting)| *setting);
            lines.extend(setting.map(|setting| Line { subject, setting, figures: spreads(rounds) }));
        }
    }
    lines
}

fn spreads(rounds: &[Figures]) -> BTreeMap<&'static str, Spread> {
    let names = rounds.first().into_iter().flat_map(BTreeMap::keys);
    names
        .map(|name| {
            let mut all: Vec<f64> = rounds.iter().map(|figures| figures[name]).collect();
            all.sort_by(f64::total_cmp);
            (*name, Spread { median: all[all.len() / 2], lowest: all[0], highest: all[all.len() - 1] })
        })
        .collect()
}

fn print_table(subject: Subject, lines: &[Line]) {
    let lines: Vec<&Line> = lines.iter().filter(|line| line.subject == subject).collect();
    let names: BTreeSet<&str> = lines.iter().flat_map(|line| line.figures.keys().copied()).collect();
    let mut table = Table::new();
    table.load_preset(UTF8_FULL_CONDENSED);
    table.set_header(
        std::iter::once(format!("{subject:?}")).chain(names.iter().map(|name| (*name).to_owned())),
    );
    for line in lines {
        let told = |name: &&str| line.figures.get(*name).map_or_else(String::new, Spread::to_string);
        table.add_row(std::iter::once(line.setting.to_owned()).chain(names.iter().map(told)));
    }
    println!("{table}");
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let places = if self.median < 100.0 { 2 } else { 0 };
        write!(f, "{:.places$} ({:.places$} to {:.places$})", self.median, self.lowest, self.highest)
    }
}
