//! Writes rows of any table: one insert is one block, committed whole or not at all.
//!
//! Must not: retry, or decide what happens to a row that was refused.

use crate::{
    blocks::{MAX_PARTITIONS_PER_BLOCK, same_layout},
    config::Config,
    error::AnalyticsError,
    row::{EncodedRow, Layout},
    schema::{ClientDebug, query_error},
    sql::identifier,
    table::{Described, Table},
};
use clickhouse::{Client, Row};
use serde::Deserialize;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// Clones share connections and what is known of the tables.
#[derive(Clone, Debug)]
pub struct Writer {
    client: ClientDebug,
    tables: Arc<Mutex<HashMap<String, Arc<Table>>>>,
}

/// A line of `system.columns`, and the table's partition key beside it.
#[derive(Row, Deserialize)]
struct Line {
    name: String,
    data_type: String,
    default_kind: String,
    partition_key: String,
}

impl Writer {
    /// Connects at the first use.
    ///
    /// # Errors
    /// Where the configuration cannot be used.
    pub fn new(config: &Config) -> Result<Self, AnalyticsError> {
        let client = ClientDebug(with_explicit_settings(config.client()?));
        Ok(Self { client, tables: Arc::default() })
    }

    /// The table's columns: read at the first use, and anew after a block of it was not inserted.
    ///
    /// # Errors
    /// Where there is no such table, or none that rows could fill; whatever ClickHouse answers.
    pub async fn table(&self, name: &str, limit: Duration) -> Result<Arc<Table>, AnalyticsError> {
        let known = self.known().get(name).cloned();
        match known {
            Some(table) => Ok(table),
            None => self.table_now(name, limit).await,
        }
    }

    /// As [`Writer::table`], and never what was read before.
    ///
    /// # Errors
    /// As [`Writer::table`].
    pub async fn table_now(&self, name: &str, limit: Duration) -> Result<Arc<Table>, AnalyticsError> {
        const COLUMNS: &str = "SELECT name, type AS data_type, toString(default_kind) AS default_kind, ifNull(( \
                 SELECT any(partition_key) FROM system.tables WHERE database = currentDatabase() AND name = ? \
             ), '') AS partition_key \
             FROM system.columns WHERE database = currentDatabase() AND table = ? ORDER BY position";
        const OPERATION: &str = "read a table's columns";
        let query = self.client.0.query(COLUMNS).bind(name).bind(name);
        let lines: Vec<Line> = tokio::time::timeout(limit, query.fetch_all())
            .await
            .map_err(|_elapsed| AnalyticsError::Timeout { operation: OPERATION, limit })?
            .map_err(query_error(OPERATION))?;
        let partition_key = lines.first().map(|line| line.partition_key.clone()).unwrap_or_default();
        let described = lines.into_iter().map(|line| Described {
            name: line.name,
            data_type: line.data_type,
            default_kind: line.default_kind,
        });
        let table = Arc::new(Table::new(name, described.collect(), &partition_key)?);
        self.known().insert(name.to_owned(), Arc::clone(&table));
        Ok(table)
    }

    /// Inserts all rows as one block; returns their number when it is committed. No rows, no request. They must be of
    /// one block as [`blocks`](crate::blocks) cuts them.
    ///
    /// Repeating it is harmless: a table keeps one row a key and version.
    ///
    /// # Errors
    /// [`AnalyticsError::kind`] says what to do. After a timeout the block may be there or not.
    pub async fn insert_block<'a>(
        &self,
        rows: impl IntoIterator<Item = &'a EncodedRow>,
        limit: Duration,
    ) -> Result<usize, AnalyticsError> {
        let mut rows = rows.into_iter().peekable();
        let Some(first) = rows.peek() else { return Ok(0) };
        let layout = Arc::clone(&first.layout);
        let mut written = 0;
        let sent = self.send(&layout, rows, limit, &mut written);
        let error = match tokio::time::timeout(limit, sent).await {
            Ok(Ok(true)) => return Ok(written),
            Ok(Ok(false)) => return Err(AnalyticsError::MixedBlock),
            Ok(Err(source)) => {
                AnalyticsError::Insert { table: layout.table.name.clone(), rows: written, source }
            }
            Err(_elapsed) => AnalyticsError::Timeout { operation: "insert a block", limit },
        };
        // The table may have changed since its columns were read.
        self.known().remove(&layout.table.name);
        Err(error)
    }

    /// False where a row is of another block: then nothing was inserted.
    async fn send<'a>(
        &self,
        layout: &Arc<Layout>,
        rows: impl Iterator<Item = &'a EncodedRow>,
        limit: Duration,
        written: &mut usize,
    ) -> Result<bool, clickhouse::error::Error> {
        let columns: Vec<_> = layout.columns().map(|column| identifier(&column.name)).collect();
        let insert = format!(
            "INSERT INTO {} ({}) FORMAT RowBinaryWithNamesAndTypes",
            identifier(&layout.table.name),
            columns.join(", ")
        );
        let insert = self
            .client
            .0
            .insert_formatted_with(insert)
            // The server gives up when we do: no block of ours is committed long after it was stamped.
            .with_setting("max_execution_time", limit.as_secs().max(1).to_string());
        let mut insert = insert.buffered();
        insert.write_buffered(&layout.header());
        for row in rows {
            if !same_layout(layout, &row.layout) {
                // Dropped before its end, an insert is given up.
                return Ok(false);
            }
            insert.write_buffered(&row.bytes);
            *written += 1;
            if insert.buf_len() >= insert.nominal_capacity() {
                insert.flush().await?;
            }
        }
        insert.end().await?;
        Ok(true)
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, Arc<Table>>> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
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
        // Cells are what the header says they are, or the block is refused; what it doesn't name gets its default.
        .with_setting("input_format_with_names_use_header", "1")
        .with_setting("input_format_with_types_use_header", "1")
        .with_setting("input_format_skip_unknown_fields", "0")
        .with_setting("input_format_defaults_for_omitted_fields", "1")
        .with_setting("input_format_null_as_default", "0")
}
