//! A module of version 1.0.0, in typed values: for the tests of the host, which accepts every earlier minor version of the
//! interface. It stands on `wit/1.0.0` alone, not on the SDK.

mod bindings {
    #![allow(unsafe_code, missing_debug_implementations, unreachable_pub, clippy::all)]
    wit_bindgen::generate!({ path: "../wit/1.0.0", world: "plugin" });
}

use bindings::exports::outflow::transform::transformer::{Descriptor, Guest, Outcome};
use bindings::outflow::transform::types::{Column, Event, Failure, Row, Table, Value};

struct Plugin;

impl Guest for Plugin {
    fn describe() -> Descriptor {
        let columns = [
            ("note_id", "UUID"),
            ("note", "Nullable(String)"),
            ("amount", "Decimal(18, 2)"),
            ("told_at", "DateTime64(3, 'UTC')"),
            ("is_short", "Bool"),
            ("length", "UInt32"),
            ("balance", "Int32"),
            ("raw", "String"),
        ];
        let column =
            |(name, ch_type): (&str, &str)| Column { name: name.to_owned(), ch_type: ch_type.to_owned() };
        Descriptor {
            name: "typed-guest".to_owned(),
            version: "1.0.0".to_owned(),
            event_types: vec!["Told".to_owned()],
            tables: vec![Table { name: "notes".to_owned(), columns: columns.map(column).to_vec() }],
        }
    }

    fn configure(_: Vec<(String, String)>) -> Result<(), String> {
        Ok(())
    }

    fn transform(batch: Vec<Event>) -> Vec<Outcome> {
        bindings::log(4, &format!("{} events", batch.len()));
        batch.iter().filter_map(obey).collect()
    }
}

fn obey(event: &Event) -> Option<Outcome> {
    let text = String::from_utf8_lossy(&event.payload).into_owned();
    Some(match text.as_str() {
        "skip" => Outcome::Skip,
        "reject" => {
            Outcome::Reject(Failure { code: "told_to".to_owned(), message: "as it was told".to_owned() })
        }
        "panic" => panic!("told to panic"),
        "no outcome" => return None,
        "float" => Outcome::Rows(vec![Row { table: 0, values: vec![Value::Float(0.5); 8] }]),
        "other table" => Outcome::Rows(vec![Row { table: 1, values: Vec::new() }]),
        _ => {
            let length = text.len() as u64;
            let values = vec![
                Value::Text(event.aggregate_id.clone()),
                if text.is_empty() { Value::Null } else { Value::Text(text) },
                Value::Decimal("-12.30".to_owned()),
                Value::TimestampUs(event.occurred_at_us / 1_000 * 1_000),
                Value::Boolean(length < 10),
                Value::Uint(length),
                Value::Int(-1),
                Value::Bytes(event.headers.iter().flat_map(|header| header.value.clone()).collect()),
            ];
            Outcome::Rows(vec![Row { table: 0, values }])
        }
    })
}

#[allow(unsafe_code)]
mod export {
    use super::{Plugin, bindings};
    bindings::export!(Plugin with_types_in bindings);
}
