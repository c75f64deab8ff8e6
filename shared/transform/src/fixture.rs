//! Fixtures: events in, what becomes of them out, JSON lines. They stand beside a guest, in `fixtures/events.jsonl` and
//! `fixtures/outcomes.jsonl`; line for line one belongs to the other.

use crate::{Event, HOST_COLUMNS, Outcome};
use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};
use std::collections::BTreeMap;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// An event as a fixture has it. The payload reaches the guest byte for byte as it stands there.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FixtureEvent {
    pub id: String,
    pub event_type: String,
    pub aggregate_id: String,
    pub aggregate_version: u64,
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub schema_version: u32,
    /// RFC 3339.
    #[serde(with = "time::serde::rfc3339")]
    pub occurred_at: OffsetDateTime,
    /// Names and texts of headers, for modules that read some: `[["traceparent","00-…"]]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty", with = "headers")]
    pub headers: Vec<(String, Vec<u8>)>,
    pub payload: Box<RawValue>,
}

/// Headers as pairs of texts.
mod headers {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, ser::Error};

    pub(super) fn serialize<S: Serializer>(
        headers: &[(String, Vec<u8>)],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let pair =
            |(name, value): &'_ (String, Vec<u8>)| Ok((name.clone(), String::from_utf8(value.clone())?));
        let pairs: Result<Vec<(String, String)>, std::string::FromUtf8Error> =
            headers.iter().map(pair).collect();
        pairs.map_err(S::Error::custom)?.serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<(String, Vec<u8>)>, D::Error> {
        let pairs = Vec::<(String, String)>::deserialize(deserializer)?;
        Ok(pairs.into_iter().map(|(name, value)| (name, value.into_bytes())).collect())
    }
}

fn one() -> u32 {
    1
}

fn is_one(version: &u32) -> bool {
    *version == 1
}

/// A line that is no event.
#[derive(Debug, thiserror::Error)]
#[error("line {line} is no event")]
pub struct FixtureError {
    /// From 1.
    pub line: usize,
    #[source]
    source: serde_json::Error,
}

impl FixtureEvent {
    /// As the host gives it to a module.
    pub fn event(&self) -> Event<'_> {
        let occurred_at_us = self.occurred_at.unix_timestamp_nanos() / 1_000;
        Event {
            id: &self.id,
            event_type: &self.event_type,
            aggregate_id: &self.aggregate_id,
            aggregate_version: self.aggregate_version,
            schema_version: self.schema_version,
            occurred_at_us: i64::try_from(occurred_at_us).unwrap_or(i64::MAX),
            topic: "fixture",
            headers: &self.headers,
            payload: self.payload.get().as_bytes(),
            ..Event::default()
        }
    }

    /// A line of `events.jsonl`, without its end.
    ///
    /// # Panics
    /// Never: the time was read or made as RFC 3339, and headers as text.
    pub fn to_line(&self) -> String {
        serde_json::to_string(self).expect("an event is plain data")
    }

    /// From an event of the pipe, with the headers that `is_read`; None where its payload isn't JSON, its time can't be told
    /// or one of these headers is no text.
    pub fn of(event: &Event<'_>, is_read: impl Fn(&str) -> bool) -> Option<Self> {
        let payload = RawValue::from_string(String::from_utf8(event.payload.to_vec()).ok()?).ok()?;
        let occurred_at =
            OffsetDateTime::from_unix_timestamp_nanos(i128::from(event.occurred_at_us) * 1_000).ok()?;
        occurred_at.format(&Rfc3339).ok()?;
        let headers: Vec<_> = event.headers.iter().filter(|(name, _)| is_read(name)).cloned().collect();
        if headers.iter().any(|(_, value)| std::str::from_utf8(value).is_err()) {
            return None;
        }
        Some(Self {
            id: event.id.to_owned(),
            event_type: event.event_type.to_owned(),
            aggregate_id: event.aggregate_id.to_owned(),
            aggregate_version: event.aggregate_version,
            schema_version: event.schema_version,
            occurred_at,
            headers,
            payload,
        })
    }
}

/// The events of `events.jsonl`; empty lines are passed over.
///
/// # Errors
/// Names the line.
pub fn read(text: &str) -> Result<Vec<FixtureEvent>, FixtureError> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let event = |(at, line): (usize, &str)| {
        serde_json::from_str(line).map_err(|source| FixtureError { line: at + 1, source })
    };
    lines.map(event).collect()
}

/// A line of `outcomes.jsonl`, without its end: `"skip"`, a rejection, or the rows without what the host stamps.
///
/// # Panics
/// Never: rows are JSON objects.
pub fn outcome_line(outcome: &Outcome) -> String {
    // By hand, so that the order of keys depends on no feature of serde_json.
    match outcome {
        Outcome::Skip => "\"skip\"".to_owned(),
        Outcome::Reject(r) => {
            let [code, message] = [&r.code, &r.message].map(|text| Value::from(text.as_str()));
            format!(r#"{{"reject":{{"stage":"{}","code":{code},"message":{message}}}}}"#, r.stage.as_str())
        }
        Outcome::Rows(rows) => {
            let rows: Vec<String> = rows
                .iter()
                .map(|row| {
                    let cells = serde_json::to_string(&cells(&row.json)).expect("it was JSON");
                    format!(r#"{{"table":"{}","row":{cells}}}"#, row.table)
                })
                .collect();
            format!(r#"{{"rows":[{}]}}"#, rows.join(","))
        }
    }
}

/// What the module says in a row: its cells by column, without what the host stamps.
///
/// # Panics
/// Where the row is no JSON object, as none of the host's is.
pub fn cells(json: &[u8]) -> BTreeMap<String, Value> {
    let mut cells: BTreeMap<String, Value> = serde_json::from_slice(json).expect("a row is a JSON object");
    cells.retain(|name, _| !HOST_COLUMNS.contains(&name.as_str()));
    cells
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_survives_its_line_byte_for_byte() {
        let line = r#"{"id":"e","eventType":"T","aggregateId":"a","aggregateVersion":2,"occurredAt":"2026-11-23T07:11:32.123Z","payload":{"b":1.10, "a":"ü"}}"#;
        let events = read(&format!("{line}\n\n{line}\n")).expect("they are events");
        assert_eq!(events.len(), 2);
        let event = events[0].event();
        assert_eq!(event.payload, "{\"b\":1.10, \"a\":\"ü\"}".as_bytes());
        assert_eq!((event.schema_version, event.occurred_at_us), (1, 1_795_417_892_123_000));
        assert_eq!(events[0].to_line(), line);
        let written = FixtureEvent::of(&event, |_| true).expect("it can be written");
        assert_eq!(written.to_line(), line);
    }

    #[test]
    fn of_the_headers_those_are_kept_that_the_module_reads() {
        let header = |name: &str, value: &[u8]| (name.to_owned(), value.to_vec());
        let headers = [header("traceparent", b"00-1"), header("signature", b"\xff")];
        let event = Event { headers: &headers, payload: b"{}", ..Event::default() };
        let written = FixtureEvent::of(&event, |name| name == "traceparent").expect("it can be written");
        let line = written.to_line();
        assert!(line.contains(r#""headers":[["traceparent","00-1"]]"#), "{line}");
        assert_eq!(read(&line).expect("it is an event")[0].event().headers, &headers[..1]);
        assert!(FixtureEvent::of(&event, |_| true).is_none(), "bytes that are no text have no line");
    }

    #[test]
    fn what_is_no_event_is_named_by_its_line() {
        let error = read("\n{\"id\":1}\n").expect_err("it is none");
        assert_eq!(error.line, 2);
    }
}
