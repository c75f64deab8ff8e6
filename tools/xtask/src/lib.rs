//! The whole pipe on this machine, for the developer commands and for the end-to-end tests.
//!
//! Must not: know how a service is installed or started; that is `outflow-stack`'s.

pub mod catalogue;
pub mod figures;
pub mod load;
pub mod pipe;
pub mod progress;
