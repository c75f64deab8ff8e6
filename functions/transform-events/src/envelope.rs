//! From a Kafka record to an event. The headers' names are the host's (`outflow_transform::Record`): whoever looks at the
//! same records beside this function sees the same events.
//!
//! Must not: look into the payload. What it means is the module's business.

use crate::dead_letter::Reason;
use outflow_broker::letters::Origin;
use outflow_kafka_batch as batch;
use outflow_transform::{Event, Record};

/// The event in a record. Its place is the one that the record had first.
///
/// # Errors
/// Why it holds none: the same record will say the same again.
pub fn event<'a>(origin: &Origin<'a>, record: &'a batch::Record) -> Result<Event<'a>, Reason> {
    let record = Record {
        topic: origin.topic,
        partition: origin.partition,
        offset: origin.offset,
        timestamp_ms: record.timestamp_ms,
        key: record.key.as_deref(),
        value: record.value.as_deref(),
        headers: &record.headers,
    };
    record.event().map_err(|none| Reason {
        stage: "decode",
        code: none.code.to_owned(),
        message: none.message,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redriven_record_has_the_place_that_it_had_first_and_a_fault_is_a_reason() {
        let header = |(name, value): (&str, &str)| (name.to_owned(), value.as_bytes().to_vec());
        let headers = [
            ("eventType", "OrderCreated"),
            ("aggregateVersion", "2"),
            ("ce_id", "e-1"),
            ("ce_time", "2026-01-02T03:04:05.678Z"),
            ("outflow-partition", "3"),
            ("outflow-offset", "42"),
        ];
        let mut record = batch::Record {
            offset: 7,
            timestamp_ms: 1_767_323_046_000,
            key: Some(b"o-1".to_vec()),
            value: Some(b"{}".to_vec()),
            headers: headers.map(header).to_vec(),
        };
        let origin = Origin::take("order.events.retry", 0, 7, &mut record.headers);

        let read = event(&origin, &record).expect("it is good");
        assert_eq!((read.topic, read.partition, read.offset), ("order.events", 3, 42));
        assert_eq!((read.aggregate_id, read.relayed_at_us), ("o-1", 1_767_323_046_000_000));

        record.key = None;
        let reason = event(&origin, &record).expect_err("it has no key");
        assert_eq!((reason.stage, reason.code.as_str()), ("decode", "no_key"));
    }
}
