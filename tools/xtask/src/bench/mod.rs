//! `cargo xtask bench`: figures, each with its baselines in the same run.
//!
//! docs/benchmarks.md says what each entry means and how the peers are set up.

mod debezium;
mod drain;
mod entry;
mod events;
mod growth;
mod kafka;
mod latency;
mod machine;
mod memory;
mod naive;
mod process;
mod producer;
mod relay;
mod site;
mod steady;
mod transform;
mod writers;

use crate::interrupt::interrupted;
use anyhow::{anyhow, ensure};
use clap::{Args, ValueEnum};
use entry::Entry;
use machine::Machine;
use site::Site;
use std::{
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::ExitCode,
};
use xtask::progress::Terminal;

#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// What to measure: `relay`, `transform`, or single entries such as `relay.drain`; all of it if nothing is named
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Write the figures as JSON to FILE; `-` is stdout
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Small counts: shows that everything works, and says little about speed
    #[arg(long)]
    quick: bool,
    /// Leave out a contender
    #[arg(long, value_enum, value_name = "CONTENDER")]
    without: Vec<Contender>,
}

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
#[value(rename_all = "snake_case")]
enum Contender {
    #[value(skip)]
    Relay,
    Debezium,
    Naive,
    ProducerLimit,
}

impl Contender {
    fn name(self) -> &'static str {
        match self {
            Self::Relay => "relay",
            Self::Debezium => "debezium",
            Self::Naive => "naive",
            Self::ProducerLimit => "producer_limit",
        }
    }
}

/// One measurement, and the entries that come of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Measurement {
    Relay(OfRelay),
    BinarySize,
    Transform(transform::Group),
}

/// What is measured of relays at work, with the services that they need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OfRelay {
    Drain,
    Latency,
    Scheduled,
    Writers,
    Growth,
    LargeEvents,
}

impl Measurement {
    const ALL: [Self; 10] = [
        Self::Relay(OfRelay::Drain),
        Self::Relay(OfRelay::Latency),
        Self::Relay(OfRelay::Scheduled),
        Self::Relay(OfRelay::Writers),
        Self::Relay(OfRelay::Growth),
        Self::Relay(OfRelay::LargeEvents),
        Self::BinarySize,
        Self::Transform(transform::Group::Record),
        Self::Transform(transform::Group::Registry),
        Self::Transform(transform::Group::Function),
    ];

    fn entries(self) -> &'static [&'static str] {
        match self {
            Self::Relay(measurement) => measurement.entries(),
            Self::BinarySize => &["relay.binary_size"],
            Self::Transform(group) => group.entries(),
        }
    }

    /// Whether one of its entries is meant by `name`: the entry itself, or the suite or the group that it is in.
    fn is_named(self, name: &str) -> bool {
        self.entries().iter().any(|entry| {
            entry.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '_']))
        })
    }
}

impl OfRelay {
    fn entries(self) -> &'static [&'static str] {
        match self {
            Self::Drain => {
                &["relay.drain", "relay.drain_from_start", "relay.cpu_per_event_draining", "relay.memory"]
            }
            Self::Latency => &["relay.latency_p50", "relay.latency_p99", "relay.cpu_per_event"],
            Self::Scheduled => &["relay.latency_scheduled_p99"],
            Self::Writers => &["relay.writers", "relay.writers_behind"],
            Self::Growth => &["relay.growth"],
            Self::LargeEvents => &["relay.memory_large_events"],
        }
    }
}

/// How much is done.
#[derive(Clone, Copy, Debug)]
struct Scale {
    quick: bool,
}

impl Scale {
    /// So many, or a fiftieth.
    fn of(self, full: u64) -> u64 {
        if self.quick { full / 50 } else { full }
    }

    fn rounds(self, full: u32) -> u32 {
        if self.quick { 1 } else { full }
    }
}

pub(crate) async fn run(args: BenchArgs) -> anyhow::Result<ExitCode> {
    let mut wanted = selected(&args.names)?;
    // An optimised build of the function takes minutes, and another one has another size.
    wanted.retain(|measurement| *measurement != Measurement::BinarySize || !args.quick);
    if let Some(file) = &args.json {
        // Told now, not when all is done.
        let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
        ensure!(
            folder.is_none_or(Path::is_dir),
            "{} has no folder: make it, or name another file",
            file.display()
        );
    }
    if cfg!(debug_assertions) && !args.quick {
        return Err(run_optimised());
    }
    let progress = Terminal::new();
    let machine = Machine::this();
    eprintln!("{machine}");
    let mut entries = Vec::new();
    let outcome = tokio::select! {
        outcome = measure(&wanted, &args, &mut entries, &progress) => outcome,
        interrupted = interrupted() => interrupted.and(Err(anyhow!("interrupted"))),
    };
    Site::clear().await?;
    // What was measured before a failure is told all the same: it took half an hour.
    eprintln!("{}\n{machine}", entry::table(&entries));
    if let Some(file) = &args.json {
        entry::write_json(file, &entries)?;
    }
    Ok(if outcome? { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// Adds the figures to `entries`; false where a measurement failed, which doesn't keep the others from being made.
async fn measure(
    wanted: &[Measurement],
    args: &BenchArgs,
    entries: &mut Vec<Entry>,
    progress: &Terminal,
) -> anyhow::Result<bool> {
    let (scale, without) = (Scale { quick: args.quick }, &args.without);
    let mut all_made = true;
    let mut relays = None;
    for measurement in wanted {
        let made = match measurement {
            Measurement::BinarySize => memory::binary_size(progress).await,
            Measurement::Transform(group) => transform::run(*group, scale, progress).await,
            Measurement::Relay(measurement) => {
                // Built and started for the first that needs it.
                let (site, relay) = match &relays {
                    Some(ready) => ready,
                    None => {
                        let relay = relay::Relay::build(progress).await?;
                        relays.insert((Site::start(progress).await?, relay))
                    }
                };
                match measurement {
                    OfRelay::Drain => drain::run(site, relay, without, scale, progress).await,
                    OfRelay::Latency => latency::run(site, relay, without, scale, progress).await,
                    OfRelay::Scheduled => latency::scheduled(site, relay, scale, progress).await,
                    OfRelay::Writers => writers::run(site, relay, scale, progress).await,
                    OfRelay::Growth => growth::run(site, relay, scale, progress).await,
                    OfRelay::LargeEvents => memory::large_events(site, relay, scale, progress).await,
                }
            }
        };
        match made {
            Ok(made) => entries.extend(made),
            Err(error) => {
                all_made = false;
                eprintln!("error: no {}: {error:#}", measurement.entries().join(", "));
            }
        }
    }
    Ok(all_made)
}

fn selected(names: &[String]) -> anyhow::Result<Vec<Measurement>> {
    for name in names {
        ensure!(
            Measurement::ALL.iter().any(|measurement| measurement.is_named(name)),
            "there is no benchmark {name}: the entries are {}",
            Measurement::ALL.map(|measurement| measurement.entries().join(" ")).join(" ")
        );
    }
    let is_wanted =
        |measurement: &Measurement| names.is_empty() || names.iter().any(|name| measurement.is_named(name));
    Ok(Measurement::ALL.into_iter().filter(is_wanted).collect())
}

/// Becomes the same command, optimised: what is measured and what measures must not run at a tenth of their speed.
fn run_optimised() -> anyhow::Error {
    eprintln!("compiling the benchmarks with optimisation …");
    let mut cargo = std::process::Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["run", "--release", "--quiet", "--package", "xtask", "--"]).args(std::env::args_os().skip(1));
    anyhow::Error::from(cargo.exec()).context("cargo could not be run")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_means_an_entry_or_a_suite() {
        let named = |name: &str| selected(&[name.to_owned()]);
        assert_eq!(named("relay").unwrap(), Measurement::ALL[..7]);
        assert_eq!(named("transform").unwrap(), Measurement::ALL[7..]);
        assert_eq!(named("transform.load").unwrap(), [Measurement::Transform(transform::Group::Registry)]);
        assert_eq!(selected(&[]).unwrap(), Measurement::ALL);
        assert_eq!(named("relay.drain").unwrap(), [Measurement::Relay(OfRelay::Drain)]);
        let latency = [OfRelay::Latency, OfRelay::Scheduled].map(Measurement::Relay);
        assert_eq!(named("relay.latency").unwrap(), latency);
        for unknown in ["rel", "relay.dr", "relay.drains", ""] {
            assert!(named(unknown).is_err(), "{unknown}");
        }
    }
}
