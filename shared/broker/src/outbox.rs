//! The outbox's way to Kafka: topic, key and headers of an event.

use crate::producer::{Producer, Record};
use outflow_outbox::{FailureKind, OutboxEvent, PublishError, Publisher};
use std::time::Duration;
use time::format_description::well_known::Rfc3339;

/// The producer's own time-out, and then what emptying it may take.
const MARGIN: Duration = Duration::from_secs(2);

/// Publishes outbox events to `<aggregate type in lower case>.events`, keyed by aggregate id.
#[derive(Clone, Debug)]
pub struct OutboxPublisher {
    producer: Producer,
    delivery_timeout: Duration,
}

impl OutboxPublisher {
    /// `delivery_timeout` is the one that `producer` was connected with.
    pub fn new(producer: Producer, delivery_timeout: Duration) -> Self {
        Self { producer, delivery_timeout }
    }
}

impl Publisher for OutboxPublisher {
    async fn publish(&self, events: &[OutboxEvent]) -> Vec<Result<(), PublishError>> {
        let results = self.producer.send_all(events.iter().map(record).collect()).await;
        let unconfirmed = |error| PublishError {
            kind: FailureKind::Retriable,
            cause: "unconfirmed",
            source: Box::new(error),
        };
        results.into_iter().map(|result| result.map_err(unconfirmed)).collect()
    }

    fn timeout(&self) -> Duration {
        self.delivery_timeout + MARGIN
    }
}

/// CloudEvents' attributes in Kafka's binary mode, beside the names that existing readers know.
fn record(event: &OutboxEvent) -> Record {
    let text = |name: &str, value: &str| (name.to_owned(), value.as_bytes().to_vec());
    let time =
        event.created_at.format(&Rfc3339).expect("a stored timestamp has a year that RFC 3339 can tell");
    let mut headers = vec![
        text("eventType", &event.event_type),
        text("aggregateType", &event.aggregate_type),
        text("aggregateVersion", &event.aggregate_version.to_string()),
        text("ce_id", &event.event_id),
        text("ce_type", &event.event_type),
        text("ce_source", "outflow/outbox"),
        text("ce_time", &time),
        text("ce_specversion", "1.0"),
    ];
    headers.extend(event.headers.iter().map(|(name, value)| text(name, value)));
    Record {
        topic: format!("{}.events", event.aggregate_type.to_lowercase()),
        key: Some(event.aggregate_id.clone().into_bytes()),
        payload: event.payload.clone().into_bytes(),
        headers,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    #[test]
    fn an_event_becomes_a_record_of_its_aggregates_topic() {
        let record = record(&OutboxEvent {
            id: 7,
            event_id: "0192".to_owned(),
            aggregate_type: "Order".to_owned(),
            aggregate_id: "o-1".to_owned(),
            aggregate_version: 3,
            event_type: "OrderCreated".to_owned(),
            payload: "{}".to_owned(),
            headers: vec![("traceparent".to_owned(), "00-1".to_owned())],
            created_at: datetime!(2026-11-23 07:11:32.000_123 UTC),
        });

        assert_eq!((record.topic.as_str(), record.key.as_deref()), ("order.events", Some(&b"o-1"[..])));
        let header = |name: &str| {
            let (_, value) = record.headers.iter().find(|(key, _)| key == name).expect("it is there");
            String::from_utf8(value.clone()).expect("it is text")
        };
        assert_eq!(header("ce_time"), "2026-11-23T07:11:32.000123Z");
        assert_eq!((header("aggregateVersion"), header("traceparent")), ("3".to_owned(), "00-1".to_owned()));
    }
}
