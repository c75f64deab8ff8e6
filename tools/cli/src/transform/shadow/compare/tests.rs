//! The comparison without modules: rows as the host writes them.

use super::{
    CODE_BYTES, CellExample, ColumnRows, Comparison, Differences, EXAMPLES, KINDS, Made, Place, Records,
    Rejected, RowsExample, Sides, TableRows, Types, VALUE_CHARS,
};
use outflow_transform::{Event, Rejection, Row, Stage};
use proptest::prelude::*;
use serde_json::Value;
use std::sync::Arc;

fn of(columns: &[(&str, &str)]) -> Types {
    let column = |&(name, column_type): &(&str, &str)| {
        ((Arc::from("t"), name.to_owned()), column_type.parse().expect("a type"))
    };
    columns.iter().map(column).collect()
}

/// Of two sides whose columns have these types.
fn comparison(active: &[(&str, &str)], candidate: &[(&str, &str)]) -> Comparison {
    Comparison::new(Sides { active: of(active), candidate: of(candidate) }, true)
}

fn event(offset: i64) -> Event<'static> {
    Event { id: "e-1", topic: "order.events", partition: 2, offset, ..Event::default() }
}

/// Rows of these cells, as a module of this digest would give them.
fn rows(digest: &str, rows: &[&str]) -> Made {
    let row = |cells: &&str| {
        let (table, cells) = cells.split_once(' ').expect("a table and its cells");
        let json = format!(r#"{{{cells},"version":16777217,"transform_digest":"{digest}","is_canary":0}}"#);
        Row { table: Arc::from(table), json: json.into_bytes() }
    };
    Made { rows: rows.iter().map(row).collect(), rejections: Vec::new() }
}

fn active(cells: &[&str]) -> Made {
    rows("aa", cells)
}

fn candidate(cells: &[&str]) -> Made {
    rows("bb", cells)
}

fn rejected(stage: Stage, code: &str) -> Made {
    let rejection = Rejection { stage, code: code.to_owned(), message: format!("it is {code}") };
    Made { rows: Vec::new(), rejections: vec![rejection] }
}

/// `column: rows` of each that differs.
fn columns(differences: &Differences) -> Vec<String> {
    differences.columns.iter().map(|column| format!("{}: {}", column.column, column.rows)).collect()
}

/// The columns in which two cells differ, of one type on each side.
fn check(types: (&str, &str), was: &str, is: &str) -> bool {
    let mut comparison = comparison(&[("c", types.0)], &[("c", types.1)]);
    let row = |cell: &str| format!(r#"t "c":{cell}"#);
    comparison.take(&event(1), &active(&[&row(was)]), &candidate(&[&row(is)]));
    let found = comparison.differences();
    assert_eq!(found.columns.is_empty(), found.records.different == 0);
    assert_eq!(found.records.compared, 1);
    found.records.different == 1
}

#[test]
fn cells_are_compared_by_what_they_say() {
    for (types, was, is) in [
        (("Decimal(18, 2)", "Decimal(18, 4)"), r#""39.90""#, r#""39.9000""#),
        (("Decimal(18, 2)", "Decimal(18, 2)"), r#""-0.00""#, r#""0""#),
        (("UInt32", "Decimal(18, 2)"), "5", r#""5.00""#),
        (("Int8", "Int64"), "-7", "-7"),
        (
            ("DateTime64(3, 'UTC')", "DateTime64(6, 'UTC')"),
            r#""2026-01-02 03:04:05.120""#,
            r#""2026-01-02 03:04:05.120000""#,
        ),
        (
            ("DateTime64(0, 'UTC')", "DateTime64(3, 'UTC')"),
            r#""2026-01-02 03:04:10""#,
            r#""2026-01-02 03:04:10.000""#,
        ),
        (
            ("UUID", "UUID"),
            r#""0192A7C1-0000-7000-8000-000000000001""#,
            r#""0192a7c1-0000-7000-8000-000000000001""#,
        ),
        (("String", "LowCardinality(String)"), r#""ü\n""#, r#""\u00fc\n""#),
        (("Nullable(String)", "String"), "null", "null"),
        (("Bool", "Bool"), "true", "true"),
    ] {
        assert!(!check(types, was, is), "{types:?} {was} {is}");
    }
    for (types, was, is) in [
        (("Decimal(18, 2)", "Decimal(18, 2)"), r#""39.90""#, r#""39.09""#),
        (("UInt32", "UInt32"), "5", "50"),
        (("Int32", "Int32"), "-5", "5"),
        (
            ("DateTime64(3, 'UTC')", "DateTime64(3, 'UTC')"),
            r#""2026-01-02 03:04:05.120""#,
            r#""2026-01-02 03:04:05.012""#,
        ),
        (("String", "String"), r#""5""#, r#""5.0""#),
        (("String", "UInt32"), r#""5""#, "5"),
        (("String", "Nullable(String)"), r#""""#, "null"),
        (("String", "Nullable(String)"), r#""null""#, "null"),
        (("Bool", "Bool"), "true", "false"),
    ] {
        assert!(check(types, was, is), "{types:?} {was} {is}");
    }
}

#[test]
fn rows_are_paired_by_table_and_order_and_each_difference_has_its_place() {
    let types = [("a", "UInt32"), ("b", "String")];
    let mut comparison = comparison(&types, &types);
    comparison.take(
        &event(7),
        &active(&[r#"t "a":1,"b":"x""#, r#"u "a":1"#, r#"t "a":2,"b":"y""#]),
        &candidate(&[r#"t "a":1,"b":"z""#, r#"t "a":2,"b":"y""#, r#"t "a":3,"b":"""#]),
    );
    comparison.take(&event(8), &active(&[r#"t "a":1,"b":"x""#]), &candidate(&[r#"t "a":1,"b":"x""#]));

    let found = comparison.differences();

    assert_eq!(found.records, Records { compared: 2, same: 1, different: 1 });
    let place = Place { event_id: "e-1".to_owned(), record: "order.events/2/7".to_owned() };
    let rows = |active, candidate| vec![RowsExample { place: place.clone(), active, candidate }];
    let expected = [
        TableRows {
            table: "t".to_owned(),
            active: 3,
            candidate: 4,
            same: 2,
            changed: 1,
            added: 1,
            removed: 0,
            examples: rows(2, 3),
        },
        TableRows {
            table: "u".to_owned(),
            active: 1,
            removed: 1,
            examples: rows(1, 0),
            ..TableRows::default()
        },
    ];
    assert_eq!(found.tables, expected);
    let examples = vec![CellExample { place, active: Some("x".into()), candidate: Some("z".into()) }];
    let column = ColumnRows { table: "t".to_owned(), column: "b".to_owned(), rows: 1, examples };
    assert_eq!(found.columns, [column]);
    assert!(found.outcomes.is_empty());
}

#[test]
fn a_column_that_one_side_lacks_differs_in_each_row() {
    let mut comparison = comparison(&[("a", "UInt32")], &[("a", "UInt32"), ("n", "Nullable(String)")]);
    comparison.take(&event(1), &active(&[r#"t "a":1"#]), &candidate(&[r#"t "a":1,"n":null"#]));
    let found = comparison.differences();
    assert_eq!(columns(&found), ["n: 1"]);
    let example = serde_json::to_value(&found.columns[0].examples[0]).expect("plain data");
    let expected = serde_json::json!({"event_id": "e-1", "record": "order.events/2/1", "candidate": null});
    assert_eq!(example, expected, "what it lacks is absent, not null");
}

#[test]
fn an_outcome_of_another_kind_is_told_with_both() {
    let mut comparison = comparison(&[("a", "UInt32")], &[("a", "UInt32")]);
    let row = [r#"t "a":1"#];
    let no_total = || rejected(Stage::Module, "no_total");
    comparison.take(&event(1), &active(&row), &rejected(Stage::Trap, "out_of_fuel"));
    comparison.take(&event(2), &active(&row), &rejected(Stage::Trap, "out_of_fuel"));
    comparison.take(&event(3), &no_total(), &candidate(&row));
    comparison.take(&event(4), &Made::default(), &no_total());
    comparison.take(&event(5), &no_total(), &no_total());
    comparison.take(&event(6), &no_total(), &rejected(Stage::Row, "no_total"));
    comparison.take(&event(7), &Made::default(), &Made::default());

    let found = comparison.differences();

    let told: Vec<_> = found
        .outcomes
        .iter()
        .map(|turned| format!("{} → {}: {}", turned.active, turned.candidate, turned.records))
        .collect();
    let expected = [
        "rows → reject trap out_of_fuel: 2",
        "reject module no_total → reject row no_total: 1",
        "reject module no_total → rows: 1",
        "skip → reject module no_total: 1",
    ];
    assert_eq!(told, expected);
    let first = &found.outcomes[0].examples[0];
    assert_eq!(
        (first.active.as_deref(), first.candidate.as_deref()),
        (Some("1 row"), Some("it is out_of_fuel"))
    );
    assert_eq!(found.records, Records { compared: 7, same: 2, different: 5 });
    let counts = |rejects: &[Rejected]| -> Vec<String> {
        rejects.iter().map(|r| format!("{} {}: {}", r.stage, r.code, r.records)).collect()
    };
    assert_eq!(counts(&found.rejects.active), ["module no_total: 3"]);
    assert_eq!(
        counts(&found.rejects.candidate),
        ["module no_total: 2", "trap out_of_fuel: 2", "row no_total: 1"]
    );
}

#[test]
fn what_several_active_modules_made_of_a_record_counts_as_one_outcome() {
    let both = |mut first: Made, second: Made| {
        first.rows.extend(second.rows);
        first.rejections.extend(second.rejections);
        first
    };
    let (of_t, of_u) = (r#"t "a":1"#, r#"u "a":1"#);
    let rows = || candidate(&[of_t, of_u]);
    let no_total = || rejected(Stage::Module, "no_total");
    let trapped = |code| rejected(Stage::Trap, code);
    let mut comparison = comparison(&[("a", "UInt32")], &[("a", "UInt32")]);
    comparison.take(&event(1), &both(active(&[of_t]), active(&[of_u])), &rows());
    comparison.take(&event(2), &both(active(&[of_t]), Made::default()), &rows());
    comparison.take(&event(3), &both(active(&[of_t]), no_total()), &rows());
    comparison.take(&event(4), &both(active(&[of_t]), no_total()), &no_total());
    comparison.take(&event(5), &both(no_total(), no_total()), &no_total());
    comparison.take(&event(6), &both(trapped("trap"), trapped("out_of_fuel")), &trapped("trap"));

    let found = comparison.differences();

    let told: Vec<_> = found
        .outcomes
        .iter()
        .map(|turned| format!("{} → {}: {}", turned.active, turned.candidate, turned.records))
        .collect();
    let expected = [
        "reject trap out_of_fuel, reject trap trap → reject trap trap: 1",
        "rows, reject module no_total → reject module no_total: 1",
        "rows, reject module no_total → rows: 1",
    ];
    assert_eq!(told, expected);
    assert_eq!(found.outcomes[2].examples[0].active.as_deref(), Some("1 row; it is no_total"));
    let rows: Vec<_> = found.tables.iter().map(|table| (table.same, table.added, table.removed)).collect();
    assert_eq!(rows, [(3, 0, 1), (1, 2, 0)]);
    assert_eq!(found.records, Records { compared: 6, same: 2, different: 4 });
    // A record counts once on each side, however many modules reject it alike.
    let no_total = |rejects: &[Rejected]| rejects.iter().find(|r| r.code == "no_total").map(|r| r.records);
    assert_eq!((no_total(&found.rejects.active), no_total(&found.rejects.candidate)), (Some(3), Some(2)));
    assert_eq!(found.traps, Sides { active: 1, candidate: 1 });
}

#[test]
fn values_are_left_out_on_demand_and_long_ones_cut() {
    let types = || of(&[("c", "String")]);
    let row = |value: &str| format!(r#"t "c":"{value}""#);
    for with_values in [true, false] {
        let sides = Sides { active: types(), candidate: types() };
        let mut comparison = Comparison::new(sides, with_values);
        comparison.take(&event(1), &active(&[&row("short")]), &candidate(&[&row(&"é".repeat(500))]));
        comparison.take(&event(2), &active(&[&row("short")]), &rejected(Stage::Module, "bad"));
        let found = comparison.differences();
        let [cell, turned] = [0, 1].map(|at| match at {
            0 => serde_json::to_value(&found.columns[0].examples[0]).expect("plain data"),
            _ => serde_json::to_value(&found.outcomes[0].examples[0]).expect("plain data"),
        });
        assert_eq!(cell["record"], "order.events/2/1");
        assert_eq!(turned["record"], "order.events/2/2");
        let expected = with_values.then(|| format!("{}…", "é".repeat(VALUE_CHARS)));
        assert_eq!(cell.get("candidate").and_then(Value::as_str), expected.as_deref());
        assert_eq!(turned.get("candidate").is_some(), with_values);
    }
}

#[test]
fn what_is_kept_does_not_grow_with_the_records() {
    let mut comparison = comparison(&[("a", "UInt32")], &[("a", "UInt32")]);
    for record in 0..1_000 {
        let code = format!("code {record} {}", "x".repeat(1_000));
        comparison.take(&event(record), &active(&[r#"t "a":1"#]), &rejected(Stage::Module, &code));
        comparison.take(&event(record), &active(&[r#"t "a":1"#]), &candidate(&[r#"t "a":2"#]));
    }
    let found = comparison.differences();
    assert_eq!((found.outcomes.len(), found.rejects.candidate.len()), (KINDS + 1, KINDS + 1));
    assert_eq!(found.outcomes.iter().map(|turned| turned.records).sum::<u64>(), 1_000);
    assert_eq!(found.rejects.candidate.iter().map(|rejected| rejected.records).sum::<u64>(), 1_000);
    assert!(found.rejects.candidate.iter().all(|rejected| rejected.code.len() <= CODE_BYTES));
    assert_eq!((found.columns[0].rows, found.columns[0].examples.len()), (1_000, EXAMPLES));
    assert_eq!((found.tables[0].removed, found.tables[0].examples.len()), (1_000, EXAMPLES));
}

/// Rows of a record on one side: a table and a cell each.
type Cells = Vec<(bool, u8)>;

fn some_rows() -> impl Strategy<Value = Cells> {
    prop::collection::vec((any::<bool>(), 0_u8..3), 0..5)
}

fn made(rows_of: &[(bool, u8)], digest: &str) -> Made {
    let row = |(first, cell): &(bool, u8)| format!(r#"{} "c":{cell}"#, if *first { "t" } else { "u" });
    let told: Vec<String> = rows_of.iter().map(row).collect();
    rows(digest, &told.iter().map(String::as_str).collect::<Vec<_>>())
}

proptest! {
    #[test]
    fn counts_add_up_whatever_the_rows(records in prop::collection::vec((some_rows(), some_rows()), 0..20)) {
        let types = [("c", "UInt8")];
        let mut comparison = comparison(&types, &types);
        for (offset, (was, is)) in (0..).zip(&records) {
            comparison.take(&event(offset), &made(was, "aa"), &made(is, "bb"));
        }
        let found = comparison.differences();
        prop_assert_eq!(found.records.compared, records.len() as u64);
        prop_assert_eq!(found.records.same + found.records.different, found.records.compared);
        for table in &found.tables {
            prop_assert_eq!(table.same + table.changed + table.removed, table.active);
            prop_assert_eq!(table.same + table.changed + table.added, table.candidate);
        }
        let total = |of: fn(&TableRows) -> u64| found.tables.iter().map(of).sum::<u64>();
        let given = |of: fn(&(Cells, Cells)) -> usize| records.iter().map(of).sum::<usize>() as u64;
        prop_assert_eq!(total(|table| table.active), given(|record| record.0.len()));
        prop_assert_eq!(total(|table| table.candidate), given(|record| record.1.len()));
        // Both sides' tables apart, a record is the same where its rows are, in their order.
        let of = |rows: &[(bool, u8)], first| -> Vec<u8> {
            rows.iter().filter(|row| row.0 == first).map(|row| row.1).collect()
        };
        let same = |record: &&(Cells, Cells)| {
            [true, false].into_iter().all(|first| of(&record.0, first) == of(&record.1, first))
        };
        prop_assert_eq!(found.records.same, records.iter().filter(same).count() as u64);
    }

    #[test]
    fn zeros_that_say_nothing_change_no_number(whole in 0_u32..1_000, fraction in 0_u32..100, zeros in 0_usize..6) {
        let short = format!("\"{whole}.{fraction:02}\"");
        let long = format!("\"{whole}.{fraction:02}{}\"", "0".repeat(zeros));
        let types = ("Decimal(38, 2)", "Decimal(38, 10)");
        prop_assert!(!check(types, &short, &long));
        let longer = format!("\"{whole}.{fraction:02}{}1\"", "0".repeat(zeros));
        prop_assert!(check(types, &short, &longer));
    }
}
