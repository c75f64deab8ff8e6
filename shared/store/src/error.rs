//! What can go wrong in a transaction.

use outflow_domain::{OrderId, ProductId, UnknownProducts};
use std::time::Duration;

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("database url cannot be read: want mysql://user:password@host:port/name")]
    Url(#[source] sqlx::Error),
    #[error("mysql could not be reached")]
    Connect(#[source] sqlx::Error),
    #[error("schema could not be migrated")]
    Migrate(#[source] sqlx::migrate::MigrateError),
    #[error("{} of the order's products are not in the catalogue", .0.0.len())]
    UnknownProducts(UnknownProducts),
    #[error("{} of the order's products are short of stock", .0.len())]
    OutOfStock(Vec<Shortage>),
    #[error("product {product_id} could not be read or written")]
    Product { product_id: ProductId, source: sqlx::Error },
    #[error("order could not be written: {step}")]
    WriteOrder { step: &'static str, source: sqlx::Error },
    #[error("mysql did not take the order within {limit:?}")]
    OutOfTime { limit: Duration },
    /// The commit was sent and nothing came back that settles it: the order may stand.
    #[error("mysql did not confirm order {order_id}, it may have been written")]
    OutcomeUnknown { order_id: OrderId, source: sqlx::Error },
    #[error("the order's events could not be written")]
    WriteEvents(#[source] outflow_outbox::WriteError),
}

/// A line that asks for more than is left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shortage {
    /// The line's index in the request.
    pub index: usize,
    pub product_id: ProductId,
    pub requested: u32,
    pub available: u32,
}

impl StoreError {
    /// The same transaction may succeed when tried again: it met another one, nothing of it was written.
    pub(crate) fn met_another_transaction(&self) -> bool {
        self.sqlx().is_some_and(met_another)
    }

    /// The database is away or busy, and nothing was written: a later try may succeed.
    pub fn is_unavailable(&self) -> bool {
        let unavailable = |error: &sqlx::Error| {
            matches!(
                error,
                sqlx::Error::Io(_)
                    | sqlx::Error::Tls(_)
                    | sqlx::Error::PoolTimedOut
                    | sqlx::Error::PoolClosed
                    | sqlx::Error::WorkerCrashed
                    | sqlx::Error::Protocol(_)
            )
        };
        matches!(self, Self::OutOfTime { .. })
            || self.met_another_transaction()
            || matches!(self.mysql_code(), Some(TOO_MANY_CONNECTIONS | SHUTTING_DOWN | READ_ONLY))
            || self.sqlx().is_some_and(unavailable)
    }

    fn mysql_code(&self) -> Option<u16> {
        self.sqlx().and_then(mysql_code)
    }

    fn sqlx(&self) -> Option<&sqlx::Error> {
        match self {
            Self::Connect(source)
            | Self::Product { source, .. }
            | Self::WriteOrder { source, .. }
            | Self::WriteEvents(outflow_outbox::WriteError::Database { source, .. }) => Some(source),
            _ => None,
        }
    }
}

/// The server ended a transaction in favour of another one.
pub(crate) fn met_another(error: &sqlx::Error) -> bool {
    matches!(mysql_code(error), Some(DEADLOCK | LOCK_WAIT_TIMEOUT))
}

fn mysql_code(error: &sqlx::Error) -> Option<u16> {
    let error = error.as_database_error()?.try_downcast_ref::<sqlx::mysql::MySqlDatabaseError>()?;
    Some(error.number())
}

const TOO_MANY_CONNECTIONS: u16 = 1040;
const SHUTTING_DOWN: u16 = 1053;
const LOCK_WAIT_TIMEOUT: u16 = 1205;
const DEADLOCK: u16 = 1213;
const READ_ONLY: u16 = 1290;
