//! Native blocks for clients that name a revision of ClickHouse's TCP protocol.
//!
//! `client_protocol_version` makes a server write a few bytes more into each Native block, and Grafana's
//! plugin (by clickhouse-go) and clickhouse-connect rely on them. The embedded engine always writes
//! revision 0 and has no setting for it, so they are put in here: the block's info, and a byte behind each
//! column's type which says that the column is serialized as usual. To find the columns, their data is
//! walked over by type.

use super::error::{Exception, code};
use super::format::varint;

/// From this revision on a byte behind each type tells whether a custom serialization follows.
const CUSTOM_SERIALIZATION: u64 = 54_454;
/// Field 1, not an overflow; field 2, bucket -1; end.
const BLOCK_INFO: [u8; 8] = [1, 0, 2, 0xff, 0xff, 0xff, 0xff, 0];
/// Types are nested at most this deep; the engine's own limit is of this size too.
const MAX_DEPTH: usize = 64;

/// Rewrites blocks of revision 0 for `revision`.
///
/// # Errors
/// Code 48 for a type whose data can't be walked over (JSON, Dynamic, Variant, AggregateFunction).
pub(crate) fn for_revision(chunk: &[u8], revision: u64) -> Result<Vec<u8>, Exception> {
    let mut blocks = Walker { bytes: chunk, at: 0 };
    let mut out = Vec::with_capacity(chunk.len() + 256);
    while blocks.at < chunk.len() {
        out.extend(BLOCK_INFO);
        let start = blocks.at;
        let columns = blocks.count()?;
        let rows = blocks.count()?;
        out.extend(&chunk[start..blocks.at]);
        for _ in 0..columns {
            let start = blocks.at;
            blocks.string()?;
            let kind = String::from_utf8_lossy(blocks.string()?).into_owned();
            out.extend(&chunk[start..blocks.at]);
            if revision >= CUSTOM_SERIALIZATION {
                out.push(0);
            }
            let start = blocks.at;
            if rows > 0 {
                blocks.prefix(&kind, 0)?;
                blocks.data(&kind, rows, 0)?;
            }
            out.extend(&chunk[start..blocks.at]);
        }
    }
    Ok(out)
}

struct Walker<'b> {
    bytes: &'b [u8],
    at: usize,
}

impl<'b> Walker<'b> {
    fn count(&mut self) -> Result<usize, Exception> {
        let count = varint(self.bytes, &mut self.at).ok_or_else(cut)?;
        usize::try_from(count).map_err(|_| cut())
    }

    fn skip(&mut self, count: Option<usize>) -> Result<&'b [u8], Exception> {
        let end = count.and_then(|count| self.at.checked_add(count)).ok_or_else(cut)?;
        let skipped = self.bytes.get(self.at..end).ok_or_else(cut)?;
        self.at = end;
        Ok(skipped)
    }

    fn string(&mut self) -> Result<&'b [u8], Exception> {
        let length = self.count()?;
        self.skip(Some(length))
    }

    fn number(&mut self) -> Result<usize, Exception> {
        let bytes = self.skip(Some(8))?.try_into().map_err(|_| cut())?;
        usize::try_from(u64::from_le_bytes(bytes)).map_err(|_| cut())
    }

    /// What comes before a column's data: a version for each LowCardinality within.
    fn prefix(&mut self, kind: &str, depth: usize) -> Result<(), Exception> {
        let (name, arguments) = split(kind);
        match name {
            _ if depth > MAX_DEPTH => Err(unknown(kind)),
            "LowCardinality" => self.skip(Some(8)).map(|_| ()),
            "Array" | "Nullable" | "Map" | "Tuple" => {
                arguments.iter().try_for_each(|argument| self.prefix(unnamed(argument), depth + 1))
            }
            "SimpleAggregateFunction" => {
                self.prefix(arguments.last().ok_or_else(|| unknown(kind))?, depth + 1)
            }
            _ => Ok(()),
        }
    }

    fn data(&mut self, kind: &str, rows: usize, depth: usize) -> Result<(), Exception> {
        if depth > MAX_DEPTH {
            return Err(unknown(kind));
        }
        let (name, arguments) = split(kind);
        let first = || arguments.first().copied().ok_or_else(|| unknown(kind));
        if let Some(width) = width(name, &arguments) {
            return self.skip(rows.checked_mul(width)).map(|_| ());
        }
        match name {
            "String" => (0..rows).try_for_each(|_| self.string().map(|_| ())),
            "Nullable" => {
                self.skip(Some(rows))?;
                self.data(first()?, rows, depth + 1)
            }
            "SimpleAggregateFunction" => {
                self.data(arguments.last().ok_or_else(|| unknown(kind))?, rows, depth + 1)
            }
            "Tuple" if !arguments.is_empty() => {
                arguments.iter().try_for_each(|argument| self.data(unnamed(argument), rows, depth + 1))
            }
            "Array" | "Map" => {
                let offsets = self.skip(rows.checked_mul(8))?;
                let total = match offsets.last_chunk::<8>() {
                    Some(last) => usize::try_from(u64::from_le_bytes(*last)).map_err(|_| cut())?,
                    None => 0,
                };
                arguments.iter().try_for_each(|argument| self.data(argument, total, depth + 1))
            }
            "LowCardinality" => {
                if rows == 0 {
                    return Ok(());
                }
                let index = 1_usize << (self.number()? & 3);
                let keys = self.number()?;
                let (inner, nested) = split(first()?);
                let plain = if inner == "Nullable" { nested.first().copied() } else { Some(first()?) };
                self.data(plain.ok_or_else(|| unknown(kind))?, keys, depth + 1)?;
                let rows = self.number()?;
                self.skip(rows.checked_mul(index)).map(|_| ())
            }
            _ => Err(unknown(kind)),
        }
    }
}

/// The bytes of a value, for types that always take as many.
fn width(name: &str, arguments: &[&str]) -> Option<usize> {
    Some(match name {
        "UInt8" | "Int8" | "Bool" | "Enum8" | "Nothing" => 1,
        "UInt16" | "Int16" | "BFloat16" | "Date" | "Enum16" => 2,
        "UInt32" | "Int32" | "Float32" | "Date32" | "DateTime" | "Time" | "IPv4" => 4,
        "UInt64" | "Int64" | "Float64" | "DateTime64" | "Time64" => 8,
        "UInt128" | "Int128" | "UUID" | "IPv6" => 16,
        "UInt256" | "Int256" => 32,
        "FixedString" => arguments.first()?.parse().ok()?,
        "Decimal" => match arguments.first()?.parse().ok()? {
            0..=9_u8 => 4,
            10..=18 => 8,
            19..=38 => 16,
            _ => 32,
        },
        _ if name.starts_with("Interval") => 8,
        _ => return None,
    })
}

/// `Name(a, b(c, d))` into its name and arguments.
fn split(kind: &str) -> (&str, Vec<&str>) {
    let Some((name, rest)) = kind.split_once('(') else { return (kind, Vec::new()) };
    let inner = rest.strip_suffix(')').unwrap_or(rest);
    let mut arguments = Vec::new();
    let mut start = 0;
    for (at, outside) in outside(inner) {
        if outside && inner.as_bytes()[at] == b',' {
            arguments.push(inner[start..at].trim());
            start = at + 1;
        }
    }
    if !inner.trim().is_empty() {
        arguments.push(inner[start..].trim());
    }
    (name, arguments)
}

/// A tuple's element without its name.
fn unnamed(element: &str) -> &str {
    let space =
        outside(element).into_iter().find(|(at, outside)| *outside && element.as_bytes()[*at] == b' ');
    space.map_or(element, |(at, _)| element[at..].trim())
}

/// Each byte's place, and whether it is outside of parentheses and quotes.
fn outside(text: &str) -> Vec<(usize, bool)> {
    let (mut depth, mut quote, mut escaped) = (0_usize, None, false);
    let mut places = Vec::with_capacity(text.len());
    for (at, byte) in text.bytes().enumerate() {
        places.push((at, depth == 0 && quote.is_none()));
        match quote {
            Some(_) if escaped => escaped = false,
            Some(_) if byte == b'\\' => escaped = true,
            Some(open) if byte == open => quote = None,
            Some(_) => {}
            None if byte == b'\'' || byte == b'`' => quote = Some(byte),
            None if byte == b'(' => depth += 1,
            None if byte == b')' => depth = depth.saturating_sub(1),
            None => {}
        }
    }
    places
}

fn unknown(kind: &str) -> Exception {
    let message =
        format!("{kind} can't be sent in Native format to a client of this protocol: cast it, or use JSON");
    Exception::new(code::NOT_IMPLEMENTED, "NOT_IMPLEMENTED", message)
}

fn cut() -> Exception {
    Exception::new(
        code::CANNOT_READ_ALL_DATA,
        "CANNOT_READ_ALL_DATA",
        "the engine's Native block is not as expected",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_split() {
        assert_eq!(split("UInt8"), ("UInt8", vec![]));
        assert_eq!(split("Map(String, Array(UInt8))"), ("Map", vec!["String", "Array(UInt8)"]));
        assert_eq!(split("Enum8('a,\\'(b' = 1, 'c' = 2)").1, ["'a,\\'(b' = 1", "'c' = 2"]);
        assert_eq!(unnamed("`a b` DateTime64(3, 'UTC')"), "DateTime64(3, 'UTC')");
        assert_eq!(unnamed("DateTime64(3, 'UTC')"), "DateTime64(3, 'UTC')");
        assert_eq!(width("Decimal", &["18", "2"]), Some(8));
    }

    #[test]
    fn a_block_gets_what_the_revision_wants() {
        let block = b"\x02\x02\x01a\x05UInt8\x07\x08\x01b\x06String\x01x\x00";
        let expected =
            b"\x01\x00\x02\xff\xff\xff\xff\x00\x02\x02\x01a\x05UInt8\x00\x07\x08\x01b\x06String\x00\x01x\x00";
        assert_eq!(for_revision(block, 54_460).expect("rewrites"), expected);
        let two = [&block[..], &block[..]].concat();
        assert_eq!(for_revision(&two, 54_460).expect("rewrites"), [&expected[..], &expected[..]].concat());
        assert_eq!(for_revision(block, 54_405).expect("rewrites").len(), block.len() + 8);
        assert_eq!(for_revision(&block[..20], 54_460).expect_err("is cut").code, 33);
        assert_eq!(for_revision(b"\x01\x01\x01j\x04JSON\x00", 54_460).expect_err("unknown").code, 48);
    }
}
