//! `clickhouse-front` as its clients meet it: the official `clickhouse` crate, and plain HTTP.
//!
//! The engine is the real one: `OUTFLOW_CHDB_LIB`, or what the stack installs.
#![allow(clippy::unwrap_used)] // a test fails by panicking, its helpers too

mod faults;
mod harness;
mod http;
mod official_crate;
