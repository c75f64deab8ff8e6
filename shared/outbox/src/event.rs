//! An event on its way in and on its way out.

use crate::{
    error::WriteError,
    trace::{TRACEPARENT, TraceParent},
    writer::printed_bytes,
};
use serde_json::Value;
use std::collections::BTreeMap;
use time::OffsetDateTime;
use uuid::Uuid;

/// What a service tells. Its aggregate and its version come from the writer.
#[derive(Clone, Debug, PartialEq)]
pub struct NewEvent {
    /// A UUIDv7; readers know an event again by it.
    pub event_id: Uuid,
    /// "OrderCreated": at most 64 ASCII characters, no blank.
    pub event_type: String,
    /// The full snapshot that readers need.
    pub payload: Value,
    /// Further headers of the record: at most 16, names of at most 64 of `a-z 0-9 . _ -`, values of at most 1,024
    /// bytes without control characters. What the publisher makes itself is refused: `eventType`, `aggregateType`,
    /// `aggregateVersion`, `content-type`, and CloudEvents' attributes (`ce_…`, `ce-…`).
    pub headers: BTreeMap<String, String>,
}

impl NewEvent {
    /// An event without further headers.
    pub fn new(event_id: Uuid, event_type: impl Into<String>, payload: Value) -> Self {
        Self { event_id, event_type: event_type.into(), payload, headers: BTreeMap::new() }
    }

    /// With one more header, or with another value of it.
    #[must_use]
    pub fn with_header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.insert(name.into(), value.into());
        self
    }

    /// Bytes of the payload once MySQL has stored it, which prints JSON its own way: more than its text here.
    ///
    /// # Errors
    /// Where MySQL could not store it: nested deeper than 100 levels, a key of more than 65,535 bytes.
    pub fn payload_bytes(&self) -> Result<usize, WriteError> {
        printed_bytes(&self.payload)
    }

    /// As a part of this trace.
    #[must_use]
    pub fn with_trace(self, trace: &TraceParent) -> Self {
        self.with_header(TRACEPARENT, trace.as_str())
    }
}

/// An event with a place that somebody claims, for `write_without_lock`.
#[derive(Clone, Debug, PartialEq)]
pub struct PlacedEvent {
    /// "Order": the topic is `order.events`, so at most 64 of `A-Z a-z 0-9 . _ -`.
    pub aggregate_type: String,
    /// At most 64 ASCII characters, no blank: the record's key, and so its order.
    pub aggregate_id: String,
    /// 1, 2, 3 … with no hole.
    pub aggregate_version: u32,
    pub event: NewEvent,
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
