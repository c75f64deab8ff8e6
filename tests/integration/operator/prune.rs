//! Old rows go, in steps that wait for nobody and that nobody waits for.

use super::{GROUP, commit_events, ids, run};
use outflow_outbox::operator::{PruneStep, prune_step};
use outflow_outbox::{Relay, RelaySettings};
use outflow_tests::{Recorder, TestShop, in_a_minute, long, write_event};
use sqlx::{Connection, Executor, MySqlConnection, Row};
use std::{collections::BTreeMap, time::Duration};

async fn connect(shop: &TestShop) -> MySqlConnection {
    MySqlConnection::connect(&shop.database_url).await.unwrap()
}

/// A step that keeps nothing for its age.
async fn step(shop: &TestShop, rows: usize) -> PruneStep {
    prune_step(&mut connect(shop).await, GROUP, Duration::ZERO, rows).await.unwrap()
}

#[tokio::test]
async fn delivered_rows_go_up_to_an_open_gap_and_then_up_to_the_position() {
    let shop = TestShop::start().await;
    let (relay, recorder) = shop.recording_relay();
    commit_events(&shop, "before", 1..=5).await;
    let mut slow = shop.begin().await;
    write_event(&mut slow, "slow", 1).await;
    commit_events(&shop, "after", 1..=5).await;
    relay.drain(in_a_minute()).await.unwrap();

    let steps = [step(&shop, 3).await, step(&shop, 3).await, step(&shop, 3).await];

    assert_eq!(steps.map(|step| (step.deleted, step.more)), [(3, true), (2, false), (0, false)]);
    assert_eq!(
        ids(&shop).await,
        [7, 8, 9, 10, 11],
        "6 is in an open transaction, and nothing behind it goes"
    );
    slow.commit().await.unwrap();
    relay.drain(in_a_minute()).await.unwrap();
    let rest = step(&shop, 500).await;
    assert_eq!((rest.deleted, rest.more), (5, false));
    assert_eq!(ids(&shop).await, [11], "the row at the position stays");
    assert_eq!(recorder.published().len(), 11);
}

#[tokio::test]
async fn nothing_goes_that_another_group_has_still_to_deliver() {
    let shop = TestShop::start().await;
    let (relay, _) = shop.recording_relay();
    commit_events(&shop, "order", 1..=9).await;
    relay.drain(in_a_minute()).await.unwrap();
    run(&shop, "INSERT INTO outbox_position (relay_group, position) VALUES ('archive', 4)").await;

    assert_eq!(step(&shop, 500).await.deleted, 3, "4 is the row at the other's position");
    run(&shop, "UPDATE outbox_position SET position = 9 WHERE relay_group = 'archive'").await;
    run(&shop, "INSERT INTO outbox_gaps VALUES ('archive', 6, 7, UTC_TIMESTAMP(6))").await;
    assert_eq!(step(&shop, 500).await.deleted, 2, "6 is in the other's gap");
    assert_eq!(ids(&shop).await, [6, 7, 8, 9]);
}

#[tokio::test]
async fn behind_the_first_row_that_is_too_young_none_is_looked_at() {
    let shop = TestShop::start().await;
    let (relay, _) = shop.recording_relay();
    commit_events(&shop, "order", 1..=6).await;
    relay.drain(in_a_minute()).await.unwrap();
    run(&shop, "UPDATE outbox SET created_at = created_at - INTERVAL 8 DAY WHERE id IN (1, 2, 4)").await;
    let mut connection = connect(&shop).await;
    let week = Duration::from_secs(7 * 24 * 3_600);

    let first = prune_step(&mut connection, GROUP, week, 500).await.unwrap();
    let second = prune_step(&mut connection, GROUP, week, 500).await.unwrap();
    let keep_all = prune_step(&mut connection, GROUP, Duration::MAX, 500).await.unwrap();

    assert_eq!((first.deleted, second.deleted, keep_all.deleted), (2, 0, 0));
    assert_eq!(ids(&shop).await, [3, 4, 5, 6]);
}

#[tokio::test]
async fn nothing_goes_without_a_position_or_by_another_servers_position() {
    let shop = TestShop::start().await;
    commit_events(&shop, "order", 1..=4).await;
    assert_eq!(step(&shop, 500).await, PruneStep::default(), "no relay was ever here");
    let (relay, _) = shop.recording_relay();
    relay.drain(in_a_minute()).await.unwrap();

    run(&shop, "UPDATE outbox_position SET server_uuid = UUID()").await;
    assert_eq!(step(&shop, 500).await, PruneStep::default(), "this server may lack what that one delivered");
    assert_eq!(ids(&shop).await.len(), 4);

    relay.drain(in_a_minute()).await.unwrap();
    assert_eq!(step(&shop, 500).await.deleted, 3, "a relay has looked");
}

#[tokio::test]
async fn checkpoints_go_with_their_rows_and_the_last_row_that_went_becomes_one_of_every_group() {
    let shop = TestShop::start().await;
    let (relay, _) = shop.recording_relay();
    for version in 1..=6 {
        commit_events(&shop, "order", version..=version).await;
        relay.drain(in_a_minute()).await.unwrap();
    }
    run(&shop, "INSERT INTO outbox_position (relay_group, position) VALUES ('archive', 6)").await;
    let events: Vec<String> = sqlx::query_scalar("SELECT event_id FROM outbox ORDER BY id")
        .fetch_all(shop.store.pool())
        .await
        .unwrap();

    let first = step(&shop, 4).await;

    assert_eq!((first.deleted, first.checkpoints), (4, 3));
    let notes: Vec<(String, u64, String)> = sqlx::query_as(
        "SELECT relay_group, position, event_id FROM outbox_checkpoints ORDER BY relay_group, position",
    )
    .fetch_all(shop.store.pool())
    .await
    .unwrap();
    let note = |group: &str, id: usize| (group.to_owned(), id as u64, events[id - 1].clone());
    assert_eq!(notes, [note("archive", 4), note(GROUP, 4), note(GROUP, 5), note(GROUP, 6)]);
    let ahead = "SELECT COUNT(*) FROM outbox_checkpoints a JOIN outbox_checkpoints b
                 ON a.relay_group = b.relay_group AND a.position < b.position AND a.moved_at > b.moved_at";
    assert_eq!(shop.number(ahead).await, 0, "times rise with positions");
    assert_eq!(step(&shop, 4).await.deleted, 1);
}

#[tokio::test]
async fn while_a_step_is_open_writers_insert_and_gaps_commit_and_the_relay_moves_on() {
    let shop = TestShop::start().await;
    let (relay, recorder) = shop.recording_relay();
    commit_events(&shop, "before", 1..=5).await;
    let mut slow = shop.begin().await;
    write_event(&mut slow, "slow", 1).await;
    commit_events(&shop, "after", 1..=5).await;
    relay.drain(in_a_minute()).await.unwrap();
    // The step has deleted its rows when it comes to the checkpoints, and there it has to wait for this.
    run(&shop, "INSERT INTO outbox_checkpoints VALUES ('default', 5, 'x', UTC_TIMESTAMP(6))").await;
    let mut stopper = shop.begin().await;
    let held = "SELECT * FROM outbox_checkpoints WHERE relay_group = 'default' AND position = 5 FOR UPDATE";
    sqlx::query(held).fetch_one(&mut *stopper).await.unwrap();
    let mut pruner = connect(&shop).await;
    let pruning = tokio::spawn(async move { prune_step(&mut pruner, GROUP, Duration::ZERO, 500).await });
    shop.until_locked_out().await;

    let mut writer = connect(&shop).await;
    writer.execute("SET SESSION innodb_lock_wait_timeout = 1").await.unwrap();
    for version in 1..=3 {
        write_event(&mut writer, "meanwhile", version).await;
    }
    slow.commit().await.unwrap();
    let report = relay.drain(in_a_minute()).await.unwrap();
    let gone =
        sqlx::query("SELECT id FROM outbox WHERE id = 1 FOR UPDATE NOWAIT").fetch_all(&mut writer).await;

    assert_eq!((report.published, report.gaps), (4, 0));
    assert!(gone.is_err(), "the step still holds what it deletes: {gone:?}");
    assert!(!pruning.is_finished());
    stopper.rollback().await.unwrap();
    assert_eq!(pruning.await.unwrap().unwrap().deleted, 5);
    assert_eq!(recorder.published().len(), 14);
}

#[tokio::test]
async fn a_row_that_somebody_else_holds_is_left_for_the_next_time() {
    let shop = TestShop::start().await;
    let (relay, _) = shop.recording_relay();
    commit_events(&shop, "order", 1..=5).await;
    relay.drain(in_a_minute()).await.unwrap();
    let mut reader = shop.begin().await;
    sqlx::query("SELECT id FROM outbox WHERE id = 3 FOR SHARE").fetch_one(&mut *reader).await.unwrap();

    assert_eq!(step(&shop, 500).await, PruneStep::default());
    reader.rollback().await.unwrap();
    assert_eq!(step(&shop, 500).await.deleted, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn beside_writers_open_transactions_and_a_relay_nothing_undelivered_goes() {
    const WRITERS: u32 = 6;
    let events = if long() { 2_000 } else { 60 };
    let shop = std::sync::Arc::new(TestShop::start().await);
    let recorder = Recorder::default();
    let settings = RelaySettings {
        gap_grace: Duration::from_millis(200),
        lease: Duration::from_secs(10),
        keep_delivered: Some(Duration::ZERO),
        ..RelaySettings::default()
    };
    let relay = Relay::new(&shop.database_url, recorder.clone(), settings).unwrap();
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        let shop = std::sync::Arc::clone(&shop);
        writers.spawn(async move {
            let mut connection = connect(&shop).await;
            // A writer that a step stalls fails here.
            connection.execute("SET SESSION innodb_lock_wait_timeout = 1").await.unwrap();
            let mut slow = connect(&shop).await;
            for version in 1..=events {
                let mut transaction = connection.begin().await.unwrap();
                if version % 5 == 0 {
                    write_event(&mut transaction, "rolled-back", version).await;
                    transaction.rollback().await.unwrap();
                    transaction = connection.begin().await.unwrap();
                }
                write_event(&mut transaction, &format!("writer-{writer}"), version).await;
                transaction.commit().await.unwrap();
                if version % 10 == 1 {
                    // Open for as long as ten others take.
                    slow.execute("COMMIT; BEGIN").await.unwrap();
                    write_event(&mut slow, &format!("slow-{writer}-{version}"), 1).await;
                }
            }
            slow.execute("COMMIT").await.unwrap();
        });
    }
    let mut pruned = 0;
    let mut pruner = connect(&shop).await;
    while !writers.is_empty() {
        while writers.try_join_next().map(Result::unwrap).is_some() {}
        relay.drain(in_a_minute()).await.unwrap();
        pruned += prune_step(&mut pruner, GROUP, Duration::ZERO, 500).await.unwrap().deleted;
    }
    let deadline = in_a_minute();
    while relay.drain(deadline).await.unwrap().gaps > 0 {
        assert!(std::time::Instant::now() < deadline);
    }

    let mut published: BTreeMap<String, Vec<u32>> = BTreeMap::new();
    for (aggregate, version) in recorder.versions() {
        let versions = published.entry(aggregate).or_default();
        if !versions.contains(&version) {
            versions.push(version);
        }
    }
    for writer in 0..WRITERS {
        let versions = published.remove(&format!("writer-{writer}")).unwrap_or_default();
        assert!(versions.iter().copied().eq(1..=events), "writer {writer}: {versions:?}");
    }
    assert_eq!(published.len() as u32, WRITERS * events.div_ceil(10), "each slow one once");
    assert!(pruned > 0, "there was something to prune beside them");
    while step(&shop, 500).await.more {}
    assert_eq!(ids(&shop).await.len(), 1);
}

/// What the server did for one step, by its own counters.
async fn counted_step(
    connection: &mut MySqlConnection,
    keep: Duration,
) -> (PruneStep, BTreeMap<String, i64>) {
    async fn counters(connection: &mut MySqlConnection) -> BTreeMap<String, i64> {
        let rows = sqlx::query("SHOW SESSION STATUS LIKE 'Handler%'").fetch_all(connection).await.unwrap();
        rows.iter().map(|row| (row.get(0), row.get::<String, _>(1).parse().unwrap())).collect()
    }
    let before = counters(connection).await;
    let step = prune_step(connection, GROUP, keep, 500).await.unwrap();
    let mut after = counters(connection).await;
    for (name, count) in &mut after {
        *count -= before[name];
    }
    (step, after)
}

#[tokio::test]
async fn a_steps_work_is_the_same_however_many_rows_there_are() {
    let shop = TestShop::start().await;
    let (relay, _) = shop.recording_relay();
    commit_events(&shop, "first", 1..=1).await;
    relay.drain(in_a_minute()).await.unwrap();
    let mut connection = connect(&shop).await;
    let rows = if long() { 1_000_000 } else { 20_000 };
    let mut works = Vec::new();
    for total in [700, rows] {
        run(&shop, format!(
            "INSERT INTO outbox (event_id, aggregate_id, aggregate_type, event_type, aggregate_version, payload, headers)
             WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 1000)
             SELECT UUID(), CONCAT(a.n, '-', b.n), 'Order', 'Changed', 1, '{{}}', '{{}}' FROM n a, n b LIMIT {total}"
        )).await;
        run(&shop, "ANALYZE TABLE outbox").await;
        run(&shop, "UPDATE outbox_position SET position = (SELECT MAX(id) FROM outbox)").await;
        let (idle, nothing) = counted_step(&mut connection, Duration::MAX).await;
        let (busy, work) = counted_step(&mut connection, Duration::ZERO).await;
        assert_eq!((idle.deleted, busy.deleted, busy.more), (0, 500, true));
        works.push((nothing, work));
    }

    let sum = |work: &BTreeMap<String, i64>, prefix: &str| {
        work.iter().filter(|(name, _)| name.starts_with(prefix)).map(|(_, count)| count).sum::<i64>()
    };
    let [(small_idle, small), (large_idle, large)] = &works[..] else { unreachable!("two sizes") };
    assert_eq!(large["Handler_delete"], 501, "500 rows and the checkpoint before: {large:?}");
    for (small, large, most) in [(small_idle, large_idle, 520), (small, large, 1_600)] {
        let (small, large) = (sum(small, "Handler_read"), sum(large, "Handler_read"));
        assert!(large <= small + 10 && large <= most, "{small} reads, then {large}");
    }
}

#[tokio::test]
async fn a_dead_letter_whose_row_is_pruned_survives_a_position_that_goes_back() {
    let parking = super::Parking::start().await;
    parking.park(&["big"], 1..=1, true, "message_too_large").await;
    commit_events(&parking.shop, "order", 1..=9).await;
    parking.drain().await;
    assert_eq!(step(&parking.shop, 5).await.deleted, 5);
    // A server that lacks the last of what was delivered, and has given its ids again.
    run(&parking.shop, "UPDATE outbox_position SET server_uuid = UUID()").await;
    run(&parking.shop, "UPDATE outbox_checkpoints SET event_id = UUID() WHERE position = 10").await;

    let report = parking.drain().await;

    assert_eq!(report.published, 5, "6 to 10 once more, and nothing before them is asked for");
    assert_eq!(parking.states().await, [super::state("big", 1, "dead", 1)]);
    parking.picky.accept_all();
    parking.operator.retry(&Default::default(), true, &super::signature(), false).await.unwrap();
    parking.drain().await;
    assert_eq!(parking.published("big"), [1], "from its copy");
}
