//! The operator's side: how the outbox stands, what became of an event, and what a person may do about it.
//!
//! Must not: print, ask, or publish. What it changes, it changes for a running relay to find.

mod prune;

pub use prune::{PRUNE_ROWS, PruneStep, prune_step};
