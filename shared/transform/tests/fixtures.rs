//! Each guest's fixtures: events in, what becomes of them out. `UPDATE_EXPECT=1` writes the outcomes anew.

mod support;

use outflow_transform::{Limits, Module, Outcome, Stage, fixture};
use std::fs;
use support::{engine, guest, load, stamp, transforms};

fn module(name: &str) -> Module {
    load(&engine(), &guest(name)).expect("the guest loads")
}

fn check(name: &str) {
    check_module(name, &module(name));
}

fn check_module(name: &str, module: &Module) {
    let folder = transforms().join(name).join("fixtures");
    let outcomes = run(module, &events_of(name));
    let outcomes: String =
        outcomes.iter().map(|outcome| format!("{}\n", fixture::outcome_line(outcome))).collect();
    let expected = folder.canonicalize().expect("the folder is there").join("outcomes.jsonl");
    expect_test::expect_file![expected].assert_eq(&outcomes);
}

fn events_of(name: &str) -> String {
    fs::read_to_string(transforms().join(name).join("fixtures/events.jsonl")).expect("the fixture is there")
}

/// An outcome for each line.
fn run(module: &Module, events: &str) -> Vec<Outcome> {
    let events = fixture::read(events).expect("they are events");
    let events: Vec<_> = events.iter().map(|event| event.event()).collect();
    let batch = module.run(&events, stamp());
    assert_eq!(batch.unfinished, None);
    batch.outcomes
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

/// The interface is open to other languages: of any event, a guest in JavaScript makes the rows of the one in Rust, byte
/// for byte, or rejects it by the same code. One test, since its engine takes long to compile.
#[test]
fn order_analytics_in_javascript() {
    const NAME: &str = "order-analytics-js";
    let [rust, javascript] = ["order-analytics", NAME].map(module);
    check_module(NAME, &javascript);

    let events = events_of("order-analytics") + &odd_events();
    let said = said_by(&javascript, &events);
    for ((event, by_javascript), by_rust) in events.lines().zip(&said).zip(said_by(&rust, &events)) {
        assert_eq!(*by_javascript, by_rust, "of {event}");
    }
    // What an engine keeps of an earlier batch, or of a clock, would show.
    assert_eq!(said_by(&javascript, &events), said);

    // Deeper than its stack.
    let first = events.lines().next().expect("it has a line");
    let deep = first.replace(
        "\"status\"",
        &format!("\"deep\":{}{},\"status\"", "[".repeat(100_000), "]".repeat(100_000)),
    );
    let [before, rejected, after] =
        run(&javascript, &[first, &deep, first].join("\n")).try_into().expect("three");
    assert!(matches!((before, after), (Outcome::Rows(_), Outcome::Rows(_))));
    let Outcome::Reject(rejection) = rejected else { panic!("{rejected:?}") };
    assert_eq!((rejection.stage, rejection.code.as_str()), (Stage::Module, "malformed_payload"));

    // The code that counts runs too, and a suspect record has room in its limit.
    let alone = fixture::read(first).expect("it is an event");
    let instructions = javascript.instructions(&[alone[0].event()], stamp()).expect("it runs");
    assert!(instructions * 20 < Limits::default().record_fuel, "{instructions} instructions");

    assert_eq!(format!("{:?}", javascript.schema().tables), format!("{:?}", rust.schema().tables));
    let package = fs::read_to_string(transforms().join(NAME).join("package.json")).expect("it is there");
    let package: serde_json::Value = serde_json::from_str(&package).expect("it is JSON");
    assert_eq!(package["name"], *javascript.schema().name);
    assert_eq!(package["version"], *javascript.schema().version);
}

/// Each outcome without the module's digest and the words of a rejection.
fn said_by(module: &Module, events: &str) -> Vec<String> {
    let outcome = |outcome| match outcome {
        Outcome::Rows(rows) => rows
            .iter()
            .map(|row| format!("{} {}\n", row.table, String::from_utf8_lossy(&row.json)))
            .collect::<String>()
            .replace(module.digest().as_str(), ""),
        Outcome::Skip => "skip".to_owned(),
        Outcome::Reject(rejection) => format!("{:?} {}", rejection.stage, rejection.code),
    };
    run(module, events).into_iter().map(outcome).collect()
}

/// The first event of the fixtures in ways that a reader may get wrong.
fn odd_events() -> String {
    let events = events_of("order-analytics");
    let first = events.lines().next().expect("it has a line");
    let amounts = |amount: &str| first.replace("\"39.98\"", &format!("\"{amount}\""));
    let mut lines = vec![first.to_owned()];
    for (from, to) in [
        // Numbers: spelt otherwise, too large, of another kind.
        ("\"itemCount\":1", "\"itemCount\":1.0"),
        ("\"itemCount\":1", "\"itemCount\":1e0"),
        ("\"itemCount\":1", "\"itemCount\":-1"),
        ("\"itemCount\":1", "\"itemCount\":-0"),
        ("\"itemCount\":1", "\"itemCount\":4294967296"),
        ("\"itemCount\":1", "\"itemCount\":4294967297"),
        ("\"itemCount\":1", "\"itemCount\":\"1\""),
        ("\"itemCount\":1", "\"itemCount\":true"),
        ("\"itemCount\":1", "\"itemCount\":2"),
        ("\"quantity\":2", "\"quantity\":2.5"),
        ("\"quantity\":2,\"items\"", "\"quantity\":3,\"items\""),
        // Text: none, half a character, escaped.
        ("\"u-1\"", "null"),
        ("\"u-1\"", "\"\\ud83d\""),
        ("\"u-1\"", "\"\\ud83d\\ude00\\u0000\""),
        ("\"userId\"", "\"userID\""),
        ("\"userId\":\"u-1\",", ""),
        ("\"userId\":\"u-1\",", "\"__proto__\":{\"userId\":\"u-1\"},"),
        ("\"status\":\"PENDING\"", "\"status\":\"\",\"other\":[{\"deep\":[1e999,-0.0,null]}]"),
        // A name that is read, twice in one object: next to itself, further on, escaped, with the same value.
        ("\"status\":\"PENDING\"", "\"status\":\"PENDING\",\"status\":\"PAID\""),
        ("\"itemCount\":1", "\"itemCount\":1,\"orderId\" :\t\"\""),
        ("\"status\":\"PENDING\"", "\"status\":\"PENDING\",\"st\\u0061tus\":\"PENDING\""),
        ("\"items\":[", "\"items\":[],\"items\":["),
        ("\"quantity\":2,\"unitPrice\"", "\"quantity\":2,\"quantity\":2,\"unitPrice\""),
        ("\"lineTotal\":", "\"lineTotal\":\"\",\"line\\u0054otal\":"),
        // One that isn't read, one of another object, and text that looks like one.
        ("\"unitPrice\":", "\"unitPrice\":null,\"unitPrice\":"),
        ("\"status\"", "\"other\":{\"status\":1,\"status\":[]},\"other\":\"\",\"__proto__\":1,\"status\""),
        ("\"status\"", "\"others\":[{\"items\":[{\"quantity\":1,\"quantity\":1}]}],\"\":{},\"status\""),
        ("\"items\":[", "\"\\\"items\":[],\"items\":["),
        ("\"u-1\"", "\"\\\\\\\",\\\"status\\\":{[\\\\\""),
        // Lists and objects.
        ("\"items\":[", "\"items\":null,\"others\":["),
        ("\"items\":[", "\"items\":[null,"),
        ("\"items\":[", "\"items\":[{},"),
        ("\"lineTotal\":\"39.98\"", "\"lineTotal\":39.98"),
        ("\"lineTotal\":\"39.98\"", "\"lineTotal\":\"39.980\""),
        // Times; the last of these places is the payload's.
        ("createdAt\":\"2026-11-23T07:11:32.123Z\"", "createdAt\":\"2026-11-23T07:11:32Z\""),
        ("createdAt\":\"2026-11-23T07:11:32.123Z\"", "createdAt\":\"2024-02-29T23:59:59.5-23:59\""),
        ("createdAt\":\"2026-11-23T07:11:32.123Z\"", "createdAt\":\"2026-02-29T00:00:00Z\""),
        ("createdAt\":\"2026-11-23T07:11:32.123Z\"", "createdAt\":\"2026-11-23T24:00:00Z\""),
        ("createdAt\":\"2026-11-23T07:11:32.123Z\"", "createdAt\":\"2026-11-23T07:11:60Z\""),
        ("createdAt\":\"2026-11-23T07:11:32.123Z\"", "createdAt\":\"2026-11-23T07:11:32.1234567Z\""),
        ("createdAt\":\"2026-11-23T07:11:32.123Z\"", "createdAt\":\"2026-11-23 07:11:32Z\""),
        ("createdAt\":\"2026-11-23T07:11:32.123Z\"", "createdAt\":\"2026-11-23T07:11:32+24:00\""),
        ("createdAt\":\"2026-11-23T07:11:32.123Z\"", "createdAt\":\"0099-12-31T23:59:59Z\""),
        ("createdAt\":\"2026-11-23T07:11:32.123Z\"", "createdAt\":1795417892123"),
    ] {
        let line = first.replace(from, to);
        assert_ne!(line, first, "{from} isn't there");
        lines.push(line);
    }
    lines.extend(
        [
            "0",
            "0.00",
            "-0",
            "-0.00",
            "0039.9800",
            "-39.98",
            ".5",
            "5.",
            "1e3",
            "+1",
            " 1",
            "1\\n",
            "1,5",
            "",
            "\\u0661",
            "9999999999999999.99",
            "10000000000000000.00",
            "123456789012345678901234567.89",
            "79228162514264337593543950335",
            "79228162514264337593543950336",
            "1.0000000000000000000000000000",
            "1.00000000000000000000000000000",
            "0000000000000000000000000000000000000000000000001",
        ]
        .map(amounts),
    );
    let payload = first.find("\"payload\":").expect("it has one") + "\"payload\":".len();
    lines.extend(["null", "[]", "\"{}\"", "1", "{}"].map(|other| format!("{}{other}}}", &first[..payload])));
    lines.join("\n")
}
