//! What the host promises whatever a module does.

mod support;

use outflow_transform::{
    Batch, Digest, Engine, Limits, LoadError, Module, Outcome, Rejection, SchemaError, Target, compile,
};
use std::{process::Command, sync::Arc, time::Duration};
use support::{engine, guest, load, patched, patient, stamp, test_guest, told};

fn module() -> Module {
    load(&engine(), test_guest()).expect("the test guest loads")
}

/// An engine with one limit changed.
fn limited(change: impl FnOnce(&mut Limits)) -> Engine {
    let mut limits = patient();
    change(&mut limits);
    Engine::new(limits).expect("the engine starts")
}

fn run(orders: &[&str]) -> Batch {
    module().run(&orders.iter().map(|order| told(order)).collect::<Vec<_>>(), stamp())
}

/// One word an outcome: `row`, `skip`, or the rejection's stage and code.
fn words(batch: &Batch) -> Vec<String> {
    let word = |outcome: &Outcome| match outcome {
        Outcome::Rows(_) => "row".to_owned(),
        Outcome::Skip => "skip".to_owned(),
        Outcome::Reject(Rejection { stage, code, .. }) => format!("{}:{code}", stage.as_str()),
    };
    batch.outcomes.iter().map(word).collect()
}

fn messages(batch: &Batch) -> String {
    let message = |outcome: &Outcome| match outcome {
        Outcome::Reject(rejection) => Some(format!("{}\n", rejection.message)),
        _ => None,
    };
    batch.outcomes.iter().filter_map(message).collect()
}

/// What is logged meanwhile, a line each.
fn logged(run: impl FnOnce()) -> Vec<String> {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    let writer = Arc::new(file.reopen().expect("it opens again"));
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(writer).finish();
    tracing::subscriber::with_default(subscriber, run);
    let lines = std::fs::read_to_string(file.path()).expect("it is text");
    lines.lines().map(str::to_owned).collect()
}

fn is_finished(batch: &Batch) -> bool {
    batch.unfinished.is_none()
}

#[test]
fn a_row_has_the_modules_cells_and_the_hosts_stamps() {
    let module = module();
    let mut event = told("a note");
    event.aggregate_version = 3;
    event.occurred_at_us = 1_767_323_045_678_901;
    event.relayed_at_us = 1_767_323_046_000_000;
    let batch = module.run(&[event], stamp());
    let [Outcome::Rows(rows)] = &batch.outcomes[..] else { panic!("{batch:?}") };
    assert_eq!(&*rows[0].table, "table_one");
    let json = String::from_utf8(rows[0].json.clone()).expect("JSON is UTF-8");
    let json = json.replace(module.digest().as_str(), "DIGEST");
    expect_test::expect![[r#"{"note_id":"0192a7c1-0000-7000-8000-000000000001","xersion":"a note","calls_made":0,"version":50331655,"is_deleted":0,"event_id":"0192a7c1-0000-7000-8000-0000000000ff","transform_digest":"DIGEST","occurred_at":"2026-01-02 03:04:05.678","relayed_at":"2026-01-02 03:04:06.000","transformed_at":"2027-01-15 08:00:00.123","is_canary":0}"#]].assert_eq(&json);
    serde_json::from_str::<serde_json::Value>(&json).expect("a JSON object");
}

#[test]
fn each_record_has_its_own_outcome_in_order() {
    let batch = run(&["a", "reject", "skip", "b"]);
    assert_eq!(words(&batch), ["row", "module:told_to", "skip", "row"]);
    assert!(is_finished(&batch));
}

#[test]
fn events_of_other_types_never_reach_the_module() {
    let mut other = told("panic");
    other.event_type = "Untold";
    let batch = module().run(&[told("a"), other, told("b")], stamp());
    assert_eq!(words(&batch), ["row", "skip", "row"]);
}

#[test]
fn of_500_records_only_the_one_that_traps_is_rejected() {
    for trap in ["panic", "unreachable", "bomb", "overflow the stack"] {
        let mut orders = vec!["fine"; 500];
        orders[321] = trap;
        let batch = run(&orders);
        let words = words(&batch);
        let others: Vec<_> = words.iter().enumerate().filter(|(_, word)| *word != "row").collect();
        assert_eq!((words.len(), others), (500, vec![(321, &"trap:trap".to_owned())]), "{trap}");
        assert!(is_finished(&batch));
    }
}

#[test]
fn a_trap_is_told_apart_by_its_message() {
    let batch = run(&["panic", "bomb", "overflow the stack"]);
    expect_test::expect![[r#"
        wasm trap: wasm `unreachable` instruction executed: panicked at test-guest/src/lib.rs:87:20:
        told to panic
        forcing trap when growing memory to 68222976 bytes
        wasm trap: call stack exhausted
    "#]]
    .assert_eq(&messages(&batch));
}

#[test]
fn an_endless_loop_is_rejected_by_its_instructions_and_its_neighbours_go_on() {
    let engine = limited(|limits| {
        limits.batch_deadline = Duration::from_millis(300);
        limits.record_fuel = 2_000_000;
    });
    let batch = load(&engine, test_guest()).expect("it loads").run(&["a", "loop", "b"].map(told), stamp());
    assert_eq!(words(&batch), ["row", "trap:out_of_fuel", "row"]);
    assert_eq!(messages(&batch), "it takes more than 2000000 instructions\n");
    assert!(is_finished(&batch));
}

#[test]
fn the_slowest_of_loops_meets_its_instructions_before_its_deadline() {
    let batch_deadline = Duration::from_millis(100);
    let engine = Engine::new(Limits { batch_deadline, ..Limits::default() }).expect("the engine starts");
    let module = load(&engine, test_guest()).expect("it loads");
    for order in ["loop", "slow loop"] {
        let batch = module.run(&["a", order, "b"].map(told), stamp());
        assert_eq!(words(&batch), ["row", "trap:out_of_fuel", "row"], "{order}: {:?}", batch.unfinished);
    }
}

#[test]
fn a_deadline_condemns_no_record_and_those_before_it_are_done() {
    // More instructions than the deadline lets through: as a host that stalls looks from within.
    let engine = limited(|limits| {
        limits.batch_deadline = Duration::from_millis(300);
        limits.record_deadline = Duration::from_millis(300);
        limits.record_fuel = u64::MAX;
    });
    let batch =
        load(&engine, test_guest()).expect("it loads").run(&["a", "b", "loop", "c"].map(told), stamp());
    assert_eq!(words(&batch), ["row", "row"]);
    let unfinished = batch.unfinished.expect("the loop is left to a retry");
    assert_eq!(unfinished.from, 2);
    assert!(unfinished.reason.contains("deadline"), "{}", unfinished.reason);
}

#[test]
fn a_rerun_ends_with_its_budget_and_leaves_the_rest_to_a_retry() {
    let engine = limited(|limits| limits.rerun_budget = Duration::ZERO);
    let batch = load(&engine, test_guest()).expect("it loads").run(&["panic", "a"].map(told), stamp());
    let unfinished = batch.unfinished.expect("there was no time for the rest");
    assert!(unfinished.from <= 1 && unfinished.reason.contains("time for a rerun"), "{unfinished:?}");
}

#[test]
fn a_wrong_number_of_outcomes_rejects_the_record_that_causes_it() {
    for wrong in ["no outcome", "two outcomes"] {
        assert_eq!(words(&run(&["a", wrong, "b"])), ["row", "trap:wrong_outcome_count", "row"], "{wrong}");
    }
}

#[test]
fn what_is_no_answer_rejects_the_record_that_causes_it() {
    let cases = ["cut the answer", "say more", "unknown outcome", "long text", "no utf-8"];
    for wrong in cases {
        assert_eq!(words(&run(&["a", wrong, "b"])), ["row", "trap:malformed_answer", "row"], "{wrong}");
    }
    expect_test::expect![[r#"
        its answer can't be read: it ends in the middle of a cell
        its answer can't be read: 1 bytes follow the last outcome
        its answer can't be read: outcome 9 is unknown
        its answer can't be read: it ends in the middle of a text
        its answer can't be read: a text is not UTF-8
    "#]]
    .assert_eq(&messages(&run(&cases)));
}

#[test]
fn a_row_that_does_not_fit_its_table_is_rejected_with_the_column() {
    let batch = run(&["negative", "two values", "other table", "1001 rows", "a"]);
    assert_eq!(
        words(&batch),
        ["row:cell_does_not_fit", "row:wrong_column_count", "row:unknown_table", "row:too_many_rows", "row"]
    );
    expect_test::expect![[r#"
        column table_one.calls_made: -1 is outside UInt64 (and 64-bit numbers stay below 2^63)
        2 values for the 3 columns of table_one
        table 1 of 1
        1001 rows, at most 1000 are possible
    "#]]
    .assert_eq(&messages(&batch));
}

#[test]
fn a_version_that_would_overflow_rejects_the_event() {
    let mut event = told("a");
    event.aggregate_version = 1 << 39;
    let batch = module().run(&[event, told("b")], stamp());
    assert_eq!(words(&batch), ["row:aggregate_version", "row"]);
}

#[test]
fn a_record_becomes_no_more_bytes_than_its_limit() {
    let engine = limited(|limits| limits.record_bytes = 200_000);
    let batch = load(&engine, test_guest()).expect("it loads").run(&["900 rows", "a"].map(told), stamp());
    assert_eq!(words(&batch), ["row:rows_too_large", "row"]);
    assert!(messages(&batch).ends_with(" rows, at most 200000 are possible\n"), "{}", messages(&batch));
    assert_eq!(words(&run(&["900 rows"])), ["row"]);
}

#[test]
fn a_batch_whose_rows_have_no_room_is_done_in_several() {
    // Two rows have room, and of the first record all.
    let engine = limited(|limits| limits.batch_bytes = 1_000);
    for (guest, orders) in [
        (test_guest().to_vec(), ["a", "b", "c", "skip", "900 rows", "d", "reject"]),
        // Each in an instance of its own, after the trap.
        (test_guest().to_vec(), ["a", "b", "c", "panic", "900 rows", "d", "skip"]),
        (guest("typed-guest"), ["a", "b", "c", "skip", "e", "d", "reject"]),
    ] {
        let module = load(&engine, &guest).expect("it loads");
        let roomy = load(&limited(|_| {}), &guest).expect("it loads");
        let orders = orders.map(told);
        let mut outcomes = Vec::new();
        let mut batches = 0;
        while outcomes.len() < orders.len() {
            let batch = module.run(&orders[outcomes.len()..], stamp());
            batches += 1;
            let rows = batch.outcomes.iter().filter(|outcome| matches!(outcome, Outcome::Rows(_))).count();
            let bytes: usize = batch.outcomes.iter().map(Outcome::bytes).sum();
            assert!(bytes <= 1_000 || rows == 1, "{bytes} bytes in the rows of {rows} records");
            assert!(!batch.outcomes.is_empty(), "each batch gets on: {:?}", batch.unfinished);
            if let Some(unfinished) = &batch.unfinished {
                assert_eq!(unfinished.from, batch.outcomes.len());
            }
            outcomes.extend(batch.outcomes);
        }
        assert!(batches > 2, "{batches}");
        let whole = roomy.run(&orders, stamp());
        assert_eq!(words(&whole), words(&Batch { outcomes, unfinished: None }));
    }
}

#[test]
fn a_flood_of_log_lines_ends_at_the_batchs_limit_also_where_its_records_are_tried_alone() {
    for (orders, dropped) in [(&["flood the log"][..], 9_900), (&["flood the log", "panic"], 19_902)] {
        let lines = logged(|| drop(run(orders)));
        let said: Vec<_> = lines.iter().filter(|line| line.contains("transform says")).collect();
        assert_eq!(said.len(), 100, "{orders:?}");
        assert!(said.iter().all(|line| line.contains("line ") && line.len() < 1_024 + 200));
        let too_much: Vec<_> = lines.iter().filter(|line| line.contains("transform logs too much")).collect();
        assert_eq!(too_much.len(), 1);
        assert!(too_much[0].contains(&format!("dropped={dropped}")), "{}", too_much[0]);
    }
}

#[test]
fn a_flood_of_output_ends_at_its_limit() {
    let batch = run(&["flood the log", "ten megabytes", "a"]);
    assert_eq!(words(&batch), ["skip", "row:row_too_large", "row"]);
    // It doesn't fit into the module's memory, nor could it be handed over.
    assert_eq!(words(&run(&["a", "a hundred megabytes", "b"])), ["row", "trap:trap", "row"]);
    // Copying counts as instructions, a byte each.
    let engine = limited(|limits| (limits.memory_bytes, limits.record_fuel) = (256 << 20, 1 << 40));
    let roomy = load(&engine, test_guest()).expect("it loads");
    let batch = roomy.run(&["a", "a hundred megabytes", "b"].map(told), stamp());
    assert_eq!(words(&batch), ["row", "trap:trap", "row"]);
    let engine = limited(|limits| limits.output_bytes = 1 << 20);
    let long = "x".repeat(2 << 20);
    for (guest, order) in [
        (test_guest().to_vec(), "a long log line"),
        (test_guest().to_vec(), "ten megabytes"),
        (guest("typed-guest"), &long),
    ] {
        let batch = load(&engine, &guest).expect("it loads").run(&[order, "b"].map(told), stamp());
        assert_eq!(words(&batch), ["trap:trap", "row"]);
        assert!(messages(&batch).starts_with("too much data is being copied"), "{}", messages(&batch));
    }
}

#[test]
fn each_limit_is_a_setting() {
    let engine = limited(|limits| {
        limits.rows_per_record = 2_000;
        limits.row_bytes = 700;
        limits.memory_bytes = 4 << 20;
        limits.message_bytes = 20;
    });
    let module = load(&engine, test_guest()).expect("it loads");
    let long = "x".repeat(400);
    let batch = module.run(&["1001 rows", &long, "bomb", "a"].map(told), stamp());
    assert_eq!(
        words(&batch),
        ["row:wrong_column_count", "row:row_too_large", "trap:trap", "row"],
        "{}",
        messages(&batch)
    );
    assert!(messages(&batch).contains("forcing trap when gr\n"), "{}", messages(&batch));
}

/// Modules that were built against it are out there.
#[test]
fn a_released_interface_never_changes() {
    let text = include_bytes!("../../../transforms/wit/1.0.0/transform.wit");
    expect_test::expect!["b11ec276922c7cc4daa68bbcaba3239c9e1e9ff6a741e3d45188c689754b4c0b"]
        .assert_eq(Digest::of(text).as_str());
}

#[test]
fn a_module_of_version_1_0_still_runs() {
    let module = load(&engine(), &guest("typed-guest")).expect("it loads");
    let orders = ["a note", "", "skip", "reject", "panic", "no outcome", "float", "other table"];
    let batch = module.run(&orders.map(told), stamp());
    assert_eq!(
        words(&batch),
        [
            "row",
            "row",
            "skip",
            "module:told_to",
            "trap:trap",
            "trap:wrong_outcome_count",
            "row:cell_does_not_fit",
            "row:unknown_table"
        ]
    );
    let [Outcome::Rows(rows), ..] = &batch.outcomes[..] else { panic!("{batch:?}") };
    let json = String::from_utf8(rows[0].json.clone()).expect("JSON is UTF-8");
    let cells = json.split_once(",\"version\"").expect("the host's columns follow").0;
    expect_test::expect![[r#"{"note_id":"0192a7c1-0000-7000-8000-000000000001","note":"a note","amount":"-12.30","told_at":"1970-01-01 00:00:00.000","is_short":true,"length":6,"balance":-1,"raw":"00-1x""#]].assert_eq(cells);
}

#[test]
fn the_same_events_give_the_same_rows_in_another_process() {
    /// Set in the process that only prints.
    const PRINT: &str = "OUTFLOW_TEST_PRINT_ROWS";
    let events: Vec<String> = (0..200).map(|n| format!("note {n}")).chain(["panic".to_owned()]).collect();
    let events: Vec<_> = events.iter().map(|order| told(order)).collect();
    let rows = format!("{:?}", module().run(&events, stamp()));
    let digest = outflow_transform::Digest::of(rows.as_bytes());
    if std::env::var_os(PRINT).is_some() {
        println!("rows {digest}");
        return;
    }
    let program = std::env::current_exe().expect("this test has a program");
    let other = Command::new(program)
        .args(["--exact", "the_same_events_give_the_same_rows_in_another_process", "--nocapture"])
        .env(PRINT, "1")
        .output()
        .expect("it runs again");
    let said = String::from_utf8_lossy(&other.stdout).into_owned();
    assert!(said.contains(&format!("rows {digest}")), "{said}");
}

#[test]
fn a_module_gets_the_headers_that_it_names() {
    let batch = run(&["headers"]);
    let [Outcome::Rows(rows)] = &batch.outcomes[..] else { panic!("{batch:?}") };
    let row: serde_json::Value = serde_json::from_slice(&rows[0].json).expect("a JSON object");
    assert_eq!(row["xersion"], r#"[("traceparent", "00-1")]"#);
}

#[test]
fn a_canary_is_marked_by_the_host() {
    let mut canary = told("a");
    canary.is_canary = true;
    let batch = module().run(&[canary, told("a")], stamp());
    let marks: Vec<u64> = batch
        .outcomes
        .iter()
        .map(|outcome| {
            let Outcome::Rows(rows) = outcome else { panic!("{outcome:?}") };
            let row: serde_json::Value = serde_json::from_slice(&rows[0].json).expect("a JSON object");
            row["is_canary"].as_u64().expect("a number")
        })
        .collect();
    assert_eq!(marks, [1, 0]);
}

#[test]
fn instructions_are_counted_alike_each_time_and_rise_with_the_work() {
    let module = module();
    let count = |events: usize| module.instructions(&vec![told("a"); events], stamp()).expect("it ends");
    assert_eq!(count(10), count(10));
    assert!(count(20) > count(10));
    module.instructions(&[told("panic")], stamp()).expect_err("it traps");
}

#[test]
fn each_batch_has_a_fresh_instance() {
    let module = module();
    let first = module.run(&[told("a"), told("a")], stamp());
    assert_eq!(first, module.run(&[told("a"), told("a")], stamp()));
    let [Outcome::Rows(_), Outcome::Rows(second)] = &first.outcomes[..] else { panic!("{first:?}") };
    let second: serde_json::Value = serde_json::from_slice(&second[0].json).expect("a JSON object");
    assert_eq!(second["calls_made"], 1, "an instance remembers within a batch only");
}

#[test]
fn the_same_events_give_the_same_rows_in_another_engine() {
    let events: Vec<_> = ["a", "panic", "reject", "b"].into_iter().map(told).collect();
    assert_eq!(module().run(&events, stamp()), module().run(&events, stamp()));
}

#[test]
fn a_module_that_declares_a_host_column_is_refused() {
    let refused = load(&engine(), &patched("xersion", "version")).expect_err("refused");
    let LoadError::Schema(SchemaError::HostColumn { column, .. }) = refused else { panic!("{refused:?}") };
    assert_eq!(column, "version");
}

#[test]
fn a_module_with_an_unknown_type_or_a_bad_name_is_refused() {
    for (from, to) in
        [("UInt64", "Float6"), ("table_one", "table.one"), ("note_id", "Note id"), ("xersion", "note_id")]
    {
        let refused = load(&engine(), &patched(from, to)).expect_err("refused");
        assert!(matches!(refused, LoadError::Schema(_)), "{from} -> {to}: {refused:?}");
    }
}

#[test]
fn native_code_of_another_machine_is_refused() {
    let other = Target::LAMBDA.into_iter().find(|target| *target != Target::THIS).expect("there are two");
    let artifact = compile::compile(other, test_guest()).expect("it compiles");
    let refused = Module::load(&engine(), Digest::of(test_guest()), &artifact).expect_err("refused");
    assert!(matches!(refused, LoadError::Deserialize { .. }), "{refused:?}");
}

#[test]
fn a_module_that_does_not_come_to_say_what_it_is_is_refused() {
    let engine = limited(|limits| limits.batch_deadline = Duration::from_millis(300));
    for (how, reason) in [("describe for ever", "its deadline passed"), ("describe by panic", "unreachable")]
    {
        let refused = load(&engine, &patched("describe as usual", how)).expect_err("refused");
        let LoadError::Describe { reason: found } = refused else { panic!("{refused:?}") };
        assert!(found.contains(reason), "{how}: {found}");
    }
}

#[test]
fn a_component_with_an_unknown_import_is_refused() {
    // (component (import "x" (func)))
    let wasm = b"\0asm\x0d\0\x01\0\x07\x05\x01\x40\0\x01\0\x0a\x06\x01\0\x01x\x01\0";
    let refused = load(&engine(), wasm).expect_err("refused");
    assert!(matches!(refused, LoadError::Imports { .. }), "{refused:?}");
}

#[test]
fn a_component_without_the_exports_is_refused() {
    // (component)
    let refused = load(&engine(), b"\0asm\x0d\0\x01\0").expect_err("refused");
    assert!(matches!(refused, LoadError::Exports { .. }), "{refused:?}");
}
