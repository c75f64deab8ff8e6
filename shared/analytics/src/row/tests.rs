//! Rows: in any order of fields, with and without what the table fills in; each fault with its field.

use super::*;
use crate::table::tests::table;
use expect_test::{Expect, expect};
use outflow_telemetry::chain;
use proptest::prelude::*;

/// As orders_analytics is, in short; `note` was added later.
const COLUMNS: [(&str, &str, &str); 6] = [
    ("id", "UInt32", ""),
    ("at", "DateTime64(3, 'UTC')", ""),
    ("version", "UInt64", ""),
    ("is_canary", "UInt8", "DEFAULT"),
    ("loaded_at", "DateTime64(3, 'UTC')", "DEFAULT"),
    ("note", "Nullable(String)", "DEFAULT"),
];

fn encoder() -> RowEncoder {
    RowEncoder::new(Arc::new(table(&COLUMNS, "toYYYYMM(at)").expect("all types are carried")))
}

fn check(row: &str, code: &str, expected: Expect) {
    let error = encoder().encode(row.as_bytes()).expect_err("the row is wrong");
    assert_eq!(error.code(), code, "{row}");
    expected.assert_eq(&chain(&error));
}

#[test]
fn the_order_of_fields_says_nothing() {
    let mut encoder = encoder();
    let rows = [
        r#"{"id": 7, "at": "2026-01-31 23:59:59.999", "version": 1, "is_canary": 0, "note": "x"}"#,
        r#"{"note": "x", "is_canary": 0, "version": 1, "at": "2026-01-31 23:59:59.999", "id": 7}"#,
        r#" { "at" : "2026-01-31 23:59:59.999", "id": 7, "version": 1, "\u006eote": "\u0078", "is_canary": 0 } "#,
    ]
    .map(|row| encoder.encode(row.as_bytes()).expect("the row fits"));

    assert!(rows.iter().all(|row| row.bytes == rows[0].bytes && Arc::ptr_eq(&row.layout, &rows[0].layout)));
    assert_eq!(rows[0].bytes.len(), 4 + 8 + 8 + 1 + 3);
    assert_eq!(rows[0].month, 2026 * 12 + 1);
}

#[test]
fn what_the_table_fills_in_may_be_missing() {
    let mut encoder = encoder();
    let mut encode = |rest: &str| {
        let row = format!(r#"{{"id": 7, "at": "2026-01-31 00:00:00.000", "version": 1{rest}}}"#);
        encoder.encode(row.as_bytes()).expect("the row fits")
    };
    let (bare, canary, null) = (encode(""), encode(r#", "is_canary": 1"#), encode(r#", "note": null"#));

    let names = |row: &EncodedRow| row.layout.columns().map(|c| c.name.clone()).collect::<Vec<_>>().join(" ");
    assert_eq!(names(&bare), "id at version");
    assert_eq!(names(&canary), "id at version is_canary");
    assert_eq!(names(&null), "id at version note");
    assert_eq!(bare.bytes.len(), 20);
    assert_eq!(null.bytes.last(), Some(&1), "null is said, not left out");
    assert_eq!(
        bare.layout.header(),
        b"\x03\x02id\x02at\x07version\x06UInt32\x14DateTime64(3, 'UTC')\x06UInt64"
    );
}

#[test]
fn each_fault_is_told_with_its_field() {
    check("", "empty", expect!["the record has no value"]);
    check(
        r#"{"id": 7, "at": "2026-01-31 00:00:00.000"}"#,
        "missing_column",
        expect!["t.version is missing, and the table has no default for it"],
    );
    check(
        r#"{"id": 7, "colour": "red"}"#,
        "unknown_column",
        expect!["t.colour is not for a row to fill: the table has none of this name"],
    );
    check(
        r#"{"loaded_at": "2026-01-31 00:00:00.000"}"#,
        "unknown_column",
        expect!["t.loaded_at is not for a row to fill: clickhouse stamps it"],
    );
    check(r#"{"id": 7, "id": 7}"#, "row_json", expect!["t.id is in the row twice"]);
    check(r#"{"id": "7"}"#, "cell_kind", expect!["t.id does not fit: a string where UInt32 is wanted"]);
    check(
        r#"{"id": 7, "version": 18446744073709551615}"#,
        "cell_range",
        expect!["t.version does not fit: 18446744073709551615 is out of range: 0 to 9223372036854775807"],
    );
    check(
        r#"{"at": "1999-12-31 23:59:59.999"}"#,
        "cell_range",
        expect!["t.at does not fit: 1999-12-31 23:59:59.999 is out of range: from 2000 up to 2100"],
    );
}

#[test]
fn what_is_not_one_json_object_is_refused() {
    check(
        "[]",
        "row_json",
        expect![
            "not a row of t, at the beginning: invalid type: sequence, expected an object of columns at line 1 column 0"
        ],
    );
    check(
        r#"{"id": 7, "at""#,
        "row_json",
        expect!["not a row of t, at at: EOF while parsing an object at line 1 column 14"],
    );
    for text in ["null", "{", "not json", "{\"id\": \"\u{0}\"}", "{\"id\": 1e400}"] {
        assert!(encoder().encode(text.as_bytes()).is_err(), "{text}");
    }
    let row = r#"{"id": 7, "at": "2026-01-31 00:00:00.000", "version": 1}"#;
    assert!(encoder().encode(row.as_bytes()).is_ok());
    check(
        &format!("{row}{row}"),
        "row_json",
        expect!["not a row of t, at version: trailing characters at line 1 column 57"],
    );
    assert!(encoder().encode(b"{\"id\": 7, \"note\": \"\xff\"}").is_err(), "text is UTF-8");
}

#[test]
fn a_fault_leaves_nothing_to_the_next_row() {
    let mut encoder = encoder();
    let good = br#"{"id": 7, "at": "2026-01-31 00:00:00.000", "version": 1}"#;
    let first = encoder.encode(good).expect("the row fits");
    for bad in [&br#"{"is_canary": 1, "id": 8, "at": "x"}"#[..], b"{\"note\": \"y\", ", b"7"] {
        encoder.encode(bad).expect_err("the row is wrong");
        let again = encoder.encode(good).expect("the row fits");
        assert_eq!(again.bytes, first.bytes);
    }
}

proptest! {
    #[test]
    fn any_bytes_are_a_row_or_a_fault(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = encoder().encode(&bytes);
    }
}
