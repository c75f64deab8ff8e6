//! What the function needs for its whole life: configuration and connections. Built once, before the first request.
//!
//! Must not: decide anything about orders.

use anyhow::Context as _;
use outflow_store::Store;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

/// The function's configuration, from the environment.
#[derive(Debug, Deserialize)]
struct Config {
    /// `OUTFLOW_DATABASE_URL`: `mysql://user:password@host:port/name`.
    database_url: SecretString,
}

#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) store: Store,
}

impl Context {
    /// Reads the environment. Does not wait for MySQL: an outage fails single requests, and ends by itself.
    pub(crate) fn from_env() -> anyhow::Result<Self> {
        let config: Config = outflow_telemetry::config::from_env()?;
        let store = Store::new(config.database_url.expose_secret()).context("OUTFLOW_DATABASE_URL")?;
        Ok(Self { store })
    }
}
