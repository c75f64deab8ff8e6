//! Where events go.

use crate::event::OutboxEvent;

/// An event was not confirmed; it may have arrived all the same.
#[derive(Debug, thiserror::Error)]
#[error("publisher did not confirm the event")]
pub struct PublishError(#[source] pub Box<dyn std::error::Error + Send + Sync>);

/// Carries events to a broker.
pub trait Publisher {
    /// Publishes in the order given and waits for every confirmation; result i belongs to event i.
    ///
    /// When it returns, nothing of the call waits in the publisher: what is not confirmed has been given up.
    /// An event must never be published behind a later one of its aggregate that was confirmed.
    fn publish(&self, events: &[OutboxEvent]) -> impl Future<Output = Vec<Result<(), PublishError>>> + Send;

    /// The longest that one call may take: a lease must be longer.
    fn timeout(&self) -> std::time::Duration;
}
