//! A few figures from ClickHouse, as any HTTP client gets them.

use anyhow::{Context, ensure};
use outflow_stack::Clickhouse;
use secrecy::ExposeSecret;
use serde_json::Value;

/// Runs a query and returns its rows, each a JSON object; 64-bit numbers and decimals are strings, so that they stay exact.
///
/// # Errors
/// Where ClickHouse does not answer, or answers with an error.
pub async fn query(clickhouse: &Clickhouse, sql: &str) -> anyhow::Result<Vec<Value>> {
    let response = reqwest::Client::new()
        .post(&clickhouse.url)
        .query(&[
            ("database", clickhouse.database.as_str()),
            ("default_format", "JSONEachRow"),
            ("output_format_json_quote_decimals", "1"),
            ("output_format_json_quote_64bit_integers", "1"),
        ])
        .header("X-ClickHouse-User", &clickhouse.user)
        .header("X-ClickHouse-Key", clickhouse.password.expose_secret())
        .body(sql.to_owned())
        .send()
        .await
        .context("clickhouse did not answer")?;
    let status = response.status();
    let text = response.text().await.context("clickhouse's answer broke off")?;
    ensure!(status.is_success(), "clickhouse refused {sql}: {text}");
    text.lines().map(|line| serde_json::from_str(line).context("clickhouse prints JSON")).collect()
}

/// A number that ClickHouse printed as a string.
///
/// # Errors
/// Where the field is missing or no number.
pub fn number(row: &Value, field: &str) -> anyhow::Result<u64> {
    let value = &row[field];
    value
        .as_u64()
        .or_else(|| value.as_str()?.parse().ok())
        .with_context(|| format!("{field} is no whole number in {row}"))
}
