//! A record that can't be transformed, as it goes to `<topic>.dlq`: unchanged, with the reason beside it.

use outflow_broker::{
    Record,
    letters::{self, Origin, Rejection as Told},
};
use outflow_kafka_batch as batch;
use outflow_transform::{Digest, Rejection, Slot};

/// Why a record is put aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reason {
    /// decode, slot, module, trap or row.
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

/// The dead letter of a record whose headers are those that [`Origin::take`] left. `by` is the transform that rejected it;
/// where none did, all of them lack it.
pub(crate) fn record(
    origin: &Origin<'_>,
    record: &batch::Record,
    reason: &Reason,
    by: Option<(&Slot, &Digest)>,
) -> Record {
    let told = Told {
        stage: reason.stage,
        code: &reason.code,
        reason: &reason.message,
        by: by.map(|(slot, digest)| (slot.as_str(), digest.as_str())),
    };
    letters::dead_letter(origin, record.key.clone(), record.value.clone(), record.headers.clone(), &told)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_letter_tells_which_transform_rejected_the_record() {
        let header = |name: &str, value: &str| (name.to_owned(), value.as_bytes().to_vec());
        let mut original = batch::Record {
            offset: 7,
            timestamp_ms: 0,
            key: Some(b"o-1".to_vec()),
            value: None,
            headers: vec![header("eventType", "OrderCreated"), header("outflow-attempts", "2")],
        };
        let origin = Origin::take("order.events.retry", 3, 7, &mut original.headers);
        let reason = Reason { stage: "module", code: "no_total".to_owned(), message: "no total".to_owned() };

        let (slot, digest) = (Slot::from("orders_analytics"), Digest::of(b""));
        let letter = record(&origin, &original, &reason, Some((&slot, &digest)));

        assert_eq!((letter.topic.as_str(), &letter.key), ("order.events.dlq", &original.key));
        assert_eq!(letter.payload, None, "a tombstone stays one");
        let headers: Vec<String> = letter
            .headers
            .iter()
            .map(|(name, value)| format!("{name}={}", String::from_utf8_lossy(value)))
            .collect();
        expect_test::expect![[r#"
            eventType=OrderCreated
            outflow-reason=no total
            outflow-code=no_total
            outflow-stage=module
            outflow-slot=orders_analytics
            outflow-transform-digest=e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855
            outflow-topic=order.events
            outflow-partition=3
            outflow-offset=7
            outflow-attempts=3"#]]
        .assert_eq(&headers.join("\n"));
    }
}
