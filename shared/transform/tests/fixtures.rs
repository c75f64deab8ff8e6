//! Each guest's fixtures: events in, what becomes of them out, JSON lines.
//!
//! `fixtures/events.jsonl` has an event a line, its payload as the last key, given to the guest byte for byte;
//! `fixtures/outcomes.jsonl` the outcome of each, without the columns that the host stamps. `UPDATE_EXPECT=1`
//! writes the outcomes anew.

mod support;

use outflow_transform::{Event, HOST_COLUMNS, Outcome};
use serde::Deserialize;
use serde_json::Value;
use std::{collections::BTreeMap, fs};
use support::{engine, guest, load, stamp, transforms};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// An event as a fixture has it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Given {
    id: String,
    event_type: String,
    aggregate_id: String,
    aggregate_version: u64,
    #[serde(default = "one")]
    schema_version: u32,
    occurred_at: String,
}

fn one() -> u32 {
    1
}

impl Given {
    fn read(line: &str) -> Event {
        let (envelope, payload) = line.split_once(",\"payload\":").expect("the payload is the last key");
        let payload = payload.strip_suffix('}').expect("a line is an object");
        let envelope: Self = serde_json::from_str(&format!("{envelope}}}")).expect("a line is an event");
        Event { payload: payload.as_bytes().to_vec(), ..envelope.event() }
    }

    fn event(self) -> Event {
        let at = OffsetDateTime::parse(&self.occurred_at, &Rfc3339).expect("occurredAt is RFC 3339");
        let occurred_at_us = i64::try_from(at.unix_timestamp_nanos() / 1_000).expect("a time of this age");
        Event {
            id: self.id,
            event_type: self.event_type,
            aggregate_id: self.aggregate_id,
            aggregate_version: self.aggregate_version,
            schema_version: self.schema_version,
            occurred_at_us,
            topic: "fixture".to_owned(),
            ..Event::default()
        }
    }
}

/// Built by hand, so that the order of keys depends on no feature of serde_json.
fn shown(outcome: &Outcome) -> String {
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
                    let mut cells: BTreeMap<String, Value> =
                        serde_json::from_slice(&row.json).expect("a JSON object");
                    cells.retain(|name, _| !HOST_COLUMNS.contains(&name.as_str()));
                    let cells = serde_json::to_string(&cells).expect("it was JSON");
                    format!(r#"{{"table":"{}","row":{cells}}}"#, row.table)
                })
                .collect();
            format!(r#"{{"rows":[{}]}}"#, rows.join(","))
        }
    }
}

fn check(name: &str) {
    let folder = transforms().join(name).join("fixtures");
    let events = fs::read_to_string(folder.join("events.jsonl")).expect("the fixture is there");
    let events: Vec<Event> = events.lines().map(Given::read).collect();
    let wasm = guest(name);
    let batch = load(&engine(), &wasm).expect("the guest loads").run(&events, stamp());
    assert_eq!(batch.unfinished, None);
    let outcomes: String = batch.outcomes.iter().map(|outcome| format!("{}\n", shown(outcome))).collect();
    let expected = folder.canonicalize().expect("the folder is there").join("outcomes.jsonl");
    expect_test::expect_file![expected].assert_eq(&outcomes);
}

#[test]
fn orders_analytics() {
    check("orders-analytics");
}

#[test]
fn orders_analytics_banded() {
    check("orders-analytics-banded");
}
