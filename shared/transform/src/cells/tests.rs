//! Cells: what fits comes out unchanged, what doesn't is refused with its reason.

use super::*;
use proptest::prelude::*;

fn check(declared: &str, value: Cell<'_>) -> Result<String, CellError> {
    let mut out = Vec::new();
    let column: ColumnType = declared.parse().expect("a supported type");
    column.write(value, &mut out).map(|()| String::from_utf8(out).expect("JSON is UTF-8"))
}

fn text(text: &str) -> Cell<'_> {
    Cell::Text(text)
}

fn decimal(text: &str) -> Cell<'_> {
    Cell::Decimal(text)
}

#[test]
fn what_fits_is_written() {
    for (declared, value, json) in [
        ("String", text("a \"b\"\n"), r#""a \"b\"\n""#),
        ("String", Cell::Bytes("ü".as_bytes()), "\"ü\""),
        ("Bool", Cell::Boolean(true), "true"),
        ("Int8", Cell::Int(-128), "-128"),
        ("UInt8", Cell::Int(255), "255"),
        ("UInt64", Cell::Uint(i64::MAX as u64), "9223372036854775807"),
        ("Nullable(UInt8)", Cell::Null, "null"),
        ("Decimal(18, 2)", decimal("-0059.9700"), "\"-59.97\""),
        ("Decimal(18, 2)", decimal("0.50"), "\"0.50\""),
        ("Decimal(4, 4)", decimal("0.1234"), "\"0.1234\""),
        ("Decimal(18, 2)", decimal("1.0000"), "\"1.00\""),
        ("Decimal(18, 2)", Cell::Scaled(10_000, 4), "\"1.00\""),
        ("Decimal(18, 2)", Cell::Scaled(-599_700, 4), "\"-59.97\""),
        ("Decimal(18, 2)", Cell::Scaled(50, 2), "\"0.50\""),
        ("Decimal(18, 2)", Cell::Scaled(-5, 1), "\"-0.5\""),
        ("Decimal(18, 2)", Cell::Scaled(7, 0), "\"7\""),
        ("Decimal(4, 4)", Cell::Scaled(12, 4), "\"0.0012\""),
        (
            "Decimal(38, 0)",
            Cell::Scaled(10_i128.pow(38) - 1, 0),
            "\"99999999999999999999999999999999999999\"",
        ),
        ("DateTime64(3, 'UTC')", Cell::TimestampUs(1_767_323_045_678_000), "\"2026-01-02 03:04:05.678\""),
        ("DateTime64(0, 'UTC')", Cell::TimestampUs(0), "\"1970-01-01 00:00:00\""),
        ("DateTime64(6, 'UTC')", Cell::TimestampUs(-1), "\"1969-12-31 23:59:59.999999\""),
    ] {
        assert_eq!(check(declared, value).as_deref(), Ok(json), "{declared}");
    }
}

#[test]
fn what_does_not_fit_is_refused_with_its_reason() {
    let reasons: Vec<String> = [
        ("String", Cell::Null),
        ("String", Cell::Bytes(&[0xff])),
        ("String", Cell::Uint(1)),
        ("UUID", text("0192a7c1")),
        ("Bool", Cell::Uint(1)),
        ("UInt8", Cell::Int(-1)),
        ("UInt8", Cell::Uint(256)),
        ("Int8", Cell::Int(-129)),
        ("UInt64", Cell::Uint(1 << 63)),
        ("Decimal(18, 2)", Cell::Float),
        ("Decimal(18, 2)", decimal("1.001")),
        ("Decimal(4, 2)", decimal("123")),
        ("Decimal(18, 2)", decimal("1e3")),
        ("Decimal(18, 2)", decimal("")),
        ("Decimal(18, 2)", decimal("1.")),
        ("Decimal(18, 2)", decimal("--1")),
        ("Decimal(18, 2)", Cell::Scaled(1_001, 3)),
        ("Decimal(4, 2)", Cell::Scaled(123, 0)),
        ("Decimal(38, 38)", Cell::Scaled(i128::MIN, 38)),
        ("Decimal(38, 38)", Cell::Scaled(1, 39)),
        ("DateTime64(3, 'UTC')", Cell::TimestampUs(1)),
        ("DateTime64(3, 'UTC')", Cell::TimestampUs(i64::MAX)),
        ("DateTime64(3, 'UTC')", text("2026-01-02 03:04:05.678")),
    ]
    .into_iter()
    .map(|(declared, value)| check(declared, value).expect_err(declared).to_string())
    .collect();
    expect_test::expect![[r#"
        null in a column that isn't Nullable
        '�' is no String: its bytes aren't UTF-8
        unsigned integer where String is declared
        '0192a7c1' is no UUID: 36 characters such as 0192a7c1-…
        unsigned integer where Bool is declared
        -1 is outside UInt8 (and 64-bit numbers stay below 2^63)
        256 is outside UInt8 (and 64-bit numbers stay below 2^63)
        -129 is outside Int8 (and 64-bit numbers stay below 2^63)
        9223372036854775808 is outside UInt64 (and 64-bit numbers stay below 2^63)
        float where Decimal(18, 2) is declared
        '1.001' is no Decimal(18, 2): more digits after the point than the column keeps
        '123' is no Decimal(4, 2): too many digits before the point
        '1e3' is no Decimal(18, 2): not digits with at most one point
        '' is no Decimal(18, 2): not digits with at most one point
        '1.' is no Decimal(18, 2): no digit after the point
        '--1' is no Decimal(18, 2): not digits with at most one point
        '1001 / 10^3' is no Decimal(18, 2): more digits after the point than the column keeps
        '123 / 10^0' is no Decimal(4, 2): too many digits before the point
        '-170141183460469231731687303715884105728 / 10^38' is no Decimal(38, 38): too many digits before the point
        '1 / 10^39' is no Decimal(38, 38): too many digits
        '1 µs' is no DateTime64(3, 'UTC'): finer than the column's digits of a second
        '9223372036854775807 µs' is no DateTime64(3, 'UTC'): outside the years 1900 to 2299
        text where DateTime64(3, 'UTC') is declared"#]]
    .assert_eq(&reasons.join("\n"));
}

proptest! {
    #[test]
    fn a_decimal_keeps_its_value_to_the_last_digit(cents in -999_999_999_999_999_999_i64..1_000_000_000_000_000_000) {
        let sign = if cents < 0 { "-" } else { "" };
        let given = format!("{sign}{}.{:02}", cents.unsigned_abs() / 100, cents.unsigned_abs() % 100);
        prop_assert_eq!(check("Decimal(18, 2)", decimal(&given)), Ok(format!("\"{given}\"")));
        prop_assert_eq!(check("Decimal(18, 2)", Cell::Scaled(cents.into(), 2)), Ok(format!("\"{given}\"")));
    }

    #[test]
    fn any_text_is_a_decimal_only_if_it_is_digits(given in "\\PC{0,12}") {
        if check("Decimal(18, 2)", decimal(&given)).is_ok() {
            prop_assert!(given.chars().all(|c| c.is_ascii_digit() || c == '.' || c == '-'));
            prop_assert!(given.parse::<f64>().is_ok());
        }
    }

    #[test]
    fn a_time_keeps_its_order_as_text(a in RANGE, b in RANGE) {
        let write = |ms: i64| check("DateTime64(3, 'UTC')", Cell::TimestampUs(ms * 1_000)).expect("it fits");
        prop_assert_eq!(a.cmp(&b), write(a).cmp(&write(b)));
    }

    #[test]
    fn any_string_comes_back_from_its_json(given in any::<String>()) {
        let json = check("String", text(&given)).expect("a string fits");
        prop_assert_eq!(serde_json::from_str::<String>(&json).expect("it is JSON"), given);
    }
}

/// Milliseconds of the years 1900 to 2299.
const RANGE: std::ops::Range<i64> = -2_208_988_800_000..10_413_792_000_000;
