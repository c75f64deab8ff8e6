//! The outbox's way to Kafka: topic, key and headers of an event, and no blame for a neighbour's fault.

use crate::{
    client::{AfterRefusal, Failure, Outgoing},
    error::DeliveryError,
    failure::{may_be_its_neighbours, sort, sort_error},
    limits::{ALONE, Limits},
    producer::Producer,
};
use futures_util::future::join_all;
use outflow_outbox::{FailureKind, OutboxEvent, PublishError, Publisher};
use rdkafka::{
    error::RDKafkaErrorCode,
    message::{Header, OwnedHeaders},
    producer::BaseRecord,
};
use std::{
    collections::{BTreeMap, HashMap},
    io::{Cursor, Write},
    sync::Arc,
    time::Duration,
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::time::Instant;

/// The producer's own time-out, and then what emptying it may take.
const MARGIN: Duration = Duration::from_secs(2);
/// The attribute `source` of what comes from an outbox.
pub(crate) const SOURCE: &str = "outflow/outbox";
/// `eventType` to `ce_specversion`.
const OWN_HEADERS: usize = 8;

/// Publishes outbox events to `<aggregate type in lower case>.events`, keyed by aggregate id. Clones share what they learn.
#[derive(Clone, Debug)]
pub struct OutboxPublisher {
    producer: Producer,
    delivery_timeout: Duration,
    limits: Arc<Limits>,
}

/// Numbers of events, by the bytes that a batch of theirs may have.
type Batches = BTreeMap<usize, Vec<usize>>;

impl OutboxPublisher {
    /// `delivery_timeout` is the one that `producer` was connected with.
    pub fn new(producer: Producer, delivery_timeout: Duration) -> Self {
        Self { producer, delivery_timeout, limits: Arc::default() }
    }

    fn told(&self, topic: &str, failure: Failure) -> PublishError {
        let (kind, cause) = match &failure {
            Failure::Refused(error) => sort_error(error),
            Failure::Unconfirmed(code) => sort(*code),
            Failure::TakenBack { unreachable: true } => (FailureKind::Retriable, "broker_unreachable"),
            Failure::TakenBack { .. } | Failure::Abandoned => (FailureKind::Retriable, "timed_out"),
        };
        let source = DeliveryError::new(topic.to_owned(), failure, self.delivery_timeout);
        PublishError { kind, cause, source: Box::new(source) }
    }
}

impl Publisher for OutboxPublisher {
    async fn publish(&self, events: &[OutboxEvent]) -> Vec<Result<(), PublishError>> {
        let call = Call {
            publisher: self,
            events,
            topics: topics(events),
            deadline: Instant::now() + self.delivery_timeout,
        };
        let mut results: Vec<Result<(), PublishError>> = Vec::new();
        results.resize_with(events.len(), || Ok(()));
        let mut batches = call.batches();
        while !batches.is_empty() {
            let mut refused = Vec::new();
            let sent = join_all(batches.iter().map(|(bytes, indices)| call.send(*bytes, indices))).await;
            for ((&bytes, indices), outcomes) in batches.iter().zip(sent) {
                for (&index, outcome) in indices.iter().zip(outcomes) {
                    match outcome {
                        Ok(()) => {}
                        Err(Failure::Unconfirmed(code)) if call.may_be_innocent(index, code, bytes) => {
                            refused.push(Refused { index, code, bytes });
                        }
                        Err(failure) => results[index] = Err(self.told(call.topic(index), failure)),
                    }
                }
            }
            batches = call.narrow(refused).await;
        }
        results
    }

    fn timeout(&self) -> Duration {
        self.delivery_timeout + MARGIN
    }
}

/// An event that was refused in company.
struct Refused {
    index: usize,
    code: RDKafkaErrorCode,
    /// What its batch could have had.
    bytes: usize,
}

struct Call<'a> {
    publisher: &'a OutboxPublisher,
    events: &'a [OutboxEvent],
    /// By aggregate type.
    topics: HashMap<&'a str, String>,
    deadline: Instant,
}

impl Call<'_> {
    fn topic(&self, index: usize) -> &str {
        &self.topics[self.events[index].aggregate_type.as_str()]
    }

    /// All events, each in batches as large as its topic is known to take.
    fn batches(&self) -> Batches {
        let bytes: HashMap<&str, usize> = self
            .topics
            .iter()
            .map(|(aggregate_type, topic)| (*aggregate_type, self.publisher.limits.batch_bytes(topic)))
            .collect();
        let mut batches = Batches::new();
        for (index, event) in self.events.iter().enumerate() {
            batches.entry(bytes[event.aggregate_type.as_str()]).or_default().push(index);
        }
        batches
    }

    async fn send(&self, batch_bytes: usize, indices: &[usize]) -> Vec<Result<(), Failure>> {
        let records = indices.iter().map(|&index| outgoing(&self.events[index], self.topic(index)));
        match self.publisher.producer.clients().get(batch_bytes) {
            Ok(client) => client.send(records, self.deadline, AfterRefusal::GoOn).await,
            Err(error) => vec![Err(Failure::Refused(error)); indices.len()],
        }
    }

    /// Whether it may have been refused for another record of its batch. One that is larger than the batch may be was alone.
    fn may_be_innocent(&self, index: usize, code: RDKafkaErrorCode, batch_bytes: usize) -> bool {
        let event = &self.events[index];
        may_be_its_neighbours(code) && event.payload.len() + event.aggregate_id.len() <= batch_bytes
    }

    /// In which batches refused events travel next: always in smaller ones, in the end each by itself.
    async fn narrow(&self, refused: Vec<Refused>) -> Batches {
        let mut batches = Batches::new();
        for Refused { index, code, bytes } in refused {
            let next = match code {
                RDKafkaErrorCode::MessageSizeTooLarge | RDKafkaErrorCode::MessageBatchTooLarge => {
                    let config = self.publisher.producer.clients().config();
                    self.publisher.limits.narrow(self.topic(index), bytes, config, self.deadline).await
                }
                // Nothing that is remembered of the topic.
                _ => ALONE,
            };
            batches.entry(next).or_default().push(index);
        }
        batches
    }
}

fn topics(events: &[OutboxEvent]) -> HashMap<&str, String> {
    let mut topics = HashMap::new();
    for event in events {
        topics
            .entry(event.aggregate_type.as_str())
            .or_insert_with_key(|aggregate_type| format!("{}.events", aggregate_type.to_lowercase()));
    }
    topics
}

/// CloudEvents' attributes in Kafka's binary mode, beside the names that existing readers know.
fn outgoing<'a>(event: &'a OutboxEvent, topic: &'a str) -> Outgoing<'a> {
    let mut time = Text::default();
    event
        .created_at
        .format_into(&mut time.0, &Rfc3339)
        .expect("a stored timestamp has a year that RFC 3339 can tell");
    let mut version = Text::default();
    write!(version.0, "{}", event.aggregate_version).expect("a number fits");
    let mut headers = OwnedHeaders::new_with_capacity(OWN_HEADERS + event.headers.len());
    for (key, value) in [
        ("eventType", event.event_type.as_bytes()),
        ("aggregateType", event.aggregate_type.as_bytes()),
        ("aggregateVersion", version.as_bytes()),
        ("ce_id", event.event_id.as_bytes()),
        ("ce_type", event.event_type.as_bytes()),
        ("ce_source", SOURCE.as_bytes()),
        ("ce_time", time.as_bytes()),
        ("ce_specversion", b"1.0"),
    ] {
        headers = headers.insert(Header { key, value: Some(value) });
    }
    for (key, value) in &event.headers {
        headers = headers.insert(Header { key, value: Some(value) });
    }
    BaseRecord::to(topic)
        .payload(event.payload.as_bytes())
        .key(event.aggregate_id.as_bytes())
        .headers(headers)
        // MySQL's time, not ours: Kafka refuses a record that is more than an hour ahead, and a clock here may be.
        .timestamp(unix_millis(event.created_at))
}

fn unix_millis(time: OffsetDateTime) -> i64 {
    time.unix_timestamp() * 1_000 + i64::from(time.millisecond())
}

/// A time or a number as text, without the heap.
#[derive(Default)]
struct Text(Cursor<[u8; 32]>);

impl Text {
    fn as_bytes(&self) -> &[u8] {
        let end = usize::try_from(self.0.position()).expect("it is at most 32");
        &self.0.get_ref()[..end]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rdkafka::message::Headers;
    use time::macros::datetime;

    #[test]
    fn an_event_becomes_a_record_of_its_aggregates_topic() {
        let event = OutboxEvent {
            id: 7,
            event_id: "0192".to_owned(),
            aggregate_type: "Order".to_owned(),
            aggregate_id: "o-1".to_owned(),
            aggregate_version: 3,
            event_type: "OrderCreated".to_owned(),
            payload: "{}".to_owned(),
            headers: vec![("traceparent".to_owned(), "00-1".to_owned())],
            created_at: datetime!(2026-11-23 07:11:32.000_123 UTC),
        };
        let events = [event];
        let topics = topics(&events);

        let record = outgoing(&events[0], &topics["Order"]);

        assert_eq!((record.topic, record.key), ("order.events", Some(&b"o-1"[..])));
        assert_eq!(record.timestamp, Some(1_795_417_892_000));
        let headers = record.headers.as_ref().expect("there are some").as_borrowed();
        let header = |name: &str| {
            let header = headers.iter().find(|header| header.key == name).expect("it is there");
            std::str::from_utf8(header.value.expect("it has a value")).expect("it is text")
        };
        assert_eq!(header("ce_time"), "2026-11-23T07:11:32.000123Z");
        assert_eq!((header("aggregateVersion"), header("traceparent")), ("3", "00-1"));
    }
}
