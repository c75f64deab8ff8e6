//! Runs hot-swappable WASM transforms: a batch of events in, checked rows out.
//!
//! - [`Registry`]: immutable modules and signed artifacts by digest, numbered pointers to what is active.
//! - [`Record`]: what the broker carries, and the event in it.
//! - [`Active`]: follows the pointers, keeps the last good module of each slot.
//! - [`Module`]: a loaded module; runs batches, one fresh instance each.
//! - [`metrics`]: what is counted of them.
//! - `compile` (feature of that name): makes artifacts. The operator's command has it, a function never.
//!
//! Must not: know of any event's meaning, of Kafka, of AWS or of a clock. `docs/adr/0001` tells where the
//! interface in `transforms/wit` departs from its first design.

mod active;
mod aot;
mod bindings;
mod cells;
#[cfg(feature = "compile")]
pub mod compile;
mod engine;
mod envelope;
#[cfg(feature = "compile")]
pub mod fixture;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzz;
mod guest;
mod host;
pub mod metrics;
mod model;
mod packed;
mod registry;
mod row;
mod schema;
mod signature;
mod typed;
mod watch;

pub use active::{Active, ActiveError, Loaded};
pub use aot::Artifact;
pub use cells::{CellError, ColumnType};
pub use engine::{Engine, EngineError, Limits, Target};
pub use envelope::{NoEvent, Record};
pub use host::{LoadError, Module};
pub use model::{
    Batch, Digest, Event, Generation, InvalidDigest, InvalidGeneration, Outcome, Rejection, Row, Rows, Stage,
    Stamp, Unfinished,
};
pub use registry::{
    ActiveTransform, Change, ChangeKind, ModuleInfo, Pointer, Published, Registry, RegistryError,
    RejectLimit, Signed, Slot, Stats, TableInfo,
};
pub use schema::{Column, HOST_COLUMNS, Schema, SchemaError, Table};
pub use signature::{KeyError, PublicKey, SigningKey, TrustedKeys};
pub use watch::Counts;
