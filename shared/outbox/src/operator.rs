//! The operator's side: how the outbox stands, what became of an event, and what a person may do about it.
//!
//! Every change is a transaction that first locks the group's row in `outbox_position`, as a relay's moves do, and that
//! leaves a row in `outbox_audit`. Changes to many events come in chunks, so that a relay never waits long.
//!
//! Must not: print, ask, or publish. What it changes, it changes for a relay to find.

mod audit;
mod change;
mod discard;
mod error;
mod failures;
mod followers;
mod pause;
mod prune;
mod retry;
mod show;
mod status;

pub use audit::{AuditEntry, AuditFilter};
pub use change::{MAX_CHANGED, Signature, Skipped, SkippedBecause};
pub use discard::{Discard, Discarded, DiscardedEvent, OrderBreak};
pub use error::OperatorError;
pub use failures::{
    Cause, DEFAULT_LISTED, EventRef, Failure, FailureState, Failures, Filter, MAX_LISTED, Page,
};
pub use pause::{Pause, PauseChange};
pub(crate) use prune::floor;
pub use prune::{PRUNE_ROWS, Prunable, PruneStep, Pruned, prune_step};
pub use retry::{Retried, RetriedEvent};
pub use show::{Event, Fate, Neighbour, Parked, Shown, Standing};
pub use status::{Bounds, Checkpoint, GapStatus, GroupStatus, LeaseStatus, ParkedStatus, Problem};

use sqlx::{Executor, MySql, MySqlPool, Transaction, pool::PoolConnection};

/// What a person may see of one relay group, and do about it. Clones share connections.
#[derive(Clone, Debug)]
pub struct Operator {
    pool: MySqlPool,
    group: String,
}

impl Operator {
    /// On this database and for this relay group, which need not exist.
    ///
    /// # Errors
    /// Where no group can have this name.
    pub fn new(pool: MySqlPool, group: impl Into<String>) -> Result<Self, OperatorError> {
        let group = group.into();
        let fits = (1..=64).contains(&group.len()) && group.bytes().all(|b| b.is_ascii_graphic());
        if fits {
            return Ok(Self { pool, group });
        }
        Err(OperatorError::Field { field: "group", wants: "1 to 64 visible ASCII characters" })
    }

    /// The relay groups of this database, by name.
    ///
    /// # Errors
    /// Where MySQL fails.
    pub async fn groups(pool: &MySqlPool) -> Result<Vec<String>, OperatorError> {
        sqlx::query_scalar("SELECT relay_group FROM outbox_position ORDER BY relay_group")
            .fetch_all(pool)
            .await
            .map_err(OperatorError::database("list relay groups"))
    }

    pub fn group(&self) -> &str {
        &self.group
    }

    /// A transaction whose statements all see one moment.
    async fn snapshot(&self) -> Result<Transaction<'static, MySql>, sqlx::Error> {
        self.begin("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY").await
    }

    async fn begin(&self, isolation: &'static str) -> Result<Transaction<'static, MySql>, sqlx::Error> {
        let mut connection: PoolConnection<MySql> = self.pool.acquire().await?;
        connection.execute(isolation).await?;
        Transaction::begin(connection, None).await
    }

    async fn unknown_group(&self) -> OperatorError {
        match Self::groups(&self.pool).await {
            Ok(known) => OperatorError::UnknownGroup { group: self.group.clone(), known },
            Err(error) => error,
        }
    }
}
