//! Puts a record that can never be loaded into the dead-letter topic, as it came, with its reason.

use crate::batch::Rejected;
use outflow_broker::{Producer, Record, topics};
use outflow_kafka_batch::BatchResponse;
use std::collections::BTreeMap;

/// Where in the pipe a record was given up.
const STAGE: &str = "load";

/// Sends all. Where Kafka does not confirm one, its partition is to be read again from there: a record is dropped by
/// nobody, and what is loaded twice counts once.
pub(crate) async fn send(producer: &Producer, rejected: Vec<Rejected>) -> BatchResponse {
    let places: Vec<_> = rejected
        .iter()
        .map(|r| ((r.origin.topic.clone(), r.origin.partition), r.origin.record.offset))
        .collect();
    for r in &rejected {
        tracing::warn!(
            topic = r.origin.topic,
            partition = r.origin.partition,
            offset = r.origin.record.offset,
            reason = r.reason,
            "record put into the dead letters"
        );
    }
    let results = producer.send_all(rejected.into_iter().map(dead_letter).collect()).await;
    let mut first_unsent: BTreeMap<(String, i32), i64> = BTreeMap::new();
    for ((partition, offset), result) in places.into_iter().zip(results) {
        if let Err(error) = result {
            tracing::error!(topic = partition.0, partition = partition.1, offset, %error, "dead letter not confirmed");
            first_unsent.entry(partition).and_modify(|first| *first = offset.min(*first)).or_insert(offset);
        }
    }
    let mut response = BatchResponse::default();
    for ((topic, partition), offset) in first_unsent {
        response.retry_from(&topic, partition, offset);
    }
    response
}

fn dead_letter(rejected: Rejected) -> Record {
    let Rejected { origin, reason, code } = rejected;
    let mut headers = origin.record.headers;
    // A record that was redriven and failed again tells of its last failure alone.
    headers.retain(|(name, _)| !name.starts_with("outflow-"));
    for (name, value) in [
        ("outflow-reason", reason),
        ("outflow-code", code),
        ("outflow-stage", STAGE.to_owned()),
        ("outflow-topic", origin.topic.clone()),
        ("outflow-partition", origin.partition.to_string()),
        ("outflow-offset", origin.record.offset.to_string()),
    ] {
        headers.push((name.to_owned(), value.into_bytes()));
    }
    Record {
        topic: topics::dead_letters(&origin.topic),
        key: origin.record.key,
        payload: origin.record.value.unwrap_or_default(),
        headers,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::{Origin, tests::record};

    #[test]
    fn a_dead_letter_is_the_record_with_its_reason_and_its_place() {
        let mut original = record(42, Some(b"not json"));
        original.key = Some(b"order-1".to_vec());
        original.headers = vec![
            ("traceparent".to_owned(), b"00-1".to_vec()),
            ("outflow-reason".to_owned(), b"older".to_vec()),
        ];
        let origin = Origin { topic: "orders_analytics".to_owned(), partition: 3, record: original };

        let letter =
            dead_letter(Rejected { origin, reason: "no row".to_owned(), code: "row_json".to_owned() });

        assert_eq!(
            (letter.topic.as_str(), letter.payload.as_slice()),
            ("orders_analytics.dlq", &b"not json"[..])
        );
        assert_eq!(letter.key.as_deref(), Some(&b"order-1"[..]));
        let headers: Vec<_> = letter
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), std::str::from_utf8(value).expect("text")))
            .collect();
        assert_eq!(
            headers,
            [
                ("traceparent", "00-1"),
                ("outflow-reason", "no row"),
                ("outflow-code", "row_json"),
                ("outflow-stage", "load"),
                ("outflow-topic", "orders_analytics"),
                ("outflow-partition", "3"),
                ("outflow-offset", "42"),
            ]
        );
    }
}
