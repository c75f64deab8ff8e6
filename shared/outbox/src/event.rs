//! An event on its way in and on its way out.

use serde_json::Value;
use time::OffsetDateTime;
use uuid::Uuid;

/// What a service writes.
#[derive(Clone, Debug, PartialEq)]
pub struct NewEvent {
    /// A UUIDv7; readers know an event again by it.
    pub event_id: Uuid,
    /// "Order": the topic is `order.events`.
    pub aggregate_type: String,
    /// At most 64 ASCII characters; the record's key, and so its order.
    pub aggregate_id: String,
    /// 1, 2, 3 … with no hole.
    pub aggregate_version: u32,
    /// "OrderCreated".
    pub event_type: String,
    /// The full snapshot that readers need.
    pub payload: Value,
}

/// What the relay hands to a publisher: the event as it stands in the outbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboxEvent {
    pub id: u64,
    pub event_id: String,
    pub aggregate_type: String,
    pub aggregate_id: String,
    pub aggregate_version: u32,
    pub event_type: String,
    /// JSON text.
    pub payload: String,
    /// Further headers, name and value.
    pub headers: Vec<(String, String)>,
    /// UTC: when it was written.
    pub created_at: OffsetDateTime,
}

impl OutboxEvent {
    /// About what it takes in memory, and in a record.
    pub fn bytes(&self) -> usize {
        let headers: usize = self.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        self.payload.len() + self.aggregate_id.len() + headers + 256
    }
}
