//! The benchmarks at their smallest, so that they don't rot. What they measure here means nothing.

use serde_json::Value;
use std::process::Command;

/// Every entry that the command promises without Debezium and without an optimised build, with its baselines.
const RELAY: [(&str, &str); 13] = [
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
const TRANSFORM: [(&str, &str); 15] = [
    ("transform.record", "native"),
    ("transform.record", "json_component"),
    ("transform.record_instructions", ""),
    ("transform.instance", ""),
    ("transform.load", "compile"),
    ("transform.swap", ""),
    ("transform.pointer", ""),
    ("transform.memory", ""),
    ("transform.activations", ""),
    ("transform.activations_seen", ""),
    ("transform.activations_records", ""),
    ("transform.activations_lost", ""),
    ("transform.activations_doubled", ""),
    ("transform.activations_out_of_order", ""),
    ("transform.activations_memory", "first_reading"),
];

/// The entries of a run, which are these and no others, each with a figure.
fn measured(arguments: &[&str], expected: &[(&str, &str)]) -> Vec<Value> {
    let output = Command::new(env!("CARGO_BIN_EXE_xtask"))
        .arg("bench")
        .args(arguments)
        .args(["--quick", "--json", "-"])
        .output()
        .expect("the program is built with its tests");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let entries: Vec<Value> = serde_json::from_slice(&output.stdout).expect("stdout is the JSON alone");

    let text = |entry: &Value, key: &str| entry[key].as_str().unwrap_or_default().to_owned();
    let named: Vec<_> = entries.iter().map(|entry| (text(entry, "name"), text(entry, "baseline"))).collect();
    let expected: Vec<_> =
        expected.iter().map(|(name, baseline)| ((*name).to_owned(), (*baseline).to_owned())).collect();
    assert_eq!(named, expected);
    for entry in &entries {
        assert!(entry["value"].as_f64().is_some_and(f64::is_finite), "{entry}");
        let is_compared = entry["baseline"].is_string();
        assert_eq!(entry["ratio"].as_f64().is_some_and(|ratio| ratio > 0.0), is_compared, "{entry}");
    }
    entries
}

#[test]
fn every_figure_of_the_relay_comes_with_its_baselines() {
    measured(&["relay", "--without", "debezium"], &RELAY);
}

#[test]
fn every_figure_of_transforms_comes_with_its_baselines() {
    let entries = measured(&["transform"], &TRANSFORM);
    for wrong in ["lost", "doubled", "out_of_order"] {
        let name = format!("transform.activations_{wrong}");
        let entry = entries.iter().find(|entry| entry["name"] == name.as_str()).expect("it is among them");
        assert_eq!(entry["value"], 0.0, "{entry}");
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
