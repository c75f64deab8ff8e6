//! From bytes to a case: events, a schema, limits, and an answer that is either those bytes or made of them.

use super::{expect::Kind, reference::SeenEvent};
use crate::{
    Digest, Event, Generation, Schema, Stamp, bindings::typed::outflow::transform::types as wire,
    row::Stamper,
};
use std::sync::OnceLock;

/// Bytes that are taken one after the other; behind their end are zeros.
pub(super) struct Source<'a>(&'a [u8]);

impl<'a> Source<'a> {
    pub(super) fn new(data: &'a [u8]) -> Self {
        Self(data)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn byte(&mut self) -> u8 {
        let Some((byte, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *byte
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::from(self.byte()) % limit
    }

    fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }

    fn bits(&mut self) -> u64 {
        (0..8).fold(0, |bits, _| bits << 8 | u64::from(self.byte()))
    }

    /// Small, at an edge, or any.
    pub(super) fn number(&mut self) -> i64 {
        match self.byte() {
            byte @ 0..100 => i64::from(byte) - 50,
            byte @ 100..164 => 1_i64.rotate_left(u32::from(byte) - 100).wrapping_sub(1),
            byte @ 164..200 => -(1_i64.rotate_left(u32::from(byte) - 150)),
            // A time of our days, to the second, the millisecond or the microsecond.
            byte @ 200..240 => {
                let unit = [1_000_000, 1_000, 1][usize::from(byte) % 3];
                let micros =
                    1_800_000_000_000_000 + i64::from_le_bytes(self.bits().to_le_bytes()) % (1 << 54);
                micros / unit * unit
            }
            _ => self.bits().cast_signed(),
        }
    }

    /// Short, and any bytes.
    pub(super) fn bytes(&mut self) -> Vec<u8> {
        let len = self.below(40).min(self.0.len());
        let (taken, rest) = self.0.split_at(len);
        self.0 = rest;
        taken.to_vec()
    }

    pub(super) fn text(&mut self) -> String {
        String::from_utf8_lossy(&self.bytes()).into_owned()
    }

    fn uuid(&mut self) -> String {
        let bits = u128::from(self.bits()) << 64 | u128::from(self.byte());
        uuid::text(bits)
    }

    fn rest(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.0).to_vec()
    }
}

mod uuid {
    pub(super) fn text(bits: u128) -> String {
        let hex = format!("{bits:032x}");
        [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
    }
}

/// An event that owns what it is made of.
#[derive(Debug)]
pub struct OwnedEvent {
    pub texts: [String; 4],
    pub headers: Vec<(String, Vec<u8>)>,
    pub payload: Vec<u8>,
    pub aggregate_version: u64,
    pub schema_version: u32,
    pub partition: i32,
    pub offset: i64,
    pub occurred_at_us: i64,
    pub relayed_at_us: i64,
    pub is_canary: bool,
}

impl OwnedEvent {
    pub(super) fn any(source: &mut Source<'_>) -> Self {
        Self {
            texts: [source.text(), source.text(), source.text(), source.text()],
            headers: (0..source.below(4)).map(|_| (source.text(), source.bytes())).collect(),
            payload: source.bytes(),
            aggregate_version: source.number().cast_unsigned(),
            schema_version: source.byte().into(),
            partition: source.byte().into(),
            offset: source.number(),
            occurred_at_us: source.number(),
            relayed_at_us: source.number(),
            is_canary: source.byte().is_multiple_of(2),
        }
    }

    /// As they come from Kafka: most are good.
    fn likely(source: &mut Source<'_>) -> Self {
        let id = if source.byte() < 240 { source.uuid() } else { source.text() };
        let aggregate_version = match source.byte() {
            byte @ 0..230 => u64::from(byte) + 1,
            byte @ 230..240 => (1 << 39) - u64::from(byte % 2),
            _ => source.number().cast_unsigned(),
        };
        Self {
            texts: [id, "Told".to_owned(), "a-1".to_owned(), "told.events".to_owned()],
            headers: Vec::new(),
            payload: Vec::new(),
            aggregate_version,
            schema_version: 1,
            partition: 0,
            offset: 0,
            occurred_at_us: source.number(),
            relayed_at_us: source.number(),
            is_canary: source.byte().is_multiple_of(2),
        }
    }

    pub(super) fn borrow(&self) -> Event<'_> {
        let [id, event_type, aggregate_id, topic] = self.texts.each_ref().map(String::as_str);
        Event {
            id,
            event_type,
            aggregate_id,
            topic,
            aggregate_version: self.aggregate_version,
            schema_version: self.schema_version,
            occurred_at_us: self.occurred_at_us,
            relayed_at_us: self.relayed_at_us,
            partition: self.partition,
            offset: self.offset,
            headers: &self.headers,
            payload: &self.payload,
            is_canary: self.is_canary,
        }
    }

    pub(super) fn seen_by_module(&self) -> SeenEvent {
        SeenEvent {
            aggregate_version: self.aggregate_version,
            occurred_at_us: self.occurred_at_us,
            offset: self.offset,
            partition: self.partition,
            schema_version: self.schema_version,
            texts: self.texts.clone(),
            payload: self.payload.clone(),
            headers: self.headers.clone(),
        }
    }
}

type Tables = &'static [(&'static str, &'static [(&'static str, Kind)])];

/// What the modules say that they fill: every type, alone and as Nullable; a usual row; two tables.
const TABLES: [Tables; 3] = [
    &[(
        "everything",
        &[
            ("a_text", Kind::text()),
            ("a_uuid", Kind::uuid()),
            ("a_bool", Kind::bool()),
            ("a_tiny", Kind::int("Int8", i8::MIN as i64, i8::MAX as i64)),
            ("a_big", Kind::int("UInt64", 0, i64::MAX)),
            ("an_amount", Kind::decimal(18, 2)),
            ("a_time", Kind::time(3)),
            ("maybe_text", Kind::text().nullable()),
            ("maybe_amount", Kind::decimal(38, 38).nullable()),
            ("maybe_time", Kind::time(0).nullable()),
        ],
    )],
    &[(
        "shipments",
        &[
            ("shipment_id", Kind::uuid()),
            ("shipped_at", Kind::time(3)),
            ("carrier", Kind::text()),
            ("status", Kind::text()),
            ("price", Kind::decimal(18, 2)),
            ("parcels", Kind::int("UInt32", 0, u32::MAX as i64)),
            ("weight", Kind::int("UInt32", 0, u32::MAX as i64)),
            ("band", Kind::text()),
        ],
    )],
    &[("one", &[("only", Kind::text())]), ("two", &[("only", Kind::int("Int64", i64::MIN, i64::MAX))])],
];

fn schema(of: usize) -> &'static Schema {
    static SCHEMAS: OnceLock<Vec<Schema>> = OnceLock::new();
    let column =
        |(name, kind): &(&str, Kind)| wire::Column { name: (*name).to_owned(), ch_type: kind.declared() };
    let table = |(name, columns): &(&str, &[(&str, Kind)])| wire::Table {
        name: (*name).to_owned(),
        columns: columns.iter().map(column).collect(),
    };
    let schema = |tables: &Tables| {
        let descriptor = wire::Descriptor {
            name: "any".to_owned(),
            version: "1.0.0".to_owned(),
            event_types: vec!["Told".to_owned()],
            tables: tables.iter().map(table).collect(),
        };
        Schema::check(descriptor).expect("it is a schema")
    };
    &SCHEMAS.get_or_init(|| TABLES.iter().map(schema).collect())[of]
}

/// A batch and what a module answers to it.
#[derive(Debug)]
pub(super) struct Case {
    pub(super) tables: Tables,
    schema: &'static Schema,
    pub(super) digest: Digest,
    pub(super) stamp: Stamp,
    pub(super) events: Vec<OwnedEvent>,
    pub(super) answer: Vec<u8>,
    pub(super) row_bytes: usize,
    pub(super) rows_per_record: usize,
    pub(super) message_bytes: usize,
}

impl Case {
    pub(super) fn new(data: &[u8]) -> Self {
        let mut source = Source::new(data);
        let of = source.below(TABLES.len());
        let stamp = Stamp {
            generation: Generation::new(u32::from(source.byte()) << 16 | 1).expect("it has 24 bits"),
            transformed_at_us: source.number(),
        };
        let row_bytes = source.one_of(&[1 << 20, 1 << 20, 420, 400]);
        let rows_per_record = source.one_of(&[1_000, 2]);
        let message_bytes = source.one_of(&[1_024, 5]);
        let events: Vec<_> = (0..source.below(4)).map(|_| OwnedEvent::likely(&mut source)).collect();
        let is_made = !source.byte().is_multiple_of(4);
        let answer = if is_made { answer(&mut source, events.len(), TABLES[of]) } else { source.rest() };
        Self {
            tables: TABLES[of],
            schema: schema(of),
            digest: Digest::of(b"a module"),
            stamp,
            events,
            answer,
            row_bytes,
            rows_per_record,
            message_bytes,
        }
    }

    pub(super) fn stamper(&self) -> Stamper<'_> {
        Stamper {
            schema: self.schema,
            digest: &self.digest,
            stamp: self.stamp,
            row_bytes: self.row_bytes,
            rows_per_record: self.rows_per_record,
        }
    }
}

/// An answer in the right form, mostly: what is in it is seldom right by itself.
fn answer(source: &mut Source<'_>, events: usize, tables: Tables) -> Vec<u8> {
    let mut out = Vec::new();
    put_len(events, &mut out);
    for _ in 0..events {
        match source.byte() {
            0..40 => out.push(0),
            40..70 => {
                out.push(2);
                put_bytes(source.text().as_bytes(), &mut out);
                put_bytes(source.text().as_bytes(), &mut out);
            }
            _ => {
                let rows = source.below(4);
                out.push(1);
                put_len(rows, &mut out);
                (0..rows).for_each(|_| row(source, tables, &mut out));
            }
        }
    }
    match source.byte() {
        250 => out.truncate(source.below(out.len())),
        251 => out.extend_from_slice(&source.bytes()),
        252..=255 => {
            let at = usize::from(source.byte()) << 2 | source.below(4);
            let len = out.len();
            out[at % len] ^= source.byte();
        }
        _ => {}
    }
    out
}

fn row(source: &mut Source<'_>, tables: Tables, out: &mut Vec<u8>) {
    let table = if source.byte() < 245 { source.below(tables.len()) } else { source.below(256) };
    let columns = tables.get(table).map_or(&[][..], |(_, columns)| columns);
    let count = if source.byte() < 245 { columns.len() } else { source.below(16) };
    out.extend_from_slice(&u16::try_from(table).expect("a byte").to_le_bytes());
    out.extend_from_slice(&u16::try_from(count).expect("a few").to_le_bytes());
    for at in 0..count {
        // What fits its column, mostly.
        let likely = columns.get(at).map_or(0, |(_, kind)| kind.wire());
        let kind = if source.byte() < 250 { likely } else { source.byte() % 11 };
        cell(source, kind, out);
    }
}

fn cell(source: &mut Source<'_>, kind: u8, out: &mut Vec<u8>) {
    out.push(kind);
    match kind {
        3 | 4 | 9 => out.extend_from_slice(&source.number().to_le_bytes()),
        5 => out.extend_from_slice(&source.bits().to_le_bytes()),
        6 => {
            out.push(source.byte() % 42);
            let number = i128::from(source.number()) << (source.byte() / 4);
            out.extend_from_slice(&number.to_le_bytes());
        }
        7 if source.byte() < 128 => put_bytes(source.uuid().as_bytes(), out),
        7 => put_bytes(source.text().as_bytes(), out),
        8 => put_bytes(&source.bytes(), out),
        _ => {}
    }
}

fn put_len(len: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(&u32::try_from(len).expect("short").to_le_bytes());
}

fn put_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    put_len(bytes.len(), out);
    out.extend_from_slice(bytes);
}
