//! ClickHouse's HTTP interface over libchdb, for machines without a ClickHouse server: the real engine
//! in one process, spoken to by the `clickhouse` crate, `curl` and Grafana as a server would be.
//!
//! A request gets a fresh connection, so that a session is a request; at most `max_concurrent` run at
//! once and the others wait. INSERT bodies are streamed in, row formats are streamed out.
//!
//! What differs from a server:
//! - `session_id`, roles and external tables are refused; `query_id` is echoed, the engine has its own.
//! - `currentUser()` is `default`. Users live in the users file, and readers are held by `readonly = 2`
//!   and a check of each statement.
//! - JSON, Pretty, Parquet and other formats that are one document are computed whole before they are
//!   sent; so is anything but a SELECT.
//! - `INSERT … SELECT … FROM input()` with data isn't supported by the engine's streaming insert.
//! - Only LZ4 and no compression are spoken, no gzip or zstd.

mod body;
mod chdb;
mod compress;
mod error;
mod format;
mod native;
mod request;
mod server;
mod session;
mod sql;
mod users;

pub use chdb::{EngineError, leave};
pub use server::{FrontSettings, serve};
pub use users::{User, Users, UsersError};
