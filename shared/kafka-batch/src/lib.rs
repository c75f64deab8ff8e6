//! The edge that every Kafka-triggered function shares: AWS's batch in, partial failures out.
//!
//! AWS's shape stops here. What goes on into a function are plain partitions of records in offset order.
//! The event's types are our own: those of `aws_lambda_events` 1.2 pass times through a float, which loses a millisecond.
//!
//! Must not: decide what a record means.

use base64::{Engine, prelude::BASE64_STANDARD};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// What Lambda hands to a function for a batch of Kafka records (MSK and self-managed alike).
#[derive(Debug, Deserialize)]
pub struct KafkaEvent {
    /// "topic-partition" to the records of that partition.
    records: HashMap<String, Vec<KafkaRecord>>,
}

/// One record as it stands in the event: bytes in base64, header bytes signed.
#[derive(Debug, Deserialize)]
struct KafkaRecord {
    topic: String,
    partition: i32,
    offset: i64,
    timestamp: i64,
    key: Option<String>,
    value: Option<String>,
    #[serde(default)]
    headers: Vec<HashMap<String, Vec<i8>>>,
}

/// One partition's share of a batch, records in offset order, never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    pub topic: String,
    pub partition: i32,
    pub records: Vec<Record>,
}

/// One Kafka record with its bytes decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub offset: i64,
    /// Milliseconds since the epoch, UTC: when the producer sent it.
    pub timestamp_ms: i64,
    pub key: Option<Vec<u8>>,
    /// None is a tombstone.
    pub value: Option<Vec<u8>>,
    pub headers: Vec<(String, Vec<u8>)>,
}

impl Record {
    /// The last header of this name as text; None where it is missing or not UTF-8.
    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().rev().find(|(key, _)| key == name)?;
        std::str::from_utf8(value).ok()
    }
}

/// The batch does not have the shape that Lambda promises: nothing of it can be told apart, so all of it is retried.
#[derive(Debug, thiserror::Error)]
pub enum BatchError {
    #[error("the {part} of {topic}-{partition}@{offset} is not base64")]
    Base64 { part: &'static str, topic: String, partition: i32, offset: i64, source: base64::DecodeError },
}

/// Splits a batch into its partitions, sorted by topic and partition, each in offset order.
///
/// The event's map has no order, and what matters is each partition's own: so each is walked by itself.
///
/// # Errors
/// Where a record is not encoded as Lambda promises.
pub fn partitions(event: KafkaEvent) -> Result<Vec<Partition>, BatchError> {
    let mut partitions = Vec::with_capacity(event.records.len());
    for records in event.records.into_values() {
        let Some(first) = records.first() else { continue };
        let (topic, partition) = (first.topic.clone(), first.partition);
        let mut records = records.into_iter().map(decode).collect::<Result<Vec<_>, _>>()?;
        records.sort_by_key(|record| record.offset);
        partitions.push(Partition { topic, partition, records });
    }
    partitions.sort_by(|a, b| (&a.topic, a.partition).cmp(&(&b.topic, b.partition)));
    Ok(partitions)
}

fn decode(record: KafkaRecord) -> Result<Record, BatchError> {
    let bytes = |part: &'static str, text: &Option<String>| {
        text.as_ref().map(|text| BASE64_STANDARD.decode(text)).transpose().map_err(|source| {
            BatchError::Base64 {
                part,
                topic: record.topic.clone(),
                partition: record.partition,
                offset: record.offset,
                source,
            }
        })
    };
    let (key, value) = (bytes("key", &record.key)?, bytes("value", &record.value)?);
    let headers = record
        .headers
        .into_iter()
        .flatten()
        // Java's bytes are signed; the bit pattern is what was sent.
        .map(|(name, signed)| (name, signed.into_iter().map(i8::cast_unsigned).collect()))
        .collect();
    Ok(Record { offset: record.offset, timestamp_ms: record.timestamp, key, value, headers })
}

/// What a function answers: where each partition is to be read again. Empty means that all is done.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BatchResponse {
    batch_item_failures: Vec<ItemFailure>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct ItemFailure {
    item_identifier: ItemIdentifier,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct ItemIdentifier {
    /// Topic and partition with a dash between, as in the event's own keys.
    partition: String,
    offset: i64,
}

impl BatchResponse {
    /// The partition is delivered again from this offset on. Call it once a partition, with its first failure.
    pub fn retry_from(&mut self, topic: &str, partition: i32, offset: i64) {
        let item_identifier = ItemIdentifier { partition: format!("{topic}-{partition}"), offset };
        self.batch_item_failures.push(ItemFailure { item_identifier });
    }

    pub fn is_complete(&self) -> bool {
        self.batch_item_failures.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    fn event(json: &str) -> KafkaEvent {
        serde_json::from_str(json).expect("the test's event is well formed")
    }

    #[test]
    fn each_partition_comes_in_offset_order_with_its_bytes() {
        let partitions = partitions(event(
            r#"{"eventSource": "SelfManagedKafka", "records": {
                "order.events-1": [
                    {"topic": "order.events", "partition": 1, "offset": 8, "timestamp": 1700000000123, "timestampType": "CREATE_TIME",
                     "key": "b3JkZXItMQ==", "value": "e30=", "headers": [{"eventType": [79, 75, -61, -87]}]},
                    {"topic": "order.events", "partition": 1, "offset": 7, "timestamp": 1700000000122, "timestampType": "CREATE_TIME",
                     "key": null, "value": null, "headers": []}],
                "order.events-0": [
                    {"topic": "order.events", "partition": 0, "offset": 3, "timestamp": 1, "timestampType": "CREATE_TIME",
                     "key": null, "value": "AA==", "headers": []}],
                "order.events-2": []}}"#,
        ))
        .expect("the event is well formed");

        let seen: Vec<_> = partitions
            .iter()
            .map(|p| (p.partition, p.records.iter().map(|r| r.offset).collect::<Vec<_>>()))
            .collect();
        assert_eq!(seen, [(0, vec![3]), (1, vec![7, 8])]);
        let record = &partitions[1].records[1];
        assert_eq!(record.header("eventType"), Some("OKé"));
        assert_eq!((record.key.as_deref(), record.timestamp_ms), (Some(&b"order-1"[..]), 1_700_000_000_123));
    }

    #[test]
    fn what_is_not_base64_is_named_by_its_offset() {
        let error = partitions(event(
            r#"{"records": {"t-0": [{"topic": "t", "partition": 0, "offset": 42, "timestamp": 1, "key": null, "value": "%", "headers": []}]}}"#,
        ))
        .unwrap_err();

        expect!["the value of t-0@42 is not base64"].assert_eq(&error.to_string());
    }

    #[test]
    fn failures_have_the_shape_that_lambda_reads() {
        let mut response = BatchResponse::default();
        response.retry_from("order.events", 0, 100);

        expect![[
            r#"{"batchItemFailures":[{"itemIdentifier":{"partition":"order.events-0","offset":100}}]}"#
        ]]
        .assert_eq(&serde_json::to_string(&response).expect("it is plain data"));
    }
}
