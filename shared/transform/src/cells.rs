//! A typed value against the declared ClickHouse type of its column.
//!
//! What reaches the store must be what the module meant: ClickHouse itself takes a value that doesn't fit
//! and wraps, cuts or defaults it without a word (JSONEachRow), so each cell is checked here.

mod decimal;
mod time;

use outflow_columns::Kind;

pub use outflow_columns::ColumnType;
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

/// A column's type as the writer of its cells.
pub(crate) trait WriteCell {
    /// Writes the value as JSON, in the form that ClickHouse's JSONEachRow reads back unchanged: decimals and
    /// times as strings, numbers below 2^63.
    fn write(self, cell: Cell<'_>, out: &mut Vec<u8>) -> Result<(), CellError>;
}

impl WriteCell for ColumnType {
    fn write(self, cell: Cell<'_>, out: &mut Vec<u8>) -> Result<(), CellError> {
        match (self.kind(), cell) {
            (Kind::String, Cell::Text(text)) => write_string(text, out),
            (Kind::Uuid, Cell::Text(text)) if is_uuid(text) => write_plain(text, out),
            (Kind::Uuid, Cell::Text(text)) => {
                return Err(malformed(self, text, "36 characters such as 0192a7c1-…"));
            }
            (Kind::Int(_) | Kind::UInt(_), Cell::Uint(number)) => write_int(self, i128::from(number), out)?,
            (Kind::Int(_) | Kind::UInt(_), Cell::Int(number)) => write_int(self, i128::from(number), out)?,
            (Kind::Decimal { precision, scale }, Cell::Scaled(number, digits)) => {
                decimal::write_scaled(number, digits, precision, scale, out)
                    .map_err(|reason| malformed(self, &format!("{number} / 10^{digits}"), reason))?;
            }
            (Kind::Decimal { precision, scale }, Cell::Decimal(text)) => {
                decimal::write(text, precision, scale, out)
                    .map_err(|reason| malformed(self, text, reason))?;
            }
            (Kind::DateTime64(digits), Cell::TimestampUs(micros)) => {
                time::write(micros, digits, out)
                    .map_err(|reason| malformed(self, &format!("{micros} µs"), reason))?;
            }
            (Kind::Bool, Cell::Boolean(true)) => out.extend_from_slice(b"true"),
            (Kind::Bool, Cell::Boolean(false)) => out.extend_from_slice(b"false"),
            (_, Cell::Null) if self.is_nullable() => out.extend_from_slice(b"null"),
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
}

fn write_int(column: ColumnType, number: i128, out: &mut Vec<u8>) -> Result<(), CellError> {
    let (low, high) = match column.kind() {
        Kind::UInt(64) => (0, i128::from(i64::MAX)),
        Kind::UInt(bits) => (0, (1 << bits) - 1),
        Kind::Int(bits) => (-(1 << (bits - 1)), (1 << (bits - 1)) - 1),
        _ => (0, -1),
    };
    if !(low..=high).contains(&number) {
        return Err(CellError::OutOfRange { value: number.to_string(), expected: column });
    }
    write_number(number, out);
    Ok(())
}

fn malformed(column: ColumnType, text: &str, reason: &'static str) -> CellError {
    CellError::Malformed { text: shown(text), expected: column, reason }
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
    // Without a way out in the middle the compiler looks at many at once.
    if text.bytes().fold(false, |found, byte| found | (byte < b' ') | (byte == b'"') | (byte == b'\\')) {
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
    let Ok(bytes) = <&[u8; 36]>::try_from(text.as_bytes()) else { return false };
    // Four that are dashes, where they belong, and all others digits.
    let digits = bytes.iter().fold(0_u8, |digits, byte| digits + u8::from(byte.is_ascii_hexdigit()));
    [8, 13, 18, 23].iter().all(|&at| bytes[at] == b'-') && digits == 32
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

#[cfg(test)]
mod tests;
