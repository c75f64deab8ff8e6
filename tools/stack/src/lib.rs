//! MySQL, Kafka and ClickHouse as plain processes.
//!
//! [`Stack`] finds or installs each service, starts it detached on 127.0.0.1 with generated passwords, and
//! says where it answers. Data, logs and pids lie in one folder; a second start reuses them. Every process
//! is stopped by its own pid, and only while that pid is still the same process.
//!
//! It knows nothing of the shop: schema, topics and users' data are `outflow init`'s.

pub mod cli;
mod endpoints;
pub mod front;
mod install;
mod ports;
mod process;
mod progress;
mod secrets;
mod services;
mod settings;
mod stack;
mod state;
mod system;
pub mod versions;

pub use endpoints::{Clickhouse, Endpoints, Kafka, Mysql};
pub use install::{Installer, debezium::Debezium};
pub use ports::{Ports, is_free};
pub use process::ProcessId;
pub use progress::{Lines, Progress, Quiet};
pub use services::Service;
pub use settings::{Existing, Search, Settings, workspace_root};
pub use stack::{Removed, ServiceStatus, Stack};
pub use system::{System, SystemLock, SystemSettings, target_dir};
