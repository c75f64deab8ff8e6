//! A server that takes over, lacks what the one before it had committed last, and gives those ids again.

use crate::field::Field;
use outflow_outbox::operator::prune_step;
use outflow_tests::long;
use std::time::Duration;

const AGGREGATES: u32 = 20;

/// What the server that takes over looks like.
#[derive(Clone, Copy, Debug)]
enum Server {
    Another,
    /// The same, with rows restored from an older state.
    Restored,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_gives_ids_again_loses_no_event_wherever_they_end() {
    let field = Field::shared().await;
    for round in 0..if long() { 5 } else { 1 } {
        // Below the old position, exactly at it, above it.
        for (server, versions) in [
            (Server::Another, 1),
            (Server::Another, 6),
            (Server::Restored, 1),
            (Server::Restored, 3),
            (Server::Restored, 6),
        ] {
            eprintln!("round {round}: {server:?}, {versions} versions");
            take_over(&field, server, versions).await;
        }
    }
    let verdict = field.judge_with_strangers().await;
    assert!(verdict.strangers > 0, "nothing was lost, so nothing is proven");
}

/// Delivers, loses the last half of it, and writes so many versions of each aggregate from there.
async fn take_over(field: &Field, server: Server, versions: u32) {
    let relay = field.relay();
    for _ in 0..3 {
        field.write_backlog(AGGREGATES, 2).await;
        field.settle().await;
        let noted = "SELECT MAX(c.position) = MAX(p.position) FROM outbox_checkpoints c JOIN outbox_position p USING (relay_group)";
        field.until("the position is noted", async || field.number(noted).await == 1).await;
    }
    relay.stop().await;
    let position = field.number("SELECT CAST(MAX(position) AS SIGNED) FROM outbox_position").await;
    let kept = position - i64::from(AGGREGATES) * 3;
    field.execute(&format!("DELETE FROM outbox WHERE id > {kept}")).await;
    field.execute(&format!("ALTER TABLE outbox AUTO_INCREMENT = {}", kept + 1)).await;
    field
        .execute(
            "UPDATE aggregates a SET version =
                 (SELECT COALESCE(MAX(aggregate_version), 0) FROM outbox o WHERE o.aggregate_id = a.id)",
        )
        .await;
    if let Server::Another = server {
        field.execute("UPDATE outbox_position SET server_uuid = UUID()").await;
    }
    field.write_backlog(AGGREGATES, versions).await;
    // Somebody prunes before a relay has looked.
    let mut pruner = field.pool.acquire().await.unwrap();
    let pruned = prune_step(&mut pruner, "default", Duration::ZERO, 500).await.unwrap();
    assert_eq!(pruned.deleted, 0, "what was written again is not delivered");

    let relay = field.relay();
    field
        .until("what was written again is carried", async || {
            let records = field.read_all().await;
            let rows: Vec<String> =
                sqlx::query_scalar("SELECT event_id FROM outbox").fetch_all(&field.pool).await.unwrap();
            let carried: std::collections::HashSet<_> =
                records.into_iter().map(|read| read.event_id).collect();
            rows.iter().all(|id| carried.contains(id))
        })
        .await;
    relay.stop().await;
}
