//! Each part against the real services. `cargo xtask test integration` starts them.

// A test that cannot go on should stop where it stands.
#![allow(clippy::unwrap_used)]

mod analytics;
mod awake;
mod dashboard;
mod dlq;
mod gaps;
mod grafana;
mod layering;
mod lease;
mod metrics;
mod nudge;
mod operator;
mod outbox;
mod parking;
mod plans;
mod producer;
mod publishers;
mod safety;
mod store;
mod transforms;
mod verify;
mod writer;
