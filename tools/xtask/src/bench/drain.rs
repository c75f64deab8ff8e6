//! A backlog: how fast each contender carries 600,000 waiting events, and what that costs.

use super::{
    Contender, Scale,
    debezium::{Debezium, Tuning},
    entry::{Entry, mebibytes, median, micros_each, per_second},
    events::Events,
    kafka::{Arrived, Topics},
    naive,
    process::Process,
    producer,
    relay::Relay,
    site::{Database, Site},
};
use anyhow::{Context, ensure};
use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};
use xtask::progress::Terminal;

/// How often the topics are asked for their ends: until the first record is there, and after that.
const POLL_FIRST: Duration = Duration::from_millis(10);
const POLL: Duration = Duration::from_millis(100);
/// A contender that carries nothing new for so long has stopped.
const PATIENCE: Duration = Duration::from_secs(60);
/// Whoever has carried everything may send something once more: that is waited for.
const SETTLE: Duration = Duration::from_millis(500);

/// One contender's drain.
#[derive(Debug)]
pub(super) struct Drained {
    /// From the broker's time of the first batch to that of the last.
    pub(super) took: Duration,
    /// From the start of the process.
    took_from_start: Duration,
    cpu: Duration,
    /// Events for which that processor time was spent: those that came after the first were there.
    cpu_events: u64,
    pub(super) memory: u64,
    pub(super) arrived: Arrived,
}

/// Carries events `0..total` with the process that `start` starts, and checks what arrived.
pub(super) async fn drain(
    topics: &Topics,
    (events, total): (Events, u64),
    keep_records: bool,
    start: impl FnOnce() -> anyhow::Result<Process>,
) -> anyhow::Result<Drained> {
    topics.fresh().await?;
    let started_ms = since_1970_ms()?;
    let mut process = start()?;
    let mut first: Option<(Duration, u64)> = None;
    let (mut count, mut changed) = (0, Instant::now());
    while count < total {
        tokio::time::sleep(if first.is_none() { POLL_FIRST } else { POLL }).await;
        process.check()?;
        let now = topics.count().await?;
        if now > count {
            (count, changed) = (now, Instant::now());
        }
        if first.is_none() && count > 0 {
            first = Some((process.cpu()?, count));
        }
        ensure!(changed.elapsed() < PATIENCE, "only {count} of {total} events arrived");
    }
    let (cpu, (cpu_first, count_first)) = (process.cpu()?, first.context("some event came first")?);
    tokio::time::sleep(SETTLE).await;
    let memory = process.memory_high()?;
    process.stop().await?;
    let arrived = topics.read_all(events, total, keep_records).await?;
    let time = |from: i64| anyhow::Ok(Duration::from_millis(u64::try_from(arrived.last_ms - from)?));
    Ok(Drained {
        took: time(arrived.first_ms)?.max(Duration::from_millis(1)),
        took_from_start: time(started_ms)?,
        cpu: cpu.saturating_sub(cpu_first),
        cpu_events: (total - count_first.min(total)).max(1),
        memory,
        arrived,
    })
}

impl Arrived {
    /// An error where the promises were not kept.
    pub(super) fn ensure_whole(&self, who: &str) -> anyhow::Result<()> {
        let Self { missing, violations, duplicates, .. } = self;
        ensure!(*missing == 0, "{who} lost {missing} events");
        ensure!(*violations == 0, "{who} carried {violations} events before their predecessors");
        if *duplicates > 0 {
            eprintln!("{who} carried {duplicates} events twice");
        }
        Ok(())
    }
}

/// The contenders' figures, one a round.
#[derive(Default)]
struct Rounds {
    per_second: BTreeMap<Contender, Vec<f64>>,
    from_start: BTreeMap<Contender, Vec<f64>>,
    cpu: BTreeMap<Contender, Vec<f64>>,
    memory: Vec<f64>,
}

impl Rounds {
    fn add(&mut self, who: Contender, total: u64, drained: &Drained) {
        let Drained { took, took_from_start, cpu, cpu_events, .. } = drained;
        self.per_second.entry(who).or_default().push(per_second(total, *took));
        self.from_start.entry(who).or_default().push(per_second(total, *took_from_start));
        self.cpu.entry(who).or_default().push(micros_each(*cpu, *cpu_events));
    }

    fn entries(&self) -> Vec<Entry> {
        let of = |figures: &BTreeMap<Contender, Vec<f64>>, who| {
            figures.get(&who).map(|rounds| median(rounds.iter().copied()))
        };
        let mut entries = Vec::new();
        let mut compare = |name, unit, figures: &BTreeMap<Contender, Vec<f64>>, baselines: &[Contender]| {
            let Some(value) = of(figures, Contender::Relay) else { return };
            let before = entries.len();
            for baseline in baselines {
                if let Some(baseline_value) = of(figures, *baseline) {
                    entries.push(Entry::against(name, value, unit, baseline.name(), baseline_value));
                }
            }
            if entries.len() == before {
                entries.push(Entry::alone(name, value, unit));
            }
        };
        let others = [Contender::Debezium, Contender::Naive, Contender::ProducerLimit];
        compare("relay.drain", "events/s", &self.per_second, &others);
        compare("relay.drain_from_start", "events/s", &self.from_start, &[Contender::Debezium]);
        compare("relay.cpu_per_event_draining", "us", &self.cpu, &[Contender::Debezium]);
        entries.push(Entry::alone("relay.memory", self.memory.iter().copied().fold(0.0, f64::max), "MiB"));
        entries
    }
}

pub(super) async fn run(
    site: &Site,
    relay: &Relay,
    without: &[Contender],
    scale: Scale,
    progress: &Terminal,
) -> anyhow::Result<Vec<Entry>> {
    let takes_part = |who| !without.contains(&who);
    let database = site.database("bench_drain").await?;
    let total = scale.of(600_000);
    let events = Events::of(total);
    // The relay's own row of position, before there is anything to relay.
    relay.once(site, &database).await?;
    let debezium = match takes_part(Contender::Debezium) {
        true => Some(prepare_debezium(site, &database, progress).await?),
        false => None,
    };
    let position = database.last_id().await?;
    events.write_all(&database.pool, total, progress).await?;
    site.settle(progress).await?;
    let topics = site.relay_topics()?;
    let mut rounds = Rounds::default();
    for round in 0..=scale.rounds(3) {
        // The producer sends what the relay has sent; so the relay comes first.
        let name = |who: Contender| format!("draining {total} events, round {round}: {}", who.name());
        relay.rewind(&database, position).await?;
        let keep = takes_part(Contender::ProducerLimit);
        let drained = drain(&topics, (events, total), keep, || relay.start(site, &database));
        let mut drained = progress.track(&name(Contender::Relay), drained).await?;
        drained.arrived.ensure_whole("the relay")?;
        rounds.add(Contender::Relay, total, &drained);
        rounds.memory.push(mebibytes(drained.memory));
        if takes_part(Contender::ProducerLimit) {
            let records = Arc::new(std::mem::take(&mut drained.arrived.records));
            let limit = async {
                topics.fresh().await?;
                producer::send(site, records).await?;
                topics.read_all(events, total, false).await
            };
            let arrived = progress.track(&name(Contender::ProducerLimit), limit).await?;
            arrived.ensure_whole("the bare producer")?;
            let took = Duration::from_millis(u64::try_from(arrived.last_ms - arrived.first_ms)?.max(1));
            let limits = rounds.per_second.entry(Contender::ProducerLimit).or_default();
            limits.push(per_second(total, took));
        }
        if round == 0 {
            // A broker that has just started compiles its code for as long as two drains take, on a core of those who drain.
            rounds = Rounds::default();
            continue;
        }
        if let Some(debezium) = &debezium {
            debezium.return_to_place()?;
            let start = || debezium.start(site, &database, Tuning::Throughput);
            let drained = drain(&debezium.topics, (events, total), false, start);
            let drained = progress.track(&name(Contender::Debezium), drained).await?;
            drained.arrived.ensure_whole("Debezium")?;
            rounds.add(Contender::Debezium, total, &drained);
        }
        if takes_part(Contender::Naive) {
            topics.fresh().await?;
            let total = scale.of(10_000);
            let took = progress.track(&name(Contender::Naive), naive::drain(site, &database, total)).await?;
            rounds.per_second.entry(Contender::Naive).or_default().push(per_second(total, took));
        }
    }
    site.drop(database).await?;
    Ok(rounds.entries())
}

/// A Debezium that has stored its place in the binary log, before the backlog is written.
async fn prepare_debezium(site: &Site, database: &Database, progress: &Terminal) -> anyhow::Result<Debezium> {
    let debezium = Debezium::install(site, progress).await?;
    progress
        .track("showing Debezium its place", async {
            let process = debezium.begin_here(site, database, Tuning::Throughput).await?;
            process.stop().await?;
            debezium.keep_place()
        })
        .await?;
    Ok(debezium)
}

fn since_1970_ms() -> anyhow::Result<i64> {
    Ok(i64::try_from(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_millis())?)
}
