//! Where ClickHouse is and who we are there.

use crate::error::AnalyticsError;
use clickhouse::Client;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

/// ClickHouse's HTTP interface. The fields are named as the environment names them (`OUTFLOW_CLICKHOUSE_URL` …), so
/// that a function's configuration takes them in with `#[serde(flatten)]`.
#[derive(Clone, Debug, Deserialize)]
pub struct Config {
    /// `http://host:port`
    pub clickhouse_url: String,
    pub clickhouse_user: String,
    pub clickhouse_password: SecretString,
    /// The database of tables and views; created by the migrations.
    #[serde(default = "default_database")]
    pub clickhouse_database: String,
}

fn default_database() -> String {
    "analytics".to_owned()
}

impl Config {
    /// A client that reads and writes in this database. Every stored time is UTC, whatever the server's own zone.
    ///
    /// # Errors
    /// Where the database's name is not a plain identifier: it stands in statements as it is.
    pub(crate) fn client(&self) -> Result<Client, AnalyticsError> {
        Ok(self.client_without_database()?.with_database(&self.clickhouse_database))
    }

    /// As [`Config::client`], for the time before the database exists.
    pub(crate) fn client_without_database(&self) -> Result<Client, AnalyticsError> {
        let name = &self.clickhouse_database;
        let first_fits = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        if !first_fits || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            return Err(AnalyticsError::DatabaseName { name: name.clone() });
        }
        Ok(Client::default()
            .with_url(&self.clickhouse_url)
            .with_user(&self.clickhouse_user)
            .with_password(self.clickhouse_password.expose_secret())
            .with_setting("session_timezone", "UTC"))
    }
}
