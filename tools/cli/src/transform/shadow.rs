//! A candidate beside the active module: both read the live records, nobody gets the candidate's rows, and what differs is
//! told. docs/adr/0012 says why this is not the function's work.
//!
//! Must not: commit, produce, or change what is active.

mod compare;
mod last;
mod lineup;
mod report;

use super::{RegistryArgs, now, source};
use crate::{
    outbox::when,
    output::{Finding, Json},
};
use anyhow::{Context, Error, anyhow};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use lineup::Lineup;
use outflow_broker::{
    letters::log::Start,
    tail::{Arrived, Tail},
    topics,
};
use outflow_transform::ActiveTransform;
use report::{Ended, Named, Report};
use serde::Serialize;
use std::{
    io::IsTerminal,
    num::NonZeroU64,
    time::{Duration, Instant},
};
use tokio::signal::unix::{Signal, SignalKind, signal};

pub(super) use last::Last;

#[derive(Debug, Args)]
pub(crate) struct ShadowArgs {
    /// The candidate's digest, or the beginning of it.
    digest: String,
    /// A topic of events; may be given several times. [default: order.events and inventory.events]
    #[arg(long = "topic", value_name = "TOPIC")]
    topics: Vec<String>,
    /// Where to begin: end for what arrives from now on, beginning, a time (2026-11-23T07:00:00Z), or 2h for two hours ago.
    #[arg(long, value_name = "PLACE", default_value = "end", value_parser = source::start)]
    from: Start,
    /// How long it runs at most.
    #[arg(long = "for", value_name = "DURATION", default_value = "60s", value_parser = when::duration)]
    duration: Duration,
    /// Ends after so many records of the modules' types.
    #[arg(long, value_name = "N")]
    records: Option<NonZeroU64>,
    /// Ends where no record comes for so long; that is told, and no error.
    #[arg(long, value_name = "DURATION", value_parser = when::duration)]
    timeout: Option<Duration>,
    /// Leaves values and messages out of the examples: they hold what real events hold, and the report is kept.
    #[arg(long)]
    no_values: bool,
    #[command(flatten)]
    registry: RegistryArgs,
    #[command(flatten)]
    json: Json,
}

/// Of a batch: as many records as the function gets at most, and as many bytes.
const BATCH: u64 = 500;
const BATCH_BYTES: usize = 6 << 20;
/// A batch that is not full waits for more so long.
const LINGER: Duration = Duration::from_millis(200);

/// The report, with the number under which the registry keeps it.
#[derive(Debug, Serialize)]
struct Kept<'a> {
    number: Option<u32>,
    #[serde(flatten)]
    report: &'a Report,
}

pub(crate) async fn run(args: &ShadowArgs) -> anyhow::Result<Finding> {
    let registry = args.registry.open()?;
    let info = registry.find(&args.digest).await.map_err(|error| {
        anyhow!("{:#}; `outflow transform status` lists what is published", Error::from(error))
    })?;
    let (slot, pointer) = (info.slot(), registry.newest().await?.0);
    let active: Vec<ActiveTransform> =
        pointer.iter().flat_map(|pointer| pointer.on_tables_of(&slot)).cloned().collect();
    if active.is_empty() {
        eprintln!("outflow: nothing is active in {slot}: all rows of the candidate are told as added");
    }
    let lineup = Lineup::load(&registry, &info, &active, !args.no_values).await?;
    let topics = match args.topics.as_slice() {
        [] => topics::EVENTS.map(str::to_owned).to_vec(),
        topics => topics.to_vec(),
    };
    let tail = Tail::open(&source::kafka()?, &topics, args.from).await?;

    let began_at = now();
    let (lineup, ended) = watch(args, &tail, lineup).await?;
    let (differences, speed) = (lineup.comparison.differences(), lineup.speed());
    let report = Report {
        slot,
        candidate: Named::from(&info),
        active: active.iter().map(Named::from).collect(),
        topics,
        began_at,
        ended_at: now(),
        ended,
        summary: report::summary(&differences, &lineup.apart),
        differences,
        apart: lineup.apart,
        speed,
        ratio: report::ratio(speed),
    };
    let mut number = None;
    if report.asked() == 0 {
        eprintln!(
            "outflow: no record of {} came in {}: nothing was compared, and no report is kept; --from begins earlier",
            info.event_types.join(", "),
            report.topics.join(", ")
        );
    } else {
        // The run is not lost to whoever may only read the registry.
        match registry.put_shadow_report(&info.digest, &report).await {
            Ok(kept) => number = Some(kept),
            Err(error) => {
                eprintln!("outflow: the report could not be kept: {:#}", Error::from(error));
            }
        }
    }
    args.json.report(&Kept { number, report: &report }, report::describe(&report))?;
    Ok(if report.differs() { Finding::Wrong } else { Finding::Fine })
}

/// Reads and compares until it is to end.
async fn watch(args: &ShadowArgs, tail: &Tail, mut lineup: Lineup) -> anyhow::Result<(Lineup, Ended)> {
    let until = Instant::now() + args.duration;
    // Before anybody can see that it reads.
    let mut stop = signal(SignalKind::interrupt()).context("listening for Ctrl-C")?;
    let bar = progress(args.records);
    let ended = loop {
        let compared = lineup.comparison.records().compared;
        let wanted = args.records.map_or(BATCH, |records| records.get().saturating_sub(compared).min(BATCH));
        if wanted == 0 {
            break Ended::Records;
        }
        let (batch, ended) = gather(tail, wanted, until, args.timeout, &mut stop).await?;
        lineup = tokio::task::spawn_blocking(move || {
            lineup.take(&batch, until);
            lineup
        })
        .await
        .context("the host of the modules panicked")?;
        let records = lineup.comparison.records();
        bar.set_position(records.compared);
        bar.set_message(format!("{} differ", records.different));
        if let Some(ended) = ended {
            break ended;
        }
    };
    bar.finish_and_clear();
    Ok((lineup, ended))
}

/// The next records, and why there will be no others.
async fn gather(
    tail: &Tail,
    wanted: u64,
    until: Instant,
    timeout: Option<Duration>,
    stop: &mut Signal,
) -> anyhow::Result<(Vec<Arrived>, Option<Ended>)> {
    let (mut batch, mut bytes) = (Vec::new(), 0);
    let silence = timeout.map(|timeout| Instant::now() + timeout).filter(|silence| *silence < until);
    let mut deadline = silence.unwrap_or(until);
    while (batch.len() as u64) < wanted && bytes < BATCH_BYTES {
        tokio::select! {
            arrived = tail.next() => {
                let arrived = source::first_life(arrived?);
                bytes += arrived.len();
                if batch.is_empty() {
                    deadline = (Instant::now() + LINGER).min(until);
                }
                batch.push(arrived);
            }
            () = tokio::time::sleep_until(deadline.into()) => {
                let ended = match silence {
                    Some(_) if batch.is_empty() => Some(Ended::Silence),
                    _ => (Instant::now() >= until).then_some(Ended::Time),
                };
                return Ok((batch, ended));
            }
            _ = stop.recv() => return Ok((batch, Some(Ended::Interrupted))),
        }
    }
    // A backlog has no silence in which time could be looked at.
    Ok((batch, (Instant::now() >= until).then_some(Ended::Time)))
}

/// On a terminal alone.
fn progress(records: Option<NonZeroU64>) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = |template| ProgressStyle::with_template(template).expect("the template is well formed");
    match records {
        Some(records) => ProgressBar::new(records.get())
            .with_style(style("comparing {bar:30} {pos}/{len} {msg} {elapsed}")),
        None => {
            let bar = ProgressBar::new_spinner()
                .with_style(style("comparing {spinner} {pos} records {msg} {elapsed}"));
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        }
    }
}
