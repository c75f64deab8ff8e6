//! What the tests share: the services they run against, and a shop of their own in them.

mod recorder;
mod shop;

pub use recorder::Recorder;
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

/// More rows, more rounds, longer outages: `cargo xtask test --long`.
pub fn long() -> bool {
    std::env::var_os("OUTFLOW_TEST_LONG").is_some()
}
