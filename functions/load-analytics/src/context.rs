//! What the loader needs for its whole life: configuration and connections. Built once, before the first event.
//!
//! Must not: decide anything about rows.

use outflow_analytics::Writer;
use outflow_broker::Producer;
use serde::Deserialize;
use std::time::Duration;

/// The function's configuration, from the environment.
#[derive(Debug, Deserialize)]
struct Config {
    /// `OUTFLOW_KAFKA_BROKERS`: `host:port`, comma separated. For dead letters alone.
    kafka_brokers: String,
    /// `OUTFLOW_CLICKHOUSE_URL`, `_USER`, `_PASSWORD` and, unless it is `analytics`, `_DATABASE`.
    #[serde(flatten)]
    clickhouse: outflow_analytics::Config,
}

/// Dead letters are few; a broker that is away for longer means that the batch is retried.
pub(crate) const DELIVERY_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) writer: Writer,
    pub(crate) dead_letters: Producer,
}

impl Context {
    /// Reads the environment and refuses settings that would be silently wrong. Waits for no service.
    pub(crate) fn from_env() -> anyhow::Result<Self> {
        Self::new(&outflow_telemetry::config::from_env()?)
    }

    fn new(config: &Config) -> anyhow::Result<Self> {
        let writer = Writer::new(&config.clickhouse)?;
        let dead_letters = Producer::connect(&config.kafka_brokers, DELIVERY_TIMEOUT)?;
        Ok(Self { writer, dead_letters })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(pairs: &[(&str, &str)]) -> anyhow::Result<Context> {
        let vars = pairs.iter().map(|(name, value)| (format!("OUTFLOW_{name}"), (*value).to_owned()));
        Context::new(&outflow_telemetry::config::from_vars(vars)?)
    }

    const COMPLETE: [(&str, &str); 4] = [
        ("KAFKA_BROKERS", "127.0.0.1:9092"),
        ("CLICKHOUSE_URL", "http://127.0.0.1:8123"),
        ("CLICKHOUSE_USER", "outflow"),
        ("CLICKHOUSE_PASSWORD", "123"),
    ];

    #[tokio::test]
    async fn a_missing_variable_is_named_in_full() {
        load(&COMPLETE).expect("nothing is missing");
        for (missing, _) in COMPLETE {
            let rest: Vec<_> = COMPLETE.into_iter().filter(|(name, _)| *name != missing).collect();
            let error = load(&rest).expect_err(missing);
            assert!(error.to_string().contains(&format!("OUTFLOW_{missing}")), "{error}");
        }
    }

    #[tokio::test]
    async fn a_database_name_that_would_change_statements_is_refused() {
        let mut pairs = COMPLETE.to_vec();
        pairs.push(("CLICKHOUSE_DATABASE", "a; DROP DATABASE b"));

        let error = load(&pairs).expect_err("it is no identifier");

        assert!(error.to_string().contains("identifier"), "{error}");
    }
}
