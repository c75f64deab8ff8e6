//! Kafka as Outflow uses it: a producer that leaves nothing behind, and the topics.
//!
//! Must not: know what a record means, or decide what happens to one that could not be delivered.

mod client;
mod error;
mod failure;
mod limits;
mod outbox;
mod producer;
pub mod topics;

pub use error::{BrokerError, DeliveryError};
pub use outbox::OutboxPublisher;
pub use producer::{Producer, Record};
