//! What the relay weighs: in memory with very large events in its backlog, and on the disk.

use super::{
    Scale,
    drain::drain,
    entry::{Entry, mebibytes, megabytes},
    events::Events,
    relay::{self, Relay},
    site::Site,
};
use anyhow::Context;
use outflow_stack::target_dir;
use xtask::progress::Terminal;

/// The function that is deployed.
const FUNCTION: &str = "outbox-relay";

/// A backlog of small events with 100 of 800 kB among them.
pub(super) async fn large_events(
    site: &Site,
    relay: &Relay,
    scale: Scale,
    progress: &Terminal,
) -> anyhow::Result<Vec<Entry>> {
    let database = site.database("bench_memory").await?;
    relay.once(site, &database).await?;
    let total = scale.of(100_000);
    let large = if scale.quick { 10 } else { 100 };
    let events = Events::of(total);
    for part in 0..large {
        let numbers = part * (total / large)..(part + 1) * (total / large);
        events.insert_large(&database.pool, numbers.start).await?;
        for number in (numbers.start + 1..numbers.end).step_by(1_000) {
            events.insert(&database.pool, number..(number + 1_000).min(numbers.end)).await?;
        }
    }
    let topics = site.relay_topics()?;
    let drained = drain(&topics, (events, total), false, || relay.start(site, &database));
    let drained =
        progress.track(&format!("draining {large} events of 800 kB among {total}"), drained).await?;
    drained.arrived.ensure_whole("the relay")?;
    site.drop(database).await?;
    Ok(vec![Entry::alone("relay.memory_large_events", mebibytes(drained.memory), "MiB")])
}

/// The deployed function's program.
pub(super) async fn binary_size(progress: &Terminal) -> anyhow::Result<Vec<Entry>> {
    progress.track("compiling the function", relay::build(&["--package", FUNCTION])).await?;
    let program = target_dir().join(FUNCTION);
    let bytes = std::fs::metadata(&program).with_context(|| format!("no {}", program.display()))?.len();
    Ok(vec![Entry::alone("relay.binary_size", megabytes(bytes), "MB")])
}
