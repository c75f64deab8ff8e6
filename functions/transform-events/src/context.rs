//! What the transform needs for its whole life: configuration, engine, registry, producer. Built once, before
//! the first event.
//!
//! Must not: decide anything about events.

use crate::aftermath::Reporter;
use anyhow::Context as _;
use outflow_broker::Producer;
use outflow_telemetry::metrics::Exporter;
use outflow_transform::{Active, Engine, Limits, Registry, TrustedKeys};
use serde::Deserialize;
use std::time::Duration;

/// The function's configuration, from the environment.
#[derive(Debug, Deserialize)]
pub(crate) struct Config {
    /// `OUTFLOW_KAFKA_BROKERS`: `host:port`, comma separated.
    kafka_brokers: String,
    /// `OUTFLOW_TRANSFORM_REGISTRY`: `file:///folder` or `s3://bucket/prefix`.
    transform_registry: String,
    /// `OUTFLOW_TRANSFORM_TRUSTED_KEYS`: public keys in hex, comma separated. Native code that none of them signed for is
    /// not loaded.
    transform_trusted_keys: String,
    /// `OUTFLOW_OTLP_ENDPOINT`: where metrics are sent, the part before `/v1/metrics`. Absent or empty: nowhere.
    otlp_endpoint: Option<String>,
}

/// Rows that Kafka didn't confirm by then go back as failures of the batch. Well below the function's timeout.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(10);
/// For emptying the producer, for figures and for the answer.
const ANSWER: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) limits: Limits,
    pub(crate) producer: Producer,
    pub(crate) active: Active,
    pub(crate) reporter: Reporter,
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
        // Before whatever counts is made: it reports to what is installed by then.
        let metrics = Exporter::install(env!("CARGO_PKG_NAME"), config.otlp_endpoint.as_deref())
            .context("OUTFLOW_OTLP_ENDPOINT")?;
        let producer = Producer::connect(&config.kafka_brokers, DELIVERY_TIMEOUT)?;
        let trusted: TrustedKeys = config
            .transform_trusted_keys
            .parse()
            .context("OUTFLOW_TRANSFORM_TRUSTED_KEYS: `outflow transform key` prints the one to give here")?;
        let registry = Registry::open(&config.transform_registry, trusted)?;
        let limits = Limits::default();
        let active = Active::new(Engine::new(limits)?, registry);
        // Counters at zero: a receiver that sees a counter for the first time at 3 doesn't know that it rose by 3.
        metrics.flush().await;
        Ok(Self { limits, producer, active, reporter: Reporter::default(), metrics })
    }

    /// Time kept free before the function's deadline: for the module that is at work when time is up, and for Kafka.
    pub(crate) fn reserve(&self) -> Duration {
        let Limits { batch_deadline, rerun_budget, record_deadline, .. } = self.limits;
        batch_deadline + rerun_budget + record_deadline + DELIVERY_TIMEOUT + ANSWER
    }
}
