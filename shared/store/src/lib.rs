//! MySQL: the transactions that write an order, its stock and its events together.
//!
//! Must not: decide what an order costs or what an event says; that is `domain`'s.

mod catalogue;
mod error;
mod migrate;
mod orders;

pub use error::{Shortage, StoreError};

use sqlx::{
    MySqlPool,
    mysql::{MySqlConnectOptions, MySqlPoolOptions},
};
use std::{str::FromStr, time::Duration};

/// A function serves one request at a time; the tests' and tools' stores share the server with others.
const CONNECTIONS: u32 = 4;
/// Shorter than a caller's patience: a database that is down is told as such.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

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
            .connect_lazy_with(options);
        Ok(Self { pool })
    }

    /// The connections, for readers that compare and report.
    pub fn pool(&self) -> &MySqlPool {
        &self.pool
    }
}
