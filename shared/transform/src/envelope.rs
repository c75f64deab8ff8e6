//! From a record of the broker to an event: what its headers are called, and the value held to be JSON.
//!
//! Must not: look into the payload. What it means is the module's business.

use crate::Event;
use serde::de::IgnoredAny;
use std::str::FromStr;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// A record as it was read, at the place that it had first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    pub topic: &'a str,
    pub partition: i32,
    pub offset: i64,
    /// When the broker got it: milliseconds since 1970-01-01 UTC.
    pub timestamp_ms: i64,
    /// The aggregate's id.
    pub key: Option<&'a [u8]>,
    /// None is a tombstone.
    pub value: Option<&'a [u8]>,
    pub headers: &'a [(String, Vec<u8>)],
}

/// Why a record holds no event. Permanent: the same record will say the same again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct NoEvent {
    /// Short and stable; dead letters are grouped by it.
    pub code: &'static str,
    pub message: String,
}

impl<'a> Record<'a> {
    /// The event in it.
    ///
    /// # Errors
    /// Names the header, or says what is wrong with key or value.
    pub fn event(self) -> Result<Event<'a>, NoEvent> {
        let payload = self.value.ok_or_else(|| none("no_value", "the record has no value"))?;
        let not_json =
            |error: &dyn std::error::Error| none("not_json", &format!("the value isn't JSON: {error}"));
        // serde_json doesn't look into strings that it is told to ignore.
        let text = std::str::from_utf8(payload).map_err(|e| not_json(&e))?;
        serde_json::from_str::<IgnoredAny>(text).map_err(|e| not_json(&e))?;
        let key = self.key.ok_or_else(|| none("no_key", "the record has no key"))?;
        let aggregate_id =
            std::str::from_utf8(key).map_err(|_| none("bad_key", "the key isn't UTF-8 text"))?;
        let aggregate_version: u64 = parsed("aggregateVersion", self.header("aggregateVersion")?)?;
        if aggregate_version == 0 {
            return Err(none("bad_header", "header aggregateVersion is 0; versions begin at 1"));
        }
        let occurred_at = OffsetDateTime::parse(self.header("ce_time")?, &Rfc3339)
            .map_err(|e| none("bad_header", &format!("header ce_time is no RFC 3339 time: {e}")))?;
        let occurred_at_us = i64::try_from(occurred_at.unix_timestamp_nanos().div_euclid(1_000))
            .map_err(|_| none("bad_header", "header ce_time is out of range"))?;
        let schema_version = match self.bytes("schemaVersion") {
            // One that can't be read is not one that isn't there: a module would take the payload for what it is not.
            Some(_) if self.text("schemaVersion").is_none() => {
                return Err(none("bad_header", "header schemaVersion is no text"));
            }
            Some(_) => parsed("schemaVersion", self.header("schemaVersion")?)?,
            None => 1,
        };
        Ok(Event {
            id: self.header("ce_id")?,
            event_type: self.header("eventType")?,
            aggregate_id,
            aggregate_version,
            schema_version,
            occurred_at_us,
            relayed_at_us: self.timestamp_ms.saturating_mul(1_000),
            topic: self.topic,
            partition: self.partition,
            offset: self.offset,
            headers: self.headers,
            payload,
            is_canary: self.text("outflowCanary") == Some("1"),
        })
    }

    fn header(self, name: &str) -> Result<&'a str, NoEvent> {
        self.text(name).ok_or_else(|| none("missing_header", &format!("header {name} is missing or no text")))
    }

    fn text(self, name: &str) -> Option<&'a str> {
        std::str::from_utf8(self.bytes(name)?).ok()
    }

    /// Of several headers of a name the last one counts.
    fn bytes(self, name: &str) -> Option<&'a [u8]> {
        let (_, value) = self.headers.iter().rev().find(|(key, _)| key == name)?;
        Some(value)
    }
}

fn parsed<T: FromStr>(name: &str, text: &str) -> Result<T, NoEvent> {
    text.parse().map_err(|_| none("bad_header", &format!("header {name} is no whole number")))
}

fn none(code: &'static str, message: &str) -> NoEvent {
    NoEvent { code, message: message.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Owned {
        key: Option<Vec<u8>>,
        value: Option<Vec<u8>>,
        headers: Vec<(String, Vec<u8>)>,
    }

    impl Owned {
        fn record(&self) -> Record<'_> {
            Record {
                topic: "order.events",
                partition: 3,
                offset: 42,
                timestamp_ms: 1_767_323_046_000,
                key: self.key.as_deref(),
                value: self.value.as_deref(),
                headers: &self.headers,
            }
        }

        fn set(&mut self, name: &str, value: &[u8]) {
            self.headers.retain(|(key, _)| key != name);
            self.headers.push((name.to_owned(), value.to_vec()));
        }
    }

    fn good() -> Owned {
        let header = |(name, value): (&str, &str)| (name.to_owned(), value.as_bytes().to_vec());
        let headers = [
            ("eventType", "OrderCreated"),
            ("aggregateVersion", "2"),
            ("ce_id", "e-1"),
            ("ce_time", "2026-01-02T03:04:05.678Z"),
        ];
        Owned {
            key: Some(b"o-1".to_vec()),
            value: Some(b"{}".to_vec()),
            headers: headers.map(header).to_vec(),
        }
    }

    fn code(change: impl FnOnce(&mut Owned)) -> &'static str {
        let mut owned = good();
        change(&mut owned);
        owned.record().event().map_or_else(|none| none.code, |_| "good")
    }

    #[test]
    fn a_good_record_becomes_its_event() {
        let owned = good();
        let event = owned.record().event().expect("it is good");
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
        assert_eq!(code(|r| r.value = Some(b"\"\xff\"".to_vec())), "not_json");
        assert_eq!(code(|r| r.key = None), "no_key");
        assert_eq!(code(|r| r.key = Some(vec![0xff])), "bad_key");
        for name in ["eventType", "aggregateVersion", "ce_id", "ce_time"] {
            assert_eq!(code(|r| r.headers.retain(|(key, _)| key != name)), "missing_header", "{name}");
            assert_eq!(code(|r| r.set(name, b"\xff")), "missing_header", "{name}");
        }
        for (name, value) in [
            ("aggregateVersion", &b"-1"[..]),
            ("aggregateVersion", b"0"),
            ("ce_time", b"yesterday"),
            ("schemaVersion", b"v2"),
            ("schemaVersion", b"\xff"),
        ] {
            assert_eq!(code(|r| r.set(name, value)), "bad_header", "{name}: {value:?}");
        }
    }

    #[test]
    fn a_time_before_1970_is_cut_as_all_others_are() {
        let mut owned = good();
        owned.set("ce_time", b"1969-12-31T23:59:59.9999999Z");
        assert_eq!(owned.record().event().expect("it is good").occurred_at_us, -1);
    }
}
