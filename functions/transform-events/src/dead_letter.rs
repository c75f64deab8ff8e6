//! A record that can't be transformed, as it goes to `<topic>.dlq`: unchanged, with the reason beside it.

use outflow_broker::{
    Record,
    letters::{self, Origin},
};
use outflow_kafka_batch as batch;
use outflow_transform::{Loaded, Rejection};

/// Why a record is put aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// decode, slot, module, trap or row.
    pub stage: &'static str,
    /// Short and stable: dead letters are grouped by it.
    pub code: String,
    pub message: String,
}

impl Reason {
    /// The record was redriven for one transform alone, and that one does not run.
    pub fn inactive(slot: &str) -> Self {
        let message = format!("no module of {slot} is active: activate one, then redrive the record");
        Self { stage: "slot", code: "not_active".to_owned(), message }
    }
}

impl From<Rejection> for Reason {
    fn from(rejection: Rejection) -> Self {
        Self { stage: rejection.stage.as_str(), code: rejection.code, message: rejection.message }
    }
}

/// The dead letter of a record whose headers are those that [`Origin::take`] left. `by` rejected it; without, none of the
/// modules was asked.
pub fn record(origin: &Origin<'_>, record: &batch::Record, reason: &Reason, by: Option<&Loaded>) -> Record {
    let rejection = letters::Rejection {
        stage: reason.stage,
        code: &reason.code,
        reason: &reason.message,
        by: by.map(|by| (by.slot.as_str(), by.digest().as_str())),
    };
    letters::dead_letter(origin, record.key.clone(), record.value.clone(), record.headers.clone(), &rejection)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redriven_record_that_nobody_can_take_stays_for_its_transform() {
        let header = |name: &str, value: &str| (name.to_owned(), value.as_bytes().to_vec());
        let headers = [
            ("eventType", "OrderCreated"),
            ("outflow-attempts", "2"),
            ("outflow-slot", "order_items"),
            ("outflow-redriven-from", "order.events.dlq/0/5"),
        ];
        let mut original = batch::Record {
            offset: 7,
            timestamp_ms: 0,
            key: Some(b"o-1".to_vec()),
            value: None,
            headers: headers.map(|(name, value)| header(name, value)).to_vec(),
        };
        let origin = Origin::take("order.events.retry", 3, 7, &mut original.headers);

        let letter = record(&origin, &original, &Reason::inactive("order_items"), None);

        assert_eq!((letter.topic.as_str(), &letter.key), ("order.events.dlq", &original.key));
        assert_eq!(letter.payload, None, "a tombstone stays one");
        let headers: Vec<String> = letter
            .headers
            .iter()
            .map(|(name, value)| format!("{name}={}", String::from_utf8_lossy(value)))
            .collect();
        expect_test::expect![[r#"
            eventType=OrderCreated
            outflow-reason=no module of order_items is active: activate one, then redrive the record
            outflow-code=not_active
            outflow-stage=slot
            outflow-slot=order_items
            outflow-topic=order.events
            outflow-partition=3
            outflow-offset=7
            outflow-attempts=3
            outflow-redriven-from=order.events.dlq/0/5"#]]
        .assert_eq(&headers.join("\n"));
    }
}
