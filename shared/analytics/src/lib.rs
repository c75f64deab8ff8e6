//! ClickHouse as Outflow uses it: tables and their rows, the schema and its migrations, the writer and the reader.
//!
//! Must not: know Kafka, MySQL or Lambda, or decide what happens to a row that could not be written.

mod blocks;
mod cells;
mod config;
mod error;
mod reader;
mod row;
mod schema;
mod sql;
mod table;
mod values;
mod writer;

pub use blocks::{MAX_PARTITIONS_PER_BLOCK, blocks};
pub use cells::CellError;
pub use clickhouse::error::Error as ClickHouseError;
pub use config::Config;
pub use error::AnalyticsError;
pub use reader::{
    CellFigures, Column, DayFigures, HourFigures, OrderCursor, Reader, Source, StoredOrder, TimeRange,
};
pub use row::{EncodedRow, RowEncoder, RowError};
pub use schema::{Applied, Schema};
pub use table::{Described, Table};
pub use values::{Amount, Sum, Timestamp, ValueError};
pub use writer::Writer;

/// The table of orders, one row an order and version; read it with FINAL.
pub const ORDERS_TABLE: &str = "orders_analytics";
