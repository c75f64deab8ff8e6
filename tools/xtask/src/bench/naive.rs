//! The relay that people write first: read what is not processed, send one, wait, mark one. It has no pause between.

use super::site::{Database, Site};
use anyhow::{Context, ensure};
use rdkafka::{
    ClientConfig,
    message::{Header, OwnedHeaders},
    producer::{FutureProducer, FutureRecord},
};
use sqlx::Row;
use std::time::{Duration, Instant};

/// Rows read at once.
const PAGE: u64 = 100;
const TIMEOUT: Duration = Duration::from_secs(10);

/// The usual table: a flag and an index that finds what is not flagged yet.
const TABLE: &str = "CREATE TABLE naive_outbox (
    id             BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
    event_id       CHAR(36) NOT NULL,
    aggregate_id   VARCHAR(64) NOT NULL,
    aggregate_type VARCHAR(64) NOT NULL,
    event_type     VARCHAR(64) NOT NULL,
    payload        JSON NOT NULL,
    processed      BOOLEAN NOT NULL DEFAULT FALSE,
    processed_at   TIMESTAMP(6) NULL,
    retry_count    INT NOT NULL DEFAULT 0,
    created_at     TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6),
    KEY unprocessed (processed, created_at)
)";

/// Copies the first `total` events, carries them, and answers how long that took.
pub(super) async fn drain(site: &Site, database: &Database, total: u64) -> anyhow::Result<Duration> {
    for statement in ["DROP TABLE IF EXISTS naive_outbox", TABLE] {
        sqlx::query(statement).execute(&database.pool).await.context("making the naive outbox")?;
    }
    sqlx::query(
        "INSERT INTO naive_outbox (event_id, aggregate_id, aggregate_type, event_type, payload, created_at)
         SELECT event_id, aggregate_id, aggregate_type, event_type, payload, created_at FROM outbox ORDER BY id LIMIT ?",
    )
    .bind(total)
    .execute(&database.pool)
    .await
    .context("filling the naive outbox")?;
    let producer: FutureProducer = ClientConfig::new()
        .set("bootstrap.servers", &site.brokers)
        .set("acks", "all")
        // The default waits 5 ms for more, each time.
        .set("linger.ms", "0")
        .create()
        .context("setting up a producer")?;
    let started = Instant::now();
    let mut published = 0;
    loop {
        let rows = sqlx::query(
            "SELECT id, event_id, aggregate_id, aggregate_type, event_type, CAST(payload AS CHAR) AS payload
             FROM naive_outbox WHERE processed = FALSE ORDER BY created_at LIMIT ?",
        )
        .bind(PAGE)
        .fetch_all(&database.pool)
        .await
        .context("reading the naive outbox")?;
        if rows.is_empty() {
            break;
        }
        for row in rows {
            let text = |column| row.try_get::<String, _>(column);
            let (key, payload) = (text("aggregate_id")?, text("payload")?);
            let topic = format!("{}.events", text("aggregate_type")?.to_lowercase());
            let mut headers = OwnedHeaders::new();
            for (name, column) in
                [("ce_id", "event_id"), ("eventType", "event_type"), ("aggregateType", "aggregate_type")]
            {
                headers = headers.insert(Header { key: name, value: Some(&text(column)?) });
            }
            let record = FutureRecord::to(&topic).key(&key).payload(&payload).headers(headers);
            producer.send(record, TIMEOUT).await.map_err(|(error, _)| error).context("sending an event")?;
            sqlx::query(
                "UPDATE naive_outbox SET processed = TRUE, processed_at = UTC_TIMESTAMP(6) WHERE id = ?",
            )
            .bind(row.try_get::<u64, _>("id")?)
            .execute(&database.pool)
            .await
            .context("marking an event")?;
            published += 1;
        }
    }
    ensure!(published == total, "the naive relay carried {published} of {total} events");
    Ok(started.elapsed())
}
