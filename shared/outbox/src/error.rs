//! What can go wrong when an event is written or relayed.

use crate::{publisher::PublishError, trace::InvalidTraceParent};
use std::time::Duration;

/// Events were not written. Nothing of the transaction may be committed, and an `EventWriter` commits nothing.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error(
        "event {event_type} of {aggregate_type} {aggregate_id} makes a record of {bytes} bytes, at most {limit} can be published"
    )]
    TooLarge { event_type: String, aggregate_type: String, aggregate_id: String, bytes: usize, limit: usize },
    #[error("{field} is refused at a size of {size}: wants at most {limit} {wants}")]
    Field { field: String, size: usize, limit: usize, wants: &'static str },
    #[error("header {name} is refused: the publisher makes it from the event's columns")]
    ReservedHeader { name: String },
    #[error("header traceparent is refused")]
    TraceParent(#[from] InvalidTraceParent),
    #[error("aggregate_version is refused: versions are 1, 2, 3 … up to {}", u32::MAX)]
    Version,
    #[error(
        "{events} events of {bytes} bytes are refused: a transaction writes at most {max_events} of {max_bytes} bytes together"
    )]
    TooMuch { events: usize, bytes: usize, max_events: usize, max_bytes: usize },
    #[error("the aggregate was locked by another transaction than the one that writes its event")]
    ForeignLock,
    #[error("row {id} of {table} is not proven: its insert made {rows} rows, wants one")]
    NotInserted { table: &'static str, id: String, rows: u64 },
    #[error(
        "row {id} of {table} is gone, or its version is not the one found: only the writer may change it"
    )]
    RowChanged { table: &'static str, id: String },
    #[error("nothing more can be written: a step before failed or was cut off, or the events are written")]
    Ended,
    #[error("mysql failed at {step}")]
    Database {
        step: &'static str,
        #[source]
        source: sqlx::Error,
    },
    /// The commit was sent, and what came back does not settle it: the transaction may stand.
    #[error("mysql did not confirm the commit, events may have been written")]
    Commit(#[source] sqlx::Error),
}

/// One drain ended early. What was not confirmed stays in the outbox, below the position nothing is lost.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    #[error("setting {setting} is out of bounds, wants {wanted}")]
    Setting { setting: &'static str, wanted: &'static str },
    #[error("lease of {lease:?} must be longer than the publisher's timeout of {publisher:?}: raise it")]
    LeaseTooShort { lease: Duration, publisher: Duration },
    #[error("relay could not connect to mysql")]
    Connect(#[source] sqlx::Error),
    #[error("mysql did not {operation} within {limit:?}")]
    OutOfTime { operation: &'static str, limit: Duration },
    #[error("server {version} cannot carry an outbox: wants MySQL 8.0 or newer")]
    Server { version: String },
    #[error("mysql is read-only: point the relay to the server that takes writes")]
    ReadOnly,
    #[error("relay runs at isolation {found}, wants READ-COMMITTED: anything stricter blocks writers")]
    Isolation { found: String },
    #[error("{missing} is missing in the database: run `outflow init`, or the migrations of outflow-outbox")]
    Schema {
        missing: &'static str,
        #[source]
        source: sqlx::Error,
    },
    #[error("the relay's user may not {privilege}: run `{mend}` as an administrator")]
    Privilege {
        privilege: &'static str,
        mend: &'static str,
        #[source]
        source: sqlx::Error,
    },
    #[error(
        "group {group} has no position, but others have: it would publish all events again; choose one of them, or set start_new_group"
    )]
    NewGroup { group: String },
    #[error("lease of relay group {group} could not be taken or given back")]
    Lease {
        group: String,
        #[source]
        source: sqlx::Error,
    },
    #[error(
        "another relay took the lease of group {group}: our fencing token {token} is no longer the newest"
    )]
    Fenced { group: String, token: u64 },
    #[error("another relay of group {group} took over at the broker: event {event_id} was not taken")]
    FencedByPublisher {
        group: String,
        event_id: String,
        #[source]
        source: PublishError,
    },
    #[error("outbox could not be read behind position {position}")]
    Read {
        position: u64,
        #[source]
        source: sqlx::Error,
    },
    #[error("gaps of relay group {group} could not be checked")]
    CheckGaps {
        group: String,
        #[source]
        source: sqlx::Error,
    },
    #[error("parked events of relay group {group} could not be read")]
    Parked {
        group: String,
        #[source]
        source: sqlx::Error,
    },
    #[error("delivered events could not be pruned")]
    Prune(#[source] sqlx::Error),
    #[error("position of relay group {group} could not be moved to {position}")]
    Move {
        group: String,
        position: u64,
        #[source]
        source: sqlx::Error,
    },
    #[error("{failed} events were not confirmed, position stays at {position}; the first is {event_id}")]
    Publish {
        failed: usize,
        position: u64,
        event_id: String,
        #[source]
        source: PublishError,
    },
    #[error(
        "group {group} has {gaps} open gaps, the limit is {limit}: end the oldest open transaction on mysql"
    )]
    TooManyGaps { group: String, gaps: usize, limit: usize },
    #[error(
        "group {group} has {limit} parked aggregates or more, the position stops: see `outflow outbox list --by-cause`"
    )]
    TooManyParked { group: String, limit: usize },
}

impl RelayError {
    /// Nothing but a change of settings, schema or privileges helps: somebody has to look.
    pub fn is_misconfiguration(&self) -> bool {
        matches!(
            self,
            Self::Setting { .. }
                | Self::LeaseTooShort { .. }
                | Self::Server { .. }
                | Self::Isolation { .. }
                | Self::Schema { .. }
                | Self::Privilege { .. }
                | Self::NewGroup { .. }
        )
    }
}
