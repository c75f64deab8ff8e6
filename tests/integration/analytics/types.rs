//! Every type that a row may carry: what the encoder writes is what ClickHouse reads from the same row as JSON.

use super::{LIMIT, figures::Figures};
use outflow_analytics::RowEncoder;
use proptest::{prelude::*, strategy::ValueTree, test_runner::TestRunner};
use serde_json::{Map, Value, json};

const ROWS: usize = 2_000;

/// A value of the type as a module's host writes it, its limits often among them.
fn cell(declared: &str) -> BoxedStrategy<Value> {
    let inner = |name: &str| declared.strip_prefix(name)?.strip_suffix(')');
    if let Some(inner) = inner("Nullable(") {
        return prop_oneof![Just(Value::Null), cell(inner)].boxed();
    }
    if let Some(inner) = inner("LowCardinality(") {
        return cell(inner);
    }
    let integer = |low: i64, high: i64| {
        prop_oneof![Just(low), Just(high), Just(0), low..=high].prop_map(|n| json!(n)).boxed()
    };
    match declared {
        "String" => prop_oneof![any::<String>(), "\\PC{150}"].prop_map(|text| json!(text)).boxed(),
        "UUID" => any::<u128>().prop_map(|n| json!(uuid::Uuid::from_u128(n))).boxed(),
        "Bool" => any::<bool>().prop_map(|is| json!(is)).boxed(),
        "Int8" => integer(i8::MIN.into(), i8::MAX.into()),
        "Int16" => integer(i16::MIN.into(), i16::MAX.into()),
        "Int32" => integer(i32::MIN.into(), i32::MAX.into()),
        "Int64" => integer(i64::MIN, i64::MAX),
        "UInt8" => integer(0, u8::MAX.into()),
        "UInt16" => integer(0, u16::MAX.into()),
        "UInt32" => integer(0, u32::MAX.into()),
        // 64-bit numbers stay below 2^63.
        "UInt64" => integer(0, i64::MAX),
        _ => match inner("Decimal(").and_then(|inner| inner.split_once(", ")) {
            Some((precision, scale)) => decimal(number(precision), number(scale)),
            None => {
                time(number(inner("DateTime64(").expect("no type is forgotten").trim_end_matches(", 'UTC'")))
            }
        },
    }
}

fn number(text: &str) -> u32 {
    text.parse().expect("the test's types are well formed")
}

fn decimal(precision: u32, scale: u32) -> BoxedStrategy<Value> {
    let largest = 10_i128.pow(precision) - 1;
    let numbers = prop_oneof![Just(-largest), Just(largest), Just(0), -largest..=largest, -1_000..1_000_i128];
    let text = move |number: i128| {
        let number = number.clamp(-largest, largest);
        let digits = format!("{:0width$}", number.unsigned_abs(), width = scale as usize + 1);
        let (whole, fraction) = digits.split_at(digits.len() - scale as usize);
        let point = if scale == 0 { "" } else { "." };
        json!(format!("{}{whole}{point}{fraction}", if number < 0 { "-" } else { "" }))
    };
    numbers.prop_map(text).boxed()
}

/// From 1900 up to 2300, in UTC.
fn time(digits: u32) -> BoxedStrategy<Value> {
    const SECONDS: std::ops::Range<i64> = -2_208_988_800..10_413_792_000;
    let seconds = prop_oneof![Just(SECONDS.start), Just(SECONDS.end - 1), Just(-1), Just(0), SECONDS];
    let text = move |(seconds, micros): (i64, u32)| {
        let at = time::OffsetDateTime::from_unix_timestamp(seconds).expect("years of four digits");
        let fraction = format!(".{micros:06}");
        let kept = if digits == 0 { 0 } else { 1 + digits as usize };
        json!(format!(
            "{} {:02}:{:02}:{:02}{}",
            at.date(),
            at.hour(),
            at.minute(),
            at.second(),
            &fraction[..kept]
        ))
    };
    (seconds, 0..1_000_000_u32).prop_map(text).boxed()
}

fn types() -> Vec<String> {
    let mut types: Vec<String> = ["String", "UUID", "Bool"].map(str::to_owned).to_vec();
    for bits in [8, 16, 32, 64] {
        types.extend([format!("Int{bits}"), format!("UInt{bits}")]);
    }
    for (precision, scale) in [(1, 0), (1, 1), (9, 2), (10, 9), (18, 2), (19, 0), (38, 0), (38, 20), (38, 38)]
    {
        types.push(format!("Decimal({precision}, {scale})"));
    }
    types.extend((0..=6).map(|digits| format!("DateTime64({digits}, 'UTC')")));
    let nullable: Vec<_> = types.iter().map(|inner| format!("Nullable({inner})")).collect();
    types.extend(nullable);
    types.extend(["LowCardinality(String)", "LowCardinality(Nullable(String))"].map(str::to_owned));
    types
}

#[tokio::test]
async fn what_the_encoder_writes_is_what_clickhouse_reads_from_the_same_row_as_json() {
    let figures = Figures::start("UTC").await;
    let types = types();
    let columns: Vec<_> =
        types.iter().enumerate().map(|(at, declared)| format!("c{at} {declared}")).collect();
    for table in ["encoded", "as_json"] {
        let columns = columns.join(", ");
        figures
            .query(&format!("CREATE TABLE {table} (n UInt32, {columns}) ENGINE = MergeTree ORDER BY n"))
            .await;
    }
    let cells: Vec<_> = types.iter().map(|declared| cell(declared)).collect();
    let mut runner = TestRunner::default();
    let rows: Vec<Value> = (0..ROWS)
        .map(|n| {
            let cells = cells.new_tree(&mut runner).expect("nothing is filtered").current();
            let names = (0..).map(|at| format!("c{at}"));
            let mut row: Map<_, _> = names.zip(cells).collect();
            row.insert("n".to_owned(), json!(n));
            Value::Object(row)
        })
        .collect();

    let mut encoder =
        RowEncoder::new(figures.writer.table("encoded", LIMIT).await.expect("all types are carried"));
    let encoded: Vec<_> = rows
        .iter()
        .map(|row| {
            encoder.encode(row.to_string().as_bytes()).unwrap_or_else(|error| panic!("{error:?}: {row}"))
        })
        .collect();
    assert_eq!(figures.writer.insert_block(&encoded, LIMIT).await.expect("clickhouse takes the block"), ROWS);
    let lines: Vec<_> = rows.iter().map(Value::to_string).collect();
    figures.query(&format!("INSERT INTO as_json FORMAT JSONEachRow {}", lines.join("\n"))).await;

    let read = async |table: &str| figures.query(&format!("SELECT * FROM {table} ORDER BY n")).await;
    let (found, wanted) = (read("encoded").await, read("as_json").await);
    assert_eq!((found.len(), wanted.len()), (ROWS, ROWS));
    for ((found, wanted), row) in found.iter().zip(&wanted).zip(&rows) {
        for (at, declared) in types.iter().enumerate() {
            let name = format!("c{at}");
            assert_eq!(found[&name], wanted[&name], "{declared}, from {}", row[&name]);
        }
    }
    figures.finish().await;
}
