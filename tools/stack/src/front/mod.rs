//! ClickHouse's HTTP interface over libchdb, for machines without a ClickHouse server: the real engine
//! in one process, spoken to by the `clickhouse` crate, `curl` and Grafana as a server would be.
//!
//! A request gets a fresh connection, so that a session is a request; at most `max_concurrent` run at
//! once and the others wait. INSERT bodies are streamed in, row formats are streamed out.
//!
//! What differs from a server, tried with libchdb 26.7.3 (ClickHouse 26.7.2):
//! - `session_id`, roles and external tables are refused; `query_id` is echoed, the engine has its own.
//! - `currentUser()` is `default`. Users live in the users file, and readers are held by `readonly = 2`
//!   and a check of each statement: the engine alone lets a reader write by `INSERT INTO FUNCTION` and
//!   `INTO OUTFILE`, and `file()` reach any file.
//! - JSON, Pretty, Parquet and other formats that are one document are computed whole before they are
//!   sent; so is anything but a SELECT.
//! - `INSERT … SELECT … FROM input()` is refused: the engine drops the data that follows.
//! - `async_insert` queues nothing: every INSERT is written when it is answered.
//! - The database `default` is an Overlay: refreshable views want one made by CREATE DATABASE (Atomic).
//! - `system.*_log` and `system.asynchronous_metrics` don't exist.
//! - Of compressions LZ4 alone is spoken, no gzip or zstd.
//!
//! What is as on a server: `system.parts` and one part a block and partition, refreshable views and
//! `system.view_refreshes` over restarts and SIGKILL, `insert_deduplication_token` with
//! `non_replicated_deduplication_window`, `session_timezone`, mutations, `system.processes`.

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

pub use chdb::EngineError;
pub use server::{FrontSettings, serve};
pub use users::{User, Users, UsersError};
