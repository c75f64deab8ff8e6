//! Cells: what fits comes out as ClickHouse's bytes, what doesn't is refused with its reason. That ClickHouse reads these
//! bytes back as the same values is told in tests/integration/loader/.

use crate::{RowEncoder, RowError, table::tests::table};
use outflow_telemetry::chain;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::sync::Arc;

/// The cell's bytes in a column of this type.
fn encode(declared: &str, value: &Value) -> Result<Vec<u8>, RowError> {
    encode_in(("c", declared), "", value)
}

fn encode_in(
    (name, declared): (&str, &str),
    partition_key: &str,
    value: &Value,
) -> Result<Vec<u8>, RowError> {
    let table = table(&[(name, declared, "")], partition_key).expect("a supported type");
    let row = json!({ name: value }).to_string();
    RowEncoder::new(Arc::new(table)).encode(row.as_bytes()).map(|row| row.bytes.into())
}

#[test]
fn what_fits_becomes_clickhouses_bytes() {
    for (declared, value, bytes) in [
        ("String", json!("ü\"\n"), &b"\x04\xc3\xbc\"\n"[..]),
        ("LowCardinality(String)", json!(""), b"\x00"),
        ("LowCardinality(Nullable(String))", json!("a"), b"\x00\x01a"),
        ("LowCardinality(Nullable(String))", json!(null), b"\x01"),
        ("Bool", json!(true), b"\x01"),
        ("Nullable(Bool)", json!(false), b"\x00\x00"),
        ("Int8", json!(-128), b"\x80"),
        ("UInt8", json!(255), b"\xff"),
        ("Int16", json!(-2), b"\xfe\xff"),
        ("UInt32", json!(4_294_967_295_u32), b"\xff\xff\xff\xff"),
        ("Int64", json!(i64::MIN), b"\x00\x00\x00\x00\x00\x00\x00\x80"),
        ("UInt64", json!(i64::MAX), b"\xff\xff\xff\xff\xff\xff\xff\x7f"),
        ("Nullable(UInt16)", json!(1), b"\x00\x01\x00"),
        ("Decimal(9, 2)", json!("-0.01"), b"\xff\xff\xff\xff"),
        ("Decimal(18, 2)", json!("59.97"), b"\x6d\x17\x00\x00\x00\x00\x00\x00"),
        ("Decimal(18, 2)", json!("0059.9700"), b"\x6d\x17\x00\x00\x00\x00\x00\x00"),
        ("Decimal(10, 0)", json!("-0"), b"\x00\x00\x00\x00\x00\x00\x00\x00"),
        ("Decimal(4, 4)", json!("0.5"), b"\x88\x13\x00\x00"),
        ("DateTime64(0, 'UTC')", json!("1970-01-01 00:00:01"), b"\x01\x00\x00\x00\x00\x00\x00\x00"),
        ("DateTime64(3, 'UTC')", json!("1969-12-31 23:59:59.999"), b"\xff\xff\xff\xff\xff\xff\xff\xff"),
        (
            "UUID",
            json!("00112233-4455-6677-8899-AABBCCDDEEFF"),
            b"\x77\x66\x55\x44\x33\x22\x11\x00\xff\xee\xdd\xcc\xbb\xaa\x99\x88",
        ),
    ] {
        assert_eq!(encode(declared, &value).expect(declared), bytes, "{declared} {value}");
    }
    let all = "9".repeat(38);
    let widest = encode("Decimal(38, 0)", &json!(all)).expect("38 digits fit");
    assert_eq!(widest, (10_i128.pow(38) - 1).to_le_bytes());
    let long = encode("String", &json!("x".repeat(300))).expect("any length fits");
    assert_eq!((&long[..2], long.len()), (&b"\xac\x02"[..], 302));
}

#[test]
fn what_does_not_fit_is_refused_with_its_reason() {
    for (declared, value, code, reason) in [
        ("String", json!(5), "cell_kind", "a number where String is wanted"),
        ("String", json!(null), "cell_kind", "null in a column that isn't Nullable"),
        ("String", json!(["a"]), "cell_kind", "an array where String is wanted"),
        ("String", json!({"a": 1}), "cell_kind", "an object where String is wanted"),
        ("Bool", json!(1), "cell_kind", "a number where Bool is wanted"),
        ("Bool", json!("true"), "cell_kind", "a string where Bool is wanted"),
        ("UInt8", json!(true), "cell_kind", "true or false where UInt8 is wanted"),
        ("UInt8", json!("5"), "cell_kind", "a string where UInt8 is wanted"),
        ("UInt8", json!(256), "cell_range", "256 is out of range: 0 to 255"),
        ("UInt8", json!(-1), "cell_range", "-1 is out of range: 0 to 255"),
        ("Int8", json!(128), "cell_range", "128 is out of range: -128 to 127"),
        ("UInt64", json!(u64::MAX), "cell_range", "0 to 9223372036854775807"),
        ("Int32", json!(1.0), "cell_kind", "a number with a fraction, or beyond 64 bits"),
        ("Decimal(18, 2)", json!(59.97), "cell_kind", "a number with a fraction, or beyond 64 bits"),
        ("Decimal(18, 2)", json!(59), "cell_kind", "a number where Decimal(18, 2) is wanted"),
        ("Decimal(18, 2)", json!("1.005"), "cell_form", "more digits after the point"),
        ("Decimal(4, 2)", json!("100"), "cell_form", "too many digits before the point"),
        ("Decimal(18, 2)", json!("5."), "cell_form", "no digit after the point"),
        ("Decimal(18, 2)", json!("１"), "cell_form", "digits with at most one point"),
        ("UUID", json!("0192a7c1"), "cell_form", "36 characters"),
        ("UUID", json!("urn:uuid:00112233-4455-6677-8899-aabbccddeeff"), "cell_form", "36 characters"),
        ("UUID", json!("00112233-4455-6677-8899-aabbccddeexx"), "cell_form", "36 characters"),
        ("DateTime64(3, 'UTC')", json!(1_767_323_045_678_u64), "cell_kind", "a number where DateTime64"),
        ("DateTime64(3, 'UTC')", json!("2026-01-02T03:04:05.678Z"), "cell_form", "written in UTC"),
        ("DateTime64(3, 'UTC')", json!("2026-02-30 03:04:05.678"), "cell_form", "written in UTC"),
        ("DateTime64(3, 'UTC')", json!("1899-12-31 23:59:59.999"), "cell_range", "from 1900 up to 2300"),
        ("DateTime64(3, 'UTC')", json!("2300-01-01 00:00:00.000"), "cell_range", "from 1900 up to 2300"),
    ] {
        let error = encode(declared, &value).expect_err("it does not fit");
        assert_eq!(error.code(), code, "{declared} {value}");
        let text = chain(&error);
        assert!(text.starts_with("t.c does not fit: ") && text.contains(reason), "{text}");
    }
    for text in ["", "-", ".5", "1e3", "1,5", "1_000", "+1", "--1", "NaN", " 1", "1.2.3"] {
        let error = encode("Decimal(18, 2)", &json!(text)).expect_err(text);
        assert_eq!(error.code(), "cell_form", "{text}");
    }
    let error = encode("UInt64", &serde_json::from_str("18446744073709551616").expect("a JSON number"));
    assert!(chain(&error.expect_err("beyond 64 bits")).contains("beyond 64 bits"));
}

#[test]
fn the_hosts_flags_are_0_or_1() {
    for flag in ["is_deleted", "is_canary"] {
        assert_eq!(encode_in((flag, "UInt8"), "", &json!(1)).expect("a flag"), b"\x01");
        let error = encode_in((flag, "UInt8"), "", &json!(2)).expect_err("no flag");
        assert!(chain(&error).contains("2 is out of range: 0 to 1"), "{error}");
    }
}

#[test]
fn a_time_that_partitions_the_table_stays_where_quarters_of_an_hour_can_be_told() {
    let at = |text: &str| encode_in(("at", "DateTime64(3, 'UTC')"), "toYYYYMM(at)", &json!(text));
    assert!(at("2000-01-01 00:00:00.000").is_ok() && at("2099-12-31 23:59:59.999").is_ok());
    for outside in ["1999-12-31 23:59:59.999", "2100-01-01 00:00:00.000"] {
        let error = at(outside).expect_err(outside);
        assert_eq!(error.code(), "cell_range");
        assert!(chain(&error).contains("from 2000 up to 2100"), "{error}");
    }
}

proptest! {
    #[test]
    fn a_decimal_is_its_digits(number in -(10_i128.pow(38) - 1)..10_i128.pow(38), scale in 0_usize..=38) {
        let sign = if number < 0 { "-" } else { "" };
        let digits = format!("{:0width$}", number.unsigned_abs(), width = scale + 1);
        let (whole, fraction) = digits.split_at(digits.len() - scale);
        let text = if scale == 0 { format!("{sign}{whole}") } else { format!("{sign}{whole}.{fraction}") };
        let bytes = encode(&format!("Decimal(38, {scale})"), &json!(text)).expect("38 digits fit");
        prop_assert_eq!(bytes, number.to_le_bytes());
    }

    /// Whatever a record holds, it is a row or a named fault, and never a panic.
    #[test]
    fn any_text_is_a_cell_or_a_fault(text in "\\PC*", declared in prop::sample::select(vec![
        "String", "UUID", "Decimal(18, 2)", "Decimal(38, 38)", "DateTime64(3, 'UTC')", "DateTime64(0, 'UTC')",
    ])) {
        let result = encode(declared, &json!(text));
        prop_assert_eq!(result.is_ok() || declared != "String", true);
    }
}
