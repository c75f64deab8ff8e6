//! What the function reads in a record before a module sees it, and what it makes of one that no module can take. A library
//! beside the binary, so that `fuzz/` reaches it.
//!
//! Must not: know AWS's types, or send anything.

pub mod dead_letter;
pub mod envelope;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzz;
