//! Kafka as Outflow uses it: a producer that leaves nothing behind, and the topics. With the feature `http`, CloudEvents
//! over HTTP as another way out of the outbox. With `operator`, what is done about dead letters, and
//! topics read as they grow.
//!
//! Must not: know what a record means, or decide what happens to one that could not be delivered.

mod client;
mod error;
mod failure;
#[cfg(feature = "http")]
mod http;
pub mod letters;
mod limits;
mod outbox;
mod producer;
#[cfg(feature = "operator")]
pub mod tail;
pub mod topics;

pub use error::{BrokerError, DeliveryError};
#[cfg(feature = "http")]
pub use http::{ContentMode, HttpPublisher, HttpSettings, HttpSettingsError};
pub use outbox::OutboxPublisher;
pub use producer::{Producer, Record};
