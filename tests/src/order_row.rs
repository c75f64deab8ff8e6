//! Rows of `orders_analytics` as a module and its host write them, for tests that need figures and no pipe.

use outflow_analytics::{
    Amount, AnalyticsError, EncodedRow, ORDERS_TABLE, RowEncoder, Timestamp, Writer, blocks,
};
use serde::Serialize;
use std::time::Duration;
use uuid::Uuid;

/// Far more than a block takes.
const LIMIT: Duration = Duration::from_secs(60);

/// A full snapshot of an order at one version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OrderRow {
    pub order_id: Uuid,
    /// When the order was created.
    pub order_date: Timestamp,
    pub user_id: String,
    pub status: String,
    pub total_amount: Amount,
    /// Lines.
    pub item_count: u32,
    /// Pieces, over all lines.
    pub quantity: u32,
    pub order_band: String,
    /// Aggregate version << 24 | generation: the highest wins.
    pub version: u64,
    /// 1 is a tombstone.
    pub is_deleted: u8,
    pub event_id: Uuid,
    pub transform_digest: String,
    pub occurred_at: Timestamp,
    pub relayed_at: Timestamp,
    pub transformed_at: Timestamp,
    pub is_canary: u8,
}

impl OrderRow {
    /// A new order of one line, in its first version.
    pub fn new(order_date: Timestamp, total_amount: Amount) -> Self {
        Self {
            order_id: Uuid::now_v7(),
            order_date,
            user_id: "u-1".to_owned(),
            status: "PENDING".to_owned(),
            total_amount,
            item_count: 1,
            quantity: 1,
            order_band: "all".to_owned(),
            version: 1 << 24,
            is_deleted: 0,
            event_id: Uuid::now_v7(),
            transform_digest: "d1".to_owned(),
            occurred_at: order_date,
            relayed_at: order_date,
            transformed_at: order_date,
            is_canary: 0,
        }
    }

    /// As in Kafka.
    ///
    /// # Panics
    /// Never: it is plain data.
    pub fn json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("it is plain data")
    }
}

/// The rows for the table as it is.
///
/// # Errors
/// Where the table cannot be read.
///
/// # Panics
/// Where a row doesn't fit.
pub async fn encode<'a>(
    writer: &Writer,
    rows: impl IntoIterator<Item = &'a OrderRow>,
) -> Result<Vec<EncodedRow>, AnalyticsError> {
    let mut encoder = RowEncoder::new(writer.table(ORDERS_TABLE, LIMIT).await?);
    Ok(rows.into_iter().map(|row| encoder.encode(&row.json()).expect("the test's row fits")).collect())
}

/// Inserts rows, in one block unless they are of too many months.
///
/// # Panics
/// Where ClickHouse refuses.
pub async fn insert<'a>(writer: &Writer, rows: impl IntoIterator<Item = &'a OrderRow>) {
    let rows = encode(writer, rows).await.expect("clickhouse describes the table");
    for block in blocks(rows, |row| row) {
        writer.insert_block(&block, LIMIT).await.expect("clickhouse takes a block");
    }
}
