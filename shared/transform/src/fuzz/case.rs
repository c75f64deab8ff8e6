//! From bytes to what a module might say: outcomes, and a description of itself.

use super::{ID, MAX_ROWS, TABLES, schema};
use crate::{Event, bindings::typed::outflow::transform::types as wire};
use arbitrary::{Result, Unstructured};
use outflow_columns::Kind;

/// An answer as `transforms/wit/transform.wit` lays it out.
pub(super) fn pack(said: &[wire::Outcome]) -> Vec<u8> {
    let mut out = length(said.len()).to_vec();
    for outcome in said {
        match outcome {
            wire::Outcome::Skip => out.push(0),
            wire::Outcome::Rows(rows) => {
                out.push(1);
                out.extend(length(rows.len()));
                for row in rows {
                    out.extend(row.table.to_le_bytes());
                    out.extend(&length(row.values.len())[..2]);
                    row.values.iter().for_each(|value| pack_cell(value, &mut out));
                }
            }
            wire::Outcome::Reject(wire::Failure { code, message }) => {
                out.push(2);
                pack_bytes(code.as_bytes(), &mut out);
                pack_bytes(message.as_bytes(), &mut out);
            }
        }
    }
    out
}

fn pack_cell(value: &wire::Value, out: &mut Vec<u8>) {
    let mut put = |kind: u8, bytes: &[u8]| {
        out.push(kind);
        out.extend(bytes);
    };
    match value {
        wire::Value::Null => put(0, &[]),
        wire::Value::Boolean(value) => put(if *value { 2 } else { 1 }, &[]),
        wire::Value::Int(value) => put(3, &value.to_le_bytes()),
        wire::Value::Uint(value) => put(4, &value.to_le_bytes()),
        wire::Value::Float(value) => put(5, &value.to_le_bytes()),
        wire::Value::Decimal(text) => {
            let number: i128 = text.replace('.', "").parse().expect("it was made of one");
            let digits = text.split_once('.').map_or(0, |(_, fraction)| fraction.len());
            put(6, &length(digits)[..1]);
            out.extend(number.to_le_bytes());
        }
        wire::Value::Text(text) => {
            put(7, &[]);
            pack_bytes(text.as_bytes(), out);
        }
        wire::Value::Bytes(bytes) => {
            put(8, &[]);
            pack_bytes(bytes, out);
        }
        wire::Value::TimestampUs(value) => put(9, &value.to_le_bytes()),
    }
}

fn pack_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    out.extend(length(bytes.len()));
    out.extend(bytes);
}

fn length(of: usize) -> [u8; 4] {
    u32::try_from(of).expect("it is short").to_le_bytes()
}

/// An event, mostly good, and what a module says of it.
pub(super) fn told<'a>(source: &mut Unstructured<'a>) -> Result<(Event<'a>, wire::Outcome)> {
    let event = Event {
        id: if source.ratio(1, 16)? { source.arbitrary()? } else { ID },
        aggregate_version: if source.ratio(1, 16)? {
            source.arbitrary()?
        } else {
            source.int_in_range(1..=(1 << 39) - 1)?
        },
        occurred_at_us: time(source)?,
        relayed_at_us: time(source)?,
        is_canary: source.arbitrary()?,
        ..Event::default()
    };
    let outcome = match source.int_in_range(0..=7)? {
        0 => wire::Outcome::Skip,
        1 => wire::Outcome::Reject(wire::Failure { code: source.arbitrary()?, message: source.arbitrary()? }),
        _ => {
            let count =
                if source.ratio(1, 16)? { MAX_ROWS + 1 } else { source.int_in_range(1..=MAX_ROWS)? };
            wire::Outcome::Rows((0..count).map(|_| row(source)).collect::<Result<_>>()?)
        }
    };
    Ok((event, outcome))
}

pub(super) fn row(source: &mut Unstructured<'_>) -> Result<wire::Row> {
    // One more than there are.
    let table: u16 = source.int_in_range(0..=7)?;
    let columns = schema().tables.get(usize::from(table)).map_or(&[][..], |table| &table.columns);
    let values = columns.iter().map(|column| value(column.column_type.kind(), source));
    let mut values = values.collect::<Result<Vec<_>>>()?;
    if source.ratio(1, 64)? {
        values.push(wire::Value::Null);
    }
    Ok(wire::Row { table, values })
}

/// What such a column has, mostly.
fn value(kind: Kind, source: &mut Unstructured<'_>) -> Result<wire::Value> {
    Ok(match kind {
        _ if source.ratio(1, 16)? => wire::Value::Null,
        _ if source.ratio(1, 64)? => wire::Value::Float(source.arbitrary()?),
        _ if source.ratio(1, 64)? => wire::Value::Text(source.arbitrary()?),
        Kind::String if source.ratio(1, 16)? => wire::Value::Text("é".repeat(source.int_in_range(0..=99)?)),
        Kind::String if source.ratio(1, 4)? => wire::Value::Bytes(source.arbitrary()?),
        Kind::String => wire::Value::Text(source.arbitrary()?),
        Kind::Uuid => wire::Value::Text(ID.to_owned()),
        Kind::Bool => wire::Value::Boolean(source.arbitrary()?),
        Kind::Int(_) | Kind::UInt(_) => {
            let number = number(source)?;
            match i64::try_from(number) {
                Ok(number) if source.ratio(1, 2)? => wire::Value::Int(number),
                _ => wire::Value::Uint(u64::try_from(number).unwrap_or_default()),
            }
        }
        Kind::Decimal { scale, .. } => wire::Value::Decimal(decimal(scale as usize, source)?),
        Kind::DateTime64(_) => wire::Value::TimestampUs(time(source)?),
    })
}

/// Small, or near a limit of some number of bits, or any.
fn number(source: &mut Unstructured<'_>) -> Result<i128> {
    if source.ratio(1, 2)? {
        return Ok(source.arbitrary::<i8>()?.into());
    }
    if source.ratio(1, 4)? {
        return Ok(source.arbitrary::<i64>()?.into());
    }
    let limit = 1_i128 << *source.choose(&[7, 8, 15, 16, 31, 32, 63, 64])?;
    let near = source.int_in_range(-1..=1)?;
    Ok(if source.arbitrary()? { limit + near } else { near - limit })
}

/// With as many digits as a number of 128 bits has, and 38 of them behind the point at most: mostly as many as the column's.
fn decimal(scale: usize, source: &mut Unstructured<'_>) -> Result<String> {
    let number = source.arbitrary::<i128>()? >> source.int_in_range(0..=127)?;
    let behind = if source.ratio(1, 4)? { source.int_in_range(0..=38)? } else { scale };
    let sign = if number < 0 { "-" } else { "" };
    let all = format!("{:0>1$}", number.unsigned_abs(), behind + 1);
    let (whole, fraction) = all.split_at(all.len() - behind);
    Ok(if behind == 0 { format!("{sign}{whole}") } else { format!("{sign}{whole}.{fraction}") })
}

/// Of the years 1890 to 2302, or any.
fn time(source: &mut Unstructured<'_>) -> Result<i64> {
    let unit = *source.choose(&[1_000_000, 1_000_000, 1_000_000, 1_000, 1])?;
    if source.ratio(1, 16)? {
        return source.arbitrary();
    }
    Ok(source.int_in_range(-2_500_000_000_000_000..=10_500_000_000_000_000)? / unit * unit)
}

pub(super) fn descriptor(source: &mut Unstructured<'_>) -> Result<wire::Descriptor> {
    Ok(wire::Descriptor {
        name: name(source)?,
        version: name(source)?,
        event_types: vec![name(source)?],
        tables: (0..count(source, 20)?).map(|_| table(source)).collect::<Result<_>>()?,
    })
}

fn table(source: &mut Unstructured<'_>) -> Result<wire::Table> {
    let columns = (0..count(source, 300)?).map(|_| column(source)).collect::<Result<_>>()?;
    Ok(wire::Table { name: name(source)?, columns })
}

fn column(source: &mut Unstructured<'_>) -> Result<wire::Column> {
    Ok(wire::Column { name: name(source)?, ch_type: column_type(source)? })
}

/// A few, or too many.
fn count(source: &mut Unstructured<'_>, too_many: usize) -> Result<usize> {
    Ok(match source.arbitrary::<u8>()? {
        255 => too_many,
        byte => usize::from(byte % 5),
    })
}

fn name(source: &mut Unstructured<'_>) -> Result<String> {
    if source.ratio(1, 32)? {
        return source.arbitrary();
    }
    Ok(format!("n{}", source.int_in_range(0..=99)?))
}

/// Of what types are made of, in any order.
fn column_type(source: &mut Unstructured<'_>) -> Result<String> {
    const PARTS: [&str; 16] = [
        "String",
        "UUID",
        "Bool",
        "Int8",
        "UInt64",
        "Decimal(",
        "DateTime64(",
        "Nullable(",
        "LowCardinality(",
        "0",
        "18",
        "3",
        ", ",
        "'UTC'",
        ")",
        "+",
    ];
    if source.ratio(1, 32)? {
        return source.arbitrary();
    }
    if source.ratio(7, 8)? {
        return source.choose(&TABLES.map(|(_, columns)| columns[0])).map(|known| (*known).to_owned());
    }
    let parts = source.int_in_range(1..=8)?;
    (0..parts).map(|_| source.choose(&PARTS).copied()).collect()
}
