//! Reads figures back: for `outflow verify`, the tests and the demo, which hold them against MySQL.
//!
//! Hours and days are the shop's. The table and the served views answer the same questions by different paths.

use crate::{
    config::Config,
    error::AnalyticsError,
    schema::{ClientDebug, Schema, query_error},
    values::{Amount, Sum, Timestamp},
};
use clickhouse::{Row, query::RowCursor};
use serde::Deserialize;
use uuid::Uuid;

/// Orders created from `from` (inclusive) to `to` (exclusive).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeRange {
    pub from: Timestamp,
    pub to: Timestamp,
}

/// Where figures are read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// `orders_analytics` with FINAL.
    Table,
    /// The views that people query.
    Served,
}

/// A column as ClickHouse describes it.
#[derive(Clone, Debug, PartialEq, Eq, Row, Deserialize)]
pub struct Column {
    pub name: String,
    #[serde(rename = "type")]
    pub data_type: String,
    /// `DEFAULT`, `MATERIALIZED` or another kind; empty where a row must bring a value.
    pub default_kind: String,
}

/// An order as it counts in ClickHouse.
#[derive(Clone, Debug, PartialEq, Eq, Row, Deserialize)]
pub struct StoredOrder {
    #[serde(with = "clickhouse::serde::uuid")]
    pub order_id: Uuid,
    pub order_date: Timestamp,
    pub status: String,
    pub total_amount: Amount,
    /// Aggregate version << 24 | generation.
    pub version: u64,
}

/// Orders and revenue of one hour by status. `hour` in seconds since the epoch.
#[derive(Clone, Debug, PartialEq, Eq, Row, Deserialize)]
pub struct CellFigures {
    pub hour: u32,
    pub status: String,
    pub orders: u64,
    pub revenue: Sum,
}

/// A row of `hourly_sales_mv`. `hour` in seconds since the epoch; `average` None where no order counts.
#[derive(Clone, Debug, PartialEq, Eq, Row, Deserialize)]
pub struct HourFigures {
    pub hour: u32,
    pub order_count: u64,
    pub total_revenue: Sum,
    pub average: Option<Sum>,
    pub placed: u64,
    pub completed: u64,
    pub cancelled: u64,
    pub completed_revenue: Sum,
}

/// A row of `daily_sales_mv`. `day` in days since 1970-01-01; `average` None where no order counts.
#[derive(Clone, Debug, PartialEq, Eq, Row, Deserialize)]
pub struct DayFigures {
    pub day: u16,
    pub order_count: u64,
    pub total_revenue: Sum,
    pub average: Option<Sum>,
    pub placed: u64,
    pub completed: u64,
    pub cancelled: u64,
    pub completed_revenue: Sum,
}

/// A stream of orders, ascending by order id; memory does not grow with it.
#[derive(Debug)]
pub struct OrderCursor(CursorDebug);

struct CursorDebug(RowCursor<StoredOrder>);

impl std::fmt::Debug for CursorDebug {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RowCursor")
    }
}

impl OrderCursor {
    /// None at the end.
    ///
    /// # Errors
    /// Whatever cuts the stream.
    pub async fn next(&mut self) -> Result<Option<StoredOrder>, AnalyticsError> {
        self.0.0.next().await.map_err(query_error("read the next order"))
    }
}

/// Clones share connections.
#[derive(Clone, Debug)]
pub struct Reader {
    client: ClientDebug,
    schema: Schema,
}

impl Reader {
    /// Connects at the first use.
    ///
    /// # Errors
    /// Where the configuration cannot be used.
    pub fn new(config: &Config) -> Result<Self, AnalyticsError> {
        Ok(Self { client: ClientDebug(config.client()?), schema: Schema::new(config)? })
    }

    /// The shop's IANA zone: in which the views' hours and days are.
    ///
    /// # Errors
    /// Where the schema was never applied.
    pub async fn time_zone(&self) -> Result<String, AnalyticsError> {
        self.schema.time_zone().await
    }

    /// The columns of a table or view, in order; none where it does not exist.
    ///
    /// # Errors
    /// Whatever ClickHouse answers.
    pub async fn columns(&self, table: &str) -> Result<Vec<Column>, AnalyticsError> {
        const COLUMNS: &str = "SELECT name, type, default_kind FROM system.columns \
                               WHERE database = currentDatabase() AND table = ? ORDER BY position";
        self.client
            .0
            .query(COLUMNS)
            .bind(table)
            .fetch_all()
            .await
            .map_err(query_error("read a table's columns"))
    }

    /// Every order of the range as it counts, ascending by id (as text: the order in which MySQL walks its key). Canaries
    /// count nowhere.
    ///
    /// # Errors
    /// Whatever ClickHouse answers.
    pub fn orders(&self, range: TimeRange) -> Result<OrderCursor, AnalyticsError> {
        // ClickHouse compares UUIDs from their second half on, hence the text.
        const ORDERS: &str = "SELECT order_id, order_date, status, total_amount, version \
             FROM orders_analytics FINAL \
             WHERE is_canary = 0 AND order_date >= fromUnixTimestamp64Milli(?, 'UTC') AND order_date < fromUnixTimestamp64Milli(?, 'UTC') \
             ORDER BY toString(order_id)";
        let query = self.client.0.query(ORDERS).bind(range.from.millis()).bind(range.to.millis());
        query.fetch().map(|cursor| OrderCursor(CursorDebug(cursor))).map_err(query_error("read the orders"))
    }

    /// Hours by status, ascending; whole hours of the range.
    ///
    /// # Errors
    /// Whatever ClickHouse answers.
    pub async fn cells(&self, source: Source, range: TimeRange) -> Result<Vec<CellFigures>, AnalyticsError> {
        let zone = self.time_zone().await?;
        let query = match source {
            Source::Table => format!(
                "SELECT toStartOfHour(order_date, '{zone}') AS hour, status, count() AS orders, \
                 sum(total_amount) AS revenue FROM orders_analytics FINAL \
                 WHERE is_canary = 0 AND order_date >= toDateTime(?, 'UTC') AND order_date < toDateTime(?, 'UTC') \
                 GROUP BY hour, status ORDER BY hour, status"
            ),
            Source::Served => "SELECT order_hour AS hour, status, order_count AS orders, revenue \
                 FROM hourly_sales_by_status \
                 WHERE order_hour >= toDateTime(?, 'UTC') AND order_hour < toDateTime(?, 'UTC') \
                 ORDER BY hour, status"
                .to_owned(),
        };
        let query = self.client.0.query(&query).bind(seconds(range.from)).bind(seconds(range.to));
        query.fetch_all().await.map_err(query_error("read the hours by status"))
    }

    /// Rows of `hourly_sales_mv`, ascending; whole hours of the range.
    ///
    /// # Errors
    /// Whatever ClickHouse answers.
    pub async fn hours(&self, range: TimeRange) -> Result<Vec<HourFigures>, AnalyticsError> {
        const HOURS: &str = "SELECT order_hour AS hour, order_count, total_revenue, avg_order_value AS average, placed, completed, \
             cancelled, completed_revenue FROM hourly_sales_mv \
             WHERE order_hour >= toDateTime(?, 'UTC') AND order_hour < toDateTime(?, 'UTC') ORDER BY hour";
        let query = self.client.0.query(HOURS).bind(seconds(range.from)).bind(seconds(range.to));
        query.fetch_all().await.map_err(query_error("read the hours"))
    }

    /// Rows of `daily_sales_mv`, ascending; `from` and `to` (exclusive) in days since 1970-01-01.
    ///
    /// # Errors
    /// Whatever ClickHouse answers.
    pub async fn days(&self, from: u16, to: u16) -> Result<Vec<DayFigures>, AnalyticsError> {
        const DAYS: &str = "SELECT toDate(order_date) AS day, order_count, total_revenue, avg_order_value AS average, placed, completed, \
             cancelled, completed_revenue FROM daily_sales_mv \
             WHERE order_date >= toDate(?) AND order_date < toDate(?) ORDER BY day";
        let query = self.client.0.query(DAYS).bind(from).bind(to);
        query.fetch_all().await.map_err(query_error("read the days"))
    }

    /// Computes the history of sales now instead of within a minute; returns when it is done. Figures are right before
    /// and after: only reading gets cheaper.
    ///
    /// # Errors
    /// Whatever ClickHouse answers.
    pub async fn refresh(&self) -> Result<(), AnalyticsError> {
        for statement in
            ["SYSTEM REFRESH VIEW sales_history_refresh", "SYSTEM WAIT VIEW sales_history_refresh"]
        {
            self.client
                .0
                .query(statement)
                .execute()
                .await
                .map_err(query_error("refresh the history of sales"))?;
        }
        Ok(())
    }
}

fn seconds(at: Timestamp) -> i64 {
    at.millis().div_euclid(1000)
}
