//! A shop in a database of its own.

use crate::{Recorder, services};
use outflow_domain::{Money, Order, OrderId, OrderRequest, Product, ProductId};
use outflow_outbox::{NewEvent, PlacedEvent, Publisher, Relay, RelaySettings, TraceParent};
use outflow_stack::Endpoints;
use outflow_store::{Store, StoreError};
use secrecy::ExposeSecret;
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection, MySql, MySqlConnection, Row, Transaction};
use std::time::{Duration, Instant};
use time::OffsetDateTime;
use uuid::Uuid;

/// One test's shop: schema and database of its own on the shared server.
#[derive(Debug)]
pub struct TestShop {
    pub endpoints: Endpoints,
    pub database_url: String,
    pub store: Store,
}

impl TestShop {
    /// # Panics
    /// Where the services do not run.
    pub async fn start() -> Self {
        Self::on(services()).await
    }

    pub(crate) async fn on(endpoints: Endpoints) -> Self {
        let database = format!("test_{}", Uuid::now_v7().simple());
        let mut admin = MySqlConnection::connect(endpoints.admin_database_url().expose_secret())
            .await
            .expect("mysql answers its administrator");
        for statement in
            [format!("CREATE DATABASE {database}"), format!("GRANT ALL ON {database}.* TO 'outflow'@'%'")]
        {
            // The name is made here, of letters and digits.
            sqlx::query(AssertSqlSafe(statement))
                .execute(&mut admin)
                .await
                .expect("an administrator may do this");
        }
        let url = endpoints.mysql.url.expose_secret();
        let (server, _) = url.rsplit_once('/').expect("the url names a database");
        let database_url = format!("{server}/{database}");
        let store = Store::new(&database_url).expect("the url is well formed");
        store.migrate().await.expect("an empty database can be migrated");
        Self { endpoints, database_url, store }
    }

    /// Adds a product with so many pieces.
    ///
    /// # Panics
    /// Where MySQL refuses.
    pub async fn put_product(&self, id: &str, price: &str, stock: u32) {
        let product = Product {
            id: ProductId::parse(id).expect("the test's id is good"),
            name: format!("Product {id}"),
            price: Money::from_decimal(price.parse().expect("a decimal")).expect("the test's price is money"),
        };
        self.store.put_product(&product, stock).await.expect("mysql takes a product");
    }

    /// Orders so many pieces of each product.
    ///
    /// # Errors
    /// As the store answers.
    ///
    /// # Panics
    /// Where the test asks for what no request may hold.
    pub async fn order(&self, items: &[(&str, u32)]) -> Result<Order, StoreError> {
        let items: Vec<_> =
            items.iter().map(|(id, quantity)| json!({"productId": id, "quantity": quantity})).collect();
        let body = json!({"userId": "u-1", "items": items}).to_string();
        let request = OrderRequest::from_json(body.as_bytes()).expect("the test's order is well formed");
        let (id, now) = (OrderId(Uuid::now_v7()), OffsetDateTime::now_utc());
        self.store.create_order(id, &request, now, &TraceParent::random(), Uuid::now_v7).await
    }

    /// A transaction that a test keeps open as long as it likes.
    ///
    /// # Panics
    /// Where MySQL refuses.
    pub async fn begin(&self) -> Transaction<'static, MySql> {
        self.store.pool().begin().await.expect("mysql begins a transaction")
    }

    /// A connection of its own, for transactions that stay open beside others.
    ///
    /// # Panics
    /// Where MySQL refuses.
    pub async fn connect(&self) -> MySqlConnection {
        MySqlConnection::connect(&self.database_url).await.expect("mysql takes a connection")
    }

    /// As the server's administrator.
    ///
    /// # Panics
    /// Where MySQL refuses.
    pub async fn admin(&self) -> MySqlConnection {
        let url = self.endpoints.admin_database_url().expose_secret();
        MySqlConnection::connect(url).await.expect("mysql answers its administrator")
    }

    /// Runs statements of the test's own making.
    ///
    /// # Panics
    /// Where MySQL refuses.
    pub async fn run(&self, sql: impl Into<String>) {
        let sql = sqlx::raw_sql(AssertSqlSafe(sql.into()));
        sql.execute(self.store.pool()).await.expect("mysql takes the test's statement");
    }

    /// Commits an event of this aggregate and version.
    ///
    /// # Panics
    /// Where MySQL refuses.
    pub async fn commit(&self, aggregate: &str, version: u32) {
        let mut transaction = self.begin().await;
        write_event(&mut transaction, aggregate, version).await;
        transaction.commit().await.expect("mysql commits");
    }

    /// Takes an id and gives it up.
    ///
    /// # Panics
    /// Where MySQL refuses.
    pub async fn roll_back(&self, aggregate: &str) {
        let mut transaction = self.begin().await;
        write_event(&mut transaction, aggregate, 1).await;
        transaction.rollback().await.expect("mysql rolls back");
    }

    /// A relay that publishes to this recorder, with a lease long enough for a busy machine.
    ///
    /// # Panics
    /// Where the settings do not fit together.
    pub fn relay_to(&self, recorder: &Recorder, settings: RelaySettings) -> Relay<Recorder> {
        let lease = recorder.timeout() + Duration::from_secs(10);
        Relay::new(&self.database_url, recorder.clone(), RelaySettings { lease, ..settings })
            .expect("the settings fit together")
    }

    /// A relay that publishes to `publisher`, in pages of `batch_rows`, and calls a gap dead after `gap_grace`.
    ///
    /// # Panics
    /// Where the settings do not fit together.
    pub fn relay<P: Publisher>(&self, publisher: P, batch_rows: usize, gap_grace: Duration) -> Relay<P> {
        // Long enough for a busy machine: a drain that loses its lease fails.
        let lease = publisher.timeout() + Duration::from_secs(10);
        let settings = RelaySettings { batch_rows, gap_grace, lease, ..RelaySettings::default() };
        Relay::new(&self.database_url, publisher, settings).expect("the settings fit together")
    }

    /// As [`TestShop::relay`], for a recorder, with pages of 10 and gaps that are dead after a minute.
    pub fn recording_relay(&self) -> (Relay<Recorder>, Recorder) {
        let recorder = Recorder::default();
        (self.relay(recorder.clone(), 10, Duration::from_secs(60)), recorder)
    }

    /// One number.
    ///
    /// # Panics
    /// Where the query does not answer one.
    pub async fn number(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(self.store.pool()).await.expect("the test's query answers a number")
    }

    /// Waits until a statement in this database waits for the lock of another one.
    ///
    /// By InnoDB's own report: MySQL renews `innodb_trx` only when nobody on the server has read it for a moment, and
    /// relays do; the lists of `performance_schema` are empty on a server that runs without it.
    ///
    /// # Panics
    /// Where none does within a minute.
    pub async fn until_locked_out(&self) {
        let mut admin = self.admin().await;
        let (_, database) = self.database_url.rsplit_once('/').expect("a database in the address");
        let of_this_database = format!("of table `{database}`.");
        crate::until("somebody waits for a lock", async || {
            let report = sqlx::raw_sql("SHOW ENGINE INNODB STATUS").fetch_one(&mut admin).await;
            let report = report.expect("an administrator may look at locks").get::<String, _>("Status");
            report.lines().any(|line| line.contains(&of_this_database) && line.ends_with(" waiting"))
        })
        .await;
    }
}

/// Writes an event of this aggregate and version, whatever the others are.
///
/// # Panics
/// Where MySQL refuses.
pub async fn write_event(connection: &mut MySqlConnection, aggregate: &str, version: u32) {
    outflow_outbox::write_without_lock(connection, &[event("Order", aggregate, version)])
        .await
        .expect("mysql takes an event");
}

/// An event with nothing in it but its place.
pub fn event(aggregate_type: &str, aggregate_id: &str, aggregate_version: u32) -> PlacedEvent {
    let payload = json!({"aggregate": aggregate_id, "version": aggregate_version});
    PlacedEvent {
        aggregate_type: aggregate_type.to_owned(),
        aggregate_id: aggregate_id.to_owned(),
        aggregate_version,
        event: NewEvent::new(Uuid::now_v7(), "Changed", payload),
    }
}

/// A moment far enough away for any drain.
pub fn in_a_minute() -> Instant {
    Instant::now() + Duration::from_secs(60)
}
