//! Where a test takes place: a shop and a topic of its own, and services that it may break if it has them to itself.

use crate::process::{RelayProcess, RelayStart};
use outflow_broker::topics::{self, TopicSpec};
use outflow_outbox::write_without_lock;
use outflow_stack::{Settings, Stack};
use outflow_tests::{TestShop, event, test_state};
use rdkafka::{
    ClientConfig,
    consumer::{BaseConsumer, Consumer},
};
use sqlx::{AssertSqlSafe, MySqlConnection, MySqlPool, mysql::MySqlPoolOptions};
use std::{
    cell::Cell,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};
use tempfile::TempDir;
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use uuid::Uuid;

/// How long anything may take to become as wanted: on a busy machine, with a lease or two to wait for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);
const POLL: Duration = Duration::from_millis(20);
const PARTITIONS: i32 = 4;

/// Held for reading by who needs the services, for writing by who breaks them.
static SERVICES: RwLock<()> = RwLock::const_new(());

#[derive(Debug)]
#[expect(dead_code, reason = "held, not read")]
enum Hold {
    Shared(RwLockReadGuard<'static, ()>),
    Alone(RwLockWriteGuard<'static, ()>),
}

pub(crate) struct Field {
    pub(crate) shop: TestShop,
    /// For writers and for looks: as many connections as it takes, each made anew after an outage.
    pub(crate) pool: MySqlPool,
    pub(crate) aggregate_type: &'static str,
    pub(crate) topic: String,
    /// Everything that is left to chance comes from it.
    pub(crate) seed: u64,
    pub(crate) logs: TempDir,
    relays: Cell<u32>,
    /// Asks for the topic's ends; it never reads.
    consumer: Arc<BaseConsumer>,
    _hold: Hold,
}

impl Field {
    /// Beside other tests.
    pub(crate) async fn shared() -> Self {
        Self::start(Hold::Shared(SERVICES.read().await)).await
    }

    /// Alone with the services.
    pub(crate) async fn alone() -> Self {
        Self::start(Hold::Alone(SERVICES.write().await)).await
    }

    async fn start(hold: Hold) -> Self {
        let shop = TestShop::start().await;
        let pool = MySqlPoolOptions::new()
            .max_connections(20)
            .acquire_timeout(Duration::from_secs(5))
            .connect(&shop.database_url)
            .await
            .unwrap();
        sqlx::raw_sql(
            "CREATE TABLE aggregates (
                 id VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL PRIMARY KEY,
                 version INT UNSIGNED NOT NULL DEFAULT 0)",
        )
        .execute(&pool)
        .await
        .unwrap();
        // A table of aggregates names its type for good; the test's process soon ends.
        let aggregate_type: &'static str = format!("T{}", Uuid::now_v7().simple()).leak();
        let topic = format!("{}.events", aggregate_type.to_lowercase());
        let spec = TopicSpec { name: topic.clone(), partitions: PARTITIONS };
        topics::ensure(&shop.endpoints.kafka.brokers, &[spec]).await.unwrap();
        let consumer: BaseConsumer =
            ClientConfig::new().set("bootstrap.servers", &shop.endpoints.kafka.brokers).create().unwrap();
        let seed = seed();
        eprintln!("OUTFLOW_TEST_SEED={seed} makes the same choices again");
        let logs = tempfile::tempdir().unwrap();
        Self {
            shop,
            pool,
            aggregate_type,
            topic,
            seed,
            logs,
            relays: Cell::new(0),
            consumer: Arc::new(consumer),
            _hold: hold,
        }
    }

    pub(crate) fn relay(&self) -> RelayProcess {
        self.relay_with(&RelayStart::default())
    }

    pub(crate) fn relay_with(&self, start: &RelayStart) -> RelayProcess {
        let number = self.relays.get() + 1;
        self.relays.set(number);
        let TestShop { database_url, endpoints, .. } = &self.shop;
        let name = format!("relay-{number}");
        RelayProcess::start(start, database_url, &endpoints.kafka.brokers, self.logs.path(), &name)
    }

    /// The services themselves, for who holds them alone.
    pub(crate) fn stack(&self) -> Stack {
        assert!(matches!(self._hold, Hold::Alone(_)), "other tests need the services");
        Stack::new(Settings::isolated(test_state()))
    }

    /// Records in the topic so far.
    pub(crate) async fn records(&self) -> u64 {
        let (consumer, topic) = (Arc::clone(&self.consumer), self.topic.clone());
        let count = move || -> i64 {
            let ends = (0..PARTITIONS)
                .map(|partition| consumer.fetch_watermarks(&topic, partition, Duration::from_secs(10)));
            ends.map(|ends| ends.unwrap().1).sum()
        };
        tokio::task::spawn_blocking(count).await.unwrap().unsigned_abs()
    }

    /// One number of this test's database.
    pub(crate) async fn number(&self, sql: &str) -> i64 {
        let query = sqlx::query_scalar(AssertSqlSafe(sql.to_owned()));
        query.fetch_one(&self.pool).await.expect("the test's query answers a number")
    }

    pub(crate) async fn execute(&self, sql: &str) {
        sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&self.pool).await.unwrap();
    }

    /// Further versions of each of these aggregates, in one transaction; returns their number.
    pub(crate) async fn write_backlog(&self, aggregates: u32, versions: u32) -> u64 {
        let mut transaction = self.pool.begin().await.unwrap();
        let mut begun = Vec::new();
        for aggregate in 0..aggregates {
            let id = format!("b-{aggregate}");
            sqlx::query("INSERT IGNORE INTO aggregates (id) VALUES (?)")
                .bind(&id)
                .execute(&mut *transaction)
                .await
                .unwrap();
            let version: u32 = sqlx::query_scalar("SELECT version FROM aggregates WHERE id = ? FOR UPDATE")
                .bind(&id)
                .fetch_one(&mut *transaction)
                .await
                .unwrap();
            sqlx::query("UPDATE aggregates SET version = ? WHERE id = ?")
                .bind(version + versions)
                .bind(&id)
                .execute(&mut *transaction)
                .await
                .unwrap();
            begun.push((id, version));
        }
        for version in 1..=versions {
            let next = |(id, begun): &(String, u32)| event(self.aggregate_type, id, begun + version);
            let events: Vec<_> = begun.iter().map(next).collect();
            write_without_lock(&mut transaction, &events).await.unwrap();
        }
        transaction.commit().await.unwrap();
        u64::from(aggregates * versions)
    }

    /// Waits until `probe` holds.
    pub(crate) async fn until(&self, what: &str, mut probe: impl AsyncFnMut() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !probe().await {
            assert!(Instant::now() < deadline, "{what}: not after {PATIENCE:?}\n{}", self.tell().await);
            tokio::time::sleep(POLL).await;
        }
    }

    /// How it stands, for who has to find out why.
    pub(crate) async fn tell(&self) -> String {
        let mut told = String::new();
        for sql in [
            "SELECT CONCAT('position ', position, ', lease of ', COALESCE(lease_owner, '-'), ' until ',
                 COALESCE(lease_until, '-'), ', token ', fencing_token) FROM outbox_position",
            "SELECT CONCAT('last id ', COALESCE(MAX(id), 0), ' of ', COUNT(*), ' rows') FROM outbox",
            "SELECT CONCAT(COUNT(*), ' gaps') FROM outbox_gaps",
            "SELECT CONCAT(state, ' ', cause, ': ', COUNT(*)) FROM outbox_failures GROUP BY state, cause",
        ] {
            let lines: Vec<String> = sqlx::query_scalar(sql).fetch_all(&self.pool).await.unwrap_or_default();
            told += &(lines.join("\n") + "\n");
        }
        for number in 1..=self.relays.get() {
            let log = self.logs.path().join(format!("relay-{number}.log"));
            let log = std::fs::read_to_string(log).unwrap_or_default();
            let tail = log.lines().rev().take(4).map(|line| format!("  {line}\n")).collect::<Vec<_>>();
            told += &format!("relay-{number}:\n{}", tail.into_iter().rev().collect::<String>());
        }
        told
    }

    /// The lease's number: it rises with each owner.
    pub(crate) async fn token(&self) -> i64 {
        self.number("SELECT CAST(COALESCE(MAX(fencing_token), 0) AS SIGNED) FROM outbox_position").await
    }

    pub(crate) async fn lease_is_free(&self) -> bool {
        self.number("SELECT COUNT(*) FROM outbox_position WHERE lease_owner IS NOT NULL").await == 0
    }
}

/// The group's row is locked by somebody, who is in the middle of a change.
pub(crate) async fn position_is_locked(connection: &mut MySqlConnection) -> bool {
    let look = "SELECT relay_group FROM outbox_position FOR SHARE NOWAIT";
    sqlx::query(look).fetch_all(connection).await.is_err()
}

fn seed() -> u64 {
    let told = std::env::var("OUTFLOW_TEST_SEED").ok().map(|seed| seed.parse().expect("a seed is a number"));
    told.unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("1970 is over");
        now.as_secs() % 1_000_000
    })
}
