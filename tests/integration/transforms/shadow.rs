//! `outflow transform shadow`, and what `activate` says of it.

mod interrupt;

use super::{Workbench, event, keys, order};
use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
};
use serde_json::{Value, json};
use std::time::Duration;

const FIRST: &str = "order-analytics";
const BANDED: &str = "order-analytics-banded";
/// Goes wrong as an order's user says.
const WAYWARD: &str = "wayward-guest";
const ITEMS: &str = "order-items-analytics";
/// Fills the tables of `FIRST` and of `ITEMS`, not quite as they do where an order's user says so.
const WHOLE: &str = "whole-order-guest";

impl Workbench {
    /// The report of a run over this test's topic.
    async fn shadow(&self, code: i32, digest: &str, more: &[&str]) -> Value {
        self.json(code, &[&["shadow", digest, "--topic", &self.topic], more].concat()).await
    }

    /// The report as the registry keeps it.
    fn kept(&self, digest: &str, number: u32) -> Value {
        let path = self.registry(&format!("shadows/{digest}/{number}.json"));
        serde_json::from_slice(&std::fs::read(path).expect("it is kept")).expect("it is JSON")
    }
}

const BACKLOG: [&str; 4] = ["--from", "beginning", "--for", "5m"];

#[tokio::test]
async fn a_changed_column_is_told_with_examples_and_the_report_is_kept() {
    let bench = Workbench::start().await;
    let active = bench.activate(FIRST).await;
    let candidate = bench.outflow.publish(BANDED).await.unwrap();
    bench.send((0..5).map(|_| order("u-1"))).await;

    let report = bench.shadow(1, &candidate[..12], &[&BACKLOG[..], &["--records", "5"]].concat()).await;

    let expected = [
        "active",
        "apart",
        "began_at",
        "candidate",
        "columns",
        "ended",
        "ended_at",
        "number",
        "outcomes",
        "ratio",
        "records",
        "rejects",
        "slot",
        "speed",
        "summary",
        "tables",
        "topics",
        "traps",
    ];
    assert_eq!(keys(&report), expected);
    assert_eq!(report["records"], json!({"compared": 5, "same": 0, "different": 5}));
    assert_eq!((&report["slot"], &report["ended"]), (&json!("orders_analytics"), &json!("records")));
    let beside = json!([{"slot": "orders_analytics", "digest": active, "name": FIRST, "version": "1.0.0"}]);
    assert_eq!(report["active"], beside);
    let [column] = &report["columns"].as_array().unwrap()[..] else { panic!("{}", report["columns"]) };
    assert_eq!((&column["column"], &column["rows"]), (&json!("order_band"), &json!(5)));
    let examples = column["examples"].as_array().unwrap();
    assert_eq!(examples.len(), 3);
    for (offset, example) in examples.iter().enumerate() {
        assert_eq!((&example["active"], &example["candidate"]), (&json!("all"), &json!("small")));
        assert_eq!(example["record"], format!("{}/0/{offset}", bench.topic));
        assert!(example["event_id"].as_str().is_some_and(|id| id.len() == 36));
    }
    let rows = &report["tables"][0];
    assert_eq!((&rows["changed"], &rows["added"], &rows["removed"]), (&json!(5), &json!(0), &json!(0)));
    for side in ["active", "candidate"] {
        assert!(report["speed"][side]["ns_per_record"].as_u64() > Some(0), "{}", report["speed"]);
        assert!(report["speed"][side]["instructions_per_record"].as_u64() > Some(100), "{}", report["speed"]);
    }
    assert!(report["ratio"].as_f64() > Some(0.0));
    assert_eq!(report["summary"], "5 records, 5 differ: orders_analytics.order_band in 5 rows");

    let mut kept = bench.kept(&candidate, 1);
    kept["number"] = json!(1);
    assert_eq!(kept, report);
    let without = [&BACKLOG[..], &["--records", "5", "--no-values"]].concat();
    let again = bench.shadow(1, &candidate, &without).await;
    assert_eq!(again["number"], 2, "the first one stays");
    assert_eq!(keys(&again["columns"][0]["examples"][0]), ["event_id", "record"]);
    assert_eq!(bench.kept(&candidate, 1)["columns"], report["columns"]);
    // It left no trace where others read.
    let reader: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &bench.brokers)
        .set("group.id", "outflow-dead-letters")
        .create()
        .unwrap();
    let mut places = TopicPartitionList::new();
    places.add_partition(&bench.topic, 0);
    let committed = tokio::task::spawn_blocking(move || reader.committed_offsets(places, super::TIMEOUT));
    assert_eq!(committed.await.unwrap().unwrap().elements()[0].offset(), Offset::Invalid);
}

#[tokio::test]
async fn each_way_to_differ_is_told_by_its_kind() {
    let bench = Workbench::start().await;
    bench.activate(FIRST).await;
    let candidate = bench.outflow.publish(WAYWARD).await.unwrap();
    let mut torn = order("u-1");
    torn.payload = Some(b"{".to_vec());
    let mut tombstone = order("u-1");
    tombstone.payload = None;
    let mut contradictory = order("u-1");
    contradictory.key = Some(b"another order".to_vec());
    let paid = event("OrderPaid", "o-1", &json!({}));
    bench.send([torn, tombstone, paid]).await;
    bench.send(["u-1", "panic", "reject", "skip", "twice", "band", "panic"].map(order)).await;
    bench.send([contradictory]).await;

    let report = bench.shadow(1, &candidate, &[&BACKLOG[..], &["--records", "8"]].concat()).await;

    assert_eq!(report["records"], json!({"compared": 8, "same": 2, "different": 6}));
    let apart = &report["apart"];
    let told = (&apart["seen"], &apart["other_types"], &apart["unreadable"]);
    assert_eq!(told, (&json!(11), &json!(1), &json!(2)));
    assert_eq!(apart["undecided"], json!({"active": 0, "candidate": 0}));
    let outcomes: Vec<String> = report["outcomes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|turned| {
            let text = |key: &str| turned[key].as_str().unwrap().to_owned();
            format!("{} → {}: {}", text("active"), text("candidate"), turned["records"])
        })
        .collect();
    let expected = ["rows → reject trap trap: 2", "rows → reject module not_mapped: 1", "rows → skip: 1"];
    assert_eq!(outcomes, expected);
    let panic = &report["outcomes"][0]["examples"][0];
    assert!(panic["candidate"].as_str().is_some_and(|reason| reason.contains("is too much")), "{panic}");
    assert_eq!(panic["active"], "1 row");
    assert_eq!(report["traps"], json!({"active": 0, "candidate": 2}));
    let rejected =
        |stage: &str, code: &str, records: u64| json!({"stage": stage, "code": code, "records": records});
    assert_eq!(report["rejects"]["active"], json!([rejected("module", "wrong_aggregate", 1)]));
    let expected = json!([
        rejected("trap", "trap", 2),
        rejected("module", "not_mapped", 1),
        rejected("module", "wrong_aggregate", 1)
    ]);
    assert_eq!(report["rejects"]["candidate"], expected);
    let rows = &report["tables"][0];
    let counts =
        ["active", "candidate", "same", "changed", "added", "removed"].map(|key| rows[key].as_u64().unwrap());
    assert_eq!(counts, [7, 4, 2, 1, 1, 4]);
    assert_eq!(rows["examples"].as_array().map(Vec::len), Some(3));
    assert_eq!(report["columns"][0]["column"], "order_band");
    let again =
        [&["shadow", &candidate, "--topic", &bench.topic], &BACKLOG[..], &["--records", "8"]].concat();
    let text = bench.call(&again).await.stdout;
    for line in [
        "rows → reject trap trap: 2 records",
        "\"all\" → \"other\"",
        "rejected by the candidate side: trap trap: 2",
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
}

#[tokio::test]
async fn an_endless_loop_ends_and_what_follows_is_compared() {
    let bench = Workbench::start().await;
    bench.activate(FIRST).await;
    let candidate = bench.outflow.publish(WAYWARD).await.unwrap();
    bench.send(["u-1", "loop", "u-1", "band"].map(order)).await;

    let report =
        bench.shadow(1, &candidate, &["--from", "beginning", "--for", "5m", "--timeout", "10s"]).await;

    // By its instructions; on a machine that stalls it is left to a retry, and told as well.
    let undecided = report["apart"]["undecided"]["candidate"].as_u64().unwrap();
    let looped =
        report["rejects"]["candidate"].as_array().unwrap().iter().any(|r| r["code"] == "out_of_fuel");
    assert_eq!(undecided, u64::from(!looped), "{report}");
    assert_eq!((&report["records"]["same"], &report["columns"][0]["rows"]), (&json!(2), &json!(1)));
}

#[tokio::test]
async fn live_records_alone_are_compared_and_equal_modules_exit_with_0() {
    let bench = Workbench::start().await;
    bench.activate(FIRST).await;
    let candidate = bench.outflow.publish(WAYWARD).await.unwrap();
    // Whoever read what was there before would see differences.
    bench.send((0..10).map(|_| order("panic"))).await;

    let run = bench.shadow(0, &candidate, &["--records", "5", "--for", "5m"]);
    let sent = async {
        loop {
            bench.send([order("u-1")]).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let report = tokio::select! {
        report = run => report,
        () = sent => unreachable!("it goes on"),
    };

    assert_eq!(report["records"], json!({"compared": 5, "same": 5, "different": 0}));
    assert_eq!(
        (&report["summary"], &report["ended"]),
        (&json!("5 records, no difference"), &json!("records"))
    );
    assert_eq!((&report["columns"], &report["outcomes"]), (&json!([]), &json!([])));
    assert_eq!(report["number"], 1);
}

#[tokio::test]
async fn silence_is_told_and_no_error() {
    let bench = Workbench::start().await;
    let active = bench.activate(FIRST).await;
    let silent = bench.shadow(0, &active, &["--timeout", "1s", "--for", "5m"]).await;
    assert_eq!((&silent["ended"], &silent["number"]), (&json!("silence"), &Value::Null));
    assert_eq!((&silent["records"]["compared"], &silent["speed"]["active"]), (&json!(0), &Value::Null));
    assert_eq!(bench.shadow(0, &active, &["--for", "1s"]).await["ended"], "time");
    assert!(!bench.registry("shadows").exists(), "nothing was compared");

    let called = bench.call(&["shadow", &active, "--topic", &bench.topic, "--timeout", "1s"]).await;
    assert_eq!(called.code, 0);
    assert!(called.stderr.contains("no record of OrderCreated came in"), "{}", called.stderr);
    assert!(
        called.stdout.contains("then no record came any more: 0 records, no difference"),
        "{}",
        called.stdout
    );

    // One that comes, and then no other.
    bench.send([order("u-1")]).await;
    let one = bench.shadow(0, &active, &["--from", "beginning", "--timeout", "5s", "--for", "5m"]).await;
    assert_eq!((&one["ended"], &one["records"]["same"]), (&json!("silence"), &json!(1)));

    for (arguments, advice) in [
        (&["shadow", &active, "--topic", "nowhere.events"][..], "there is no topic nowhere.events"),
        (&["shadow", &active, "--from", "middle"], "or beginning, or end"),
        (&["shadow", "0123"], "outflow transform status"),
    ] {
        let refused = bench.refused(arguments).await;
        assert!(refused.contains(advice), "{arguments:?}: {refused}");
    }
}

#[tokio::test]
async fn beside_nothing_all_rows_are_added() {
    let bench = Workbench::start().await;
    let candidate = bench.outflow.publish(FIRST).await.unwrap();
    bench.activate(ITEMS).await;
    bench.send((0..3).map(|_| order("u-1"))).await;

    let arguments =
        [&["shadow", &candidate, "--topic", &bench.topic], &BACKLOG[..], &["--records", "3"]].concat();
    let called = bench.call(&[&arguments[..], &["--json", "-"]].concat()).await;

    assert_eq!(called.code, 1);
    assert!(called.stderr.contains("nothing is active in orders_analytics"), "{}", called.stderr);
    let report: Value = serde_json::from_str(&called.stdout).unwrap();
    assert_eq!((&report["active"], &report["ratio"]), (&json!([]), &Value::Null));
    assert_eq!((&report["tables"][0]["added"], &report["tables"][0]["removed"]), (&json!(3), &json!(0)));
    assert_eq!(report["outcomes"][0]["active"], "skip");
}

#[tokio::test]
async fn each_table_is_compared_with_the_rows_of_the_module_that_fills_it() {
    let bench = Workbench::start().await;
    let first = bench.activate(FIRST).await;
    let items = bench.activate(ITEMS).await;
    bench.activate("inventory-analytics").await;
    let candidate = bench.outflow.publish(WHOLE).await.unwrap();
    let users = ["u-1", "band", "twice", "no lines", "reject", "panic", "refuse", "skip"];
    bench.send(users.map(order)).await;
    let mut contradictory = order("u-1");
    contradictory.key = Some(b"another order".to_vec());
    bench.send([contradictory]).await;
    let named = |slot: &str, digest: &str, name: &str| json!({"slot": slot, "digest": digest, "name": name, "version": "1.0.0"});
    let beside = |orders: Value| json!([named("order_items_analytics", &items, ITEMS), orders]);

    let alike = bench.shadow(0, &candidate, &[&BACKLOG[..], &["--records", "1"]].concat()).await;
    assert_eq!(alike["active"], beside(named("orders_analytics", &first, FIRST)));
    assert_eq!(alike["summary"], "1 record, no difference");
    let same = |table: &Value| (table["table"].clone(), table["active"].clone(), table["same"].clone());
    let tables: Vec<_> = alike["tables"].as_array().unwrap().iter().map(same).collect();
    let expected =
        ["order_items_analytics", "orders_analytics"].map(|table| (json!(table), json!(1), json!(1)));
    assert_eq!(tables, expected);

    let wayward = bench.activate(WAYWARD).await;
    let run = [&BACKLOG[..], &["--records", "9"]].concat();
    let report = bench.shadow(1, &candidate, &run).await;

    assert_eq!(report["slot"], "order_items_analytics+orders_analytics");
    assert_eq!(report["active"], beside(named("orders_analytics", &wayward, WAYWARD)));
    assert_eq!(report["records"], json!({"compared": 9, "same": 2, "different": 7}));
    let counts = |table: &Value| {
        ["active", "candidate", "same", "changed", "added", "removed"].map(|key| table[key].as_u64().unwrap())
    };
    let tables: Vec<_> = report["tables"].as_array().unwrap().iter().map(counts).collect();
    assert_eq!(tables, [[8, 6, 6, 0, 0, 2], [6, 7, 3, 1, 3, 2]]);
    let [band] = &report["columns"].as_array().unwrap()[..] else { panic!("{}", report["columns"]) };
    assert_eq!((&band["table"], &band["column"]), (&json!("orders_analytics"), &json!("order_band")));
    let example = &band["examples"][0];
    assert_eq!((&example["active"], &example["candidate"]), (&json!("other"), &json!("all")));
    let turned =
        |turned: &Value| ["active", "candidate"].map(|side| turned[side].as_str().unwrap().to_owned());
    let outcomes: Vec<_> = report["outcomes"].as_array().unwrap().iter().map(turned).collect();
    let expected = [
        ["rows", "reject module not_mapped"],
        ["rows, reject module not_mapped", "rows"],
        ["rows, reject trap trap", "rows"],
    ];
    assert_eq!(outcomes, expected);
    let told = report["outcomes"][1]["examples"][0]["active"].as_str().unwrap();
    assert!(told.starts_with("1 row; order ") && told.ends_with(" is not mapped"), "{told}");
    // Both active modules reject the last record, for one reason.
    let rejected = |stage: &str, code: &str| json!({"stage": stage, "code": code, "records": 1});
    let of_both = [rejected("module", "not_mapped"), rejected("module", "wrong_aggregate")];
    assert_eq!(report["rejects"]["candidate"], json!(of_both));
    assert_eq!(report["rejects"]["active"], json!([&of_both[..], &[rejected("trap", "trap")]].concat()));
    assert_eq!(report["traps"], json!({"active": 1, "candidate": 0}));
    let text =
        bench.call(&[&["shadow", &candidate, "--topic", &bench.topic], &run[..]].concat()).await.stdout;
    let beside = format!(
        "beside {ITEMS} 1.0.0 ({}) in order_items_analytics, {WAYWARD} 1.0.0 ({}) in orders_analytics: ",
        &items[..12],
        &wayward[..12]
    );
    assert!(text.contains(&beside), "{beside} in {text}");

    // It takes no table from a module that is active.
    let activate = ["activate", &candidate, "--unchecked"];
    let refused = bench.call(&activate).await;
    assert_eq!(refused.code, 1, "{refused:?}");
    for told in [
        format!("it ran beside {ITEMS} 1.0.0, {WAYWARD} 1.0.0, which are active, at 2"),
        "table order_items_analytics is filled by the active transform of order_items_analytics".to_owned(),
    ] {
        assert!(refused.stderr.contains(&told), "{told} in {}", refused.stderr);
    }
    for slot in ["order_items_analytics", "orders_analytics"] {
        bench.outflow.run(&["transform", "deactivate", "--slot", slot, "--yes"]).await.unwrap();
    }
    let activated = bench.call(&activate).await;
    assert_eq!(activated.code, 0, "{activated:?}");
    assert!(activated.stderr.contains("which are not what is active now"), "{}", activated.stderr);
}

#[tokio::test]
async fn a_place_in_time_begins_a_run_there() {
    let bench = Workbench::start().await;
    let active = bench.activate(FIRST).await;
    bench.send((0..3).map(|_| order("u-1"))).await;
    for (from, more, compared) in [("1h", ["--records", "3"], 3), ("2100-01-01", ["--timeout", "2s"], 0)] {
        let report = bench.shadow(0, &active, &[&["--from", from, "--for", "5m"], &more[..]].concat()).await;
        assert_eq!(report["records"]["compared"], compared, "{from}");
    }
}

#[tokio::test]
async fn whoever_activates_a_module_is_told_how_it_ran() {
    let bench = Workbench::start().await;
    let first = bench.activate(FIRST).await;
    let [banded, wayward] = [BANDED, WAYWARD].map(|guest| bench.outflow.publish(guest));
    let (banded, wayward) = (banded.await.unwrap(), wayward.await.unwrap());
    let activate = async |digest: &str| {
        let called = bench.call(&["activate", digest, "--unchecked", "--json", "-"]).await;
        assert_eq!(called.code, 0, "{called:?}");
        (serde_json::from_str::<Value>(&called.stdout).unwrap(), called.stderr)
    };

    let (report, told) = activate(&banded).await;
    assert!(told.contains(&format!("`outflow transform shadow {}`", &banded[..12])), "{told}");
    assert_eq!(report.get("shadow"), None);

    bench.send((0..2).map(|_| order("u-1"))).await;
    let run = [&BACKLOG[..], &["--records", "2"]].concat();
    bench.shadow(1, &wayward, &run).await;
    bench.shadow(0, &banded, &run).await;
    let (report, told) = activate(&wayward).await;
    assert!(told.contains(&format!("it ran beside {BANDED} 1.0.0, which is active, at 2")), "{told}");
    assert!(told.contains("report 1: 2 records, 2 differ: orders_analytics.order_band in 2 rows"), "{told}");
    let shadow = &report["shadow"];
    assert_eq!((&shadow["number"], &shadow["against_active"]), (&json!(1), &json!(true)));
    assert_eq!(shadow["report"]["records"]["different"], 2);

    // A report that can't be read keeps nobody from activating.
    std::fs::write(bench.registry(&format!("shadows/{banded}/2.json")), "{").unwrap();
    let called = bench.call(&["activate", &banded, "--unchecked"]).await;
    assert_eq!(called.code, 0, "{called:?}");
    assert!(called.stderr.contains("its last report can't be read"), "{}", called.stderr);
    std::fs::remove_file(bench.registry(&format!("shadows/{banded}/2.json"))).unwrap();
    activate(&wayward).await;
    // By now another one is active than the one that it was compared with.
    let (report, told) = activate(&banded).await;
    assert!(told.contains("which is not what is active now"), "{told}");
    assert_eq!(report["shadow"]["against_active"], false);
    // Of several reports the one counts that speaks of what is active.
    bench.activate(FIRST).await;
    bench.shadow(0, &wayward, &run).await;
    bench.outflow.run(&["transform", "activate", &banded, "--unchecked"]).await.unwrap();
    let (report, told) = activate(&wayward).await;
    assert_eq!(
        (&report["shadow"]["number"], &report["shadow"]["against_active"]),
        (&json!(1), &json!(true)),
        "{told}"
    );
    assert_ne!(first, banded);
}
