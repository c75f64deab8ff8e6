//! What can go wrong when an event is written or relayed.

use crate::publisher::PublishError;
use std::time::Duration;

/// An event was not written. The caller's transaction must not commit.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error(
        "event {event_type} of {aggregate_type} {aggregate_id} has {bytes} bytes, at most {limit} can be published"
    )]
    TooLarge { event_type: String, aggregate_type: String, aggregate_id: String, bytes: usize, limit: usize },
    #[error("events could not be written to the outbox")]
    Insert(#[source] sqlx::Error),
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
