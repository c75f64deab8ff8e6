//! Writes rows: one insert is one block, committed whole or not at all.
//!
//! Must not: retry, or decide what happens to a row that was refused.

use crate::{
    ORDERS_TABLE, config::Config, error::AnalyticsError, row::OrdersAnalyticsRow, schema::ClientDebug,
};
use clickhouse::Client;
use std::{collections::BTreeMap, time::Duration};

/// ClickHouse refuses a block that touches more (`max_partitions_per_insert_block`); ours are months.
pub const MAX_PARTITIONS_PER_BLOCK: usize = 100;

/// What an insert did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Inserted {
    pub blocks: usize,
    pub rows: usize,
}

/// Clones share connections and what is known of the table's columns.
#[derive(Clone, Debug)]
pub struct Writer {
    client: ClientDebug,
}

impl Writer {
    /// Connects at the first use. The table's columns are read once and held against the row's.
    ///
    /// # Errors
    /// Where the configuration cannot be used.
    pub fn new(config: &Config) -> Result<Self, AnalyticsError> {
        Ok(Self { client: ClientDebug(with_explicit_settings(config.client()?)) })
    }

    /// Inserts all rows as one block; returns when it is committed. No rows, no request. At most
    /// [`MAX_PARTITIONS_PER_BLOCK`] months: see [`blocks`].
    ///
    /// Repeating it is harmless: the table keeps one row an order and version.
    ///
    /// # Errors
    /// [`AnalyticsError::kind`] says what to do. After a timeout the block may be there or not.
    pub async fn insert_block<'a>(
        &self,
        rows: impl IntoIterator<Item = &'a OrdersAnalyticsRow>,
        limit: Duration,
    ) -> Result<usize, AnalyticsError> {
        let mut written = 0;
        let result = tokio::time::timeout(limit, self.send(rows, limit, &mut written)).await;
        match result {
            Ok(Ok(())) => Ok(written),
            Ok(Err(source)) => {
                // The table may have changed since its columns were read.
                self.client.0.clear_cached_metadata().await;
                Err(AnalyticsError::Insert { table: ORDERS_TABLE.to_owned(), rows: written, source })
            }
            Err(_elapsed) => Err(AnalyticsError::Timeout { operation: "insert a block", limit }),
        }
    }

    async fn send<'a>(
        &self,
        rows: impl IntoIterator<Item = &'a OrdersAnalyticsRow>,
        limit: Duration,
        written: &mut usize,
    ) -> Result<(), clickhouse::error::Error> {
        let mut rows = rows.into_iter().peekable();
        if rows.peek().is_none() {
            return Ok(());
        }
        let mut insert = self
            .client
            .0
            .insert::<OrdersAnalyticsRow>(ORDERS_TABLE)
            .await?
            // The server gives up when we do: no block of ours is committed long after it was stamped.
            .with_setting("max_execution_time", limit.as_secs().max(1).to_string());
        for row in rows {
            insert.write(row).await?;
            *written += 1;
        }
        insert.end().await
    }
}

/// Nothing is left to defaults: they changed between releases.
fn with_explicit_settings(client: Client) -> Client {
    client
        // The answer means: committed.
        .with_setting("async_insert", "0")
        // A block that is sent again must also reach `slot_changes`: where the server was killed between the table and
        // the view, a remembered block would be skipped there, and its quarter never be computed again. Versions, not
        // remembered blocks, make a repetition harmless.
        .with_setting("insert_deduplicate", "0")
        .with_setting("deduplicate_blocks_in_dependent_materialized_views", "0")
        .with_setting("materialized_views_ignore_errors", "0")
        .with_setting("parallel_view_processing", "0")
        // One block: a batch of Lambda's 6 MB is far below both.
        .with_setting("max_insert_block_size", "1048576")
        .with_setting("min_insert_block_size_rows", "1048576")
        .with_setting("min_insert_block_size_bytes", "268435456")
        .with_setting("max_partitions_per_insert_block", MAX_PARTITIONS_PER_BLOCK.to_string())
}

/// Cuts items into as few blocks as keep to [`MAX_PARTITIONS_PER_BLOCK`]; almost always one. Order within a block stays.
pub fn blocks<T>(items: Vec<T>, row: impl Fn(&T) -> &OrdersAnalyticsRow) -> Vec<Vec<T>> {
    let mut months = BTreeMap::new();
    for item in &items {
        months.entry(row(item).order_date.month()).or_insert(0usize);
    }
    for (rank, block) in months.values_mut().enumerate() {
        *block = rank / MAX_PARTITIONS_PER_BLOCK;
    }
    let count = months.len().div_ceil(MAX_PARTITIONS_PER_BLOCK);
    let mut blocks: Vec<Vec<T>> = std::iter::repeat_with(Vec::new).take(count).collect();
    for item in items {
        let block = months[&row(&item).order_date.month()];
        blocks[block].push(item);
    }
    blocks
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::values::{Amount, Timestamp};
    use uuid::Uuid;

    /// A row of the given month, counted from January 2000.
    fn row(month: i64) -> OrdersAnalyticsRow {
        let text = format!("{:04}-{:02}-15 00:00:00.000", 2000 + month / 12, month % 12 + 1);
        let at: Timestamp = text.parse().expect("it is a date");
        OrdersAnalyticsRow {
            order_id: Uuid::nil(),
            order_date: at,
            user_id: String::new(),
            status: "PENDING".to_owned(),
            total_amount: Amount::from_cents(1),
            item_count: 1,
            quantity: 1,
            order_band: "all".to_owned(),
            version: 1,
            is_deleted: 0,
            event_id: Uuid::nil(),
            transform_digest: String::new(),
            occurred_at: at,
            relayed_at: at,
            transformed_at: at,
        }
    }

    fn sizes(rows: Vec<OrdersAnalyticsRow>) -> Vec<usize> {
        blocks(rows, |row| row).iter().map(Vec::len).collect()
    }

    #[test]
    fn a_usual_batch_is_one_block_and_an_empty_one_none() {
        assert_eq!(sizes(vec![row(1), row(0), row(1)]), [3]);
        assert!(sizes(Vec::new()).is_empty());
    }

    #[test]
    fn a_block_never_has_more_than_a_hundred_months() {
        assert_eq!(sizes((0..100).map(row).collect()), [100]);
        assert_eq!(sizes((0..101).chain(0..101).map(row).collect()), [200, 2]);
        assert_eq!(sizes((0..250).map(row).collect()), [100, 100, 50]);
    }
}
