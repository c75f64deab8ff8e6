//! ClickHouse as Outflow uses it: the row, the schema and its migrations, the writer and the reader.
//!
//! Must not: know Kafka, MySQL or Lambda, or decide what happens to a row that could not be written.

mod config;
mod error;
mod reader;
mod row;
mod schema;
mod sql;
mod values;
mod writer;

pub use clickhouse::error::Error as ClickHouseError;
pub use config::Config;
pub use error::AnalyticsError;
pub use reader::{
    CellFigures, Column, DayFigures, HourFigures, OrderCursor, Reader, Source, StoredOrder, TimeRange,
};
pub use row::{OrdersAnalyticsRow, RowError};
pub use schema::{Applied, Schema};
pub use values::{Amount, Sum, Timestamp, ValueError};
pub use writer::{Inserted, MAX_PARTITIONS_PER_BLOCK, Writer, blocks};

/// The table of orders, one row an order and version; read it with FINAL.
pub const ORDERS_TABLE: &str = "orders_analytics";
