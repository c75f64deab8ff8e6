//! A typed value against the declared ClickHouse type of its column.
//!
//! What reaches the store must be what the module meant: ClickHouse itself takes a value that doesn't fit
//! and wraps, cuts or defaults it without a word (JSONEachRow), so each cell is checked here.

mod decimal;
mod time;

use std::{fmt, str::FromStr};

pub(crate) use time::write_millis;

/// A cell as a module gives it, whichever way it came.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Cell<'a> {
    Null,
    Boolean(bool),
    Int(i64),
    Uint(u64),
    Float,
    Decimal(&'a str),
    /// The number without its point, and the digits behind the point.
    Scaled(i128, u8),
    Text(&'a str),
    Bytes(&'a [u8]),
    TimestampUs(i64),
}

/// A type that a column may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ColumnType {
    kind: Kind,
    nullable: bool,
    low_cardinality: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    String,
    Uuid,
    Bool,
    /// Bits: 8, 16, 32 or 64.
    Int(u32),
    UInt(u32),
    Decimal {
        precision: u32,
        scale: u32,
    },
    /// Digits of a second, in UTC.
    DateTime64(u32),
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "type '{0}' isn't supported: use String, UUID, Bool, (U)Int8 to (U)Int64, Decimal(P, S) up to 38 digits, \
     DateTime64(0 to 6, 'UTC'), with Nullable(T) or LowCardinality(String) around it"
)]
pub struct UnsupportedType(String);

/// Why a cell doesn't fit its column.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CellError {
    #[error("{found} where {expected} is declared")]
    WrongKind { found: &'static str, expected: ColumnType },
    #[error("null in a column that isn't Nullable")]
    Null,
    #[error("{value} is outside {expected} (and 64-bit numbers stay below 2^63)")]
    OutOfRange { value: String, expected: ColumnType },
    #[error("'{text}' is no {expected}: {reason}")]
    Malformed { text: String, expected: ColumnType, reason: &'static str },
}

impl ColumnType {
    /// Writes the value as JSON, in the form that ClickHouse's JSONEachRow reads back unchanged: decimals and
    /// times as strings, numbers below 2^63.
    pub(crate) fn write(self, cell: Cell<'_>, out: &mut Vec<u8>) -> Result<(), CellError> {
        match (self.kind, cell) {
            (Kind::String, Cell::Text(text)) => write_string(text, out),
            (Kind::Uuid, Cell::Text(text)) if is_uuid(text) => write_plain(text, out),
            (Kind::Uuid, Cell::Text(text)) => {
                return Err(self.malformed(text, "36 characters such as 0192a7c1-…"));
            }
            (Kind::Int(_) | Kind::UInt(_), Cell::Uint(number)) => self.write_int(i128::from(number), out)?,
            (Kind::Int(_) | Kind::UInt(_), Cell::Int(number)) => self.write_int(i128::from(number), out)?,
            (Kind::Decimal { precision, scale }, Cell::Scaled(number, digits)) => {
                decimal::write_scaled(number, digits, precision, scale, out)
                    .map_err(|reason| self.malformed(&format!("{number} / 10^{digits}"), reason))?;
            }
            (Kind::Decimal { precision, scale }, Cell::Decimal(text)) => {
                decimal::write(text, precision, scale, out).map_err(|reason| self.malformed(text, reason))?;
            }
            (Kind::DateTime64(digits), Cell::TimestampUs(micros)) => {
                time::write(micros, digits, out)
                    .map_err(|reason| self.malformed(&format!("{micros} µs"), reason))?;
            }
            (Kind::Bool, Cell::Boolean(true)) => out.extend_from_slice(b"true"),
            (Kind::Bool, Cell::Boolean(false)) => out.extend_from_slice(b"false"),
            (_, Cell::Null) if self.nullable => out.extend_from_slice(b"null"),
            (_, Cell::Null) => return Err(CellError::Null),
            (Kind::String, Cell::Bytes(bytes)) => {
                let text = std::str::from_utf8(bytes).map_err(|_| CellError::Malformed {
                    text: shown(&String::from_utf8_lossy(bytes)),
                    expected: self,
                    reason: "its bytes aren't UTF-8",
                })?;
                write_string(text, out);
            }
            (_, other) => return Err(CellError::WrongKind { found: name(other), expected: self }),
        }
        Ok(())
    }

    fn write_int(self, number: i128, out: &mut Vec<u8>) -> Result<(), CellError> {
        let (low, high) = match self.kind {
            Kind::UInt(64) => (0, i128::from(i64::MAX)),
            Kind::UInt(bits) => (0, (1 << bits) - 1),
            Kind::Int(bits) => (-(1 << (bits - 1)), (1 << (bits - 1)) - 1),
            _ => (0, -1),
        };
        if !(low..=high).contains(&number) {
            return Err(CellError::OutOfRange { value: number.to_string(), expected: self });
        }
        write_number(number, out);
        Ok(())
    }

    fn malformed(self, text: &str, reason: &'static str) -> CellError {
        CellError::Malformed { text: shown(text), expected: self, reason }
    }
}

/// As much of a bad value as an operator needs to recognise it.
fn shown(text: &str) -> String {
    const MAX_CHARS: usize = 60;
    let mut short: String = text.chars().take(MAX_CHARS).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

pub(crate) fn write_string(text: &str, out: &mut Vec<u8>) {
    if text.bytes().any(|byte| byte < b' ' || byte == b'"' || byte == b'\\') {
        serde_json::to_writer(out, text).expect("writing a string to a Vec can't fail");
    } else {
        write_plain(text, out);
    }
}

/// A string in which nothing needs to be escaped.
pub(crate) fn write_plain(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    out.extend_from_slice(text.as_bytes());
    out.push(b'"');
}

pub(crate) fn write_number(number: impl itoa::Integer, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

pub(crate) fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

fn name(cell: Cell<'_>) -> &'static str {
    match cell {
        Cell::Null => "null",
        Cell::Boolean(_) => "boolean",
        Cell::Int(_) => "signed integer",
        Cell::Uint(_) => "unsigned integer",
        Cell::Float => "float",
        Cell::Decimal(_) | Cell::Scaled(..) => "decimal",
        Cell::Text(_) => "text",
        Cell::Bytes(_) => "byte string",
        Cell::TimestampUs(_) => "timestamp",
    }
}

impl FromStr for ColumnType {
    type Err = UnsupportedType;

    /// ClickHouse's own spelling, with or without spaces.
    fn from_str(declared: &str) -> Result<Self, Self::Err> {
        let compact: String = declared.chars().filter(|c| !c.is_whitespace()).collect();
        parse(&compact).ok_or_else(|| UnsupportedType(shown(declared)))
    }
}

/// One step at a time, as deep as a type may be: the text is a module's, and may be nested as deep as it is long.
fn parse(text: &str) -> Option<ColumnType> {
    let around = |text, name| inside(text, name).map_or((text, false), |inner| (inner, true));
    // ClickHouse has LowCardinality(Nullable(T)), not the other way round.
    let (text, low_cardinality) = around(text, "LowCardinality");
    let (text, nullable) = around(text, "Nullable");
    let kind = kind(text)?;
    (kind == Kind::String || !low_cardinality).then_some(ColumnType { kind, nullable, low_cardinality })
}

fn inside<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.strip_prefix(name)?.strip_prefix('(')?.strip_suffix(')')
}

fn kind(text: &str) -> Option<Kind> {
    if let Some(inner) = inside(text, "Decimal") {
        let (precision, scale) = inner.split_once(',')?;
        let (precision, scale) = (number(precision)?, number(scale)?);
        let allowed = (1..=38).contains(&precision) && scale <= precision;
        return allowed.then_some(Kind::Decimal { precision, scale });
    }
    if let Some(inner) = inside(text, "DateTime64") {
        let digits = number(inner.strip_suffix(",'UTC'")?)?;
        return (digits <= 6).then_some(Kind::DateTime64(digits));
    }
    Some(match text {
        "String" => Kind::String,
        "UUID" => Kind::Uuid,
        "Bool" => Kind::Bool,
        "Int8" => Kind::Int(8),
        "Int16" => Kind::Int(16),
        "Int32" => Kind::Int(32),
        "Int64" => Kind::Int(64),
        "UInt8" => Kind::UInt(8),
        "UInt16" => Kind::UInt(16),
        "UInt32" => Kind::UInt(32),
        "UInt64" => Kind::UInt(64),
        _ => return None,
    })
}

/// Digits alone, as they are written: `str::parse` would take a plus sign and zeros before them too.
fn number(text: &str) -> Option<u32> {
    let number: u32 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

impl fmt::Display for ColumnType {
    /// As ClickHouse's `system.columns` spells it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::String => "String".to_owned(),
            Kind::Uuid => "UUID".to_owned(),
            Kind::Bool => "Bool".to_owned(),
            Kind::Int(bits) => format!("Int{bits}"),
            Kind::UInt(bits) => format!("UInt{bits}"),
            Kind::Decimal { precision, scale } => format!("Decimal({precision}, {scale})"),
            Kind::DateTime64(digits) => format!("DateTime64({digits}, 'UTC')"),
        };
        match (self.low_cardinality, self.nullable) {
            (false, false) => f.write_str(&kind),
            (false, true) => write!(f, "Nullable({kind})"),
            (true, false) => write!(f, "LowCardinality({kind})"),
            (true, true) => write!(f, "LowCardinality(Nullable({kind}))"),
        }
    }
}

#[cfg(test)]
mod tests;
