//! How long a payload is once MySQL has stored it: its JSON type prints a blank behind each `:` and `,`, writes numbers
//! its own way, and takes neither any depth nor any key.

use crate::error::WriteError;
use serde_json::{Number, Value};

/// Levels of a document, a scalar counted as one: MySQL's limit.
const MAX_NESTING: usize = 100;
/// Bytes of a key: what its binary form has room for.
const MAX_KEY_BYTES: usize = 65_535;

/// Bytes of `CAST(payload AS CHAR)` once the payload is stored.
pub(crate) fn printed_bytes(payload: &Value) -> Result<usize, WriteError> {
    nested(payload, 1)
}

fn nested(value: &Value, level: usize) -> Result<usize, WriteError> {
    if level > MAX_NESTING {
        return Err(refused("payload's nesting", level, MAX_NESTING, "levels"));
    }
    Ok(match value {
        Value::Null | Value::Bool(true) => 4,
        Value::Bool(false) => 5,
        Value::Number(number) => number_bytes(number),
        Value::String(text) => text_bytes(text),
        Value::Array(items) => {
            let mut bytes = brackets_and_commas(items.len());
            for item in items {
                bytes += nested(item, level + 1)?;
            }
            bytes
        }
        Value::Object(members) => {
            let mut bytes = brackets_and_commas(members.len());
            for (key, member) in members {
                if key.len() > MAX_KEY_BYTES {
                    return Err(refused("payload's key", key.len(), MAX_KEY_BYTES, "bytes"));
                }
                bytes += text_bytes(key) + ": ".len() + nested(member, level + 1)?;
            }
            bytes
        }
    })
}

fn refused(field: &str, size: usize, limit: usize, wants: &'static str) -> WriteError {
    WriteError::Field { field: field.to_owned(), size, limit, wants }
}

fn brackets_and_commas(members: usize) -> usize {
    2 + ", ".len() * members.saturating_sub(1)
}

/// Quotes, and escapes as JSON wants them and no others: MySQL leaves `/`, DEL and everything beyond ASCII as it is.
fn text_bytes(text: &str) -> usize {
    let escaped = |byte| match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 0x08 | 0x0c => 2,
        0x00..0x20 => 6,
        _ => 1,
    };
    2 + text.bytes().map(escaped).sum::<usize>()
}

fn number_bytes(number: &Number) -> usize {
    match number.as_f64() {
        Some(float) if number.is_f64() => float_bytes(float),
        _ => number.to_string().len(),
    }
}

/// The shortest digits that give the same double. They are written out from 1e-15 to below 1e15, and above it where there
/// are some behind the point; all others have an exponent.
fn float_bytes(float: f64) -> usize {
    let scientific = format!("{float:e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let digits = mantissa.bytes().filter(u8::is_ascii_digit).count();
    // Where the point stands: 1 for 1.5, 0 for 0.15, 3 for 150.
    let point = exponent.parse::<i32>().map_or(0, |exponent| exponent + 1);
    let sign = usize::from(float.is_sign_negative());
    let before = usize::try_from(point).unwrap_or(0);
    sign + match point {
        -14..=0 => "0.".len() + usize::try_from(-point).unwrap_or(0) + digits,
        1.. if digits > before => digits + ".".len(),
        1..=15 => before + ".0".len(),
        // The mantissa has a sign of its own.
        _ => scientific.len() - sign,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// What MySQL 9.7 printed. The integration tests ask it about thousands of documents more.
    #[test]
    fn a_document_is_as_long_as_mysql_prints_it() {
        let printed = [
            (json!({"a": 1, "b": [1, 2], "c": {}}), r#"{"a": 1, "b": [1, 2], "c": {}}"#),
            (
                json!("\u{0}\u{1f}\u{7f}/é\u{8}\u{c}\n\r\t\"\\😀"),
                "\"\\u0000\\u001f\u{7f}/é\\b\\f\\n\\r\\t\\\"\\\\😀\"",
            ),
            (json!([1.0, -0.0, 1e14, 1e15, 1e16]), "[1.0, -0.0, 100000000000000.0, 1e15, 1e16]"),
            (json!(1.234_567_890_123_456_7e-14), "0.000000000000012345678901234567"),
            (json!(1_944_735_708_234_572.8), "1944735708234572.8"),
            (json!([1e-15, 1.5e-16, -1.5e300]), "[0.000000000000001, 1.5e-16, -1.5e300]"),
            (
                json!([u64::MAX, i64::MIN, true, false, null]),
                "[18446744073709551615, -9223372036854775808, true, false, null]",
            ),
        ];
        for (value, text) in printed {
            assert_eq!(printed_bytes(&value).unwrap(), text.len(), "{text}");
        }
    }

    #[test]
    fn a_document_nested_deeper_than_mysql_takes_it_is_refused_however_deep_it_is() {
        let nested = |levels: usize| (1..levels).fold(json!(1), |inner, _| Value::Array(vec![inner]));

        assert_eq!(printed_bytes(&nested(100)).unwrap(), 199);
        for levels in [101, 1_000] {
            let error = printed_bytes(&nested(levels)).unwrap_err().to_string();
            assert_eq!(error, "payload's nesting is refused at a size of 101: wants at most 100 levels");
        }
    }

    #[test]
    fn a_key_longer_than_mysql_takes_it_is_refused() {
        let error = printed_bytes(&json!({"k".repeat(65_536): 1})).unwrap_err().to_string();

        assert_eq!(error, "payload's key is refused at a size of 65536: wants at most 65535 bytes");
    }
}
