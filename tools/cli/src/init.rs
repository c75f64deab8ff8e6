//! `outflow init`: schema, topics and views in an empty MySQL, Kafka and ClickHouse. Safe to repeat.

use crate::output::Finding;
use anyhow::Context;
use outflow_analytics::Schema;
use outflow_broker::topics;
use outflow_store::Store;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

/// `outflow init`.
#[derive(Debug, clap::Args)]
pub(crate) struct InitArgs {
    /// The shop's time zone, in which its hours and days are counted (IANA name, such as Asia/Seoul). Without it the
    /// one in use stays; a new installation begins with UTC.
    #[arg(long, value_name = "ZONE")]
    time_zone: Option<String>,
}

/// Where the services are, from the environment.
#[derive(Debug, Deserialize)]
struct Config {
    /// `OUTFLOW_DATABASE_URL`
    database_url: SecretString,
    /// `OUTFLOW_KAFKA_BROKERS`
    kafka_brokers: String,
    /// `OUTFLOW_CLICKHOUSE_URL`, `_USER`, `_PASSWORD`, `_DATABASE`
    #[serde(flatten)]
    clickhouse: outflow_analytics::Config,
}

/// Each step does nothing where its work is done, so a run that failed half way is simply repeated.
pub(crate) async fn run(args: InitArgs) -> anyhow::Result<Finding> {
    let config: Config = outflow_telemetry::config::from_env()?;

    let store = Store::new(config.database_url.expose_secret())?;
    store.migrate().await.context("MySQL was not set up: is it running, and may the user create tables?")?;
    println!("mysql       schema is up to date");

    let wanted = topics::all();
    let created = topics::ensure(&config.kafka_brokers, &wanted).await.context("Kafka was not set up")?;
    println!("kafka       {} topics, {}", wanted.len(), listed("created", &created));

    let applied = Schema::new(&config.clickhouse)?
        .apply(args.time_zone.as_deref())
        .await
        .context("ClickHouse was not set up")?;
    println!(
        "clickhouse  {} migrations, {}; hours and days of {}",
        applied.ran.len() + applied.already,
        listed("applied", &applied.ran),
        applied.time_zone
    );
    Ok(Finding::Fine)
}

/// "2 created: a, b", or that there was nothing to do.
fn listed(done: &str, names: &[impl AsRef<str>]) -> String {
    if names.is_empty() {
        return format!("none to be {done}");
    }
    let names: Vec<&str> = names.iter().map(AsRef::as_ref).collect();
    format!("{} {done}: {}", names.len(), names.join(", "))
}
