//! What the relay needs for its whole life: configuration and connections. Built once, before the first event.
//!
//! Must not: decide anything about events.

use outflow_broker::{OutboxPublisher, Producer};
use outflow_outbox::{Relay, RelaySettings};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use std::time::Duration;

/// The function's configuration, from the environment.
#[derive(Debug, Deserialize)]
struct Config {
    /// `OUTFLOW_DATABASE_URL`: `mysql://user:password@host:port/name`.
    database_url: SecretString,
    /// `OUTFLOW_KAFKA_BROKERS`: `host:port`, comma separated.
    kafka_brokers: String,
}

/// Shorter than the lease (15 s) by what emptying the producer may take: a relay that loses its broker keeps its lease.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) relay: Relay<OutboxPublisher>,
}

impl Context {
    /// Reads the environment and refuses settings that would be silently wrong. Waits for no service.
    pub(crate) fn from_env() -> anyhow::Result<Self> {
        let config: Config = outflow_telemetry::config::from_env()?;
        let producer = Producer::connect(&config.kafka_brokers, DELIVERY_TIMEOUT)?;
        let publisher = OutboxPublisher::new(producer, DELIVERY_TIMEOUT);
        let relay = Relay::new(config.database_url.expose_secret(), publisher, RelaySettings::default())?;
        Ok(Self { relay })
    }
}
