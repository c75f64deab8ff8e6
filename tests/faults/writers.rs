//! Services that write events: with their aggregates' rows locked, some at the same time, some slowly, some in vain.

use crate::field::Field;
use outflow_outbox::{AggregateTable, EventWriter, Locked, NewEvent};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::index};
use serde_json::json;
use sqlx::MySqlPool;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::task::JoinHandle;
use uuid::Uuid;

/// Few, so that writers meet.
const AGGREGATES: usize = 60;
/// Of a hundred transactions.
const ROLLED_BACK: u32 = 15;
const SLOW: u32 = 10;
const LONGEST_PAUSE_MS: u64 = 25;
const SLOWEST_MS: u64 = 1_500;

/// Writers at work, until [`Writers::stop`].
#[derive(Debug)]
pub(crate) struct Writers {
    shared: Arc<Shared>,
    tasks: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    over: AtomicBool,
    committed: AtomicU64,
    rolled_back: AtomicU64,
    failed: AtomicU64,
}

impl Writers {
    pub(crate) async fn start(field: &Field, writers: u64) -> Self {
        for aggregate in 0..AGGREGATES {
            sqlx::query("INSERT IGNORE INTO aggregates (id) VALUES (?)")
                .bind(id(aggregate))
                .execute(&field.pool)
                .await
                .unwrap();
        }
        let shared = Arc::new(Shared::default());
        let table = AggregateTable::new("aggregates", "id", [(field.aggregate_type, "version")]);
        let tasks = (0..writers).map(|writer| {
            let random = StdRng::seed_from_u64(field.seed.wrapping_mul(1_000).wrapping_add(writer));
            tokio::spawn(write(field.pool.clone(), table, random, Arc::clone(&shared)))
        });
        Self { tasks: tasks.collect(), shared }
    }

    /// Transactions that were committed so far.
    pub(crate) fn committed(&self) -> u64 {
        self.shared.committed.load(Ordering::Relaxed)
    }

    /// Waits until every transaction has ended.
    pub(crate) async fn stop(self) {
        self.shared.over.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.unwrap();
        }
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let Shared { committed, rolled_back, failed, .. } = &*self.shared;
        eprintln!(
            "writers: {} transactions committed, {} rolled back, {} failed",
            count(committed),
            count(rolled_back),
            count(failed)
        );
    }
}

fn id(aggregate: usize) -> String {
    format!("w-{aggregate}")
}

async fn write(pool: MySqlPool, table: AggregateTable<1>, mut random: StdRng, shared: Arc<Shared>) {
    while !shared.over.load(Ordering::Relaxed) {
        let counter = match transaction(&pool, &table, &mut random).await {
            Ok(true) => &shared.committed,
            Ok(false) => &shared.rolled_back,
            Err(_) => {
                // A deadlock, or a server that is away: what a service does is try again.
                tokio::time::sleep(Duration::from_millis(50)).await;
                &shared.failed
            }
        };
        counter.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(random.random_range(0..=LONGEST_PAUSE_MS))).await;
    }
}

/// True if it was committed.
async fn transaction(
    pool: &MySqlPool,
    table: &AggregateTable<1>,
    random: &mut StdRng,
) -> anyhow::Result<bool> {
    let chosen = random.random_range(1..=3);
    let aggregates = index::sample(random, AGGREGATES, chosen).into_vec();
    let (events, commits) = (random.random_range(1..=3), random.random_range(0..100) >= ROLLED_BACK);
    let slowness = Duration::from_millis(random.random_range(0..=SLOWEST_MS));
    let slow = random.random_range(0..100) < SLOW;
    let mut outbox = EventWriter::new(pool.begin().await?);
    let mut locked: Vec<Locked> = Vec::new();
    for aggregate in aggregates {
        let [aggregate] =
            outbox.lock(table, id(aggregate)).await?.ok_or_else(|| anyhow::anyhow!("it has no row"))?;
        locked.push(aggregate);
    }
    for aggregate in locked.iter().cycle().take(events.max(locked.len())) {
        outbox.add(*aggregate, NewEvent::new(Uuid::now_v7(), "Changed", json!({"by": "a writer"})))?;
    }
    outbox.finish().await?;
    // Its ids are given, and nobody sees their rows.
    if slow {
        tokio::time::sleep(slowness).await;
    }
    match commits {
        true => outbox.commit().await?,
        false => outbox.rollback().await?,
    }
    Ok(commits)
}
