//! Does whatever an event's payload tells it to, however bad: for the tests of the host, never published.
//!
//! It implements the interface itself instead of using `export!`, because it must be able to answer with the
//! wrong number of outcomes.

use outflow_transform_sdk::__private::{
    Descriptor, Guest, WireOutcome, descriptor, export_component, log_panics,
};
use outflow_transform_sdk::{Event, Failure, Level, Row, Table, Value, bindings, log};
use std::sync::atomic::{AtomicU64, Ordering};

/// The host's tests patch these names in the built module: keep them unique and of their length.
static TABLES: &[Table] = &[Table {
    name: "table_one",
    columns: &[("note_id", "UUID"), ("xersion", "String"), ("calls_made", "UInt64")],
}];

struct Plugin;

/// Counts the events that this instance has seen: a fresh instance begins at 0.
static SEEN: AtomicU64 = AtomicU64::new(0);

impl Guest for Plugin {
    fn describe() -> Descriptor {
        descriptor("test-guest", "1.0.0", &["Told"], TABLES)
    }

    fn configure(_: Vec<(String, String)>) -> Result<(), String> {
        Ok(())
    }

    fn transform(batch: Vec<Event>) -> Vec<WireOutcome> {
        log_panics();
        batch.iter().flat_map(|event| obey(event, &String::from_utf8_lossy(&event.payload))).collect()
    }
}

fn obey(event: &Event, order: &str) -> Vec<WireOutcome> {
    let seen = SEEN.fetch_add(1, Ordering::Relaxed);
    let row = |values| vec![WireOutcome::Rows(vec![Row { table: 0, values }])];
    let id = || Value::Text(event.aggregate_id.clone());
    match order {
        "skip" => vec![WireOutcome::Skip],
        "reject" => {
            let failure = Failure { code: "told_to".to_owned(), message: "as it was told".to_owned() };
            vec![WireOutcome::Reject(failure)]
        }
        "panic" => panic!("told to panic"),
        "unreachable" => std::process::abort(),
        "loop" => loop {
            std::hint::spin_loop();
        },
        "bomb" => {
            let mut hoard: Vec<Vec<u8>> = Vec::new();
            loop {
                hoard.push(vec![1; 1 << 20]);
                std::hint::black_box(&hoard);
            }
        }
        "overflow the stack" => vec![WireOutcome::Reject(deep(u64::MAX))],
        "no outcome" => Vec::new(),
        "two outcomes" => vec![WireOutcome::Skip, WireOutcome::Skip],
        "two values" => row(vec![id(), Value::Text(String::new())]),
        "other table" => vec![WireOutcome::Rows(vec![Row { table: 1, values: Vec::new() }])],
        "negative" => row(vec![id(), Value::Text(String::new()), Value::Int(-1)]),
        "1001 rows" => {
            let one = Row { table: 0, values: Vec::new() };
            vec![WireOutcome::Rows(vec![one; 1_001])]
        }
        "flood the log" => {
            for line in 0..10_000 {
                log(Level::Info, &format!("line {line} {}", "x".repeat(2_000)));
            }
            vec![WireOutcome::Skip]
        }
        "forty megabytes" => row(vec![id(), Value::Text("x".repeat(40 << 20)), Value::Uint(0)]),
        text => row(vec![id(), Value::Text(text.to_owned()), Value::Uint(seen)]),
    }
}

fn deep(left: u64) -> Failure {
    let inner =
        if left == 0 { Failure { code: String::new(), message: String::new() } } else { deep(left - 1) };
    std::hint::black_box(inner)
}

#[allow(unsafe_code)]
mod export {
    use super::{Plugin, bindings, export_component};
    export_component!(Plugin with_types_in bindings);
}
