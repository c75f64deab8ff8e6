//! What must hold for any bytes that a module hands over: its answers, and what it says of itself.
//!
//! Each function panics where a promise is broken. The targets of `fuzz/` call them with what coverage leads to, the tests
//! below with what a fixed seed leads to and with the seeds that are kept.
//!
//! Must not: judge the host by its own means. Decimals are strings of digits here, times the `time` crate's, JSON is
//! `serde_json`'s.

mod case;

use crate::{
    Digest, Event, Generation, Outcome, Row, Schema, Stage, Stamp,
    bindings::typed::outflow::transform::types as wire,
    cells::ColumnType,
    packed::{self, Malformed},
    row::{Stamper, same_in_each_row},
    typed,
};
use arbitrary::{Result, Unstructured};
use outflow_columns::Kind;
use serde_json::{Map, Value};
use std::sync::OnceLock;
use time::OffsetDateTime;

/// Each type, alone and as Nullable. A row of one cell comes through more often than one of many.
const TABLES: [(&str, &[&str]); 7] = [
    ("texts", &["LowCardinality(String)"]),
    ("ids", &["UUID", "Nullable(UUID)"]),
    ("flags", &["Bool", "Nullable(Bool)"]),
    ("counts", &["Int8", "UInt32", "Nullable(Int64)", "UInt64"]),
    ("amounts", &["Decimal(18, 2)", "Nullable(Decimal(38, 0))"]),
    ("shares", &["Decimal(38, 38)"]),
    ("times", &["DateTime64(3, 'UTC')", "Nullable(DateTime64(0, 'UTC'))", "DateTime64(6, 'UTC')"]),
];
/// The host's columns in the order in which they follow the module's.
const STAMPED: [&str; 8] = [
    "version",
    "is_deleted",
    "event_id",
    "transform_digest",
    "occurred_at",
    "relayed_at",
    "transformed_at",
    "is_canary",
];
const ID: &str = "0192a7c1-0000-7000-8000-0000000000ff";
const STAMP: Stamp = Stamp { generation: Generation::FIRST, transformed_at_us: 1_800_000_000_123_456 };
const MAX_ROWS: usize = 3;
const MAX_MESSAGE: usize = 8;
/// A row of short cells has less, one of a long text has more.
const MAX_ROW: usize = 410;

/// The bytes that a module answers to two events: read whole, or refused.
pub fn answer(data: &[u8]) {
    let events = [1, 2].map(|aggregate_version| Event { id: ID, aggregate_version, ..Event::default() });
    let Ok(outcomes) = unpacked(data, &events, MAX_ROW) else { return };
    assert_eq!(outcomes.len(), events.len());
    for outcome in &outcomes {
        match outcome {
            Outcome::Skip => {}
            Outcome::Reject(rejection) if rejection.stage == Stage::Module => {
                assert!(rejection.code.len() <= MAX_MESSAGE && rejection.message.len() <= MAX_MESSAGE);
            }
            Outcome::Reject(rejection) => assert_eq!(rejection.stage, Stage::Row),
            Outcome::Rows(rows) => {
                assert!(rows.len() <= MAX_ROWS && rows.iter().all(|row| row.json.len() <= MAX_ROW));
                rows.iter().for_each(|row| drop(fields(row)));
            }
        }
    }
    assert!(unpacked(&data[..data.len() - 1], &events, MAX_ROW).is_err(), "a byte less says the same");
    assert!(unpacked(&[data, &[0]].concat(), &events, MAX_ROW).is_err(), "a byte more says the same");
}

/// Outcomes of any kind, said in bytes and as typed values: rows say exactly what the module said, and only what doesn't fit
/// is refused.
pub fn outcomes(data: &[u8]) {
    let mut source = Unstructured::new(data);
    let told: Result<Vec<_>> = (0..data.len() % 4).map(|_| case::told(&mut source)).collect();
    let (events, said): (Vec<_>, Vec<_>) = told.unwrap_or_default().into_iter().unzip();
    let answer = case::pack(&said);
    let by_bytes = |max_row| unpacked(&answer, &events, max_row).expect("it is as the interface tells");
    let same = same_in_each_row(&digest(), STAMP);
    let by_types = |max_row| {
        let typed = |(said, event)| typed::outcome(said, event, stamper(&same, max_row), MAX_MESSAGE);
        said.iter().zip(&events).map(typed).collect()
    };
    let unlimited: [Vec<Outcome>; 2] = [by_bytes(usize::MAX), by_types(usize::MAX)];
    for (unlimited, limited) in unlimited.iter().zip([by_bytes(MAX_ROW), by_types(MAX_ROW)]) {
        assert_eq!((unlimited.len(), limited.len()), (events.len(), events.len()));
        for ((outcome, said), event) in unlimited.iter().zip(&said).zip(&events) {
            held(outcome, said, event);
        }
        for (unlimited, limited) in unlimited.iter().zip(limited) {
            let is_too_large = |row: &Row| row.json.len() > MAX_ROW;
            match (unlimited, &limited) {
                (Outcome::Rows(rows), Outcome::Reject(rejection)) if rows.iter().any(is_too_large) => {
                    assert_eq!((rejection.stage, rejection.code.as_str()), (Stage::Row, "row_too_large"));
                }
                // What is wrong with a later row is not looked at any more.
                (Outcome::Reject(other), Outcome::Reject(rejection)) if rejection.code == "row_too_large" => {
                    assert_eq!((other.stage, rejection.stage), (Stage::Row, Stage::Row));
                }
                _ => assert_eq!(*unlimited, limited),
            }
            let Outcome::Rows(rows) = limited else { continue };
            assert!(!rows.iter().any(is_too_large));
        }
    }
}

/// What a module says of itself: taken as it says it, or refused.
pub fn describe(data: &[u8]) {
    let Ok(descriptor) = case::descriptor(&mut Unstructured::new(data)) else { return };
    let Ok(schema) = Schema::check(descriptor.clone()) else { return };
    assert_eq!(schema.tables.len(), descriptor.tables.len());
    for (table, said) in schema.tables.iter().zip(&descriptor.tables) {
        assert_eq!(*table.name, said.name);
        assert_eq!(table.columns.len(), said.columns.len());
        for (column, said) in table.columns.iter().zip(&said.columns) {
            assert_eq!(column.name, said.name);
            let canonical = column.column_type.to_string();
            assert_eq!(canonical.parse(), Ok(column.column_type));
            let without_spaces = |text: &str| text.replace(char::is_whitespace, "");
            assert_eq!(without_spaces(&canonical), without_spaces(&said.ch_type), "another type");
        }
        let json = [table.keys.join(&b"0"[..]), b"0}".to_vec()].concat();
        let read: Map<String, Value> = serde_json::from_slice(&json).expect("keys and values are an object");
        assert!(table.columns.iter().all(|column| read.contains_key(&column.name)));
        assert_eq!(read.len(), table.columns.len());
    }
}

fn schema() -> &'static Schema {
    static SCHEMA: OnceLock<Schema> = OnceLock::new();
    let column = |(at, ch_type): (usize, &&str)| {
        let name = format!("c{at}");
        wire::Column { name, ch_type: (*ch_type).to_owned() }
    };
    let table = |(name, columns): &(&str, &[&str])| wire::Table {
        name: (*name).to_owned(),
        columns: columns.iter().enumerate().map(column).collect(),
    };
    SCHEMA.get_or_init(|| {
        let descriptor = wire::Descriptor {
            name: "any".to_owned(),
            version: "1.0.0".to_owned(),
            event_types: vec!["Told".to_owned()],
            tables: TABLES.iter().map(table).collect(),
        };
        Schema::check(descriptor).expect("it is a schema")
    })
}

fn digest() -> Digest {
    static DIGEST: OnceLock<Digest> = OnceLock::new();
    DIGEST.get_or_init(|| Digest::of(b"a module")).clone()
}

fn stamper(same: &[Vec<u8>; 3], row_bytes: usize) -> Stamper<'_> {
    let no_limit = usize::MAX;
    Stamper {
        schema: schema(),
        stamp: STAMP,
        same,
        row_bytes,
        rows_per_record: MAX_ROWS,
        record_bytes: no_limit,
        batch_bytes: no_limit,
    }
}

fn unpacked(
    answer: &[u8],
    events: &[Event<'_>],
    max_row: usize,
) -> std::result::Result<Vec<Outcome>, Malformed> {
    let same = same_in_each_row(&digest(), STAMP);
    packed::decode(answer, &events.iter().collect::<Vec<_>>(), stamper(&same, max_row), MAX_MESSAGE)
}

/// Holds what became of an event against what the module said of it.
fn held(outcome: &Outcome, said: &wire::Outcome, event: &Event<'_>) {
    match (outcome, said) {
        (Outcome::Skip, wire::Outcome::Skip) => {}
        (Outcome::Reject(rejection), wire::Outcome::Reject(said)) => {
            assert_eq!(rejection.stage, Stage::Module);
            for (cut, whole) in [(&rejection.code, &said.code), (&rejection.message, &said.message)] {
                assert!(whole.starts_with(cut.as_str()) && cut.len() <= MAX_MESSAGE);
                // No more was cut than a character.
                assert!(cut.len() == whole.len() || cut.len() + 4 > MAX_MESSAGE, "{cut} of {whole}");
            }
        }
        (Outcome::Rows(rows), wire::Outcome::Rows(said)) => {
            assert!(fit(said, event), "{rows:?} of {said:?}");
            assert_eq!(rows.len(), said.len());
            rows.iter().zip(said).for_each(|(row, said)| says(row, said, event));
        }
        (Outcome::Reject(rejection), wire::Outcome::Rows(said)) => {
            assert_eq!(rejection.stage, Stage::Row);
            assert!(!fit(said, event), "{rejection:?} of {said:?}");
        }
        other => panic!("{other:?}"),
    }
}

/// Whether the rows can be written, however long they become.
fn fit(rows: &[wire::Row], event: &Event<'_>) -> bool {
    let row_fits = |row: &wire::Row| {
        schema().tables.get(usize::from(row.table)).is_some_and(|table| {
            let mut cells = table.columns.iter().zip(&row.values);
            table.columns.len() == row.values.len()
                && cells.all(|(column, value)| cell_fits(column.column_type, value))
        })
    };
    rows.len() <= MAX_ROWS
        && (1..1 << 39).contains(&event.aggregate_version)
        && is_uuid(event.id)
        && rows.iter().all(row_fits)
}

/// Whether the value can be said in a column of this type, to its last digit.
fn cell_fits(column: ColumnType, value: &wire::Value) -> bool {
    match (column.kind(), value) {
        (_, wire::Value::Null) => column.is_nullable(),
        (Kind::String, wire::Value::Text(_)) | (Kind::Bool, wire::Value::Boolean(_)) => true,
        (Kind::String, wire::Value::Bytes(bytes)) => std::str::from_utf8(bytes).is_ok(),
        (Kind::Uuid, wire::Value::Text(text)) => is_uuid(text),
        (kind @ (Kind::Int(_) | Kind::UInt(_)), wire::Value::Int(number)) => holds(kind, (*number).into()),
        (kind @ (Kind::Int(_) | Kind::UInt(_)), wire::Value::Uint(number)) => holds(kind, (*number).into()),
        (Kind::Decimal { precision, scale }, wire::Value::Decimal(text)) => {
            let (_, whole, fraction) = digits(text);
            whole.len() <= (precision - scale) as usize && fraction.len() <= scale as usize
        }
        (Kind::DateTime64(digits), wire::Value::TimestampUs(micros)) => {
            let years = moment(*micros).map(OffsetDateTime::year);
            years.is_some_and(|year| (1900..2300).contains(&year)) && micros % 10_i64.pow(6 - digits) == 0
        }
        _ => false,
    }
}

fn holds(kind: Kind, number: i128) -> bool {
    match kind {
        Kind::Int(bits) => number << (128 - bits) >> (128 - bits) == number,
        // Readers of JSON can't be trusted with the numbers from 2^63 on.
        Kind::UInt(bits) => number >= 0 && number >> bits.min(63) == 0,
        _ => false,
    }
}

/// The row says what the module said, and what the host adds.
fn says(row: &Row, said: &wire::Row, event: &Event<'_>) {
    let fields = fields(row);
    let table = &schema().tables[usize::from(said.table)];
    assert_eq!(row.table, table.name);
    for (column, value) in table.columns.iter().zip(&said.values) {
        let found = &fields[&column.name];
        match value {
            wire::Value::Null => assert!(found.is_null()),
            wire::Value::Boolean(said) => assert_eq!(*found, Value::from(*said)),
            wire::Value::Int(said) => assert_eq!(*found, Value::from(*said)),
            wire::Value::Uint(said) => assert_eq!(*found, Value::from(*said)),
            wire::Value::Text(said) => assert_eq!(found.as_str(), Some(said.as_str())),
            wire::Value::Bytes(said) => assert_eq!(found.as_str().map(str::as_bytes), Some(said.as_slice())),
            wire::Value::Decimal(said) => assert_eq!(found.as_str().map(digits), Some(digits(said))),
            wire::Value::TimestampUs(said) => {
                let Kind::DateTime64(digits) = column.column_type.kind() else {
                    panic!("{found} of {value:?}")
                };
                assert_eq!(found.as_str(), Some(written(*said, digits as usize).as_str()));
            }
            wire::Value::Float(_) => panic!("{found} of {value:?}"),
        }
    }
    let version = event.aggregate_version * (1 << Generation::BITS) + u64::from(STAMP.generation.get());
    assert_eq!(fields["version"], Value::from(version));
    assert_eq!(fields["is_deleted"], Value::from(0));
    assert_eq!(fields["event_id"], Value::from(event.id));
    assert_eq!(fields["transform_digest"], Value::from(digest().as_str()));
    assert_eq!(fields["is_canary"], Value::from(u8::from(event.is_canary)));
    for (name, micros) in [
        ("occurred_at", event.occurred_at_us),
        ("relayed_at", event.relayed_at_us),
        ("transformed_at", STAMP.transformed_at_us),
    ] {
        let is_known = moment(micros).is_some_and(|moment| (1900..2300).contains(&moment.year()));
        let clamped = if micros < 0 { "1900-01-01 00:00:00.000" } else { "2299-12-31 23:59:59.999" };
        let expected = if is_known { written(micros, 3) } else { clamped.to_owned() };
        assert_eq!(fields[name], Value::from(expected), "{name}");
    }
}

/// The fields of a row by name: those of its table and the host's, in their order, each once.
fn fields(row: &Row) -> Map<String, Value> {
    let fields: Map<String, Value> = serde_json::from_slice(&row.json).expect("a row is a JSON object");
    let table = schema().tables.iter().find(|table| table.name == row.table).expect("it is the module's");
    let names = table.columns.iter().map(|column| column.name.as_str()).chain(STAMPED);
    let written = names.map(|name| format!("\"{name}\":{}", fields[name])).collect::<Vec<_>>().join(",");
    assert_eq!(std::str::from_utf8(&row.json), Ok(format!("{{{written}}}").as_str()));
    fields
}

/// Whether a decimal is below zero, and its digits before and behind the point, without zeros that say nothing.
fn digits(text: &str) -> (bool, &str, &str) {
    let unsigned = text.trim_start_matches('-');
    let (whole, fraction) = unsigned.split_once('.').unwrap_or((unsigned, ""));
    let (whole, fraction) = (whole.trim_start_matches('0'), fraction.trim_end_matches('0'));
    (text.starts_with('-') && (whole, fraction) != ("", ""), whole, fraction)
}

/// None is a moment that the `time` crate can't hold: years before -9999 and after 9999.
fn moment(micros: i64) -> Option<OffsetDateTime> {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1_000).ok()
}

fn written(micros: i64, digits: usize) -> String {
    let moment = moment(micros).expect("a year that it knows");
    let (hour, minute, second) = moment.time().as_hms();
    let whole = format!("{} {hour:02}:{minute:02}:{second:02}", moment.date());
    let fraction = format!("{:06}", moment.microsecond());
    if digits == 0 { whole } else { format!("{whole}.{}", &fraction[..digits]) }
}

fn is_uuid(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let lengths: Vec<usize> = parts.iter().map(|part| part.len()).collect();
    lengths == [8, 4, 4, 4, 12] && parts.concat().chars().all(|c| c.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{prelude::*, strategy::ValueTree, test_runner::RngSeed};
    use std::{collections::BTreeMap, fs, path::Path};

    /// The same cases each time: what the fuzzer finds is kept as a seed.
    fn config() -> ProptestConfig {
        ProptestConfig {
            cases: 4_096,
            rng_seed: RngSeed::Fixed(0x6f75_7466_6c6f_7721),
            failure_persistence: None,
            ..ProptestConfig::default()
        }
    }

    fn data() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(any::<u8>(), 0..512)
    }

    proptest! {
        #![proptest_config(config())]

        #[test]
        fn rows_say_what_the_module_said_and_only_what_does_not_fit_is_refused(data in data()) {
            outcomes(&data);
        }

        #[test]
        fn an_answer_is_read_whole_or_refused(data in data(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let mut source = Unstructured::new(&data);
            let said: Result<Vec<_>> = (0..2).map(|_| case::told(&mut source).map(|(_, said)| said)).collect();
            let mut packed = case::pack(&said.unwrap_or_default());
            answer(&packed);
            *at.get_mut(&mut packed) = byte;
            answer(&packed);
        }

        #[test]
        fn what_a_module_says_of_itself_is_taken_so_or_refused(data in data()) {
            describe(&data);
        }
    }

    #[test]
    fn kept_seeds_hold() {
        let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds");
        for (target, run) in [("answer", answer as fn(&[u8])), ("outcomes", outcomes), ("describe", describe)]
        {
            let seeds = fs::read_dir(seeds.join(target)).expect("each target has seeds");
            let seeds: Vec<_> = seeds.map(|seed| seed.expect("it can be listed").path()).collect();
            assert!(!seeds.is_empty(), "{target} has none");
            seeds.iter().for_each(|seed| run(&fs::read(seed).expect("it can be read")));
        }
    }

    /// Cases of every kind come up: a fixed seed that only leads to refusals would hold anything.
    #[test]
    fn the_cases_of_the_fixed_seed_lead_everywhere() {
        let mut runner = proptest::test_runner::TestRunner::new(config());
        let (mut seen, mut schemas) = (BTreeMap::<String, u32>::new(), 0);
        for _ in 0..config().cases {
            let data = data().new_tree(&mut runner).expect("bytes can be made").current();
            let of = case::descriptor(&mut Unstructured::new(&data));
            schemas += u32::from(of.is_ok_and(|descriptor| Schema::check(descriptor).is_ok()));
            let Ok((event, said)) = case::told(&mut Unstructured::new(&data)) else { continue };
            let outcomes =
                unpacked(&case::pack(&[said]), &[event], MAX_ROW).expect("it is packed as it should be");
            for outcome in outcomes {
                let what = match outcome {
                    Outcome::Rows(rows) => rows[0].table.to_string(),
                    Outcome::Reject(rejection) if rejection.stage == Stage::Row => rejection.code,
                    Outcome::Reject(_) => "rejected".to_owned(),
                    Outcome::Skip => "skipped".to_owned(),
                };
                *seen.entry(what).or_default() += 1;
            }
        }
        let all = [
            "aggregate_version",
            "amounts",
            "cell_does_not_fit",
            "counts",
            "event_id",
            "flags",
            "ids",
            "rejected",
            "row_too_large",
            "shares",
            "skipped",
            "texts",
            "times",
            "too_many_rows",
            "unknown_table",
            "wrong_column_count",
        ];
        assert!(seen.keys().eq(&all) && schemas > 20, "{schemas} schemas, {seen:?}");
    }
}
