//! What a drain costs does not grow with what is delivered.

use crate::{field::Field, process::RelayStart};
use outflow_tests::long;
use sqlx::Row;

/// Rows at once: more would make the server's log grow.
const CHUNK: u64 = 50_000;
const BACKLOG: u32 = 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_of_ten_events_reads_as_many_rows_behind_a_long_history_as_behind_a_short_one() {
    let field = Field::alone().await;
    let rows = if long() { 10_000_000 } else { 20_000 };
    // The group's first drain makes its position and checks the server: the same for both.
    let short = cost_of_a_drain(&field, 1_000).await;
    let long = cost_of_a_drain(&field, rows).await;

    eprintln!("rows read by a drain of {BACKLOG}: {short} behind 1,000 delivered rows, {long} behind {rows}");
    assert!(long <= short + short / 10, "{long} rows read instead of {short}");
}

/// Rows that the server reads while a relay carries ten events behind so many delivered ones.
async fn cost_of_a_drain(field: &Field, delivered: u64) -> u64 {
    let mut missing =
        delivered.saturating_sub(field.number("SELECT COUNT(*) FROM outbox").await.unsigned_abs());
    while missing > 0 {
        let rows = missing.min(CHUNK);
        field
            .execute(&format!(
                "SET SESSION cte_max_recursion_depth = {CHUNK};
                 INSERT INTO outbox (event_id, aggregate_id, aggregate_type, event_type, aggregate_version, payload, headers)
                 WITH RECURSIVE n AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM n WHERE n < {rows})
                 SELECT UUID(), UUID(), 'Past', 'Changed', 1, '{{}}', '{{}}' FROM n"
            ))
            .await;
        missing -= rows;
    }
    field
        .execute(
            "INSERT INTO outbox_position (relay_group, position) SELECT 'default', MAX(id) FROM outbox AS new
             ON DUPLICATE KEY UPDATE position = VALUES(position)",
        )
        .await;
    // Ids that an INSERT … SELECT took and did not use would be a gap.
    let next = field.number("SELECT CAST(MAX(id) AS SIGNED) + 1 FROM outbox").await;
    field.execute(&format!("ALTER TABLE outbox AUTO_INCREMENT = {next}")).await;
    field.write_backlog(BACKLOG, 1).await;
    let before = handler_reads(field).await;
    let relay = field.relay_with(&RelayStart { once: true, ..RelayStart::default() });
    relay.end().await;
    let reads = handler_reads(field).await - before;
    field.settle().await;
    reads
}

async fn handler_reads(field: &Field) -> u64 {
    let rows = sqlx::query("SHOW GLOBAL STATUS LIKE 'Handler_read%'").fetch_all(&field.pool).await.unwrap();
    rows.iter().map(|row| row.get::<String, _>(1).parse::<u64>().unwrap()).sum()
}
