//! The batch and its answer as bytes; `transforms/wit/transform.wit` tells their layout.
//!
//! What a module answers may be anything: nothing is believed here, and nothing is read twice.

use crate::{
    Event, Outcome, Rejection, Stage,
    cells::Cell,
    guest::cut,
    row::{Outcomes, Stamper},
};

/// Why an answer can't be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    #[error("{found} outcomes for {expected} events")]
    Count { found: u32, expected: usize },
    #[error("it ends in the middle of {0}")]
    Short(&'static str),
    #[error("{what} {found} is unknown")]
    Unknown { what: &'static str, found: u8 },
    #[error("{0} is not UTF-8")]
    Text(&'static str),
    #[error("{0} bytes follow the last outcome")]
    Rest(usize),
}

/// The batch, for the module, with those of the headers that it has named.
pub(crate) fn encode(events: &[&Event<'_>], headers: &[String]) -> Vec<u8> {
    /// Of one event beside its payload: numbers, ids, type and topic.
    const TYPICAL_LEN: usize = 256;
    let payloads: usize = events.iter().map(|event| event.payload.len()).sum();
    let mut out = Vec::with_capacity(4 + payloads + events.len() * TYPICAL_LEN);
    put_len(&mut out, events.len());
    for event in events {
        out.extend_from_slice(&event.aggregate_version.to_le_bytes());
        out.extend_from_slice(&event.occurred_at_us.to_le_bytes());
        out.extend_from_slice(&event.offset.to_le_bytes());
        out.extend_from_slice(&event.partition.to_le_bytes());
        out.extend_from_slice(&event.schema_version.to_le_bytes());
        for text in [event.id, event.event_type, event.aggregate_id, event.topic] {
            put_bytes(&mut out, text.as_bytes());
        }
        put_bytes(&mut out, event.payload);
        let length_at = out.len();
        put_len(&mut out, 0);
        put_len(&mut out, 0);
        let mut count = 0_u32;
        if !headers.is_empty() {
            for (key, value) in event.headers.iter().filter(|(key, _)| headers.contains(key)) {
                count += 1;
                put_bytes(&mut out, key.as_bytes());
                put_bytes(&mut out, value);
            }
        }
        let length = u32::try_from(out.len() - length_at - 4).unwrap_or(u32::MAX);
        out[length_at..length_at + 4].copy_from_slice(&length.to_le_bytes());
        out[length_at + 4..length_at + 8].copy_from_slice(&count.to_le_bytes());
    }
    out
}

/// Lengths stay far below 4 GiB: a batch has 6 MB.
fn put_len(out: &mut Vec<u8>, len: usize) {
    out.extend_from_slice(&u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes());
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_len(out, bytes.len());
    out.extend_from_slice(bytes);
}

/// An outcome for each event, rows checked and stamped; fewer where the rows pass the bytes of a batch.
pub(crate) fn decode(
    answer: &[u8],
    events: &[&Event<'_>],
    stamper: Stamper<'_>,
    message_bytes: usize,
) -> Result<Vec<Outcome>, Malformed> {
    let mut reader = Reader(answer);
    let found = reader.u32("the number of outcomes")?;
    if usize::try_from(found) != Ok(events.len()) {
        return Err(Malformed::Count { found, expected: events.len() });
    }
    let mut outcomes = Outcomes::within(stamper.batch_bytes, events.len());
    for event in events {
        let outcome = match reader.u8("an outcome")? {
            0 => Outcome::Skip,
            1 => rows(&mut reader, event, stamper)?,
            2 => {
                let cut = |text| cut(text, message_bytes).to_owned();
                let code = cut(reader.text("a code")?);
                Outcome::Reject(Rejection {
                    stage: Stage::Module,
                    code,
                    message: cut(reader.text("a message")?),
                })
            }
            found => return Err(Malformed::Unknown { what: "outcome", found }),
        };
        if !outcomes.take(outcome) {
            return Ok(outcomes.into_vec());
        }
    }
    match reader.0.len() {
        0 => Ok(outcomes.into_vec()),
        rest => Err(Malformed::Rest(rest)),
    }
}

fn rows(reader: &mut Reader<'_>, event: &Event<'_>, stamper: Stamper<'_>) -> Result<Outcome, Malformed> {
    let count = reader.u32("the number of rows")?;
    let mut rows = stamper.event(event, usize::try_from(count).unwrap_or(usize::MAX));
    for _ in 0..count {
        let table = reader.u16("a row")?;
        let cells = reader.u16("a row")?;
        let mut row = rows.row(table, cells.into());
        for _ in 0..cells {
            row.cell(reader.cell()?);
        }
        row.end();
    }
    Ok(rows.end())
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], Malformed> {
        let (read, rest) = self.0.split_first_chunk().ok_or(Malformed::Short(what))?;
        self.0 = rest;
        Ok(*read)
    }

    fn u8(&mut self, what: &'static str) -> Result<u8, Malformed> {
        self.array::<1>(what).map(|[byte]| byte)
    }

    fn u16(&mut self, what: &'static str) -> Result<u16, Malformed> {
        self.array(what).map(u16::from_le_bytes)
    }

    fn u32(&mut self, what: &'static str) -> Result<u32, Malformed> {
        self.array(what).map(u32::from_le_bytes)
    }

    fn bytes(&mut self, what: &'static str) -> Result<&'a [u8], Malformed> {
        let len = self.u32(what)? as usize;
        let (read, rest) = self.0.split_at_checked(len).ok_or(Malformed::Short(what))?;
        self.0 = rest;
        Ok(read)
    }

    fn text(&mut self, what: &'static str) -> Result<&'a str, Malformed> {
        std::str::from_utf8(self.bytes(what)?).map_err(|_| Malformed::Text(what))
    }

    fn cell(&mut self) -> Result<Cell<'a>, Malformed> {
        const WHAT: &str = "a cell";
        Ok(match self.u8(WHAT)? {
            0 => Cell::Null,
            1 => Cell::Boolean(false),
            2 => Cell::Boolean(true),
            3 => Cell::Int(i64::from_le_bytes(self.array(WHAT)?)),
            4 => Cell::Uint(u64::from_le_bytes(self.array(WHAT)?)),
            5 => {
                self.array::<8>(WHAT)?;
                Cell::Float
            }
            6 => {
                let digits = self.u8(WHAT)?;
                Cell::Scaled(i128::from_le_bytes(self.array(WHAT)?), digits)
            }
            7 => Cell::Text(self.text("a text")?),
            8 => Cell::Bytes(self.bytes("a byte string")?),
            9 => Cell::TimestampUs(i64::from_le_bytes(self.array(WHAT)?)),
            found => return Err(Malformed::Unknown { what: "cell", found }),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, prelude::*};

    proptest! {
        #[test]
        fn a_batch_reaches_the_module_as_it_is_with_the_headers_that_it_names(
            texts in vec(any::<[String; 4]>(), 0..4),
            numbers in any::<[(u64, i64, i64, i32, u32); 4]>(),
            payloads in any::<[Vec<u8>; 4]>(),
            headers in vec((any::<String>(), any::<Vec<u8>>()), 0..4),
            named in 0_usize..4,
        ) {
            let events: Vec<Event<'_>> = texts
                .iter()
                .zip(&numbers)
                .zip(&payloads)
                .map(|(([id, event_type, aggregate_id, topic], numbers), payload)| {
                    let &(aggregate_version, occurred_at_us, offset, partition, schema_version) = numbers;
                    Event {
                        id,
                        event_type,
                        aggregate_id,
                        topic,
                        aggregate_version,
                        occurred_at_us,
                        offset,
                        partition,
                        schema_version,
                        payload,
                        headers: &headers,
                        ..Event::default()
                    }
                })
                .collect();
            let named: Vec<String> = headers.iter().take(named).map(|(name, _)| name.clone()).collect();
            let batch = encode(&events.iter().collect::<Vec<_>>(), &named);
            let mut reader = Reader(&batch);
            prop_assert_eq!(reader.u32("the number of events")? as usize, events.len());
            for event in events {
                let numbers = (
                    u64::from_le_bytes(reader.array("a number")?),
                    i64::from_le_bytes(reader.array("a number")?),
                    i64::from_le_bytes(reader.array("a number")?),
                    i32::from_le_bytes(reader.array("a number")?),
                    reader.u32("a number")?,
                );
                let Event { aggregate_version, occurred_at_us, offset, partition, schema_version, .. } = event;
                prop_assert_eq!(numbers, (aggregate_version, occurred_at_us, offset, partition, schema_version));
                for text in [event.id, event.event_type, event.aggregate_id, event.topic] {
                    prop_assert_eq!(reader.text("a text")?, text);
                }
                prop_assert_eq!(reader.bytes("the payload")?, event.payload);
                let mut behind = Reader(reader.bytes("the headers")?);
                let expected: Vec<_> = headers.iter().filter(|(name, _)| named.contains(name)).collect();
                prop_assert_eq!(behind.u32("the number of headers")? as usize, expected.len());
                for (name, value) in expected {
                    prop_assert_eq!(behind.text("a name")?, name);
                    prop_assert_eq!(behind.bytes("a value")?, value);
                }
                prop_assert!(behind.0.is_empty());
            }
            prop_assert!(reader.0.is_empty());
        }
    }
}
