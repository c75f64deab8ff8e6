//! Relays as processes that start, stop, freeze and die, beside a Kafka and a MySQL that do. `cargo xtask test faults`
//! starts the services and builds the relay.
//!
//! Whatever happens, each test ends before the same judge (`judge`): what MySQL has committed is in Kafka, each
//! aggregate's versions first appear as 1, 2, 3 …, and nothing that was rolled back is there.

// A test that cannot go on should stop where it stands.
#![allow(clippy::unwrap_used)]

mod broker;
mod clocks;
mod failover;
mod field;
mod frozen;
mod growth;
mod judge;
mod mysql;
mod process;
mod turnover;
mod writers;
