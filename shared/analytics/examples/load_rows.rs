//! What it costs that rows are encoded by the live table's columns instead of a struct known at compile time: both ways
//! load the same blocks of 10,000 rows, by turns, into a database of their own on the ClickHouse that the environment
//! names (`eval "$(cargo xtask stack env)"`).
//!
//! ```text
//! cargo run --release --package outflow-analytics --example load_rows
//! ```

use clickhouse::{Client, Row};
use outflow_analytics::{Amount, Config, ORDERS_TABLE, RowEncoder, Schema, Timestamp, Writer};
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};
use uuid::Uuid;

const ROWS: u32 = 10_000;
const ROUNDS: usize = 41;
const LIMIT: Duration = Duration::from_secs(60);

/// The table's columns as a struct: what the loader was before it knew any table.
#[derive(Row, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TypedRow {
    #[serde(with = "clickhouse::serde::uuid")]
    order_id: Uuid,
    order_date: Timestamp,
    user_id: String,
    status: String,
    total_amount: Amount,
    item_count: u32,
    quantity: u32,
    order_band: String,
    version: u64,
    is_deleted: u8,
    #[serde(with = "clickhouse::serde::uuid")]
    event_id: Uuid,
    transform_digest: String,
    occurred_at: Timestamp,
    relayed_at: Timestamp,
    transformed_at: Timestamp,
    is_canary: u8,
}

/// Orders of one day, as a host writes them.
fn rows() -> Vec<Vec<u8>> {
    const DAY: i64 = 1_793_491_200_000;
    let row = |n: u32| {
        let at = Timestamp::from_millis(DAY + i64::from(n) * 8_000);
        let row = TypedRow {
            order_id: Uuid::now_v7(),
            order_date: at,
            user_id: format!("user-{}", n % 997),
            status: if n.is_multiple_of(3) { "COMPLETED" } else { "PENDING" }.to_owned(),
            total_amount: Amount::from_cents(i64::from(n) * 37 + 1),
            item_count: n % 5 + 1,
            quantity: n % 9 + 1,
            order_band: "all".to_owned(),
            version: (1 << 24) + 1,
            is_deleted: 0,
            event_id: Uuid::now_v7(),
            transform_digest: "ab".repeat(32),
            occurred_at: at,
            relayed_at: at,
            transformed_at: at,
            is_canary: 0,
        };
        serde_json::to_vec(&row).expect("it is plain data")
    };
    (0..ROWS).map(row).collect()
}

/// Times of one way: until the rows are ready to be sent, and until they are committed.
#[derive(Default)]
struct Times {
    ready: Vec<Duration>,
    loaded: Vec<Duration>,
}

impl Times {
    fn add(&mut self, started: Instant, ready: Instant) {
        self.ready.push(ready - started);
        self.loaded.push(started.elapsed());
    }
}

fn median(times: &[Duration]) -> Duration {
    let mut times = times.to_vec();
    times.sort();
    times[times.len() / 2]
}

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

async fn load_typed(client: &Client, rows: &[Vec<u8>], times: &mut Times) -> Result<()> {
    let started = Instant::now();
    let parsed: Vec<TypedRow> = rows
        .iter()
        .map(|row| serde_path_to_error::deserialize(&mut serde_json::Deserializer::from_slice(row)))
        .collect::<std::result::Result<_, _>>()?;
    let ready = Instant::now();
    let mut insert = client.insert::<TypedRow>(ORDERS_TABLE).await?;
    for row in &parsed {
        insert.write(row).await?;
    }
    insert.end().await?;
    times.add(started, ready);
    Ok(())
}

async fn load_by_columns(writer: &Writer, rows: &[Vec<u8>], times: &mut Times) -> Result<()> {
    let started = Instant::now();
    let mut encoder = RowEncoder::new(writer.table(ORDERS_TABLE, LIMIT).await?);
    let encoded: Vec<_> =
        rows.iter().map(|row| encoder.encode(row)).collect::<std::result::Result<_, _>>()?;
    let ready = Instant::now();
    writer.insert_block(&encoded, LIMIT).await?;
    times.add(started, ready);
    Ok(())
}

#[tokio::main]
async fn main() -> Result<()> {
    let mut config: Config = outflow_telemetry::config::from_env()?;
    config.clickhouse_database = format!("bench_{}", Uuid::now_v7().simple());
    Schema::new(&config)?.apply(None).await?;
    let client = Client::default()
        .with_url(&config.clickhouse_url)
        .with_user(&config.clickhouse_user)
        .with_password(config.clickhouse_password.expose_secret())
        .with_database(&config.clickhouse_database)
        .with_setting("async_insert", "0")
        .with_setting("insert_deduplicate", "0");
    let writer = Writer::new(&config)?;
    let (mut typed, mut by_columns) = (Times::default(), Times::default());
    for round in 0..2 * ROUNDS {
        let rows = rows();
        client.query("TRUNCATE TABLE orders_analytics").execute().await?;
        // Each way comes first as often as second.
        if (round / 2 + round).is_multiple_of(2) {
            load_typed(&client, &rows, &mut typed).await?;
        } else {
            load_by_columns(&writer, &rows, &mut by_columns).await?;
        }
    }
    client.query(&format!("DROP DATABASE {}", config.clickhouse_database)).execute().await?;

    let rate = |times: &[Duration]| u128::from(ROWS) * 1_000_000_000 / median(times).as_nanos();
    for (what, one, other) in
        [("ready to send", &typed.ready, &by_columns.ready), ("loaded", &typed.loaded, &by_columns.loaded)]
    {
        let (one, other) = (rate(one), rate(other));
        println!("{what}: {one} rows/s by a struct, {other} by columns, {} %", other * 100 / one);
    }
    Ok(())
}
