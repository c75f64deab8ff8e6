//! Whether a batch takes longer when ten million delivered rows are kept.

use super::{
    Scale,
    drain::drain,
    entry::{Entry, median, millis},
    events::Events,
    relay::Relay,
    site::{Database, Site},
};
use anyhow::Context;
use sqlx::{AssertSqlSafe, Executor};
use xtask::progress::Terminal;

/// Waiting rows. Those of both databases fit into the server's memory, as rows do that were written a moment ago: else the
/// disk's moods would be compared.
const WAITING: u64 = 75_000;
/// Rows of a batch: the relay's default.
const BATCH: u64 = 1_000;
/// Rows that are copied in one statement: more would only make the server's undo log long.
const COPIED_AT_ONCE: u64 = 250_000;

/// What a row takes with MySQL's own files, and what else is written, in bytes.
const ROW_BYTES: u64 = 1_000;
const OTHER_BYTES: u64 = 2_000_000_000;

pub(super) async fn run(
    site: &Site,
    relay: &Relay,
    scale: Scale,
    progress: &Terminal,
) -> anyhow::Result<Vec<Entry>> {
    let total = scale.of(WAITING);
    let events = Events::of(total);
    let mut databases = Vec::new();
    let delivered = scale.of(10_000_000);
    site.ensure_room(delivered * ROW_BYTES + OTHER_BYTES)?;
    for (name, delivered) in [("bench_history", delivered), ("bench_empty", 0)] {
        let database = site.database(name).await?;
        relay.once(site, &database).await?;
        if delivered > 0 {
            fill(site, &database, delivered, progress).await?;
        }
        let position = database.last_id().await?;
        events.write_all(&database.pool, total, progress).await?;
        databases.push((database, position));
    }
    site.settle(progress).await?;
    let topics = site.relay_topics()?;
    let mut batches = [Vec::new(), Vec::new()];
    // The first round fills the server's caches; then they take turns at going first.
    for round in 0..=scale.rounds(15) {
        let mut turns: Vec<_> = databases.iter().zip(&mut batches).collect();
        if round % 2 == 1 {
            turns.reverse();
        }
        for ((database, position), batches) in turns {
            relay.rewind(database, *position).await?;
            let drained = drain(&topics, (events, total), false, || relay.start(site, database));
            let name = format!("{} batches, {}, round {round}", total / BATCH, database.name);
            let drained = progress.track(&name, drained).await?;
            drained.arrived.ensure_whole("the relay")?;
            if round > 0 {
                batches.push(millis(drained.took / u32::try_from(total / BATCH)?));
            }
        }
    }
    for (database, _) in databases {
        site.drop(database).await?;
    }
    let [history, empty] = batches.map(median);
    Ok(vec![Entry::against("relay.growth", history, "ms", "empty_history", empty)])
}

/// Writes rows that count as delivered: a few as always, and then copies of them with ids of their own.
async fn fill(site: &Site, database: &Database, rows: u64, progress: &Terminal) -> anyhow::Result<()> {
    let first = rows / 40;
    Events::of(first).write_all(&database.pool, first, progress).await?;
    let name = database.name;
    let copy = format!(
        "INSERT INTO {name}.outbox (id, event_id, aggregate_id, aggregate_type, event_type, aggregate_version, payload,
             headers, created_at)
         SELECT id + ?, UUID(), aggregate_id, aggregate_type, event_type, aggregate_version, payload, headers, created_at
         FROM {name}.outbox WHERE id <= ?"
    );
    let mut connection = site.admin().acquire().await.context("connecting as administrator")?.detach();
    // Nobody reads the binary log of these rows, and it would be as large as they are.
    connection.execute("SET SESSION sql_log_bin = 0").await.context("leaving out the binary log")?;
    let bar = progress.bar("writing delivered rows", rows);
    let mut written = first;
    while written < rows {
        bar.set_position(written);
        let more = (rows - written).min(written).min(COPIED_AT_ONCE);
        sqlx::query(AssertSqlSafe(copy.as_str()))
            .bind(written)
            .bind(more)
            .execute(&mut connection)
            .await
            .context("copying delivered rows")?;
        written += more;
    }
    bar.finish_and_clear();
    Ok(())
}
