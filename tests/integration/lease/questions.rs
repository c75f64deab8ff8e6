//! How often a relay asks MySQL, by the server's own counters: where there is nothing to do, and under load.

use outflow_outbox::RelaySettings;
use outflow_tests::{OwnServer, Recorder, counters, in_a_minute, statements};
use sqlx::MySqlConnection;
use std::time::{Duration, Instant};

async fn count(admin: &mut MySqlConnection, name: &str) -> i64 {
    counters(admin, true, name).await[name]
}

#[tokio::test]
async fn a_tick_without_work_is_one_question_and_once_a_minute_a_second_one() {
    const TICKS: i64 = 10;
    let server = OwnServer::start().await;
    let shop = &server.shop;
    let mut admin = shop.admin().await;
    let recorder = Recorder::default();
    let keeping = |keep_delivered| RelaySettings { keep_delivered, ..RelaySettings::default() };
    shop.commit("a", 1).await;
    shop.commit("a", 2).await;
    shop.relay_to(&recorder, keeping(None)).drain(in_a_minute()).await.unwrap();

    // The first tick of a process looks for rows to prune, as each minute's does; without pruning it does not.
    let mut first_ticks = Vec::new();
    for keep in [None, Some(Duration::from_secs(3_600))] {
        let relay = shop.relay_to(&recorder, keeping(keep));
        let before = statements(&mut admin).await;
        relay.drain(in_a_minute()).await.unwrap();
        let first = statements(&mut admin).await;
        for _ in 0..TICKS {
            relay.drain(in_a_minute()).await.unwrap();
        }
        let steady = statements(&mut admin).await - first;
        assert_eq!(steady, TICKS, "keeping {keep:?}");
        first_ticks.push(first - before);
    }
    assert_eq!(first_ticks[1] - first_ticks[0], 1, "{first_ticks:?}");
    assert!(first_ticks[1] <= 20, "{first_ticks:?} with its connection and all that is checked once");

    // And where there is something to prune, that one question finds it.
    let relay = shop.relay_to(&recorder, keeping(Some(Duration::ZERO)));
    relay.drain(in_a_minute()).await.unwrap();
    assert_eq!(shop.number("SELECT COUNT(*) FROM outbox").await, 1, "the row at the position stays");
}

/// By the pace that a page sets, not by how fast the machine is: where it is slow, there is less to count.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_are_rare_while_nothing_comes_and_under_a_flood() {
    const LULL: Duration = Duration::from_secs(3);
    const BATCHES: u32 = 40;
    const ROWS: u32 = 1_000;
    let server = OwnServer::start().await;
    let shop = &server.shop;
    let mut admin = shop.admin().await;
    let recorder = Recorder::default();
    // No page is ever full: a full one is followed at once.
    let settings = RelaySettings { batch_rows: 10_000, keep_delivered: None, ..RelaySettings::default() };
    let relay = shop.relay_to(&recorder, settings);
    shop.commit("a", 1).await;

    let (before, began_at) = (count(&mut admin, "Com_select").await, Instant::now());
    relay.run(in_a_minute(), LULL).await.unwrap();
    let idle = count(&mut admin, "Com_select").await - before;
    let pauses = began_at.elapsed().as_millis() as i64 / 50;
    // Some before the pauses grow; and the lease, a pause and the standing are asked for as well.
    assert!(idle <= pauses + 50, "{idle} in the time of {pauses} long pauses");

    shop.commit("a", 2).await;
    let beside = relay.clone();
    let run = tokio::spawn(async move { beside.run(in_a_minute(), LULL).await });
    recorder.until_offered("a", 2).await;
    let mut writer = shop.connect().await;
    let (before, began_at) = (count(&mut admin, "Com_select").await, Instant::now());
    for _ in 0..BATCHES {
        let batch = sqlx::AssertSqlSafe(format!(
            "INSERT INTO outbox (event_id, aggregate_id, aggregate_type, event_type, aggregate_version, payload, headers)
             WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {ROWS})
             SELECT UUID(), UUID(), 'Order', 'Changed', 1, '{{}}', '{{}}' FROM n"
        ));
        sqlx::raw_sql(batch).execute(&mut writer).await.unwrap();
    }
    let flood = count(&mut admin, "Com_select").await - before;
    let pauses = began_at.elapsed().as_millis() as i64 / 50;
    assert!(flood <= pauses + 50, "{flood} in the time of {pauses} long pauses");
    assert_eq!(run.await.unwrap().unwrap().published, 1 + u64::from(BATCHES * ROWS));
}

#[tokio::test]
async fn parked_aggregates_are_counted_up_to_a_bound_however_many_there_are() {
    const PARKED: u64 = 30_000;
    const BOUND: u64 = 10_000;
    let server = OwnServer::start().await;
    let shop = &server.shop;
    let mut admin = shop.admin().await;
    let (relay, _) = shop.recording_relay();
    relay.drain(in_a_minute()).await.unwrap();
    shop.run(format!(
        "INSERT INTO outbox_failures (relay_group, id, event_id, aggregate_id, aggregate_type, event_type,
             aggregate_version, payload, headers, created_at, state, parked_at, history)
         WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {PARKED})
         SELECT /*+ SET_VAR(cte_max_recursion_depth = 100000) */
             'default', n, UUID(), n, 'Order', 'Changed', 1, '{{}}', '{{}}', NOW(), 'dead', UTC_TIMESTAMP(6), '[]' FROM n;
         ANALYZE TABLE outbox_failures"
    ))
    .await;

    let before: i64 = counters(&mut admin, true, "Handler_read_%").await.values().sum();
    let report = relay.drain(in_a_minute()).await.unwrap();
    let read = counters(&mut admin, true, "Handler_read_%").await.values().sum::<i64>() - before;

    assert_eq!(report.parked, BOUND);
    // Each is read from the index, and once more to be counted.
    assert!(read < 2 * BOUND as i64 + 1_000, "{read} reads");
}
