//! Puts a record that can never be loaded into the dead-letter topic, as it came, with its reason.

use crate::batch::Rejected;
use outflow_broker::{
    Producer, Record,
    letters::{self, Origin, Rejection},
};
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
    let Rejected { origin: read, reason, code } = rejected;
    let mut record = read.record;
    let origin = Origin::take(&read.topic, read.partition, record.offset, &mut record.headers);
    let rejection = Rejection { stage: STAGE, code: &code, reason: &reason, by: None };
    letters::dead_letter(&origin, record.key, record.value, record.headers, &rejection)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::{Origin, tests::record};

    fn letter(topic: &str, headers: &[(&str, &str)]) -> Record {
        let mut original = record(42, Some(b"not json"));
        original.key = Some(b"order-1".to_vec());
        original.headers = headers.iter().map(|(n, v)| ((*n).to_owned(), v.as_bytes().to_vec())).collect();
        let origin = Origin { topic: topic.to_owned(), partition: 3, record: original };
        dead_letter(Rejected { origin, reason: "no row".to_owned(), code: "row_json".to_owned() })
    }

    fn told(letter: &Record) -> Vec<(&str, &str)> {
        let text = |value| std::str::from_utf8(value).expect("text");
        letter.headers.iter().map(|(name, value)| (name.as_str(), text(value))).collect()
    }

    #[test]
    fn a_dead_letter_is_the_record_with_its_reason_and_its_place() {
        let letter = letter("orders_analytics", &[("traceparent", "00-1"), ("outflow-reason", "older")]);

        assert_eq!(letter.topic, "orders_analytics.dlq");
        assert_eq!(letter.payload.as_deref(), Some(&b"not json"[..]));
        assert_eq!(letter.key.as_deref(), Some(&b"order-1"[..]));
        let expected = [
            ("traceparent", "00-1"),
            ("outflow-reason", "no row"),
            ("outflow-code", "row_json"),
            ("outflow-stage", "load"),
            ("outflow-topic", "orders_analytics"),
            ("outflow-partition", "3"),
            ("outflow-offset", "42"),
            ("outflow-attempts", "1"),
        ];
        assert_eq!(told(&letter), expected);
    }

    #[test]
    fn a_redriven_record_that_fails_again_goes_to_the_same_dead_letters() {
        let redriven = [
            ("outflow-attempts", "1"),
            ("outflow-redriven-from", "orders_analytics.dlq/0/5"),
            ("outflow-partition", "2"),
            ("outflow-offset", "7"),
        ];
        let letter = letter("orders_analytics.retry", &redriven);

        assert_eq!(letter.topic, "orders_analytics.dlq");
        let told = told(&letter);
        for expected in [
            ("outflow-topic", "orders_analytics"),
            ("outflow-partition", "2"),
            ("outflow-offset", "7"),
            ("outflow-attempts", "2"),
        ] {
            assert!(told.contains(&expected), "{told:?}");
        }
    }
}
