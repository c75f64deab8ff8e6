//! Whether writers notice that a relay keeps up with them.

use super::{
    Scale,
    entry::{Entry, median, per_second},
    events::Events,
    kafka::Topics,
    relay::Relay,
    site::{Database, Site},
};
use anyhow::{Context, ensure};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};
use xtask::progress::Terminal;

const WRITERS: u32 = 16;
/// A relay that keeps up has carried the last event by then.
const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);
/// More events than are written in the longest run.
const MANY: u64 = 10_000_000;

/// What the writers did in one round.
struct Written {
    count: u64,
    took: Duration,
    ended: SystemTime,
}

pub(super) async fn run(
    site: &Site,
    relay: &Relay,
    scale: Scale,
    progress: &Terminal,
) -> anyhow::Result<Vec<Entry>> {
    let time = Duration::from_secs(if scale.quick { 3 } else { 20 });
    let database = site.database("bench_writers").await?;
    relay.once(site, &database).await?;
    let topics = site.relay_topics()?;
    let (mut alone, mut with_relay, mut behind) = (Vec::new(), Vec::new(), Vec::new());
    for round in 1..=scale.rounds(3) {
        let name = |which: &str| format!("{WRITERS} writers, round {round}: {which}");
        let written = progress.track(&name("no_relay"), write(&database, time)).await?;
        alone.push(per_second(written.count, written.took));
        relay.rewind(&database, database.last_id().await?).await?;
        let beside = beside_relay(site, relay, &database, &topics, time);
        let (written, late) = progress.track(&name("relay"), beside).await?;
        with_relay.push(per_second(written.count, written.took));
        behind.push(late);
    }
    site.drop(database).await?;
    Ok(vec![
        Entry::against("relay.writers", median(with_relay), "inserts/s", "no_relay", median(alone)),
        Entry::alone("relay.writers_behind", median(behind), "ms"),
    ])
}

/// Writes while a relay runs; by how many milliseconds the last event came after the last insert.
async fn beside_relay(
    site: &Site,
    relay: &Relay,
    database: &Database,
    topics: &Topics,
    time: Duration,
) -> anyhow::Result<(Written, f64)> {
    topics.fresh().await?;
    let mut process = relay.start(site, database)?;
    let written = write(database, time).await?;
    let deadline = Instant::now() + PATIENCE;
    while topics.count().await? < written.count {
        process.check()?;
        ensure!(Instant::now() < deadline, "the relay did not keep up with {} events", written.count);
        tokio::time::sleep(POLL).await;
    }
    process.stop().await?;
    let arrived = topics.read_all(Events::of(MANY), written.count, false).await?;
    arrived.ensure_whole("the relay")?;
    let ended = i64::try_from(written.ended.duration_since(SystemTime::UNIX_EPOCH)?.as_millis())?;
    let late = i32::try_from((arrived.last_ms - ended).max(0))?;
    Ok((written, f64::from(late)))
}

/// Writes as fast as the server takes it, one row a transaction.
async fn write(database: &Database, time: Duration) -> anyhow::Result<Written> {
    let events = Events::of(MANY);
    let (next, started) = (Arc::new(AtomicU64::new(0)), Instant::now());
    let mut writers = tokio::task::JoinSet::new();
    for _ in 0..WRITERS {
        let (pool, next) = (database.pool.clone(), Arc::clone(&next));
        writers.spawn(async move {
            while started.elapsed() < time {
                events.insert(&pool, [next.fetch_add(1, Ordering::Relaxed)]).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(ended) = writers.join_next().await {
        ended.context("a writer's task ended")??;
    }
    Ok(Written { count: next.load(Ordering::Relaxed), took: started.elapsed(), ended: SystemTime::now() })
}
