//! Where events go.

use crate::event::OutboxEvent;
use std::time::Duration;

/// Carries events to a broker.
pub trait Publisher: Send + Sync {
    /// Publishes and waits for every confirmation; result i belongs to event i.
    ///
    /// The relay keeps the order: a call holds at most one event of an aggregate, and no second call holds that
    /// aggregate while the first one runs. So calls may run side by side, and a publisher may send in any order.
    ///
    /// When it returns, nothing of the call waits in the publisher: what is not confirmed has been given up.
    /// Blames a record ([`FailureKind::Record`]) only after it was refused by itself: brokers refuse whole batches.
    fn publish(&self, events: &[OutboxEvent]) -> impl Future<Output = Vec<Result<(), PublishError>>> + Send;

    /// The longest that one call may take: a lease must be longer.
    fn timeout(&self) -> Duration;
}

/// An event was not confirmed; it may have arrived all the same.
#[derive(Debug, thiserror::Error)]
#[error("publisher did not confirm the event ({cause})")]
pub struct PublishError {
    pub kind: FailureKind,
    /// What failures are grouped by: at most 64 characters of `a-z`, `0-9` and `_`, such as `message_too_large`.
    pub cause: &'static str,
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// What is at fault, and so what the relay does about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// The record itself: its aggregate is parked, the attempt counts.
    Record {
        /// It will never be accepted as it is: dead at once.
        permanent: bool,
    },
    /// The broker, or the way to it: nothing is parked, no attempt counts, the drain ends and the next one tries again.
    Retriable,
    /// The broker takes no more for the moment: sent again after a pause, no attempt counts.
    Backpressure,
    /// Another relay has taken over at the broker: this one stops.
    Fenced,
}
