//! A JSON value into the bytes of its column (RowBinary), exact or refused. No float anywhere.
//!
//! ClickHouse itself would wrap, cut or guess where a value doesn't fit, and refuse a whole block where it doesn't.

use crate::{
    table::Column,
    values::{MONTH_SECONDS, parse_ticks},
};
use outflow_columns::{ColumnType, Kind};
use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use std::{fmt, ops::Range};
use uuid::Uuid;

/// What DateTime64 can hold, in seconds: from 1900 up to 2300.
const TIME_SECONDS: Range<i64> = -2_208_988_800..10_413_792_000;
/// Length of a UUID with its four dashes; the parser also knows shorter and longer forms.
const UUID_LEN: usize = 36;

/// Why a value doesn't fit its column.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CellError {
    #[error("{found} where {expected} is wanted")]
    WrongKind { found: &'static str, expected: ColumnType },
    #[error("null in a column that isn't Nullable")]
    Null,
    #[error("{value} is out of range: {limit}")]
    OutOfRange { value: String, limit: String },
    #[error("{text:?} is no {expected}: {reason}")]
    Malformed { text: String, expected: ColumnType, reason: &'static str },
}

impl CellError {
    /// A short name for a dead letter's header.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::WrongKind { .. } | Self::Null => "cell_kind",
            Self::OutOfRange { .. } => "cell_range",
            Self::Malformed { .. } => "cell_form",
        }
    }
}

/// Takes one value of a row and appends its bytes. What doesn't fit is told in `failure`: an error of JSON's own
/// would have to be text.
pub(crate) struct CellSeed<'a> {
    pub(crate) column: &'a Column,
    /// The table's partitions are this column's months.
    pub(crate) gives_month: bool,
    pub(crate) out: &'a mut Vec<u8>,
    pub(crate) failure: &'a mut Option<CellError>,
}

impl CellSeed<'_> {
    fn column_type(&self) -> ColumnType {
        self.column.column_type
    }

    fn end<E: de::Error>(self, result: Result<(), CellError>) -> Result<(), E> {
        result.map_err(|error| {
            *self.failure = Some(error);
            E::custom("the cell doesn't fit")
        })
    }

    fn wrong_kind<E: de::Error>(self, found: &'static str) -> Result<(), E> {
        let expected = self.column_type();
        self.end(Err(CellError::WrongKind { found, expected }))
    }

    /// What precedes a value that is there.
    fn not_null(&mut self) {
        if self.column_type().is_nullable() {
            self.out.push(0);
        }
    }

    fn integer<E: de::Error>(mut self, number: i128) -> Result<(), E> {
        let (low, high, bits) = match self.column_type().kind() {
            Kind::UInt(bits) if self.column.is_flag => (0, 1, bits),
            // Readers of JSON keep 64-bit numbers exact below 2^63.
            Kind::UInt(64) => (0, i128::from(i64::MAX), 64),
            Kind::UInt(bits) => (0, (1 << bits) - 1, bits),
            Kind::Int(bits) => (-(1 << (bits - 1)), (1 << (bits - 1)) - 1, bits),
            _ => return self.wrong_kind("a number"),
        };
        if !(low..=high).contains(&number) {
            let (value, limit) = (number.to_string(), format!("{low} to {high}"));
            return self.end(Err(CellError::OutOfRange { value, limit }));
        }
        self.not_null();
        self.little_endian(number, bits);
        Ok(())
    }

    /// Two's complement: the low bytes of a wide number are the narrow one.
    fn little_endian(&mut self, number: i128, bits: u32) {
        self.out.extend_from_slice(&number.to_le_bytes()[..bits as usize / 8]);
    }

    fn text(&mut self, text: &str) -> Result<(), CellError> {
        let column_type = self.column_type();
        let malformed = |reason| CellError::Malformed { text: shown(text), expected: column_type, reason };
        self.not_null();
        match column_type.kind() {
            Kind::String => put_string(text, self.out),
            Kind::Uuid => {
                let uuid = Some(text).filter(|text| text.len() == UUID_LEN);
                let uuid = uuid.and_then(|text| Uuid::try_parse(text).ok());
                let uuid = uuid.ok_or_else(|| malformed("36 characters such as 0192a7c1-…"))?;
                let (high, low) = uuid.as_u64_pair();
                self.out.extend_from_slice(&high.to_le_bytes());
                self.out.extend_from_slice(&low.to_le_bytes());
            }
            Kind::Decimal { precision, scale } => {
                let number = decimal(text, precision, scale).map_err(malformed)?;
                let bits = match precision {
                    ..=9 => 32,
                    10..=18 => 64,
                    _ => 128,
                };
                self.little_endian(number, bits);
            }
            Kind::DateTime64(digits) => {
                let form =
                    "written in UTC as 2026-01-02 03:04:05, with a point and the column's digits behind";
                let ticks = parse_ticks(text.as_bytes(), digits).ok_or_else(|| malformed(form))?;
                let seconds = ticks.div_euclid(10_i64.pow(digits));
                let (allowed, limit) = match self.gives_month {
                    true => (MONTH_SECONDS, "from 2000 up to 2100"),
                    false => (TIME_SECONDS, "from 1900 up to 2300"),
                };
                if !allowed.contains(&seconds) {
                    return Err(CellError::OutOfRange { value: shown(text), limit: limit.to_owned() });
                }
                self.out.extend_from_slice(&ticks.to_le_bytes());
            }
            Kind::Bool | Kind::Int(_) | Kind::UInt(_) => {
                return Err(CellError::WrongKind { found: "a string", expected: column_type });
            }
        }
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for CellSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for CellSeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.column_type())
    }

    fn visit_str<E: de::Error>(mut self, text: &str) -> Result<(), E> {
        let result = self.text(text);
        self.end(result)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<(), E> {
        self.integer(number.into())
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<(), E> {
        self.integer(number.into())
    }

    fn visit_f64<E: de::Error>(self, _number: f64) -> Result<(), E> {
        self.wrong_kind("a number with a fraction, or beyond 64 bits")
    }

    fn visit_bool<E: de::Error>(mut self, value: bool) -> Result<(), E> {
        if self.column_type().kind() != Kind::Bool {
            return self.wrong_kind("true or false");
        }
        self.not_null();
        self.out.push(value.into());
        Ok(())
    }

    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        if !self.column_type().is_nullable() {
            return self.end(Err(CellError::Null));
        }
        self.out.push(1);
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, _seq: A) -> Result<(), A::Error> {
        self.wrong_kind("an array")
    }

    fn visit_map<A: MapAccess<'de>>(self, _map: A) -> Result<(), A::Error> {
        self.wrong_kind("an object")
    }
}

/// The number without its point, of `scale` digits behind it. One way to write it: no plus, no exponent, no blanks.
fn decimal(text: &str, precision: u32, scale: u32) -> Result<i128, &'static str> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let (whole, fraction) = match digits.split_once('.') {
        Some((_, "")) => return Err("no digit after the point"),
        Some(parts) => parts,
        None => (digits, ""),
    };
    if whole.is_empty() || !whole.bytes().chain(fraction.bytes()).all(|b| b.is_ascii_digit()) {
        return Err("digits with at most one point");
    }
    // Zeros that say nothing may stand behind what the column keeps, and before the first digit.
    let (kept, cut) = fraction.split_at(fraction.len().min(scale as usize));
    if cut.bytes().any(|b| b != b'0') {
        return Err("more digits after the point than the column keeps");
    }
    let whole = whole.trim_start_matches('0');
    if whole.len() > (precision - scale) as usize {
        return Err("too many digits before the point");
    }
    // At most 38 digits, which is below 2^127.
    let number = whole.bytes().chain(kept.bytes()).fold(0_i128, |n, b| n * 10 + i128::from(b - b'0'));
    let behind = u32::try_from(kept.len()).expect("no more than the scale");
    let number = number * 10_i128.pow(scale - behind);
    Ok(if text.starts_with('-') { -number } else { number })
}

/// A length, then the bytes.
pub(crate) fn put_string(text: &str, out: &mut Vec<u8>) {
    put_length(text.len(), out);
    out.extend_from_slice(text.as_bytes());
}

/// LEB128: seven bits a byte, the lowest first.
pub(crate) fn put_length(mut length: usize, out: &mut Vec<u8>) {
    while length >= 0x80 {
        out.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
}

/// As much of a bad value as an operator needs to recognise it.
pub(crate) fn shown(text: &str) -> String {
    const MAX_CHARS: usize = 60;
    let mut short: String = text.chars().take(MAX_CHARS).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests;
