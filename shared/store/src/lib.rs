//! MySQL: the transactions that write an order, its stock and its events together.
//!
//! Must not: decide what an order costs or what an event says; that is `domain`'s.

mod catalogue;
mod error;
mod migrate;
mod orders;
mod relay;

pub use error::{Shortage, StoreError};
pub use outflow_outbox::TraceParent;

use sqlx::{
    Executor, MySqlPool,
    mysql::{MySqlConnectOptions, MySqlPoolOptions},
};
use std::{str::FromStr, time::Duration};

/// A function serves one request at a time; the tests' and tools' stores share the server with others.
const CONNECTIONS: u32 = 4;
/// Shorter than a caller's patience: a database that is down is told as such.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Seconds for which a statement waits for a row that another transaction holds. MySQL's 50 would outlast the caller,
/// and an order that nobody waits for would go on holding its products.
const LOCK_WAIT: &str = "SET SESSION innodb_lock_wait_timeout = 5";

/// The shop's database. Clones share connections.
#[derive(Clone, Debug)]
pub struct Store {
    pool: MySqlPool,
}

impl Store {
    /// A store on this database (`mysql://user:password@host:port/name`). Connects at the first use, so that a server
    /// that is down fails that use alone.
    ///
    /// # Errors
    /// Where the URL cannot be read.
    pub fn new(database_url: &str) -> Result<Self, StoreError> {
        let options = MySqlConnectOptions::from_str(database_url).map_err(StoreError::Url)?;
        let pool = MySqlPoolOptions::new()
            .max_connections(CONNECTIONS)
            .acquire_timeout(CONNECT_TIMEOUT)
            // A connection that died while Lambda was frozen is replaced instead of failing a customer.
            .test_before_acquire(true)
            .after_connect(|connection, _| {
                Box::pin(async move { connection.execute(LOCK_WAIT).await.map(drop) })
            })
            .connect_lazy_with(options);
        Ok(Self { pool })
    }

    /// The connections, for readers that compare and report.
    pub fn pool(&self) -> &MySqlPool {
        &self.pool
    }
}
