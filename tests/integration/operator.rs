//! What an operator sees of the outbox and may do about it, against the real server and the real relay.

mod beside;
mod change;
mod cli;
mod discard;
mod group;
mod list;
mod live;
mod prune;
mod show;
mod status;

use outflow_outbox::operator::{Operator, Signature};
use outflow_outbox::{
    FailureKind, OutboxEvent, PublishError, Publisher, Relay, RelaySettings, Report, RetrySettings,
};
use outflow_tests::{Recorder, TestShop, in_a_minute, write_event};
use sqlx::{AssertSqlSafe, Executor, MySql, Transaction};
use std::{
    collections::BTreeMap,
    ops::RangeInclusive,
    sync::{Arc, Mutex},
    time::Duration,
};

const GROUP: &str = "default";
const HOUR: Duration = Duration::from_secs(3_600);

/// A shop whose relay meets a publisher that refuses some events for their own sake.
struct Parking {
    shop: TestShop,
    relay: Relay<Picky>,
    picky: Picky,
    operator: Operator,
}

impl Parking {
    async fn start() -> Self {
        let shop = TestShop::start().await;
        let picky = Picky::default();
        let settings = RelaySettings {
            lease: Duration::from_secs(10),
            gap_grace: HOUR,
            // What is tried again within a test is so because an operator wanted it.
            retry: RetrySettings { first_pause: HOUR, longest_pause: HOUR, ..RetrySettings::default() },
            ..RelaySettings::default()
        };
        let relay = Relay::new(&shop.database_url, picky.clone(), settings).unwrap();
        let operator = Operator::new(shop.store.pool().clone(), GROUP).unwrap();
        Self { shop, relay, picky, operator }
    }

    async fn drain(&self) -> Report {
        self.relay.drain(in_a_minute()).await.unwrap()
    }

    /// Has so many versions of each of these refused, for ever or until somebody tries again.
    async fn park(
        &self,
        aggregates: &[&str],
        versions: RangeInclusive<u32>,
        permanent: bool,
        cause: &'static str,
    ) {
        for aggregate in aggregates {
            self.picky.refuse(aggregate, permanent, cause);
            commit_events(&self.shop, aggregate, versions.clone()).await;
        }
        self.drain().await;
    }

    /// State and number of attempts of each parked event, by aggregate and version.
    async fn states(&self) -> Vec<(String, u32, String, u32)> {
        sqlx::query_as(
            "SELECT aggregate_id, aggregate_version, state, attempts FROM outbox_failures ORDER BY aggregate_id, id",
        )
        .fetch_all(self.shop.store.pool())
        .await
        .unwrap()
    }

    /// What was published of an aggregate, in order.
    fn published(&self, aggregate: &str) -> Vec<u32> {
        self.picky.recorder.versions().into_iter().filter(|(id, _)| id == aggregate).map(|(_, v)| v).collect()
    }

    /// The outbox row of this version.
    async fn id(&self, aggregate: &str, version: u32) -> u64 {
        sqlx::query_scalar("SELECT id FROM outbox WHERE aggregate_id = ? AND aggregate_version = ?")
            .bind(aggregate)
            .bind(version)
            .fetch_one(self.shop.store.pool())
            .await
            .unwrap()
    }
}

fn state(aggregate: &str, version: u32, state: &str, attempts: u32) -> (String, u32, String, u32) {
    (aggregate.to_owned(), version, state.to_owned(), attempts)
}

fn signature() -> Signature {
    Signature::new("tester@host", "the test says so").unwrap()
}

/// Refuses the events of some aggregates, and remembers the others.
#[derive(Clone, Default)]
struct Picky {
    recorder: Recorder,
    refused: Arc<Mutex<BTreeMap<String, (bool, &'static str)>>>,
}

impl Picky {
    fn refuse(&self, aggregate: &str, permanent: bool, cause: &'static str) {
        self.refused.lock().unwrap().insert(aggregate.to_owned(), (permanent, cause));
    }

    fn accept_all(&self) {
        self.refused.lock().unwrap().clear();
    }
}

impl Publisher for Picky {
    async fn publish(&self, events: &[OutboxEvent]) -> Vec<Result<(), PublishError>> {
        let mut results = Vec::with_capacity(events.len());
        for event in events {
            let refused = self.refused.lock().unwrap().get(&event.aggregate_id).copied();
            results.push(match refused {
                Some((permanent, cause)) => Err(PublishError {
                    kind: FailureKind::Record { permanent },
                    cause,
                    source: format!("{} was refused", event.aggregate_id).into(),
                }),
                None => self.recorder.publish(std::slice::from_ref(event)).await.remove(0),
            });
        }
        results
    }

    fn timeout(&self) -> Duration {
        Duration::ZERO
    }
}

/// Runs a statement of the test's own making.
async fn run(shop: &TestShop, sql: impl Into<String>) {
    shop.store.pool().execute(sqlx::query(AssertSqlSafe(sql.into()))).await.expect("mysql takes it");
}

/// Commits an event of each version to this aggregate.
async fn commit_events(shop: &TestShop, aggregate: &str, versions: RangeInclusive<u32>) {
    for version in versions {
        let mut writer = shop.begin().await;
        write_event(&mut writer, aggregate, version).await;
        writer.commit().await.unwrap();
    }
}

/// The ids in the outbox.
async fn ids(shop: &TestShop) -> Vec<u64> {
    sqlx::query_scalar("SELECT id FROM outbox ORDER BY id").fetch_all(shop.store.pool()).await.unwrap()
}

/// Holds the group's row, as a relay does that moves its position.
async fn hold(shop: &TestShop) -> Transaction<'static, MySql> {
    let mut relay = shop.begin().await;
    sqlx::query("SELECT position FROM outbox_position WHERE relay_group = 'default' FOR UPDATE")
        .fetch_one(&mut *relay)
        .await
        .unwrap();
    relay
}
