//! From a Kafka record to an event: headers read, the payload held to be JSON.
//!
//! Must not: look into the payload. What it means is the module's business.

use crate::dead_letter::Reason;
use outflow_broker::letters::Origin;
use outflow_kafka_batch::Record;
use outflow_transform::Event;
use serde::de::IgnoredAny;
use std::str::FromStr;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// The event in a record, or why it holds none. Its place is the one that the record had first.
pub(crate) fn event<'a>(origin: &Origin<'a>, record: &'a Record) -> Result<Event<'a>, Reason> {
    let payload = record.value.as_deref().ok_or_else(|| reason("no_value", "the record has no value"))?;
    serde_json::from_slice::<IgnoredAny>(payload)
        .map_err(|e| reason("not_json", &format!("the value isn't JSON: {e}")))?;
    let key = record.key.as_deref().ok_or_else(|| reason("no_key", "the record has no key"))?;
    let aggregate_id = std::str::from_utf8(key).map_err(|_| reason("bad_key", "the key isn't UTF-8 text"))?;
    let aggregate_version: u64 = parsed("aggregateVersion", header(record, "aggregateVersion")?)?;
    if aggregate_version == 0 {
        return Err(reason("bad_header", "header aggregateVersion is 0; versions begin at 1"));
    }
    let occurred_at = OffsetDateTime::parse(header(record, "ce_time")?, &Rfc3339)
        .map_err(|e| reason("bad_header", &format!("header ce_time is no RFC 3339 time: {e}")))?;
    let occurred_at_us = i64::try_from(occurred_at.unix_timestamp_nanos() / 1_000)
        .map_err(|_| reason("bad_header", "header ce_time is out of range"))?;
    let schema_version = match record.header("schemaVersion") {
        Some(text) => parsed("schemaVersion", text)?,
        None => 1,
    };
    Ok(Event {
        id: header(record, "ce_id")?,
        event_type: header(record, "eventType")?,
        aggregate_id,
        aggregate_version,
        schema_version,
        occurred_at_us,
        relayed_at_us: record.timestamp_ms.saturating_mul(1_000),
        topic: origin.topic,
        partition: origin.partition,
        offset: origin.offset,
        headers: &record.headers,
        payload,
        is_canary: record.header("outflowCanary") == Some("1"),
    })
}

fn header<'a>(record: &'a Record, name: &str) -> Result<&'a str, Reason> {
    record
        .header(name)
        .ok_or_else(|| reason("missing_header", &format!("header {name} is missing or no text")))
}

fn parsed<T: FromStr>(name: &str, text: &str) -> Result<T, Reason> {
    text.parse().map_err(|_| reason("bad_header", &format!("header {name} is no whole number")))
}

fn reason(code: &str, message: &str) -> Reason {
    Reason { stage: "decode", code: code.to_owned(), message: message.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Record {
        let header = |(name, value): (&str, &str)| (name.to_owned(), value.as_bytes().to_vec());
        Record {
            offset: 42,
            timestamp_ms: 1_767_323_046_000,
            key: Some(b"o-1".to_vec()),
            value: Some(b"{}".to_vec()),
            headers: [
                ("eventType", "OrderCreated"),
                ("aggregateVersion", "2"),
                ("ce_id", "e-1"),
                ("ce_time", "2026-01-02T03:04:05.678Z"),
            ]
            .map(header)
            .to_vec(),
        }
    }

    fn decode(record: &Record) -> Result<Event<'_>, Reason> {
        event(&Origin::take("order.events", 3, record.offset, &mut Vec::new()), record)
    }

    fn code(change: impl FnOnce(&mut Record)) -> String {
        let mut record = good();
        change(&mut record);
        match decode(&record) {
            Ok(_) => "good".to_owned(),
            Err(reason) => reason.code,
        }
    }

    fn set(record: &mut Record, name: &str, value: &[u8]) {
        record.headers.retain(|(key, _)| key != name);
        record.headers.push((name.to_owned(), value.to_vec()));
    }

    #[test]
    fn a_good_record_becomes_its_event() {
        let record = good();
        let event = decode(&record).expect("it is good");
        assert_eq!((event.aggregate_version, event.schema_version), (2, 1));
        assert_eq!(
            (event.occurred_at_us, event.relayed_at_us),
            (1_767_323_045_678_000, 1_767_323_046_000_000)
        );
        assert_eq!((event.topic, event.partition, event.offset), ("order.events", 3, 42));
        assert!(!event.is_canary);
    }

    #[test]
    fn each_fault_has_its_code() {
        assert_eq!(code(|_| {}), "good");
        assert_eq!(code(|r| r.value = None), "no_value");
        assert_eq!(code(|r| r.value = Some(b"{".to_vec())), "not_json");
        assert_eq!(code(|r| r.value = Some(b"\xff".to_vec())), "not_json");
        assert_eq!(code(|r| r.key = None), "no_key");
        assert_eq!(code(|r| r.key = Some(vec![0xff])), "bad_key");
        for name in ["eventType", "aggregateVersion", "ce_id", "ce_time"] {
            assert_eq!(code(|r| r.headers.retain(|(key, _)| key != name)), "missing_header", "{name}");
            assert_eq!(code(|r| set(r, name, b"\xff")), "missing_header", "{name}");
        }
        for (name, value) in [
            ("aggregateVersion", "-1"),
            ("aggregateVersion", "0"),
            ("ce_time", "yesterday"),
            ("schemaVersion", "v2"),
        ] {
            assert_eq!(code(|r| set(r, name, value.as_bytes())), "bad_header", "{name}: {value}");
        }
    }
}
