//! Each guest's fixtures: events in, what becomes of them out. `UPDATE_EXPECT=1` writes the outcomes anew.

mod support;

use outflow_transform::fixture;
use std::fs;
use support::{engine, guest, load, stamp, transforms};

fn check(name: &str) {
    let folder = transforms().join(name).join("fixtures");
    let events = fs::read_to_string(folder.join("events.jsonl")).expect("the fixture is there");
    let events = fixture::read(&events).expect("they are events");
    let events: Vec<_> = events.iter().map(|event| event.event()).collect();
    let wasm = guest(name);
    let batch = load(&engine(), &wasm).expect("the guest loads").run(&events, stamp());
    assert_eq!(batch.unfinished, None);
    let outcomes: String =
        batch.outcomes.iter().map(|outcome| format!("{}\n", fixture::outcome_line(outcome))).collect();
    let expected = folder.canonicalize().expect("the folder is there").join("outcomes.jsonl");
    expect_test::expect_file![expected].assert_eq(&outcomes);
}

#[test]
fn order_analytics() {
    check("order-analytics");
}

#[test]
fn order_analytics_banded() {
    check("order-analytics-banded");
}

#[test]
fn order_items_analytics() {
    check("order-items-analytics");
}

#[test]
fn inventory_analytics() {
    check("inventory-analytics");
}
