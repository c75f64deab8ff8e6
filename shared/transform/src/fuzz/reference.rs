//! Reads what `transforms/wit/transform.wit` lays out, a second time and as plainly as it is told there.

/// What a module said of an event.
#[derive(Debug)]
pub(super) enum Said {
    Skip,
    Rows(Vec<SaidRow>),
    Reject { code: String, message: String },
}

#[derive(Debug)]
pub(super) struct SaidRow {
    pub(super) table: usize,
    pub(super) cells: Vec<SaidCell>,
}

#[derive(Debug)]
pub(super) enum SaidCell {
    Null,
    Boolean(bool),
    Int(i64),
    Uint(u64),
    Float,
    Decimal { digits: u8, number: i128 },
    Text(String),
    Bytes(Vec<u8>),
    Timestamp(i64),
}

/// An event as the module sees it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SeenEvent {
    pub(super) aggregate_version: u64,
    pub(super) occurred_at_us: i64,
    pub(super) offset: i64,
    pub(super) partition: i32,
    pub(super) schema_version: u32,
    /// id, event-type, aggregate-id, topic
    pub(super) texts: [String; 4],
    pub(super) payload: Vec<u8>,
    pub(super) headers: Vec<(String, Vec<u8>)>,
}

/// The outcomes of an answer; None where it isn't one.
pub(super) fn answer(bytes: &[u8]) -> Option<Vec<Said>> {
    let mut left = bytes;
    let count = number::<4>(&mut left)?;
    let mut outcomes = Vec::new();
    for _ in 0..u32::from_le_bytes(count) {
        outcomes.push(match number::<1>(&mut left)? {
            [0] => Said::Skip,
            [1] => {
                let mut rows = Vec::new();
                for _ in 0..u32::from_le_bytes(number(&mut left)?) {
                    let table = u16::from_le_bytes(number(&mut left)?).into();
                    let cells = u16::from_le_bytes(number(&mut left)?);
                    let cells = (0..cells).map(|_| cell(&mut left)).collect::<Option<_>>()?;
                    rows.push(SaidRow { table, cells });
                }
                Said::Rows(rows)
            }
            [2] => Said::Reject { code: text(&mut left)?, message: text(&mut left)? },
            _ => return None,
        });
    }
    left.is_empty().then_some(outcomes)
}

fn cell(left: &mut &[u8]) -> Option<SaidCell> {
    Some(match number::<1>(left)? {
        [0] => SaidCell::Null,
        [1] => SaidCell::Boolean(false),
        [2] => SaidCell::Boolean(true),
        [3] => SaidCell::Int(i64::from_le_bytes(number(left)?)),
        [4] => SaidCell::Uint(u64::from_le_bytes(number(left)?)),
        [5] => number::<8>(left).map(|_| SaidCell::Float)?,
        [6] => {
            let [digits] = number(left)?;
            SaidCell::Decimal { digits, number: i128::from_le_bytes(number(left)?) }
        }
        [7] => SaidCell::Text(text(left)?),
        [8] => SaidCell::Bytes(bytes(left)?),
        [9] => SaidCell::Timestamp(i64::from_le_bytes(number(left)?)),
        _ => return None,
    })
}

/// The events of a batch; None where it isn't one.
pub(super) fn batch(bytes: &[u8]) -> Option<Vec<SeenEvent>> {
    let mut left = bytes;
    let count = u32::from_le_bytes(number(&mut left)?);
    let events = (0..count).map(|_| event(&mut left)).collect::<Option<_>>()?;
    left.is_empty().then_some(events)
}

fn event(left: &mut &[u8]) -> Option<SeenEvent> {
    let aggregate_version = u64::from_le_bytes(number(left)?);
    let occurred_at_us = i64::from_le_bytes(number(left)?);
    let offset = i64::from_le_bytes(number(left)?);
    let partition = i32::from_le_bytes(number(left)?);
    let schema_version = u32::from_le_bytes(number(left)?);
    let texts = [text(left)?, text(left)?, text(left)?, text(left)?];
    let payload = bytes(left)?;
    let behind = bytes(left)?;
    let mut behind = behind.as_slice();
    let count = u32::from_le_bytes(number(&mut behind)?);
    let header = |_| Some((text(&mut behind)?, bytes(&mut behind)?));
    let headers = (0..count).map(header).collect::<Option<_>>()?;
    behind.is_empty().then_some(())?;
    Some(SeenEvent {
        aggregate_version,
        occurred_at_us,
        offset,
        partition,
        schema_version,
        texts,
        payload,
        headers,
    })
}

fn number<const N: usize>(left: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, rest) = (left.get(..N)?, left.get(N..)?);
    *left = rest;
    taken.try_into().ok()
}

fn bytes(left: &mut &[u8]) -> Option<Vec<u8>> {
    let len = u32::from_le_bytes(number(left)?) as usize;
    let (taken, rest) = (left.get(..len)?, left.get(len..)?);
    *left = rest;
    Some(taken.to_vec())
}

fn text(left: &mut &[u8]) -> Option<String> {
    String::from_utf8(bytes(left)?).ok()
}
