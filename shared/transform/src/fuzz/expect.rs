//! What an outcome must be, told from what the module said and by other means than the host's: numbers as strings of
//! digits, times by the `time` crate, JSON by `serde_json`.

use super::{
    case::Case,
    reference::{Said, SaidCell, SaidRow},
};
use crate::{Event, Generation, HOST_COLUMNS, Outcome, Row, Stage, cells::Cell};
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::Value;
use std::fmt;
use time::OffsetDateTime;

/// A column's type, and what it takes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kind {
    what: What,
    nullable: bool,
}

#[derive(Clone, Copy, Debug)]
enum What {
    Text,
    Uuid,
    Bool,
    Int { name: &'static str, low: i64, high: i64 },
    Decimal { precision: usize, scale: usize },
    Time { digits: usize },
}

impl Kind {
    pub(super) const fn text() -> Self {
        Self { what: What::Text, nullable: false }
    }

    pub(super) const fn uuid() -> Self {
        Self { what: What::Uuid, nullable: false }
    }

    pub(super) const fn bool() -> Self {
        Self { what: What::Bool, nullable: false }
    }

    pub(super) const fn int(name: &'static str, low: i64, high: i64) -> Self {
        Self { what: What::Int { name, low, high }, nullable: false }
    }

    pub(super) const fn decimal(precision: usize, scale: usize) -> Self {
        Self { what: What::Decimal { precision, scale }, nullable: false }
    }

    pub(super) const fn time(digits: usize) -> Self {
        Self { what: What::Time { digits }, nullable: false }
    }

    pub(super) const fn nullable(self) -> Self {
        Self { nullable: true, ..self }
    }

    pub(super) fn all() -> [Self; 24] {
        let scalar = [
            Self::text(),
            Self::uuid(),
            Self::bool(),
            Self::int("Int16", i16::MIN.into(), i16::MAX.into()),
            Self::int("UInt32", 0, u32::MAX.into()),
            Self::int("Int64", i64::MIN, i64::MAX),
            Self::int("UInt64", 0, i64::MAX),
            Self::decimal(18, 2),
            Self::decimal(38, 0),
            Self::decimal(38, 38),
            Self::time(0),
            Self::time(6),
        ];
        std::array::from_fn(|at| {
            let kind = scalar[at % scalar.len()];
            if at < scalar.len() { kind } else { kind.nullable() }
        })
    }

    /// As ClickHouse spells it.
    pub(super) fn declared(self) -> String {
        let inner = match self.what {
            What::Text => "String".to_owned(),
            What::Uuid => "UUID".to_owned(),
            What::Bool => "Bool".to_owned(),
            What::Int { name, .. } => name.to_owned(),
            What::Decimal { precision, scale } => format!("Decimal({precision}, {scale})"),
            What::Time { digits } => format!("DateTime64({digits}, 'UTC')"),
        };
        if self.nullable { format!("Nullable({inner})") } else { inner }
    }

    /// The number of the cell that fits it, on the way from a module.
    pub(super) fn wire(self) -> u8 {
        match self.what {
            What::Text | What::Uuid => 7,
            What::Bool => 2,
            What::Int { .. } => 3,
            What::Decimal { .. } => 6,
            What::Time { .. } => 9,
        }
    }

    /// Whether the cell can be said in a column of this type, to its last digit.
    pub(super) fn fits(self, cell: Cell<'_>) -> bool {
        match (self.what, cell) {
            (_, Cell::Null) => self.nullable,
            (What::Text, Cell::Text(_)) | (What::Bool, Cell::Boolean(_)) => true,
            (What::Text, Cell::Bytes(bytes)) => std::str::from_utf8(bytes).is_ok(),
            (What::Uuid, Cell::Text(text)) => is_uuid(text),
            (What::Int { low, high, .. }, Cell::Int(number)) => (low..=high).contains(&number),
            (What::Int { low, high, .. }, Cell::Uint(number)) => {
                i64::try_from(number).is_ok_and(|number| (low..=high).contains(&number))
            }
            (What::Decimal { precision, scale }, cell @ (Cell::Scaled(..) | Cell::Decimal(_))) => {
                Digits::of(cell).is_some_and(|digits| {
                    digits.whole.len() <= precision - scale && digits.fraction.len() <= scale
                })
            }
            (What::Time { digits }, Cell::TimestampUs(micros)) => {
                let year = moment(micros).map(OffsetDateTime::year);
                let unit = [1_000_000, 100_000, 10_000, 1_000, 100, 10, 1][digits];
                year.is_some_and(|year| (1900..2300).contains(&year)) && micros % unit == 0
            }
            _ => false,
        }
    }
}

/// Holds what became of an event against what the module said of it. Rows too large for the limit come elsewhere.
pub(super) fn outcome(outcome: &Outcome, said: &Said, event: &Event<'_>, case: &Case) {
    match (outcome, said) {
        (Outcome::Skip, Said::Skip) => {}
        (Outcome::Reject(rejection), Said::Reject { code, message }) => {
            assert_eq!(rejection.stage, Stage::Module);
            for (cut, whole) in [(&rejection.code, code), (&rejection.message, message)] {
                assert!(whole.starts_with(cut.as_str()) && cut.len() <= case.message_bytes);
                // No more was cut than a character.
                assert!(cut.len() == whole.len() || cut.len() + 4 > case.message_bytes, "{cut} of {whole}");
            }
        }
        (Outcome::Rows(rows), Said::Rows(said)) => {
            assert!(fit(said, event, case), "{rows:?} of {said:?}");
            assert_eq!(rows.len(), said.len());
            rows.iter().zip(said).for_each(|(made, said)| row(made, said, event, case));
        }
        (Outcome::Reject(rejection), Said::Rows(said)) => {
            assert_eq!(rejection.stage, Stage::Row);
            assert!(!rejection.code.is_empty() && !rejection.message.is_empty());
            assert!(!fit(said, event, case), "{rejection:?} of {said:?}");
        }
        (outcome, said) => panic!("{outcome:?} of {said:?}"),
    }
}

fn fit(said: &[SaidRow], event: &Event<'_>, case: &Case) -> bool {
    let row_fits = |row: &SaidRow| {
        case.tables.get(row.table).is_some_and(|(_, columns)| {
            let cells = row.cells.iter().zip(*columns);
            columns.len() == row.cells.len()
                && cells.into_iter().all(|(said, (_, kind))| kind.fits(said.cell()))
        })
    };
    said.len() <= case.rows_per_record
        && (1..1 << 39).contains(&event.aggregate_version)
        && is_uuid(event.id)
        && said.iter().all(row_fits)
}

fn row(row: &Row, said: &SaidRow, event: &Event<'_>, case: &Case) {
    let (table, columns) = case.tables[said.table];
    assert_eq!(&*row.table, table);
    let Object(fields) = serde_json::from_slice(&row.json).expect("a row is a JSON object");
    let stamped = [
        "version",
        "is_deleted",
        "event_id",
        "transform_digest",
        "occurred_at",
        "relayed_at",
        "transformed_at",
        "is_canary",
    ];
    assert!(stamped.iter().all(|name| HOST_COLUMNS.contains(name)));
    let expected = columns.iter().map(|(name, _)| *name).chain(stamped);
    assert_eq!(
        fields.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
        expected.collect::<Vec<_>>()
    );
    for ((_, value), (said, (_, kind))) in fields.iter().zip(said.cells.iter().zip(columns)) {
        says(value, said.cell(), *kind);
    }
    let [version, is_deleted, id, digest, occurred, relayed, transformed, canary] = &fields[columns.len()..]
    else {
        panic!("{fields:?}")
    };
    let generation = u64::from(case.stamp.generation.get());
    assert_eq!(version.1, Value::from(event.aggregate_version * (1 << Generation::BITS) + generation));
    assert_eq!(is_deleted.1, Value::from(0));
    assert_eq!(id.1, Value::from(event.id));
    assert_eq!(digest.1, Value::from(case.digest.as_str()));
    for (field, micros) in [
        (occurred, event.occurred_at_us),
        (relayed, event.relayed_at_us),
        (transformed, case.stamp.transformed_at_us),
    ] {
        let text = field.1.as_str().expect("a time is a text");
        match moment(micros).filter(|moment| (1900..2300).contains(&moment.year())) {
            Some(moment) => assert_eq!(text, written(moment, 3)),
            None => assert!(["1900-01-01 00:00:00.000", "2299-12-31 23:59:59.999"].contains(&text), "{text}"),
        }
    }
    assert_eq!(canary.1, Value::from(u8::from(event.is_canary)));
}

/// A cell's JSON says what the cell does.
pub(super) fn cell(json: &[u8], cell: Cell<'_>, kind: Kind) {
    let value = serde_json::from_slice(json).expect("a cell is JSON");
    assert!(kind.fits(cell), "{cell:?} became {value} as {kind:?}");
    says(&value, cell, kind);
}

fn says(value: &Value, cell: Cell<'_>, kind: Kind) {
    match (cell, kind.what) {
        (Cell::Null, _) => assert_eq!(*value, Value::Null),
        (Cell::Boolean(said), _) => assert_eq!(*value, Value::from(said)),
        (Cell::Int(said), _) => assert_eq!(*value, Value::from(said)),
        (Cell::Uint(said), _) => assert_eq!(*value, Value::from(said)),
        (Cell::Text(said), _) => assert_eq!(*value, Value::from(said)),
        (Cell::Bytes(said), _) => assert_eq!(value.as_str().map(str::as_bytes), Some(said)),
        (Cell::Scaled(..) | Cell::Decimal(_), _) => {
            let text = value.as_str().expect("a decimal is a text");
            assert_eq!(Digits::of(Cell::Decimal(text)), Digits::of(cell), "{text}");
        }
        (Cell::TimestampUs(said), What::Time { digits }) => {
            assert_eq!(*value, Value::from(written(moment(said).expect("it fits"), digits)));
        }
        other => panic!("{other:?} became {value}"),
    }
}

/// A decimal number by its digits, without zeros that say nothing. None is a text that is none.
#[derive(Debug, PartialEq, Eq)]
struct Digits {
    is_negative: bool,
    whole: String,
    fraction: String,
}

impl Digits {
    fn of(cell: Cell<'_>) -> Option<Self> {
        let text = match cell {
            Cell::Decimal(text) if text.len() <= 80 => text.to_owned(),
            Cell::Scaled(number, digits @ ..=38) => {
                let sign = if number < 0 { "-" } else { "" };
                let all = format!("{:0>1$}", number.unsigned_abs(), usize::from(digits) + 1);
                let (whole, fraction) = all.split_at(all.len() - usize::from(digits));
                if fraction.is_empty() {
                    format!("{sign}{whole}")
                } else {
                    format!("{sign}{whole}.{fraction}")
                }
            }
            _ => return None,
        };
        let unsigned = text.strip_prefix('-').unwrap_or(&text);
        let mut parts = unsigned.split('.');
        let (whole, fraction) = (parts.next()?, parts.next());
        let is_number = |part: &str| !part.is_empty() && part.chars().all(|c| c.is_ascii_digit());
        if parts.next().is_some() || !is_number(whole) || !fraction.is_none_or(is_number) {
            return None;
        }
        let whole = whole.trim_start_matches('0').to_owned();
        let fraction = fraction.unwrap_or_default().trim_end_matches('0').to_owned();
        let is_zero = whole.is_empty() && fraction.is_empty();
        Some(Self { is_negative: text.starts_with('-') && !is_zero, whole, fraction })
    }
}

impl SaidCell {
    fn cell(&self) -> Cell<'_> {
        match self {
            Self::Null => Cell::Null,
            Self::Boolean(value) => Cell::Boolean(*value),
            Self::Int(value) => Cell::Int(*value),
            Self::Uint(value) => Cell::Uint(*value),
            Self::Float => Cell::Float,
            Self::Decimal { digits, number } => Cell::Scaled(*number, *digits),
            Self::Text(text) => Cell::Text(text),
            Self::Bytes(bytes) => Cell::Bytes(bytes),
            Self::Timestamp(micros) => Cell::TimestampUs(*micros),
        }
    }
}

/// None is a moment that the `time` crate can't hold: years before -9999 and after 9999.
fn moment(micros: i64) -> Option<OffsetDateTime> {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1_000).ok()
}

fn written(moment: OffsetDateTime, digits: usize) -> String {
    let (date, clock) = (moment.date(), moment.time());
    let fraction = format!("{:06}", moment.microsecond());
    let (hour, minute, second) = clock.as_hms();
    let whole = format!("{date} {hour:02}:{minute:02}:{second:02}");
    if digits == 0 { whole } else { format!("{whole}.{}", &fraction[..digits]) }
}

fn is_uuid(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let lengths: Vec<usize> = parts.iter().map(|part| part.len()).collect();
    lengths == [8, 4, 4, 4, 12] && parts.concat().chars().all(|c| c.is_ascii_hexdigit())
}

/// A JSON object with its fields in their order, a name that comes twice included.
struct Object(Vec<(String, Value)>);

impl<'de> serde::Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Fields;

        impl<'de> Visitor<'de> for Fields {
            type Value = Object;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Object(fields))
            }
        }

        from.deserialize_map(Fields)
    }
}
