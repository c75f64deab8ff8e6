//! The benchmarks at their smallest, so that they don't rot. What they measure here means nothing.

use serde_json::Value;
use std::process::Command;

/// Every entry that the command promises without Debezium and without an optimised build, with its baselines.
const ENTRIES: [(&str, &str); 13] = [
    ("relay.drain", "naive"),
    ("relay.drain", "producer_limit"),
    ("relay.drain_from_start", ""),
    ("relay.cpu_per_event_draining", ""),
    ("relay.memory", ""),
    ("relay.latency_p50", ""),
    ("relay.latency_p99", ""),
    ("relay.cpu_per_event", ""),
    ("relay.latency_scheduled_p99", ""),
    ("relay.writers", "no_relay"),
    ("relay.writers_behind", ""),
    ("relay.growth", "empty_history"),
    ("relay.memory_large_events", ""),
];

#[test]
fn every_figure_of_the_relay_comes_with_its_baselines() {
    let output = Command::new(env!("CARGO_BIN_EXE_xtask"))
        .args(["bench", "relay", "--quick", "--without", "debezium", "--json", "-"])
        .output()
        .expect("the program is built with its tests");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let entries: Vec<Value> = serde_json::from_slice(&output.stdout).expect("stdout is the JSON alone");

    let text = |entry: &Value, key: &str| entry[key].as_str().unwrap_or_default().to_owned();
    let named: Vec<_> = entries.iter().map(|entry| (text(entry, "name"), text(entry, "baseline"))).collect();
    assert_eq!(named, ENTRIES.map(|(name, baseline)| (name.to_owned(), baseline.to_owned())));
    for entry in &entries {
        assert!(entry["value"].as_f64().is_some_and(f64::is_finite), "{entry}");
        let is_compared = entry["baseline"].is_string();
        assert_eq!(entry["ratio"].as_f64().is_some_and(|ratio| ratio > 0.0), is_compared, "{entry}");
    }
}

#[test]
fn an_unknown_name_is_told_with_those_there_are() {
    let output = Command::new(env!("CARGO_BIN_EXE_xtask"))
        .args(["bench", "relay.speed"])
        .output()
        .expect("the program is built with its tests");
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert!(error.contains("relay.drain"), "{error}");
}
