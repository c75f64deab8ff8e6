//! What every edge of the system shares: log set-up, the export of metrics, configuration loading, and what to do about
//! an error.
//!
//! Must not: know any component's configuration or metrics beyond their shape.

pub mod config;
mod error;
pub mod metrics;

pub use error::{ErrorKind, chain};

use std::time::{Duration, SystemTime};
use tracing_subscriber::{EnvFilter, fmt};

/// Writes structured logs to stderr: JSON lines unless `OUTFLOW_LOG=text`, filtered by `RUST_LOG` (default `info`).
///
/// A second call does nothing, so that tests may call it freely.
pub fn init() {
    let filter = EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| EnvFilter::new("info,aws_config=warn,librdkafka=warn"));
    let text = std::env::var("OUTFLOW_LOG").is_ok_and(|format| format == "text");
    let builder = fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // An error here means that a subscriber is already set, which is what the caller wants.
    let _already_set = if text { builder.try_init() } else { builder.json().try_init() };
}

/// Until an invocation's deadline. `cargo lambda watch` tells every function one in 1970 and never stops it: there, an hour
/// is far enough.
pub fn time_left(deadline: SystemTime) -> Duration {
    deadline.duration_since(SystemTime::now()).unwrap_or(Duration::from_secs(3_600))
}
