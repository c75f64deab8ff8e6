//! Ids that were given and are not there: whatever becomes of them, nothing is lost and nothing is held up.

mod bound;
mod steps;

use outflow_outbox::{Relay, RelayError, RelaySettings, write_without_lock};
use outflow_tests::{OwnServer, Recorder, TestShop, event, in_a_minute, long, until, write_event};
use sqlx::{AssertSqlSafe, Connection, Executor, MySqlConnection};
use std::time::Duration;

/// A relay that calls a gap dead as soon as it may.
fn relay(shop: &TestShop) -> (Relay<Recorder>, Recorder) {
    let recorder = Recorder::default();
    let settings = RelaySettings { gap_grace: Duration::ZERO, ..RelaySettings::default() };
    (shop.relay_to(&recorder, settings), recorder)
}

/// Ranges of ids, as they stand in the table.
async fn ranges(shop: &TestShop) -> Vec<(u64, u64)> {
    sqlx::query_as("SELECT first_id, last_id FROM outbox_gaps ORDER BY first_id")
        .fetch_all(shop.store.pool())
        .await
        .unwrap()
}

async fn until_closed(relay: &Relay<Recorder>) {
    until("all gaps are closed", async || relay.drain(in_a_minute()).await.unwrap().gaps == 0).await;
}

/// Drains until the oldest gap is so many seconds old, at which it would be dead if nothing kept it open.
async fn until_old(shop: &TestShop, relay: &Relay<Recorder>, seconds: i64) {
    const AGE: &str =
        "SELECT COALESCE(MAX(TIMESTAMPDIFF(SECOND, first_seen_at, UTC_TIMESTAMP(6))), 999) FROM outbox_gaps";
    // Each of them takes less than the minute after which it would be given up.
    for age in [seconds / 3, seconds * 2 / 3, seconds] {
        until("the gap is old", async || {
            relay.drain(in_a_minute()).await.unwrap();
            shop.number(AGE).await >= age
        })
        .await;
    }
    relay.drain(in_a_minute()).await.unwrap();
}

async fn until_ripe(shop: &TestShop, relay: &Relay<Recorder>) {
    until_old(shop, relay, 3).await;
}

#[tokio::test]
async fn transactions_that_commit_in_reverse_are_delivered_each_once() {
    const OPEN: u64 = 8;
    let shop = TestShop::start().await;
    let (relay, recorder) = relay(&shop);
    let mut open: Vec<MySqlConnection> = Vec::new();
    for n in 1..=OPEN {
        let mut connection = shop.connect().await;
        connection.execute("BEGIN").await.unwrap();
        write_event(&mut connection, &format!("open-{n}"), 1).await;
        open.push(connection);
    }
    shop.commit("last", 1).await;
    relay.drain(in_a_minute()).await.unwrap();

    let mut left = Vec::new();
    while let Some(mut connection) = open.pop() {
        left.push(ranges(&shop).await);
        connection.execute("COMMIT").await.unwrap();
        assert_eq!(relay.drain(in_a_minute()).await.unwrap().published, 1);
    }

    let expected: Vec<_> = (1..=OPEN).rev().map(|last| vec![(1, last)]).collect();
    assert_eq!(left, expected);
    assert_eq!(ranges(&shop).await, []);
    let ids: Vec<u64> = recorder.published().iter().map(|event| event.id).collect();
    assert_eq!(ids, [9, 8, 7, 6, 5, 4, 3, 2, 1]);
}

#[tokio::test]
async fn a_transaction_that_stays_open_holds_nobody_up_and_keeps_its_gap_however_old_that_is() {
    // Of its own: while it is open, no relay on its server closes a gap.
    let server = OwnServer::start().await;
    let shop = &server.shop;
    // Two minutes and the grace that a relay has by itself; else none, and seconds.
    let (grace, age) = if long() { (RelaySettings::default().gap_grace, 120) } else { (Duration::ZERO, 3) };
    let recorder = Recorder::default();
    let relay = shop.relay_to(&recorder, RelaySettings { gap_grace: grace, ..RelaySettings::default() });
    let mut slow = shop.begin().await;
    write_event(&mut slow, "slow", 1).await;
    for version in 1..=10 {
        shop.commit("quick", version).await;
        let report = relay.drain(in_a_minute()).await.unwrap();
        assert_eq!((report.published, report.backlog, report.oldest_age_ms), (1, 0, 0));
    }
    // Given after it, and given up: nothing tells it from one that the open transaction holds.
    shop.roll_back("rolled-back").await;
    shop.commit("quick", 11).await;
    until_old(shop, &relay, age).await;

    assert_eq!(ranges(shop).await, [(1, 1), (12, 12)]);
    slow.commit().await.unwrap();
    assert_eq!(relay.drain(in_a_minute()).await.unwrap().published, 1);
    until_closed(&relay).await;
    assert_eq!(recorder.versions_of("quick"), (1..=11).collect::<Vec<_>>());
    assert_eq!(recorder.versions_of("slow"), [1]);
}

#[tokio::test]
async fn roll_backs_by_the_thousand_make_a_list_that_is_bounded_visible_and_closes_by_itself() {
    let shop = TestShop::start().await;
    let recorder = Recorder::default();
    let (events, bound) = if long() { (5_000, 1_000) } else { (300, 100) };
    let settings = RelaySettings { gap_grace: Duration::ZERO, max_gaps: bound, ..RelaySettings::default() };
    let relay = shop.relay_to(&recorder, settings);
    // While it is open, nothing behind it can be proven dead.
    let mut oldest = shop.begin().await;
    write_event(&mut oldest, "oldest", 1).await;
    for version in 1..=events {
        shop.commit("kept", version).await;
        shop.roll_back("rolled-back").await;
    }

    for _ in 0..2 {
        let stopped = relay.drain(in_a_minute()).await.unwrap_err();
        let told =
            matches!(stopped, RelayError::TooManyGaps { gaps, limit, .. } if (gaps, limit) == (bound, bound));
        assert!(told, "{stopped}");
        assert_eq!(ranges(&shop).await.len(), bound, "the table shows them");
        assert_eq!(recorder.versions_of("kept").len(), bound);
    }
    oldest.commit().await.unwrap();
    until("everything is delivered and no gap is left", async || match relay.drain(in_a_minute()).await {
        Ok(report) => report.gaps == 0 && report.backlog == 0,
        Err(RelayError::TooManyGaps { .. }) => false,
        Err(error) => panic!("{error}"),
    })
    .await;

    assert_eq!(recorder.versions_of("kept"), (1..=events).collect::<Vec<_>>());
    assert_eq!(recorder.versions_of("oldest"), [1]);
}

#[tokio::test]
async fn an_insert_that_waits_for_a_lock_with_its_id_in_hand_is_waited_for() {
    let shop = TestShop::start().await;
    let (relay, recorder) = relay(&shop);
    shop.run("ALTER TABLE outbox ADD UNIQUE KEY (event_id)").await;
    let first = event("Order", "first", 1);
    let mut second = event("Order", "second", 1);
    second.event.event_id = first.event.event_id;
    let mut holder = shop.begin().await;
    write_without_lock(&mut holder, &[first]).await.unwrap();
    let mut waiter = shop.connect().await;
    waiter.execute("SET SESSION innodb_lock_wait_timeout = 50").await.unwrap();
    let waiting = tokio::spawn(async move { write_without_lock(&mut waiter, &[second]).await });
    shop.until_locked_out().await;
    shop.commit("last", 1).await;
    until_ripe(&shop, &relay).await;

    assert_eq!(ranges(&shop).await, [(1, 2)]);
    assert!(!waiting.is_finished());
    holder.rollback().await.unwrap();
    waiting.await.unwrap().unwrap();
    relay.drain(in_a_minute()).await.unwrap();

    assert_eq!(recorder.versions(), [("last".to_owned(), 1), ("second".to_owned(), 1)]);
    until_closed(&relay).await;
}

/// So many events in one statement; MySQL gives it ids in blocks, each twice as large as the one before.
fn bulk(events: u32, payload: &str) -> String {
    format!(
        "INSERT INTO outbox (event_id, aggregate_id, aggregate_type, event_type, aggregate_version, payload, headers)
         WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {events})
         SELECT /*+ SET_VAR(cte_max_recursion_depth = 1000000) */
             UUID(), CONCAT('bulk-', n), 'Order', 'Changed', 1, {payload}, '{{}}' FROM n"
    )
}

#[tokio::test]
async fn the_thousands_of_ids_that_a_bulk_insert_leaves_out_are_one_gap() {
    let shop = TestShop::start().await;
    let (patient, recorder) = shop.recording_relay();
    shop.run(bulk(5_000, "'{}'")).await;
    shop.commit("behind", 1).await;

    let report = patient.drain(in_a_minute()).await.unwrap();
    let open = ranges(&shop).await;
    until_closed(&relay(&shop).0).await;

    assert_eq!((report.published, report.backlog), (5_001, 0));
    let [(first, last)] = open[..] else { panic!("one range, not {open:?}") };
    assert_eq!(first, 5_001);
    assert!(last - first > 1_000, "{first} to {last}");
    assert_eq!(recorder.published().len(), 5_001);
}

#[tokio::test]
async fn a_hole_of_thousands_is_split_where_a_row_appears_in_it_and_both_halves_are_looked_after() {
    let shop = TestShop::start().await;
    let (patient, recorder) = shop.recording_relay();
    shop.run(bulk(5_000, "'{}'")).await;
    // Behind the ids that this one left out; then thousands more, whose transaction is open, and what that leaves out.
    let mut slow = shop.begin().await;
    write_event(&mut slow, "slow", 1).await;
    let mut inserting = shop.connect().await;
    inserting.execute("BEGIN").await.unwrap();
    let sql = bulk(5_000, "'{}'").replace("'bulk-'", "'second-'");
    inserting.execute(sqlx::raw_sql(AssertSqlSafe(sql))).await.unwrap();
    shop.commit("behind", 1).await;

    let report = patient.drain(in_a_minute()).await.unwrap();
    let whole = ranges(&shop).await;
    slow.commit().await.unwrap();
    patient.drain(in_a_minute()).await.unwrap();
    let split = ranges(&shop).await;
    inserting.execute("COMMIT").await.unwrap();
    let filled = patient.drain(in_a_minute()).await.unwrap();
    let tails = ranges(&shop).await;
    until_closed(&relay(&shop).0).await;

    let id_of = |aggregate: &str| {
        let events = recorder.published();
        events.iter().find(|event| event.aggregate_id == aggregate).unwrap().id
    };
    let (slow, first, last, behind) =
        (id_of("slow"), id_of("second-1"), id_of("second-5000"), id_of("behind"));
    assert_eq!((report.published, filled.published), (5_001, 5_000));
    assert!(slow - 5_001 > 1_000 && behind - last > 1_000, "{slow}, {last}, {behind}");
    assert_eq!((first, last), (slow + 1, slow + 5_000));
    assert_eq!(whole, [(5_001, behind - 1)]);
    assert_eq!(split, [(5_001, slow - 1), (slow + 1, behind - 1)]);
    assert_eq!(tails, [(5_001, slow - 1), (last + 1, behind - 1)]);
    assert_eq!(recorder.published().len(), 10_002);
}

#[tokio::test]
async fn a_bulk_insert_that_still_runs_keeps_its_gaps_open_and_all_of_it_arrives() {
    let shop = TestShop::start().await;
    let (relay, recorder) = relay(&shop);
    let latch = shop.database_url.rsplit('/').next().unwrap().to_owned();
    let mut holder = shop.connect().await;
    sqlx::query("SELECT GET_LOCK(?, 0)").bind(&latch).execute(&mut holder).await.unwrap();
    let mut inserting = shop.connect().await;
    // In its 40th row it waits for us.
    let sql = bulk(100, &format!("JSON_OBJECT('latch', IF(n = 40, GET_LOCK('{latch}', 60), 0))"));
    let bulk = tokio::spawn(async move { sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut inserting).await });
    until("the bulk insert waits", async || {
        shop.number(
            "SELECT COUNT(*) FROM information_schema.processlist WHERE state = 'User lock' AND db = DATABASE()",
        )
        .await
            == 1
    })
    .await;
    for version in 1..=3 {
        shop.commit("meanwhile", version).await;
    }
    until_ripe(&shop, &relay).await;

    let open = ranges(&shop).await;
    assert_eq!(open.len(), 1, "{open:?}");
    assert_eq!(recorder.versions_of("meanwhile"), [1, 2, 3]);
    assert!(!bulk.is_finished());
    sqlx::query("SELECT RELEASE_LOCK(?)").bind(&latch).execute(&mut holder).await.unwrap();
    bulk.await.unwrap().unwrap();
    relay.drain(in_a_minute()).await.unwrap();

    let mut seen: Vec<_> = recorder.versions().into_iter().map(|(id, _)| id).collect();
    seen.retain(|id| id.starts_with("bulk-"));
    seen.sort();
    seen.dedup();
    assert_eq!((seen.len(), recorder.published().len()), (100, 103));
    until_closed(&relay).await;
}

#[tokio::test]
async fn a_transaction_that_has_only_read_keeps_no_gap_open_and_one_that_has_written_does() {
    let shop = TestShop::start().await;
    let (relay, _recorder) = relay(&shop);
    let mut backup = shop.connect().await;
    backup.execute("START TRANSACTION WITH CONSISTENT SNAPSHOT; SELECT COUNT(*) FROM outbox").await.unwrap();
    let mut report = shop.connect().await;
    report.execute("BEGIN; SELECT COUNT(*) FROM outbox_position").await.unwrap();
    shop.roll_back("rolled-back").await;
    shop.commit("kept", 1).await;
    until_closed(&relay).await;

    let mut writer = shop.connect().await;
    writer.execute("BEGIN; INSERT INTO products (id, name, price) VALUES ('p', 'Product', 1)").await.unwrap();
    shop.roll_back("rolled-back").await;
    shop.commit("kept", 2).await;
    until_ripe(&shop, &relay).await;
    let kept_open = ranges(&shop).await;
    writer.execute("COMMIT").await.unwrap();
    until_closed(&relay).await;

    assert_eq!(kept_open, [(3, 3)]);
}

#[tokio::test]
async fn the_next_relay_finds_the_gaps_of_the_last_one() {
    let shop = TestShop::start().await;
    let (first, _) = relay(&shop);
    let mut slow = shop.begin().await;
    write_event(&mut slow, "slow", 1).await;
    shop.roll_back("rolled-back").await;
    shop.commit("quick", 1).await;
    assert_eq!(first.drain(in_a_minute()).await.unwrap().gaps, 1);
    drop(first);
    let (second, recorder) = relay(&shop);
    assert_eq!(second.drain(in_a_minute()).await.unwrap().gaps, 1);
    slow.commit().await.unwrap();
    drop(second);

    let (third, third_recorder) = relay(&shop);
    third.drain(in_a_minute()).await.unwrap();

    assert_eq!(recorder.published(), []);
    assert_eq!(third_recorder.versions(), [("slow".to_owned(), 1)]);
    until_closed(&third).await;
}

#[tokio::test]
async fn a_long_change_of_another_group_keeps_no_relay_from_its_gaps() {
    let shop = TestShop::start().await;
    let (relay, recorder) = relay(&shop);
    shop.commit("kept", 1).await;
    relay.drain(in_a_minute()).await.unwrap();
    shop.run("INSERT INTO outbox_position (relay_group) VALUES ('other')").await;
    let mut operator = shop.begin().await;
    let held = "SELECT position FROM outbox_position WHERE relay_group = 'other' FOR UPDATE";
    operator.execute(held).await.unwrap();
    shop.roll_back("rolled-back").await;
    shop.commit("kept", 2).await;

    relay.drain(in_a_minute()).await.unwrap();
    let looked = relay.drain(in_a_minute()).await;

    assert!(looked.is_ok(), "{looked:?}");
    operator.rollback().await.unwrap();
    until_closed(&relay).await;
    assert_eq!(recorder.versions_of("kept"), [1, 2]);
}

/// MySQL cannot show its transactions while one of them runs such a statement: nothing fails, the gap closes later.
#[tokio::test]
async fn a_statement_with_an_emoji_only_delays_the_end_of_a_gap() {
    // Of its own: the list of transactions is the whole server's.
    let server = OwnServer::start().await;
    let shop = &server.shop;
    let (relay, recorder) = relay(shop);
    let mut lost = shop.begin().await;
    write_event(&mut lost, "lost", 1).await;
    lost.rollback().await.unwrap();
    let mut kept = shop.begin().await;
    write_event(&mut kept, "kept", 1).await;
    kept.commit().await.unwrap();
    let mut other = MySqlConnection::connect(&shop.database_url).await.unwrap();
    let speaking = tokio::spawn(async move {
        other.execute("BEGIN").await.unwrap();
        other.execute("SELECT '\u{1F600}', SLEEP(3), COUNT(*) FROM products FOR SHARE").await.map(drop)
    });
    until("the list cannot be read", async || {
        // MySQL renews it only when nobody has read it for a moment.
        tokio::time::sleep(Duration::from_millis(150)).await;
        shop.store.pool().execute("SELECT COUNT(*) FROM information_schema.innodb_trx").await.is_err()
    })
    .await;

    let meanwhile = relay.drain(in_a_minute()).await.unwrap();
    speaking.await.unwrap().unwrap();
    until_closed(&relay).await;

    assert_eq!(meanwhile.published, 1);
    assert_eq!(recorder.versions(), [("kept".to_owned(), 1)]);
}
