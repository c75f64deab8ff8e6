//! `outflow transform test --record`.

use super::{Workbench, event, keys, order};
use outflow_broker::Record;
use serde_json::{Value, json};
use std::{fs, path::PathBuf};

const GUEST: &str = "order-analytics";

impl Workbench {
    fn fixtures(&self) -> PathBuf {
        self.folder.path().join("fixtures")
    }

    /// The lines of a fixture.
    fn lines(&self, file: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.fixtures().join(file)).expect("it was written");
        text.lines().map(|line| serde_json::from_str(line).expect("a line is JSON")).collect()
    }

    /// `test`, with the fixtures of this test.
    fn test<'a>(&self, guest: &'a str, more: &[&'a str]) -> Vec<String> {
        let fixtures = self.fixtures().display().to_string();
        let more = more.iter().map(|argument| argument.replace("TOPIC", &self.topic));
        ["test".to_owned(), guest.to_owned(), "--fixtures".to_owned(), fixtures]
            .into_iter()
            .chain(more)
            .collect()
    }

    async fn recorded(&self, code: i32, guest: &str, more: &[&str]) -> Value {
        let arguments = self.test(guest, more);
        self.json(code, &arguments.iter().map(String::as_str).collect::<Vec<_>>()).await
    }

    async fn not_recorded(&self, more: &[&str]) -> String {
        let arguments = self.test(GUEST, more);
        self.refused(&arguments.iter().map(String::as_str).collect::<Vec<_>>()).await
    }
}

/// The order's id, its user's name.
fn said(record: &Record) -> (String, String) {
    let payload: Value = serde_json::from_slice(record.payload.as_deref().unwrap()).unwrap();
    ["orderId", "userId"].map(|name| payload[name].as_str().unwrap().to_owned()).into()
}

#[tokio::test]
async fn real_events_become_fixtures_with_their_fields_masked() {
    let bench = Workbench::start().await;
    let orders = ["ann@example.com", "bob@example.com", "ann@example.com", "dan@example.com"].map(order);
    let (mut torn, paid) = (order("u-1"), event("OrderPaid", "o-1", &json!({})));
    torn.payload = Some(b"{".to_vec());
    bench.send([torn, paid]).await;
    bench.send(orders.clone()).await;

    let masks =
        ["--mask", "userId", "--mask", "orderId", "--mask", "items.name", "--mask", "items.productId"];
    let record = [&["--record", "TOPIC", "--records", "3"], &masks[..]].concat();
    let report = bench.recorded(0, GUEST, &record).await;

    assert_eq!(keys(&report), ["differences", "different", "events", "recorded", "updated"]);
    assert_eq!(
        (&report["events"], &report["different"], &report["updated"]),
        (&json!(3), &json!(0), &json!(true))
    );
    let recorded = &report["recorded"];
    assert_eq!(keys(recorded), ["events", "masked", "mode", "passed_over", "topic"]);
    assert_eq!((&recorded["mode"], &recorded["events"]), (&json!("new"), &json!(3)));
    assert_eq!(recorded["passed_over"], json!({"other_types": 1, "unreadable": 1, "already_there": 0}));
    assert_eq!(recorded["masked"][2], json!({"field": "items.name", "values": 3}));

    let (events, outcomes) = (bench.lines("events.jsonl"), bench.lines("outcomes.jsonl"));
    assert_eq!((events.len(), outcomes.len()), (3, 3));
    let user = |line: usize| events[line]["payload"]["userId"].as_str().unwrap();
    assert!(user(0) == user(2) && user(0) != user(1), "who was the same stays the same");
    assert_eq!(user(0).len(), "ann@example.com".len());
    for (event, outcome) in events.iter().zip(&outcomes) {
        // What the guest holds against each other still fits.
        assert_eq!(event["aggregateId"], event["payload"]["orderId"]);
        let row = &outcome["rows"][0]["row"];
        assert_eq!((&row["order_id"], &row["user_id"]), (&event["aggregateId"], &event["payload"]["userId"]));
        assert_eq!((&row["total_amount"], &event["payload"]["status"]), (&json!("39.98"), &json!("PENDING")));
    }
    for file in fs::read_dir(bench.fixtures()).unwrap() {
        let text = fs::read_to_string(file.unwrap().path()).unwrap();
        for (id, user) in orders.iter().map(said) {
            assert!(!text.contains(&id) && !text.contains(&user), "{text}");
        }
        assert!(!text.contains("Espresso cup") && !text.contains("p-001"), "{text}");
    }
    assert_eq!(fs::read_dir(bench.fixtures()).unwrap().count(), 2);
    let passes = bench.recorded(0, GUEST, &[]).await;
    assert_eq!((&passes["events"], passes.get("recorded")), (&json!(3), None));
    // Another recording has other masks.
    bench.recorded(0, GUEST, &[&record[..], &["--replace"]].concat()).await;
    assert_ne!(bench.lines("events.jsonl")[0]["payload"]["userId"], user(0));
}

#[tokio::test]
async fn what_is_there_is_only_replaced_or_added_to_on_demand() {
    let bench = Workbench::start().await;
    bench.send([order("u-1"), order("u-2")]).await;
    let record = ["--record", "TOPIC"];
    bench.recorded(0, GUEST, &record).await;
    let (events, outcomes) = (bench.lines("events.jsonl"), bench.lines("outcomes.jsonl"));
    let unchanged = || {
        assert_eq!(
            (bench.lines("events.jsonl"), bench.lines("outcomes.jsonl")),
            (events.clone(), outcomes.clone())
        )
    };

    let refused = bench.not_recorded(&record).await;
    assert!(refused.contains("say --append or --replace"), "{refused}");
    let refused = bench.not_recorded(&[&record[..], &["--append"]].concat()).await;
    assert!(refused.contains("2 that are recorded already"), "{refused}");
    unchanged();

    bench.send([order("u-3")]).await;
    // What differs before is looked at before.
    let file = bench.fixtures().join("outcomes.jsonl");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replacen("\"all\"", "\"none\"", 1)).unwrap();
    let before = bench.recorded(1, GUEST, &[&record[..], &["--append"]].concat()).await;
    assert_eq!((&before["different"], before.get("recorded")), (&json!(1), None));
    fs::write(&file, text).unwrap();
    unchanged();

    let appended = bench.recorded(0, GUEST, &[&record[..], &["--append"]].concat()).await;
    assert_eq!((&appended["events"], &appended["recorded"]["mode"]), (&json!(3), &json!("appended")));
    assert_eq!(
        (&bench.lines("events.jsonl")[..2], &bench.lines("outcomes.jsonl")[..2]),
        (&events[..], &outcomes[..])
    );
    let replaced = bench.recorded(0, GUEST, &[&record[..], &["--replace", "--records", "1"]].concat()).await;
    assert_eq!((&replaced["events"], &replaced["recorded"]["mode"]), (&json!(1), &json!("replaced")));
    assert_eq!(bench.lines("events.jsonl"), events[..1]);
}

#[tokio::test]
async fn what_can_not_be_recorded_is_told_and_nothing_is_written() {
    let bench = Workbench::start().await;
    bench.send([order("u-1"), event("OrderPaid", "o-1", &json!({"by": "card"}))]).await;
    for (more, advice) in [
        (
            &["--record", "TOPIC", "--mask", "userId", "--mask", "shipping.email"][..],
            "no record has a field shipping.email",
        ),
        (&["--record", "TOPIC", "--mask", "items..name"], "--mask 'items..name' is no field"),
        (&["--record", "nowhere.events"], "there is no topic nowhere.events"),
        (
            &["--record", "TOPIC", "--event-type", "OrderLost"],
            "no new event of OrderLost there: passed over were 2 of other types",
        ),
        (&["--record", "TOPIC", "--from", "2100-01-01"], "no new event of OrderCreated"),
        (&["--record", "TOPIC", "--from", "end"], "or beginning"),
        (&["--record", "TOPIC", "--records", "0"], "--records"),
        (&["--record", "TOPIC", "--append", "--replace"], "--replace"),
        (&["--mask", "userId"], "--record"),
    ] {
        let refused = bench.not_recorded(more).await;
        assert!(refused.contains(advice), "{more:?}: {refused}");
    }
    assert!(!bench.fixtures().exists());

    let paid =
        bench.recorded(0, GUEST, &["--record", "TOPIC", "--event-type", "OrderPaid", "--from", "1h"]).await;
    assert_eq!((&paid["events"], &paid["recorded"]["passed_over"]["other_types"]), (&json!(1), &json!(1)));
    assert_eq!(bench.lines("outcomes.jsonl"), [json!("skip")]);
}

#[tokio::test]
async fn headers_that_a_module_reads_are_recorded_and_carry_the_masks() {
    let bench = Workbench::start().await;
    let mut told = event("Told", "customer-12345", &json!({"customer": "customer-12345"}));
    for (name, value) in [("traceparent", "for customer-12345, once"), ("x-internal", "customer-12345")] {
        told.headers.push((name.to_owned(), value.as_bytes().to_vec()));
    }
    bench.send([told]).await;

    let record = ["--record", "TOPIC", "--mask", "customer"];
    // The table of this guest wants a UUID, which this key is not: an outcome like any other.
    bench.recorded(0, "test-guest", &record).await;

    let [event] = &bench.lines("events.jsonl")[..] else { panic!("one line") };
    let mask = event["payload"]["customer"].as_str().unwrap();
    assert!(mask.len() == "customer-12345".len() && mask != "customer-12345");
    assert_eq!(event["aggregateId"], mask);
    assert_eq!(event["headers"], json!([["traceparent", format!("for {mask}, once")]]));
    assert_eq!(bench.lines("outcomes.jsonl")[0]["reject"]["stage"], "row");
}
