//! Does whatever an event's payload tells it to, however bad: for the tests of the host, never published.
//!
//! It implements the interface itself instead of using `export!`, because it must be able to answer with the
//! wrong number of outcomes, or with bytes that are no answer.

use outflow_transform_sdk::__private::{Descriptor, Guest, descriptor, events, export_component, log_panics};
use outflow_transform_sdk::{Answer, Event, Level, Reject, Rows, Table, bindings, log};
use std::sync::atomic::{AtomicU64, Ordering};

/// The host's tests patch these names in the built module: keep them unique and of their length.
static TABLES: &[Table] = &[Table {
    name: "table_one",
    columns: &[("note_id", "UUID"), ("xersion", "String"), ("calls_made", "UInt64")],
}];

/// As the names above: "describe for ever" and "describe by panic" are patched in.
static DESCRIBES: &str = "describe as usual";

struct Plugin;

/// Counts the events that this instance has seen: a fresh instance begins at 0.
static SEEN: AtomicU64 = AtomicU64::new(0);

impl Guest for Plugin {
    fn describe() -> Descriptor {
        match std::hint::black_box(DESCRIBES) {
            "describe for ever" => loop {
                std::hint::spin_loop();
            },
            "describe by panic" => panic!("told to panic"),
            _ => {}
        }
        descriptor("test-guest", "1.0.0", &["Told"], TABLES)
    }

    fn headers() -> Vec<String> {
        vec!["traceparent".to_owned()]
    }

    fn configure(_: Vec<(String, String)>) -> Result<(), String> {
        Ok(())
    }

    fn transform(batch: Vec<u8>) -> Vec<u8> {
        log_panics();
        let events = events(&batch);
        let orders: Vec<_> = events.iter().map(|event| String::from_utf8_lossy(event.payload)).collect();
        let mut answer = Answer::of(0);
        let mut outcomes = 0_u32;
        for (event, order) in events.iter().zip(&orders) {
            let times = match &**order {
                "no outcome" => 0,
                "two outcomes" => 2,
                _ => 1,
            };
            outcomes += times;
            (0..times).for_each(|_| answer.outcome(|rows| obey(event, order, rows)));
        }
        let mut answer = answer.into_bytes();
        answer[..4].copy_from_slice(&outcomes.to_le_bytes());
        for order in &orders {
            match &**order {
                "cut the answer" => answer.truncate(answer.len() - 1),
                "say more" => answer.push(0),
                "unknown outcome" => answer[4] = 9,
                "long text" => {
                    // The length of the only text, in the only row of the only event.
                    let at = answer.len() - 9 - 4 - order.len();
                    answer[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
                }
                "no utf-8" => {
                    let at = answer.len() - 9 - 1;
                    answer[at] = 0xff;
                }
                _ => {}
            }
        }
        answer
    }
}

fn obey(event: &Event<'_>, order: &str, rows: &mut Rows<'_>) -> Result<(), Reject> {
    let seen = SEEN.fetch_add(1, Ordering::Relaxed);
    match order {
        "skip" | "two outcomes" => {}
        "reject" => return Err(Reject::new("told_to", "as it was told")),
        "panic" => panic!("told to panic"),
        "unreachable" => std::process::abort(),
        "loop" => loop {
            std::hint::spin_loop();
        },
        // Each division waits for the one before: there is nothing slower to count.
        "slow loop" => {
            let mut divisor = 3_u64;
            loop {
                divisor = std::hint::black_box(u64::MAX / divisor) | 1;
            }
        }
        "bomb" => {
            let mut hoard: Vec<Vec<u8>> = Vec::new();
            loop {
                hoard.push(vec![1; 1 << 20]);
                std::hint::black_box(&hoard);
            }
        }
        "overflow the stack" => {
            std::hint::black_box(deep(u64::MAX));
        }
        "two values" => {
            rows.row(0).text(event.aggregate_id).text("");
        }
        "other table" => {
            rows.row(1);
        }
        "negative" => {
            rows.row(0).text(event.aggregate_id).text("").int(-1);
        }
        "1001 rows" => (0..1_001).for_each(|_| drop(rows.row(0))),
        "900 rows" => (0..900).for_each(|row| {
            rows.row(0).text(event.aggregate_id).text("").uint(row);
        }),
        "flood the log" => {
            for line in 0..10_000 {
                log(Level::Info, &format!("line {line} {}", "x".repeat(2_000)));
            }
        }
        "a long log line" => log(Level::Info, &"x".repeat(40 << 20)),
        "ten megabytes" => {
            rows.row(0).text(event.aggregate_id).text("x".repeat(10 << 20)).uint(0);
        }
        "a hundred megabytes" => {
            rows.row(0).text(event.aggregate_id).text("x".repeat(100 << 20)).uint(0);
        }
        "headers" => {
            let all: Vec<_> =
                event.headers.iter().map(|(key, value)| (key, String::from_utf8_lossy(value))).collect();
            rows.row(0).text(event.aggregate_id).text(format!("{all:?}")).uint(seen);
        }
        text => {
            rows.row(0).text(event.aggregate_id).text(text).uint(seen);
        }
    }
    Ok(())
}

fn deep(left: u64) -> u64 {
    let inner = if left == 0 { 0 } else { deep(left - 1) + 1 };
    std::hint::black_box(inner)
}

#[allow(unsafe_code)]
mod export {
    use super::{Plugin, bindings, export_component};
    export_component!(Plugin with_types_in bindings);
}
