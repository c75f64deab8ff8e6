//! What the function needs for its whole life: configuration and connections. Built once, before the first request.
//!
//! Must not: decide anything about orders.

use anyhow::Context as _;
use outflow_nudge::Nudge;
use outflow_store::Store;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

/// The function's configuration, from the environment.
#[derive(Debug, Deserialize)]
struct Config {
    /// `OUTFLOW_DATABASE_URL`: `mysql://user:password@host:port/name`.
    database_url: SecretString,
    /// `OUTFLOW_NUDGE_URL`: the relay's function in Lambda's Invoke API, `http(s)://…/2015-03-31/functions/<name>/invocations`.
    /// Without it the relay's schedule alone delivers.
    nudge_url: Option<String>,
}

#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) store: Store,
    pub(crate) nudge: Nudge,
}

impl Context {
    /// Reads the environment. Does not wait for MySQL: an outage fails single requests, and ends by itself.
    pub(crate) fn from_env() -> anyhow::Result<Self> {
        let config: Config = outflow_telemetry::config::from_env()?;
        let store = Store::new(config.database_url.expose_secret()).context("OUTFLOW_DATABASE_URL")?;
        let nudge = Nudge::new(config.nudge_url.as_deref()).context("OUTFLOW_NUDGE_URL")?;
        Ok(Self { store, nudge })
    }
}
