//! A record that can't be transformed, as it goes to `<topic>.dlq`: unchanged, with the reason beside it.

use outflow_broker::{Record, topics};
use outflow_kafka_batch as batch;
use outflow_transform::{Loaded, Rejection};

/// Our own headers; those of an earlier round are replaced.
const PREFIX: &str = "outflow-";
/// Which transform rejected the record; absent where none could even be asked. A record that comes again with it is for
/// that one alone.
pub(crate) const SLOT: &str = "outflow-slot";
/// A reason is for people and for grouping; a module could say anything.
const MAX_TEXT: usize = 1_024;

/// Why a record is put aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reason {
    /// decode, module, trap or row.
    pub(crate) stage: &'static str,
    /// Short and stable: dead letters are grouped by it.
    pub(crate) code: String,
    pub(crate) message: String,
}

impl From<Rejection> for Reason {
    fn from(rejection: Rejection) -> Self {
        Self { stage: rejection.stage.as_str(), code: rejection.code, message: rejection.message }
    }
}

/// The dead letter of a record: original key, value and headers, and where and why it failed.
pub(crate) fn record(
    topic: &str,
    partition: i32,
    record: &batch::Record,
    reason: &Reason,
    by: Option<&Loaded>,
) -> Record {
    let attempts = record.header("outflow-attempts").and_then(|n| n.parse::<u32>().ok()).unwrap_or(0);
    let mut headers: Vec<_> =
        record.headers.iter().filter(|(name, _)| !name.starts_with(PREFIX)).cloned().collect();
    let cut = |text: &str| text[..text.floor_char_boundary(MAX_TEXT)].to_owned();
    for (name, value) in [
        ("reason", Some(cut(&reason.message))),
        ("code", Some(cut(&reason.code))),
        ("stage", Some(reason.stage.to_owned())),
        ("slot", by.map(|by| by.slot.to_string())),
        ("transform-digest", by.map(|by| by.digest().to_string())),
        ("topic", Some(topic.to_owned())),
        ("partition", Some(partition.to_string())),
        ("offset", Some(record.offset.to_string())),
        ("attempts", Some(attempts.saturating_add(1).to_string())),
    ] {
        headers.extend(value.map(|value| (format!("{PREFIX}{name}"), value.into_bytes())));
    }
    Record {
        topic: topics::dead_letters(topic),
        key: record.key.clone(),
        // A tombstone becomes empty: its code (no_value) tells them apart.
        payload: record.value.clone().unwrap_or_default(),
        headers,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_letter_is_the_record_with_its_reason() {
        let header = |name: &str, value: &str| (name.to_owned(), value.as_bytes().to_vec());
        let original = batch::Record {
            offset: 7,
            timestamp_ms: 0,
            key: Some(b"o-1".to_vec()),
            value: Some(b"\xff{".to_vec()),
            headers: vec![header("eventType", "OrderCreated"), header("outflow-attempts", "2")],
        };
        let reason = Reason { stage: "decode", code: "not_json".to_owned(), message: "é".repeat(1_000) };
        let letter = record("order.events", 3, &original, &reason, None);

        assert_eq!((letter.topic.as_str(), &letter.key), ("order.events.dlq", &original.key));
        assert_eq!(Some(&letter.payload), original.value.as_ref());
        let headers: Vec<String> = letter
            .headers
            .iter()
            .map(|(name, value)| {
                let value = String::from_utf8_lossy(value);
                if value.len() > 100 {
                    format!("{name} ({} bytes)", value.len())
                } else {
                    format!("{name}={value}")
                }
            })
            .collect();
        expect_test::expect![[r#"
            eventType=OrderCreated
            outflow-reason (1024 bytes)
            outflow-code=not_json
            outflow-stage=decode
            outflow-topic=order.events
            outflow-partition=3
            outflow-offset=7
            outflow-attempts=3"#]]
        .assert_eq(&headers.join("\n"));
    }
}
