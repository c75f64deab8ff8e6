//! A transactional outbox on MySQL, for any service: events are written in the caller's transaction, and a relay
//! carries them to a publisher in order, at least once, whatever dies and whenever.
//!
//! The log is append-only. What is delivered is told by a position, and by the gaps below it: ids that were given to
//! transactions which had not committed when the position passed. The tables are in `migrations/`.
//!
//! Must not: know what an event means, or which broker it goes to.
//!
#![doc = include_str!("../README.md")]

mod awake;
mod burial;
mod dispatch;
mod error;
mod event;
mod failover;
mod failures;
mod flow;
mod gaps;
mod lease;
mod log;
pub mod metrics;
pub mod operator;
mod publisher;
mod relay;
mod safety;
mod session;
mod settings;
mod trace;
mod writer;

pub use awake::sleeping_relay;
pub use error::{RelayError, WriteError};
pub use event::{NewEvent, OutboxEvent, PlacedEvent};
pub use publisher::{FailureKind, PublishError, Publisher};
pub use relay::Relay;
pub use session::ORDER_VIOLATED;
pub use settings::{RelaySettings, Report, RetrySettings};
pub use trace::{InvalidTraceParent, TraceParent};
#[cfg(feature = "write-without-lock")]
pub use writer::write_without_lock;
pub use writer::{AggregateTable, EventWriter, Locked, MAX_EVENT_BYTES};
