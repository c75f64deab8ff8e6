//! What the front must know of output formats: which ones can be sent chunk by chunk.
//!
//! The engine formats every chunk of a streamed result as a document of its own. Chunks of a plain row
//! format simply follow one another; where a document begins with column names, those of the later
//! chunks are cut off; anything else (JSON, Pretty, Parquet …) is asked for in one piece.

/// How the chunks of a format become one document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Chunks {
    /// They follow one another.
    Follow,
    /// All but the first lose this many lines of text.
    Lines(usize),
    /// As [`Chunks::Lines`], where a quoted name may hold a line feed.
    QuotedLines(usize),
    /// All but the first lose a count of columns and then this many strings a column.
    Binary(u64),
    /// There is one chunk only.
    Whole,
}

/// See [`Chunks`].
pub(crate) fn chunks(format: &str) -> Chunks {
    match format.to_ascii_lowercase().as_str() {
        "tabseparated"
        | "tsv"
        | "tabseparatedraw"
        | "tsvraw"
        | "raw"
        | "csv"
        | "tskv"
        | "native"
        | "rowbinary"
        | "jsoneachrow"
        | "jsonlines"
        | "ndjson"
        | "jsonstringseachrow"
        | "jsoncompacteachrow"
        | "jsoncompactstringseachrow"
        | "lineasstring"
        | "rawblob"
        | "msgpack"
        | "null" => Chunks::Follow,
        "tabseparatedwithnames"
        | "tsvwithnames"
        | "tabseparatedrawwithnames"
        | "tsvrawwithnames"
        | "rawwithnames"
        | "jsoncompacteachrowwithnames"
        | "jsoncompactstringseachrowwithnames" => Chunks::Lines(1),
        "tabseparatedwithnamesandtypes"
        | "tsvwithnamesandtypes"
        | "tabseparatedrawwithnamesandtypes"
        | "tsvrawwithnamesandtypes"
        | "rawwithnamesandtypes"
        | "jsoncompacteachrowwithnamesandtypes"
        | "jsoncompactstringseachrowwithnamesandtypes" => Chunks::Lines(2),
        "csvwithnames" => Chunks::QuotedLines(1),
        "csvwithnamesandtypes" => Chunks::QuotedLines(2),
        "rowbinarywithnames" => Chunks::Binary(1),
        "rowbinarywithnamesandtypes" => Chunks::Binary(2),
        _ => Chunks::Whole,
    }
}

impl Chunks {
    /// The length of the header that `chunk` begins with.
    pub(crate) fn header(self, chunk: &[u8]) -> usize {
        match self {
            Self::Follow | Self::Whole => 0,
            Self::Lines(count) => lines(chunk, count, false),
            Self::QuotedLines(count) => lines(chunk, count, true),
            Self::Binary(strings) => binary(chunk, strings).unwrap_or(chunk.len()),
        }
    }
}

fn lines(chunk: &[u8], mut count: usize, quotes: bool) -> usize {
    let mut quoted = false;
    for (index, byte) in chunk.iter().enumerate() {
        if quotes && *byte == b'"' {
            quoted = !quoted;
        } else if *byte == b'\n' && !quoted {
            count -= 1;
            if count == 0 {
                return index + 1;
            }
        }
    }
    chunk.len()
}

fn binary(chunk: &[u8], strings: u64) -> Option<usize> {
    let mut at = 0;
    let columns = varint(chunk, &mut at)?;
    for _ in 0..columns.checked_mul(strings)? {
        let length = usize::try_from(varint(chunk, &mut at)?).ok()?;
        at = at.checked_add(length)?;
    }
    (at <= chunk.len()).then_some(at)
}

/// An unsigned LEB128 number at `at`, which moves beyond it.
pub(crate) fn varint(bytes: &[u8], at: &mut usize) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let byte = *bytes.get(*at)?;
        *at += 1;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// The `Content-Type` ClickHouse gives.
pub(crate) fn content_type(format: &str) -> &'static str {
    let format = format.to_ascii_lowercase();
    if format.starts_with("tabseparated") || format.starts_with("tsv") {
        "text/tab-separated-values; charset=UTF-8"
    } else if format.starts_with("csv") {
        if format == "csv" {
            "text/csv; charset=UTF-8; header=absent"
        } else {
            "text/csv; charset=UTF-8; header=present"
        }
    } else if format.contains("eachrow") || format == "jsonlines" || format == "ndjson" {
        "application/x-ndjson; charset=UTF-8"
    } else if format.starts_with("json") {
        "application/json; charset=UTF-8"
    } else if ["native", "rowbinary", "parquet", "arrow", "orc", "avro", "msgpack"]
        .iter()
        .any(|binary| format.starts_with(binary))
    {
        "application/octet-stream"
    } else {
        "text/plain; charset=UTF-8"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_headers() {
        let check = |format: &str, chunk: &[u8], rows: &[u8]| {
            assert_eq!(&chunk[chunks(format).header(chunk)..], rows, "{format}");
        };
        check("TSV", b"1\n", b"1\n");
        check("TSVWithNames", b"a\n1\n", b"1\n");
        check("CSVWithNamesAndTypes", b"\"a\nb\"\n\"Int8\"\n1\n", b"1\n");
        check("RowBinaryWithNamesAndTypes", b"\x01\x01n\x04Int8\x07", b"\x07");
        check("RowBinaryWithNamesAndTypes", b"\x00", b"");
        assert_eq!(chunks("JSON"), Chunks::Whole);
    }
}
