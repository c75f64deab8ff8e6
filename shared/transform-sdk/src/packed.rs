//! The batch and its answer as bytes; `transforms/wit/transform.wit` tells their layout.
//!
//! Events are read where they lie, and cells are written where they will be sent from: nothing is allocated for either.

use crate::{Decimal, Reject};
use std::{fmt, ops::Deref};

/// One event as it came from the broker.
///
/// `occurred_at_us` counts microseconds since 1970-01-01 UTC.
#[derive(Clone, Copy, Debug)]
pub struct Event<'a> {
    pub id: Text<'a>,
    pub event_type: Text<'a>,
    pub aggregate_id: Text<'a>,
    /// 1, 2, 3 … for each aggregate, with no hole.
    pub aggregate_version: u64,
    /// Of the payload; 1 where the event names none.
    pub schema_version: u32,
    pub occurred_at_us: i64,
    pub topic: Text<'a>,
    pub partition: i32,
    pub offset: i64,
    pub headers: Headers<'a>,
    pub payload: &'a [u8],
}

/// A text of an event. It is looked at when it is wanted: most guests read one of four, and pay for that one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Text<'a>(&'a [u8]);

impl<'a> Text<'a> {
    pub fn as_str(self) -> &'a str {
        std::str::from_utf8(self.0).expect("the host writes UTF-8")
    }
}

impl<'a> From<&'a str> for Text<'a> {
    fn from(text: &'a str) -> Self {
        Self(text.as_bytes())
    }
}

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl AsRef<str> for Text<'_> {
    fn as_ref(&self) -> &str {
        self
    }
}

impl PartialEq<str> for Text<'_> {
    /// Eight bytes at once: WebAssembly has no instruction that compares memory, and its `memcmp` goes byte by byte.
    fn eq(&self, other: &str) -> bool {
        let ((ours, our_rest), (theirs, their_rest)) =
            (self.0.as_chunks::<8>(), other.as_bytes().as_chunks::<8>());
        let as_numbers =
            |chunks: (&[u8; 8], &[u8; 8])| u64::from_le_bytes(*chunks.0) == u64::from_le_bytes(*chunks.1);
        self.0.len() == other.len() && ours.iter().zip(theirs).all(as_numbers) && our_rest == their_rest
    }
}

impl PartialEq<&str> for Text<'_> {
    fn eq(&self, other: &&str) -> bool {
        *self == **other
    }
}

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&**self, f)
    }
}

impl fmt::Debug for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

/// Those of the record's headers that the guest has named, in their order.
#[derive(Clone, Copy, Debug, Default)]
pub struct Headers<'a>(&'a [u8]);

impl<'a> Headers<'a> {
    /// The last header of this name, as Kafka's clients take it.
    pub fn get(self, name: &str) -> Option<&'a [u8]> {
        self.iter().filter(|(key, _)| *key == name).last().map(|(_, value)| value)
    }

    pub fn iter(self) -> impl Iterator<Item = (&'a str, &'a [u8])> {
        let mut reader = Reader(self.0);
        let left = if self.0.is_empty() { 0 } else { reader.u32() };
        (0..left).map(move |_| (Text(reader.bytes()).as_str(), reader.bytes()))
    }
}

/// Reads what the host has written. Its bytes are right: anything else is a fault of the host, and ends in a trap.
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn new(batch: &'a [u8]) -> Self {
        Self(batch)
    }

    pub(crate) fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    pub(crate) fn event(&mut self) -> Event<'a> {
        let aggregate_version = u64::from_le_bytes(self.array());
        let occurred_at_us = i64::from_le_bytes(self.array());
        let offset = i64::from_le_bytes(self.array());
        let partition = i32::from_le_bytes(self.array());
        let schema_version = self.u32();
        Event {
            id: Text(self.bytes()),
            event_type: Text(self.bytes()),
            aggregate_id: Text(self.bytes()),
            aggregate_version,
            schema_version,
            occurred_at_us,
            topic: Text(self.bytes()),
            partition,
            offset,
            payload: self.bytes(),
            headers: Headers(self.bytes()),
        }
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        let (read, rest) = self.0.split_first_chunk().expect("the host writes whole numbers");
        self.0 = rest;
        *read
    }

    fn bytes(&mut self) -> &'a [u8] {
        let len = self.u32() as usize;
        let (read, rest) = self.0.split_at(len);
        self.0 = rest;
        read
    }
}

const SKIP: u8 = 0;
const ROWS: u8 = 1;
const REJECT: u8 = 2;

/// The rows that one event becomes. None is a skip: the event is none of this transform's business.
#[derive(Debug)]
pub struct Rows<'a> {
    out: &'a mut Vec<u8>,
    count: u32,
}

impl Rows<'_> {
    /// Begins a row of the `table`-th table: give it a value for each of its columns, in their order.
    pub fn row(&mut self, table: u16) -> Row<'_> {
        self.count += 1;
        self.out.extend_from_slice(&table.to_le_bytes());
        let count_at = self.out.len();
        self.out.extend_from_slice(&[0, 0]);
        Row { out: self.out, count_at, count: 0 }
    }
}

/// The cells of one row. The host checks each against the declared type of its column.
#[derive(Debug)]
pub struct Row<'a> {
    out: &'a mut Vec<u8>,
    count_at: usize,
    count: u16,
}

impl Row<'_> {
    /// For a `Nullable` column.
    pub fn null(&mut self) -> &mut Self {
        self.cell(0, &[])
    }

    pub fn boolean(&mut self, value: bool) -> &mut Self {
        self.cell(if value { 2 } else { 1 }, &[])
    }

    pub fn int(&mut self, value: i64) -> &mut Self {
        self.cell(3, &value.to_le_bytes())
    }

    pub fn uint(&mut self, value: u64) -> &mut Self {
        self.cell(4, &value.to_le_bytes())
    }

    /// Money and other exact numbers. A column that keeps fewer digits refuses one that says something.
    pub fn decimal(&mut self, value: Decimal) -> &mut Self {
        let scale = u8::try_from(value.scale()).expect("a decimal has 28 digits at most");
        self.cell(6, &[scale]);
        self.out.extend_from_slice(&value.mantissa().to_le_bytes());
        self
    }

    /// For `String` and `UUID` columns.
    pub fn text(&mut self, value: impl AsRef<str>) -> &mut Self {
        self.cell(7, &[]);
        put_bytes(self.out, value.as_ref().as_bytes());
        self
    }

    /// Microseconds since 1970-01-01 UTC, for a `DateTime64` column.
    pub fn timestamp_us(&mut self, value: i64) -> &mut Self {
        self.cell(9, &value.to_le_bytes())
    }

    fn cell(&mut self, kind: u8, bytes: &[u8]) -> &mut Self {
        self.count += 1;
        self.out.push(kind);
        self.out.extend_from_slice(bytes);
        self
    }
}

impl Drop for Row<'_> {
    fn drop(&mut self) {
        self.out[self.count_at..self.count_at + 2].copy_from_slice(&self.count.to_le_bytes());
    }
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    let len = u32::try_from(bytes.len()).expect("a module's memory is smaller than 4 GiB");
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(bytes);
}

/// Writes the outcomes of a batch one behind the other.
#[derive(Debug, Default)]
pub struct Answer(Vec<u8>);

impl Answer {
    /// About what an outcome takes: so the answer rarely has to move.
    const TYPICAL_LEN: usize = 256;

    /// For a batch of so many events.
    pub fn of(events: u32) -> Self {
        let mut out = Vec::with_capacity(4 + events as usize * Self::TYPICAL_LEN);
        out.extend_from_slice(&events.to_le_bytes());
        Self(out)
    }

    /// The outcome of one event: the rows that `map` writes, a skip where it writes none, or its rejection.
    pub fn outcome(&mut self, map: impl FnOnce(&mut Rows<'_>) -> Result<(), Reject>) {
        let out = &mut self.0;
        let began_at = out.len();
        out.extend_from_slice(&[ROWS, 0, 0, 0, 0]);
        let mut rows = Rows { out, count: 0 };
        let mapped = map(&mut rows);
        let count = rows.count;
        match mapped {
            Ok(()) if count == 0 => {
                out.truncate(began_at);
                out.push(SKIP);
            }
            Ok(()) => out[began_at + 1..began_at + 5].copy_from_slice(&count.to_le_bytes()),
            Err(Reject { code, message }) => {
                out.truncate(began_at);
                out.push(REJECT);
                put_bytes(out, code.as_bytes());
                put_bytes(out, message.as_bytes());
            }
        }
    }

    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_read_where_it_lies() {
        let mut batch = Vec::new();
        batch.extend_from_slice(&7_u64.to_le_bytes());
        batch.extend_from_slice(&(-1_i64).to_le_bytes());
        batch.extend_from_slice(&42_i64.to_le_bytes());
        batch.extend_from_slice(&3_i32.to_le_bytes());
        batch.extend_from_slice(&1_u32.to_le_bytes());
        for text in ["id", "Told", "a-1", "told.events", "{}"] {
            put_bytes(&mut batch, text.as_bytes());
        }
        let mut headers = 2_u32.to_le_bytes().to_vec();
        for text in ["n", "1", "n", "2"] {
            put_bytes(&mut headers, text.as_bytes());
        }
        put_bytes(&mut batch, &headers);

        let event = Reader::new(&batch).event();

        assert_eq!(
            [event.id, event.event_type, event.aggregate_id, event.topic].map(|text| text.as_str()),
            ["id", "Told", "a-1", "told.events"]
        );
        assert_eq!((event.aggregate_version, event.occurred_at_us, event.offset), (7, -1, 42));
        assert_eq!((event.partition, event.schema_version, event.payload), (3, 1, &b"{}"[..]));
        assert_eq!(event.headers.get("n"), Some(&b"2"[..]));
        assert_eq!(event.headers.iter().count(), 2);
        assert_eq!(Headers::default().iter().count(), 0);
    }

    #[test]
    fn an_outcome_is_rows_a_skip_or_a_rejection_and_nothing_of_the_rows_before_it() {
        let mut answer = Answer::of(3);
        answer.outcome(|rows| {
            rows.row(1).text("é").uint(5).null();
            Ok(())
        });
        answer.outcome(|_| Ok(()));
        answer.outcome(|rows| {
            rows.row(0).boolean(true).decimal(Decimal::new(-125, 2));
            Err(Reject::new("no", "way"))
        });

        let mut expected = vec![3, 0, 0, 0];
        expected.extend([1, 1, 0, 0, 0, 1, 0, 3, 0, 7, 2, 0, 0, 0, 0xc3, 0xa9, 4, 5, 0, 0, 0, 0, 0, 0, 0, 0]);
        expected.push(0);
        expected.extend([2, 2, 0, 0, 0, b'n', b'o', 3, 0, 0, 0, b'w', b'a', b'y']);
        assert_eq!(answer.into_bytes(), expected);
    }
}
