//! A steady trickle of events, and how long each takes from its commit to a reader in Kafka.

use super::{
    events::Events,
    kafka::{Check, Topics, number},
    process::Process,
    site::Database,
};
use anyhow::{Context, ensure};
use rdkafka::Offset;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};
use tokio::time::MissedTickBehavior;

/// Whatever was committed must have arrived so long after the last one.
const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);

/// How many events are written, and for how long.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// Events a second, each in a transaction of its own.
    pub(super) rate: u64,
    /// Not measured: caches fill, and a JVM compiles.
    pub(super) warm_up: Duration,
    pub(super) measured: Duration,
}

/// What was measured.
#[derive(Debug)]
pub(super) struct Latencies {
    /// Microseconds from commit's return to the reader, in ascending order. A reader may be earlier than the answer to
    /// the commit: then they are negative.
    sorted: Vec<i64>,
    /// Processor time of the process under test.
    pub(super) cpu: Duration,
}

impl Latencies {
    /// The latency that so many of a hundred events have at most.
    pub(super) fn percentile(&self, percent: usize) -> i64 {
        let rank = (self.sorted.len() * percent).div_ceil(100).max(1);
        self.sorted[rank - 1]
    }

    pub(super) fn count(&self) -> u64 {
        self.sorted.len() as u64
    }
}

/// When each event was committed, and when it arrived, in microseconds from the start; 0 is not yet.
#[derive(Debug)]
struct Stamps {
    start: Instant,
    committed: Vec<AtomicU64>,
    arrived: Vec<AtomicU64>,
    /// Distinct events.
    arrivals: AtomicU64,
    is_over: AtomicBool,
}

impl Stamps {
    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX).max(1)
    }
}

/// Writes events at a steady rate while `process`, if there is one to measure, or somebody else carries them.
pub(super) async fn run(
    topics: &Topics,
    database: &Database,
    pace: Pace,
    process: Option<&mut Process>,
) -> anyhow::Result<Latencies> {
    let count = |time: Duration| time.as_secs() * pace.rate;
    let (warm_up, total) = (count(pace.warm_up), count(pace.warm_up + pace.measured));
    let events = Events::of(total);
    let stamps = |_| AtomicU64::new(0);
    let stamps = Arc::new(Stamps {
        start: Instant::now(),
        committed: (0..total).map(stamps).collect(),
        arrived: (0..total).map(stamps).collect(),
        arrivals: AtomicU64::new(0),
        is_over: AtomicBool::new(false),
    });
    let reader = read(topics, events, total, Arc::clone(&stamps))?;
    let mut process = process;
    let cpu =
        |process: &Option<&mut Process>| process.as_ref().map_or(Ok(Duration::ZERO), |process| process.cpu());
    write(database, events, pace.rate, 0..warm_up, &stamps).await?;
    let cpu_before = cpu(&process)?;
    write(database, events, pace.rate, warm_up..total, &stamps).await?;
    let cpu = cpu(&process)?.saturating_sub(cpu_before);
    let written = Instant::now();
    while stamps.arrivals.load(Ordering::Relaxed) < total
        && written.elapsed() < PATIENCE
        && !reader.is_finished()
    {
        if let Some(process) = &mut process {
            process.check()?;
        }
        tokio::time::sleep(POLL).await;
    }
    stamps.is_over.store(true, Ordering::Relaxed);
    let check = tokio::task::spawn_blocking(move || reader.join()).await?;
    let check = check.ok().context("the reader panicked")??;
    ensure!(check.missing() == 0, "{} of {total} events were lost", check.missing());
    ensure!(check.violations == 0, "{} events came before their predecessors", check.violations);
    let mut sorted: Vec<i64> = (usize::try_from(warm_up)?..usize::try_from(total)?)
        .map(|index| {
            let [committed, arrived] =
                [&stamps.committed, &stamps.arrived].map(|stamps| stamps[index].load(Ordering::Relaxed));
            arrived.cast_signed() - committed.cast_signed()
        })
        .collect();
    sorted.sort_unstable();
    Ok(Latencies { sorted, cpu })
}

/// Writes these events, each at its time.
async fn write(
    database: &Database,
    events: Events,
    rate: u64,
    numbers: std::ops::Range<u64>,
    stamps: &Arc<Stamps>,
) -> anyhow::Result<()> {
    let mut tick = tokio::time::interval(Duration::from_micros(1_000_000 / rate));
    // A late one does not make all that follow late.
    tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut transactions = tokio::task::JoinSet::new();
    for number in numbers {
        tick.tick().await;
        while let Some(done) = transactions.try_join_next() {
            done.context("a writer's task ended")??;
        }
        let (pool, stamps) = (database.pool.clone(), Arc::clone(stamps));
        transactions.spawn(async move {
            events.insert(&pool, [number]).await?;
            stamps.committed[usize::try_from(number)?].store(stamps.now(), Ordering::Relaxed);
            anyhow::Ok(())
        });
    }
    while let Some(done) = transactions.join_next().await {
        done.context("a writer's task ended")??;
    }
    Ok(())
}

/// Reads in a thread of its own, which does nothing else.
fn read(
    topics: &Topics,
    events: Events,
    total: u64,
    stamps: Arc<Stamps>,
) -> anyhow::Result<JoinHandle<anyhow::Result<Check>>> {
    let consumer = topics.reader(Offset::Beginning)?;
    let mut check = Check::new(events, total);
    Ok(std::thread::spawn(move || {
        while !stamps.is_over.load(Ordering::Relaxed) {
            let Some(message) = consumer.poll(POLL) else { continue };
            let (message, now) = (message.context("reading from kafka")?, stamps.now());
            let Some(number) = number(&message)? else { continue };
            if check.take(number, &message)? {
                stamps.arrived[usize::try_from(number)?].store(now, Ordering::Relaxed);
                stamps.arrivals.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(check)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_the_latency_that_so_many_have_at_most() {
        let latencies = |sorted: Vec<i64>| Latencies { sorted, cpu: Duration::ZERO };
        let hundred = latencies((1..=100).collect());
        assert_eq!((hundred.percentile(50), hundred.percentile(99)), (50, 99));
        assert_eq!(latencies(vec![7]).percentile(99), 7);
    }
}
