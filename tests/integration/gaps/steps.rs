//! Servers that give every second or tenth id: what lies off their step is no gap, unless somebody may have been given it.

use super::{ranges, relay, until_closed};
use outflow_tests::{OwnServer, Recorder, TestShop, in_a_minute, write_event};
use sqlx::{AssertSqlSafe, Executor, MySqlConnection};

/// From now on for sessions that begin.
async fn set_step(admin: &mut MySqlConnection, increment: u32, offset: u32) {
    let sql =
        format!("SET GLOBAL auto_increment_increment = {increment}, GLOBAL auto_increment_offset = {offset}");
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(admin).await.unwrap();
}

/// As many delivered rows on this step as a relay wants to see before it believes in it. Returns the last id.
async fn deliver_on_step(shop: &TestShop, increment: u64, offset: u64) -> u64 {
    const ROWS: u64 = 10_000;
    shop.run(format!(
        "INSERT INTO outbox (id, event_id, aggregate_id, aggregate_type, event_type, aggregate_version, payload, headers)
         WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {ROWS})
         SELECT /*+ SET_VAR(cte_max_recursion_depth = {ROWS}) */
             (n - 1) * {increment} + {offset}, UUID(), CONCAT('delivered-', n), 'Order', 'Changed', 1, '{{}}', '{{}}' FROM n;
         INSERT INTO outbox_position (relay_group, position, server_uuid)
         SELECT 'default', MAX(id), @@server_uuid FROM outbox"
    ))
    .await;
    (ROWS - 1) * increment + offset
}

/// As a row that comes from elsewhere with the id it has there.
async fn write_with_id(connection: &mut MySqlConnection, id: u64, aggregate: &str) {
    sqlx::query(
        "INSERT INTO outbox (id, event_id, aggregate_id, aggregate_type, event_type, aggregate_version, payload, headers)
         VALUES (?, UUID(), ?, 'Order', 'Changed', 1, '{}', '{}')",
    )
    .bind(id)
    .bind(aggregate)
    .execute(connection)
    .await
    .unwrap();
}

async fn begin(shop: &TestShop, aggregate: &str) -> MySqlConnection {
    let mut connection = shop.connect().await;
    connection.execute("BEGIN").await.unwrap();
    write_event(&mut connection, aggregate, 1).await;
    connection
}

fn ids(recorder: &Recorder) -> Vec<u64> {
    recorder.published().iter().map(|event| event.id).collect()
}

/// The id of the aggregate's event; which one MySQL gives depends on the step of the session before, too.
fn id_of(recorder: &Recorder, aggregate: &str) -> u64 {
    let events = recorder.published();
    events.iter().find(|event| event.aggregate_id == aggregate).unwrap().id
}

fn order(recorder: &Recorder) -> Vec<String> {
    recorder.versions().into_iter().map(|(aggregate, _)| aggregate).collect()
}

#[tokio::test]
async fn ids_between_the_steps_of_auto_increment_are_no_gaps_and_one_on_the_step_is() {
    let server = OwnServer::start().await;
    let shop = &server.shop;
    set_step(&mut shop.admin().await, 10, 3).await;
    let last = deliver_on_step(shop, 10, 3).await;
    // Sessions take the settings when they begin.
    let mut writer = shop.connect().await;
    let (relay, recorder) = relay(shop);
    for version in 1..=3 {
        write_event(&mut writer, "kept", version).await;
    }
    let none = relay.drain(in_a_minute()).await.unwrap();
    writer.execute("BEGIN").await.unwrap();
    write_event(&mut writer, "rolled-back", 1).await;
    writer.execute("ROLLBACK").await.unwrap();
    let mut open = begin(shop, "open").await;
    write_event(&mut writer, "kept", 4).await;
    relay.drain(in_a_minute()).await.unwrap();
    let both = ranges(shop).await;
    open.execute("COMMIT").await.unwrap();
    relay.drain(in_a_minute()).await.unwrap();
    let lost = ranges(shop).await;
    until_closed(&relay).await;

    assert_eq!((none.published, none.gaps), (3, 0));
    assert_eq!((both, lost), (vec![(last + 40, last + 50)], vec![(last + 40, last + 40)]));
    assert_eq!(ids(&recorder), [10, 20, 30, 60, 50].map(|behind| last + behind));
}

#[tokio::test]
async fn a_gap_that_is_open_while_the_servers_step_changes_stays_open_until_its_row_appears() {
    let server = OwnServer::start().await;
    let shop = &server.shop;
    let (relay, recorder) = shop.recording_relay();
    for version in 1..=4 {
        shop.commit("quick", version).await;
    }
    let mut open = begin(shop, "open").await;
    shop.commit("quick", 5).await;
    relay.drain(in_a_minute()).await.unwrap();
    let before = ranges(shop).await;

    set_step(&mut shop.admin().await, 10, 3).await;
    relay.drain(in_a_minute()).await.unwrap();
    let after = ranges(shop).await;
    open.execute("COMMIT").await.unwrap();
    let report = relay.drain(in_a_minute()).await.unwrap();

    assert_eq!((before, after), (vec![(5, 5)], vec![(5, 5)]));
    assert_eq!((report.published, report.gaps), (1, 0));
    assert_eq!(ids(&recorder), [1, 2, 3, 4, 6, 5]);
}

#[tokio::test]
async fn a_writer_whose_session_keeps_an_older_step_is_waited_for_by_each_drain_that_follows() {
    let server = OwnServer::start().await;
    let shop = &server.shop;
    let mut older = [shop.connect().await, shop.connect().await, shop.connect().await];
    set_step(&mut shop.admin().await, 10, 3).await;
    let last = deliver_on_step(shop, 10, 3).await;
    let mut newer = shop.connect().await;
    let (relay, recorder) = shop.recording_relay();
    let [seen, first, second] = &mut older;
    // Off the step, and known by its id.
    write_event(seen, "seen", 1).await;
    first.execute("BEGIN").await.unwrap();
    write_event(first, "first", 1).await;
    write_event(&mut newer, "newer-1", 1).await;

    relay.drain(in_a_minute()).await.unwrap();
    let found = ranges(shop).await;
    second.execute("BEGIN").await.unwrap();
    // The first of them happens to lie on the step.
    write_event(second, "second", 1).await;
    write_event(second, "third", 1).await;
    write_event(&mut newer, "newer-2", 1).await;
    relay.drain(in_a_minute()).await.unwrap();
    let kept = ranges(shop).await;
    first.execute("COMMIT").await.unwrap();
    second.execute("COMMIT").await.unwrap();
    let report = relay.drain(in_a_minute()).await.unwrap();

    assert_eq!(order(&recorder), ["seen", "newer-1", "newer-2", "first", "second", "third"]);
    assert_eq!(report.published, 3);
    let [seen, first, newer_1, third, newer_2] =
        ["seen", "first", "newer-1", "third", "newer-2"].map(|aggregate| id_of(&recorder, aggregate));
    assert!(
        last < seen && [first, third].iter().all(|id| id % 10 != 3),
        "{first} and {third} lie off the step"
    );
    assert_eq!(found, [(seen + 1, newer_1 - 1)]);
    assert_eq!(kept, [(seen + 1, newer_1 - 1), (newer_1 + 1, newer_2 - 1)]);
    assert!((seen..newer_1).contains(&first) && (newer_1..newer_2).contains(&third));
    until_closed(&self::relay(shop).0).await;
}

/// As far as one server can be two: its own id stands for the old one's, and the offset is the new one's.
#[tokio::test]
async fn after_a_fail_over_to_a_server_with_another_offset_the_old_ones_ids_are_waited_for() {
    let server = OwnServer::start().await;
    let shop = &server.shop;
    let mut admin = shop.admin().await;
    set_step(&mut admin, 2, 1).await;
    let last = deliver_on_step(shop, 2, 1).await;
    let (relay, recorder) = shop.recording_relay();
    let mut open = begin(shop, "open").await;
    write_event(&mut shop.connect().await, "before", 1).await;
    relay.drain(in_a_minute()).await.unwrap();
    let before = ranges(shop).await;

    set_step(&mut admin, 2, 2).await;
    shop.run("UPDATE outbox_position SET server_uuid = UUID()").await;
    let mut writer = shop.connect().await;
    write_event(&mut writer, "after-1", 1).await;
    // What the old server had committed and the new one is still about to apply.
    let late = shop.number("SELECT CAST(MAX(id) + 1 AS SIGNED) FROM outbox").await.unsigned_abs();
    let mut applier = shop.connect().await;
    applier.execute("BEGIN").await.unwrap();
    write_with_id(&mut applier, late, "late").await;
    write_event(&mut writer, "after-2", 1).await;
    relay.drain(in_a_minute()).await.unwrap();
    let after = ranges(shop).await;
    relay.drain(in_a_minute()).await.unwrap();
    open.execute("COMMIT").await.unwrap();
    applier.execute("COMMIT").await.unwrap();
    let report = relay.drain(in_a_minute()).await.unwrap();

    assert_eq!(order(&recorder), ["before", "after-1", "after-2", "open", "late"]);
    assert_eq!(report.published, 2);
    let [open, newest] = ["open", "after-2"].map(|aggregate| id_of(&recorder, aggregate));
    assert_eq!((open, late % 2, newest % 2), (last + 2, 1, 0));
    assert_eq!((before, after[0]), (vec![(open, open)], (open, open)));
    assert!(after[1..].iter().any(|(first, last)| (*first..=*last).contains(&late)), "{late} in {after:?}");
    until_closed(&self::relay(shop).0).await;
}
