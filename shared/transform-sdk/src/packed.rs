//! The batch and its answer as bytes; `transforms/wit/transform.wit` tells their layout.
//!
//! Events are read where they lie, and cells are written where they will be sent from: nothing is allocated for either.

use crate::{Decimal, Reject};
use std::{fmt, ops::Deref, str::Utf8Error};

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
        str::from_utf8(self.0).expect("the host writes UTF-8")
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

impl<'a> Event<'a> {
    /// The payload as text.
    ///
    /// # Errors
    /// Where it is not UTF-8.
    pub fn text(&self) -> Result<&'a str, Utf8Error> {
        // Each turn of a loop pays for a look at the deadline: the standard library's has 8 bytes a turn here.
        let (chunks, rest) = self.payload.as_chunks::<32>();
        let ascii = |chunk: &[u8; 32]| {
            let (numbers, _) = chunk.as_chunks::<8>();
            numbers.iter().fold(0, |all, number| all | u64::from_le_bytes(*number)) & 0x8080_8080_8080_8080
                == 0
        };
        if chunks.iter().all(ascii) && rest.is_ascii() {
            // SAFETY: each byte is ASCII, which is UTF-8.
            #[allow(unsafe_code)]
            return Ok(unsafe { str::from_utf8_unchecked(self.payload) });
        }
        str::from_utf8(self.payload)
    }
}

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
        // In one piece: it is held against the end once.
        let numbers = self.array::<32>();
        let mut numbers = Reader(&numbers);
        let aggregate_version = u64::from_le_bytes(numbers.array());
        let occurred_at_us = i64::from_le_bytes(numbers.array());
        let offset = i64::from_le_bytes(numbers.array());
        let partition = i32::from_le_bytes(numbers.array());
        let schema_version = numbers.u32();
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
        let [low, high] = table.to_le_bytes();
        self.out.extend_from_slice(&[low, high, 0, 0]);
        let count_at = self.out.len() - 2;
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
        self.cell([0])
    }

    pub fn boolean(&mut self, value: bool) -> &mut Self {
        self.cell([if value { 2 } else { 1 }])
    }

    pub fn int(&mut self, value: i64) -> &mut Self {
        self.number(3, value.to_le_bytes())
    }

    pub fn uint(&mut self, value: u64) -> &mut Self {
        self.number(4, value.to_le_bytes())
    }

    /// Money and other exact numbers. A column that keeps fewer digits refuses one that says something.
    pub fn decimal(&mut self, value: Decimal) -> &mut Self {
        let scale = u8::try_from(value.scale()).expect("a decimal has 28 digits at most");
        let mut cell = [0; 18];
        cell[..2].copy_from_slice(&[6, scale]);
        cell[2..].copy_from_slice(&value.mantissa().to_le_bytes());
        self.cell(cell)
    }

    /// For `String` and `UUID` columns.
    pub fn text(&mut self, value: impl AsRef<str>) -> &mut Self {
        let bytes = value.as_ref().as_bytes();
        let [a, b, c, d] = length(bytes).to_le_bytes();
        self.cell([7, a, b, c, d]);
        self.out.extend_from_slice(bytes);
        self
    }

    /// Microseconds since 1970-01-01 UTC, for a `DateTime64` column.
    pub fn timestamp_us(&mut self, value: i64) -> &mut Self {
        self.number(9, value.to_le_bytes())
    }

    fn number(&mut self, kind: u8, [a, b, c, d, e, f, g, h]: [u8; 8]) -> &mut Self {
        self.cell([kind, a, b, c, d, e, f, g, h])
    }

    /// In one piece: each piece has its room looked after.
    fn cell<const N: usize>(&mut self, bytes: [u8; N]) -> &mut Self {
        self.count += 1;
        self.out.extend_from_slice(&bytes);
        self
    }
}

impl Drop for Row<'_> {
    fn drop(&mut self) {
        self.out[self.count_at..self.count_at + 2].copy_from_slice(&self.count.to_le_bytes());
    }
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&length(bytes).to_le_bytes());
    out.extend_from_slice(bytes);
}

fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).expect("a module's memory is smaller than 4 GiB")
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
    use proptest::{collection::vec, prelude::*};

    proptest! {
        #[test]
        fn a_payload_is_text_where_the_standard_library_says_so(
            mut payload in vec(0_u8..128, 0..100),
            odd in prop::option::of((any::<prop::sample::Index>(), any::<u8>())),
            end in "[a-zé€😀]{0,3}",
        ) {
            payload.extend(end.bytes());
            if let (Some((at, byte)), false) = (odd, payload.is_empty()) {
                let at = at.index(payload.len());
                payload[at] = byte;
            }
            let event = Event { payload: &payload, ..of_nothing() };
            prop_assert_eq!(event.text(), std::str::from_utf8(&payload));
        }

        #[test]
        fn texts_are_equal_where_their_bytes_are(one in "[ab]{0,20}", other in "[ab]{0,20}") {
            prop_assert_eq!(Text::from(&*one) == *other, one == other);
            prop_assert!(Text::from(&*one) == *one);
            prop_assert!(Text::from(&*one) != *(one.clone() + "c"));
        }
    }

    fn of_nothing() -> Event<'static> {
        let nothing = Text::from("");
        Event {
            id: nothing,
            event_type: nothing,
            aggregate_id: nothing,
            aggregate_version: 1,
            schema_version: 1,
            occurred_at_us: 0,
            topic: nothing,
            partition: 0,
            offset: 0,
            headers: Headers::default(),
            payload: b"",
        }
    }

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
