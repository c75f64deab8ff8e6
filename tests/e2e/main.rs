//! The whole pipe under `cargo lambda watch`, from a POST to a figure, with faults on the way.
//!
//! One pipe serves all tests, one test at a time: `cargo xtask test e2e` builds what it needs and stops it afterwards.
//! Every fault ends in the same oracle: what MySQL committed is what ClickHouse counts.

mod bad_input;
mod dead_letters;
mod faults;
mod harness;
mod invoke;
mod nudge;
mod poison;
mod postman;
mod transforms;
mod tutorial;
