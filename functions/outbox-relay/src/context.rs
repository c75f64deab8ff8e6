//! What the relay needs for its whole life: configuration, connections, metrics. Built once, before the first event.
//!
//! Must not: decide anything about events.

use anyhow::Context as _;
use outflow_broker::{OutboxPublisher, Producer};
use outflow_outbox::{Relay, RelaySettings};
use outflow_telemetry::metrics::Exporter;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use std::time::Duration;

/// The function's configuration, from the environment.
#[derive(Debug, Deserialize)]
pub(crate) struct Config {
    /// `OUTFLOW_DATABASE_URL`: `mysql://user:password@host:port/name`.
    database_url: SecretString,
    /// `OUTFLOW_KAFKA_BROKERS`: `host:port`, comma separated.
    kafka_brokers: String,
    /// `OUTFLOW_OTLP_ENDPOINT`: where metrics are sent, the part before `/v1/metrics`. Absent or empty: nowhere.
    otlp_endpoint: Option<String>,
}

/// Shorter than the lease (15 s) by what emptying the producer may take: a relay that loses its broker keeps its lease.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) relay: Relay<OutboxPublisher>,
    pub(crate) metrics: Exporter,
}

impl Context {
    /// Reads the environment and refuses settings that would be silently wrong. Waits for no service, and for the
    /// metrics' receiver as long as a flush may take.
    pub(crate) async fn from_env() -> anyhow::Result<Self> {
        Self::new(outflow_telemetry::config::from_env()?).await
    }

    /// As [`Self::from_env`], from a configuration that was read already.
    pub(crate) async fn new(config: Config) -> anyhow::Result<Self> {
        // Before the relay is made: its instruments report to what is installed by then.
        let metrics = Exporter::install(env!("CARGO_PKG_NAME"), config.otlp_endpoint.as_deref())
            .context("OUTFLOW_OTLP_ENDPOINT")?;
        let producer = Producer::connect(&config.kafka_brokers, DELIVERY_TIMEOUT)?;
        let publisher = OutboxPublisher::new(producer, DELIVERY_TIMEOUT);
        let relay = Relay::new(config.database_url.expose_secret(), publisher, RelaySettings::default())?;
        // Counters at zero: a receiver that sees a counter for the first time at 3 doesn't know that it rose by 3.
        metrics.flush().await;
        Ok(Self { relay, metrics })
    }
}
