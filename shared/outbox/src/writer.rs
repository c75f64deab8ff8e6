//! Writing events in the caller's transaction.
//!
//! Must not: let an event be written whose aggregate's row this transaction does not hold. Then commit order is id
//! order within an aggregate, and the relay can keep it.

mod printed;
mod row;
mod table;

pub(crate) use printed::printed_bytes;
pub use row::MAX_EVENT_BYTES;
pub use table::AggregateTable;

use crate::{
    error::WriteError,
    event::{NewEvent, PlacedEvent},
};
use row::OutboxRow;
use sqlx::{MySql, MySqlConnection, Transaction, mysql::MySqlArguments, query::Query};
use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
};
use table::LockedRow;

/// A transaction of the caller's that tells what it did.
///
/// It holds the `sqlx` transaction, and the events until [`Self::commit`], which writes them in one statement, the last
/// one, and commits. So there is no change without its events: one that is dropped, that failed, or that was cut off in
/// mid-step commits nothing.
///
/// An event can be added to a [`Locked`] aggregate only, and that is to be had only from a statement that has run
/// before: [`Self::lock`] or [`Self::insert`]. It gets the next version, and the row holds how far its aggregates have
/// come, so that versions have no hole.
///
/// ```no_run
/// use outflow_outbox::{AggregateTable, EventWriter, NewEvent, TraceParent};
/// use serde_json::json;
/// # async fn pay(pool: sqlx::MySqlPool) -> Result<(), Box<dyn std::error::Error>> {
///
/// const ORDERS: AggregateTable<1> = AggregateTable::new("orders", "id", [("Order", "version")]);
///
/// let mut outbox = EventWriter::new(pool.begin().await?);
/// let Some([order]) = outbox.lock(&ORDERS, "o-1").await? else { return Err("no such order".into()) };
/// sqlx::query("UPDATE orders SET status = 'PAID' WHERE id = 'o-1'").execute(outbox.connection()).await?;
/// let paid = NewEvent::new(uuid::Uuid::now_v7(), "OrderPaid", json!({"orderId": "o-1", "status": "PAID"}));
/// outbox.add(order, paid.with_trace(&TraceParent::random()))?;
/// outbox.commit().await?;
/// # Ok(())
/// # }
/// ```
///
/// The wrong order does not compile. Without the lock there is nothing to add an event to:
/// ```compile_fail
/// use outflow_outbox::{EventWriter, Locked, NewEvent};
/// fn tell(outbox: &mut EventWriter<'_>, event: NewEvent) {
///     let order = Locked { writer: 0, row: 0, aggregate: 0, version: 0 };
///     outbox.add(order, event).unwrap();
/// }
/// ```
/// where this does:
/// ```
/// use outflow_outbox::{EventWriter, Locked, NewEvent};
/// fn tell(outbox: &mut EventWriter<'_>, order: Locked, event: NewEvent) {
///     outbox.add(order, event).unwrap();
/// }
/// ```
/// And once the events are on their way, nothing more can be locked or told:
/// ```compile_fail
/// # use outflow_outbox::{EventWriter, Locked, NewEvent};
/// async fn tell(mut outbox: EventWriter<'_>, order: Locked, event: NewEvent) {
///     outbox.commit().await.unwrap();
///     outbox.add(order, event).unwrap();
/// }
/// ```
///
/// Three things remain the caller's. A statement of its own that fails as a deadlock has rolled the whole transaction
/// back: after an error of [`Self::connection`], roll back. No statement of its own may end the transaction (DDL does),
/// or write a version. And a row with versions is never deleted, lest they begin again at 1.
pub struct EventWriter<'c> {
    transaction: Transaction<'c, MySql>,
    /// Tells the proofs of one writer from those of another.
    number: u64,
    state: State,
    rows: Vec<LockedRow>,
    events: Vec<OutboxRow>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    /// A step has failed, or is under way.
    Broken,
    /// The events are in the outbox.
    Finished,
}

/// The proof that a transaction holds the row which guards this aggregate. Of use to that transaction's writer alone.
#[derive(Clone, Copy, Debug)]
pub struct Locked {
    writer: u64,
    row: usize,
    aggregate: usize,
    version: u32,
}

impl Locked {
    /// As it was found: the number of events before this transaction.
    pub fn version(&self) -> u32 {
        self.version
    }
}

static WRITERS: AtomicU64 = AtomicU64::new(0);

impl<'c> EventWriter<'c> {
    /// Takes a transaction that the caller has begun.
    pub fn new(transaction: Transaction<'c, MySql>) -> Self {
        Self {
            transaction,
            number: WRITERS.fetch_add(1, Ordering::Relaxed),
            state: State::Open,
            rows: Vec::new(),
            events: Vec::new(),
        }
    }

    /// For the caller's own statements in the transaction.
    pub fn connection(&mut self) -> &mut MySqlConnection {
        &mut self.transaction
    }

    /// Locks the row of this id and gives the aggregates that it guards, in the table's order; nothing where there is no
    /// such row. A row that is held already is not asked for again.
    ///
    /// # Errors
    /// Where the id can be no record's key, and where MySQL fails.
    pub async fn lock<const N: usize>(
        &mut self,
        table: &AggregateTable<N>,
        id: impl fmt::Display,
    ) -> Result<Option<[Locked; N]>, WriteError> {
        self.begin_step()?;
        let id = aggregate_id(id)?;
        let locked = match self.rows.iter().position(|row| row.is(table, &id)) {
            Some(row) => Some(self.proof(row)),
            None => {
                LockedRow::lock(&mut self.transaction, table, &id).await?.map(|row| self.hold(table, row))
            }
        };
        self.state = State::Open;
        Ok(locked)
    }

    /// Runs the caller's INSERT of the row of this id, with versions of 0, and gives its aggregates.
    ///
    /// # Errors
    /// Where the id can be no record's key, where the statement inserts no row or more than one, and where MySQL fails.
    /// A row that is another one, or begins at another version, is found when the events are written.
    pub async fn insert<const N: usize>(
        &mut self,
        table: &AggregateTable<N>,
        id: impl fmt::Display,
        insert: Query<'_, MySql, MySqlArguments>,
    ) -> Result<[Locked; N], WriteError> {
        self.begin_step()?;
        let id = aggregate_id(id)?;
        let row = LockedRow::insert(&mut self.transaction, table, &id, insert).await?;
        let locked = self.hold(table, row);
        self.state = State::Open;
        Ok(locked)
    }

    /// Adds an event to the aggregate, as its next version, which is returned.
    ///
    /// # Errors
    /// Where MySQL or Kafka could not take it, with the limit; where another transaction has locked the aggregate.
    pub fn add(&mut self, aggregate: Locked, event: NewEvent) -> Result<u32, WriteError> {
        self.begin_step()?;
        if aggregate.writer != self.number {
            return Err(WriteError::ForeignLock);
        }
        let row = &mut self.rows[aggregate.row];
        let aggregate = &mut row.aggregates[aggregate.aggregate];
        let version = aggregate.version.checked_add(1).ok_or(WriteError::Version)?;
        self.events.push(OutboxRow::new(PlacedEvent {
            aggregate_type: aggregate.aggregate_type.to_owned(),
            aggregate_id: row.id.clone(),
            aggregate_version: version,
            event,
        })?);
        aggregate.version = version;
        self.state = State::Open;
        Ok(version)
    }

    /// Writes the versions reached into the rows, and then all events in one statement. Nothing can be added any more.
    ///
    /// [`Self::commit`] does it where the caller has not: by itself it is of use where the commit has a time limit of
    /// its own.
    ///
    /// # Errors
    /// Where the events are too many for one statement, where a row is not the one that was proven, and where MySQL fails.
    pub async fn finish(&mut self) -> Result<(), WriteError> {
        self.begin_step()?;
        for row in &self.rows {
            row.advance(&mut self.transaction).await?;
        }
        OutboxRow::insert_all(&mut self.transaction, &self.events).await?;
        self.state = State::Finished;
        Ok(())
    }

    /// Writes the events, if [`Self::finish`] has not, and commits.
    ///
    /// # Errors
    /// Where a step before has failed, or the events cannot be written: nothing is committed then. With
    /// [`WriteError::Commit`] the transaction may stand.
    pub async fn commit(mut self) -> Result<(), WriteError> {
        let written = match self.state {
            State::Finished => Ok(()),
            State::Open | State::Broken => self.finish().await,
        };
        match written {
            Ok(()) => self.transaction.commit().await.map_err(WriteError::Commit),
            Err(error) => {
                // Waited for, so that its locks are gone; a connection that is gone holds none.
                let _ = self.transaction.rollback().await;
                Err(error)
            }
        }
    }

    /// Takes everything back, and waits until the locks are gone.
    ///
    /// # Errors
    /// Where MySQL does not answer. It rolls back as soon as it misses the connection.
    pub async fn rollback(self) -> Result<(), sqlx::Error> {
        self.transaction.rollback().await
    }

    /// A step that fails leaves the writer broken, and so does one whose future is dropped: only its end opens it again.
    fn begin_step(&mut self) -> Result<(), WriteError> {
        match std::mem::replace(&mut self.state, State::Broken) {
            State::Open => Ok(()),
            State::Broken | State::Finished => Err(WriteError::Ended),
        }
    }

    /// Holds a row from now on, once: MySQL may have found a row of ours under another spelling of its id.
    fn hold<const N: usize>(&mut self, table: &AggregateTable<N>, row: LockedRow) -> [Locked; N] {
        let held = self.rows.iter().position(|held| held.is(table, &row.id));
        let row = held.unwrap_or_else(|| {
            self.rows.push(row);
            self.rows.len() - 1
        });
        self.proof(row)
    }

    fn proof<const N: usize>(&self, row: usize) -> [Locked; N] {
        std::array::from_fn(|aggregate| {
            let version = self.rows[row].aggregates[aggregate].found;
            Locked { writer: self.number, row, aggregate, version }
        })
    }
}

impl fmt::Debug for EventWriter<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { state, rows, events, .. } = self;
        write!(f, "EventWriter({state:?}, {} rows, {} events)", rows.len(), events.len())
    }
}

fn aggregate_id(id: impl fmt::Display) -> Result<String, WriteError> {
    let id = id.to_string();
    row::check_aggregate_id(&id)?;
    Ok(id)
}

/// Writes events in one statement whose place is the caller's word alone: for tests that need a certain place, and for
/// tools that bring a log over from elsewhere, with the feature `write-without-lock`. A service uses an [`EventWriter`]: here nothing holds that an aggregate's
/// row was locked before, and with two writers of an aggregate its order is lost.
///
/// # Errors
/// As [`EventWriter::add`] and [`EventWriter::finish`]; then nothing is written.
#[cfg(feature = "write-without-lock")]
pub async fn write_without_lock(
    connection: &mut MySqlConnection,
    events: &[PlacedEvent],
) -> Result<(), WriteError> {
    let rows = events.iter().cloned().map(OutboxRow::new).collect::<Result<Vec<_>, _>>()?;
    OutboxRow::insert_all(connection, &rows).await
}
