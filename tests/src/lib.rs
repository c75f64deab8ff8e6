//! What the tests share: the services they run against, and a shop of their own in them.

mod checkout;
mod function;
pub mod order_row;
mod recorder;
mod server;
mod shop;

pub use checkout::copy_guests;
pub use function::{Function, kafka_event};
pub use order_row::OrderRow;
pub use recorder::Recorder;
pub use server::{OwnServer, counters, statements};
pub use shop::{TestShop, event, in_a_minute, write_event};

use outflow_stack::{Endpoints, Settings, Stack};
use std::path::PathBuf;

/// The services that `cargo xtask test` keeps running while the tests do.
///
/// # Panics
/// Where they do not run.
pub fn services() -> Endpoints {
    let stack = Stack::new(Settings::isolated(test_state()));
    stack.endpoints().expect("the services run while `cargo xtask test integration` does: use that")
}

/// Where the services of the tests keep their state.
pub fn test_state() -> PathBuf {
    outflow_stack::workspace_root().join(".outflow/test")
}

/// Looks every few milliseconds until it is as wanted.
///
/// # Panics
/// After a minute.
pub async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let deadline = in_a_minute();
    while !is_so().await {
        assert!(std::time::Instant::now() < deadline, "{what}: not within a minute");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

/// More rows, more rounds, longer outages: `cargo xtask test --long`.
pub fn long() -> bool {
    std::env::var_os("OUTFLOW_TEST_LONG").is_some()
}
