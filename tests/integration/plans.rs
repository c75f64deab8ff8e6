//! What the relay's statements cost the server: by its plans, by its own counters, by its log.

use outflow_outbox::{FailureKind, OutboxEvent, PublishError, Publisher, RelaySettings};
use outflow_tests::{
    OwnServer, Recorder, TestShop, counters, in_a_minute, long, statements, until, write_event,
};
use sqlx::{AssertSqlSafe, Executor, MySqlConnection, Row};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// In the shop's database, with the right to set counters back.
async fn session(shop: &TestShop) -> MySqlConnection {
    let mut session = shop.admin().await;
    let use_shop = format!("USE {}", shop.database_url.rsplit('/').next().unwrap());
    session.execute(sqlx::raw_sql(AssertSqlSafe(use_shop))).await.unwrap();
    session
}

/// Rows read by one statement, however MySQL reached them.
async fn reads(connection: &mut MySqlConnection, sql: &str) -> i64 {
    connection.execute("FLUSH STATUS").await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).fetch_all(&mut *connection).await.unwrap();
    counters(connection, false, "Handler_read%").await.values().sum()
}

/// How each table is reached: name, access, key, notes.
async fn plan(connection: &mut MySqlConnection, sql: &str) -> Vec<(String, String, String, String)> {
    let explain = AssertSqlSafe(format!("EXPLAIN FORMAT=TRADITIONAL {sql}"));
    let rows = sqlx::raw_sql(explain).fetch_all(connection).await.unwrap();
    let text =
        |row: &sqlx::mysql::MySqlRow, name: &str| row.get::<Option<String>, _>(name).unwrap_or_default();
    rows.iter()
        .map(|row| (text(row, "table"), text(row, "type"), text(row, "key"), text(row, "Extra")))
        .collect()
}

async fn write_bulk(shop: &TestShop, rows: u32) {
    shop.run(format!(
        "INSERT INTO outbox (id, event_id, aggregate_id, aggregate_type, event_type, aggregate_version, payload, headers)
         WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {rows})
         SELECT /*+ SET_VAR(cte_max_recursion_depth = 10000000) */
             n, UUID(), n, 'Order', 'Changed', 1, '{{}}', '{{}}' FROM n"
    ))
    .await;
}

/// A log with so many rows, all delivered, and every second id missing among its first 20,000.
async fn delivered_log(shop: &TestShop) -> u32 {
    let rows = if long() { 1_000_000 } else { 40_000 };
    write_bulk(shop, rows).await;
    shop.run("DELETE FROM outbox WHERE id < 20000 AND id % 2 = 1; ANALYZE TABLE outbox").await;
    shop.run("INSERT INTO outbox_position (relay_group, server_uuid) VALUES ('default', @@server_uuid)")
        .await;
    rows
}

#[tokio::test]
async fn a_page_costs_its_rows_and_one_look_into_each_open_gap_whatever_else_the_log_holds() {
    let server = OwnServer::start().await;
    let shop = &server.shop;
    let mut admin = shop.admin().await;
    let rows = delivered_log(shop).await;
    server.log_statements(&mut admin).await;
    let recorder = Recorder::default();
    let relay = shop.relay_to(&recorder, RelaySettings { keep_delivered: None, ..RelaySettings::default() });
    let mut session = session(shop).await;

    // Open gaps, rows behind the position, rows in the page.
    for (gaps, backlog, page) in
        [(0, 10, 10), (3, 10, 10), (200, 10, 10), (10_000, 10, 10), (3, 15_000, 1_000)]
    {
        let position = rows - backlog;
        shop.run(format!(
            "DELETE FROM outbox_gaps; DELETE FROM outbox_checkpoints;
             UPDATE outbox_position SET position = {position};
             INSERT INTO outbox_gaps SELECT 'default', id - 1, id - 1, UTC_TIMESTAMP(6) FROM outbox
             WHERE id <= 20000 AND id % 2 = 0 ORDER BY id LIMIT {gaps}"
        ))
        .await;
        relay.drain(in_a_minute()).await.unwrap();
        // As the relay's own connections are set.
        let memory = server.logged(&mut admin, "SET SESSION range_optimizer_max_mem_size%").await;
        session.execute(sqlx::raw_sql(AssertSqlSafe(memory))).await.unwrap();
        let sql = server
            .logged(&mut admin, &format!("SELECT id, event_id%FROM outbox WHERE id > {position} %"))
            .await;

        let plan = plan(&mut session, &sql).await;
        let reads = reads(&mut session, &sql).await;

        let asked = match sql.split_once(" OR id IN (").and_then(|(_, rest)| rest.split_once(')')) {
            Some((ids, _)) => ids.split(',').count(),
            None => sql.matches(" OR id BETWEEN ").count(),
        };
        assert!(asked >= gaps);
        let [(table, access, key, notes)] = &plan[..] else { panic!("one table: {plan:?}") };
        assert_eq!((table.as_str(), access.as_str(), key.as_str()), ("outbox", "range", "PRIMARY"));
        assert!(!notes.contains("filesort"), "{notes}");
        let most = (gaps + page) as i64 + 5;
        assert!(reads <= most, "{reads} reads for {gaps} gaps, a backlog of {backlog} and {page} rows");
    }
    assert_eq!(recorder.published().len(), 4 * 10 + 15_000);
}

/// What one writing statement reads, undone again.
async fn reads_of_write(session: &mut MySqlConnection, sql: &str) -> i64 {
    let reads = reads(session, &format!("BEGIN; {sql}")).await;
    session.execute("ROLLBACK").await.unwrap();
    reads
}

#[tokio::test]
async fn a_move_costs_what_it_writes_however_much_is_delivered_waits_or_is_parked() {
    const GAPS: i64 = 100;
    let server = OwnServer::start().await;
    let shop = &server.shop;
    let mut admin = shop.admin().await;
    let rows = delivered_log(shop).await;
    shop.run(format!("UPDATE outbox_position SET position = {rows}")).await;
    let recorder = Recorder::default();
    let settings = RelaySettings { keep_delivered: None, ..RelaySettings::default() };
    let relay = shop.relay_to(&recorder, settings);
    server.log_statements(&mut admin).await;
    // Each thing that a move can write: gaps that open and gaps that fill, events that are refused, wait, are refused
    // again, follow, are delivered.
    recorder.refuse_as(FailureKind::Record { permanent: false }, &["refused"]);
    let mut open = shop.begin().await;
    for n in 0..GAPS {
        write_event(&mut open, &format!("late-{n}"), 1).await;
        shop.commit("quick", u32::try_from(n + 1).unwrap()).await;
    }
    for version in 1..=3 {
        shop.commit("refused", version).await;
    }
    relay.drain(in_a_minute()).await.unwrap();
    open.commit().await.unwrap();
    until("the head was tried again", async || {
        relay.drain(in_a_minute()).await.unwrap();
        recorder.offers("refused") > 1
    })
    .await;
    recorder.refuse(&[]);
    shop.run("UPDATE outbox_failures SET next_attempt_at = UTC_TIMESTAMP(6) WHERE state = 'retry'").await;
    until("nothing is parked", async || {
        relay.drain(in_a_minute()).await.unwrap();
        shop.number("SELECT COUNT(*) FROM outbox_failures").await == 0
    })
    .await;

    // What looks like this, and how many rows it may read; a parameter that is read as a table counts with its copies.
    let writes = [
        ("UPDATE outbox_position SET lease_until%position = COALESCE(%", 1),
        ("INSERT INTO outbox_gaps%", GAPS),
        ("DELETE FROM outbox_gaps%", GAPS),
        ("INSERT INTO outbox_checkpoints%", 1),
        ("INSERT INTO outbox_failures%STRAIGHT_JOIN outbox o ON o.id = a.id%", 10),
        ("INSERT INTO outbox_failures%'waiting'%FROM outbox WHERE id IN %", 4),
        ("UPDATE JSON_TABLE(%f.attempts = f.attempts + 1%", 10),
        ("SELECT t.n, (SELECT MIN(f.id) FROM outbox_failures f%", 10),
        ("UPDATE outbox_failures SET state = 'retry'%", 1),
        ("DELETE FROM outbox_failures WHERE relay_group%", 1),
    ];
    let mut logged = Vec::new();
    for (like, most) in writes {
        logged.push((server.logged(&mut admin, like).await, most));
    }
    // What those statements wrote, beside thousands of others.
    shop.run(format!(
        "UPDATE outbox_position SET position = {};
         INSERT INTO outbox_gaps SELECT 'default', id - 1, id - 1, UTC_TIMESTAMP(6) FROM outbox
         WHERE id <= 20000 AND id % 2 = 0;
         INSERT INTO outbox_gaps SELECT 'default', id, id, UTC_TIMESTAMP(6) FROM outbox WHERE aggregate_id LIKE 'late-%';
         INSERT INTO outbox_failures (relay_group, id, event_id, aggregate_id, aggregate_type, event_type,
             aggregate_version, payload, headers, created_at, state, next_attempt_at, parked_at, history)
         SELECT 'default', id, event_id, aggregate_id, aggregate_type, event_type, aggregate_version, payload,
             headers, created_at, 'retry', UTC_TIMESTAMP(6), UTC_TIMESTAMP(6), '[]'
         FROM outbox WHERE id BETWEEN 20001 AND 25000 OR aggregate_id = 'refused';
         ANALYZE TABLE outbox, outbox_failures, outbox_gaps",
        rows - 15_000
    ))
    .await;
    let mut session = session(shop).await;
    for (sql, most) in logged {
        for (table, access, key, notes) in plan(&mut session, &sql).await {
            let found = format!("{table} by {access} on {key}, {notes}: {sql}");
            // Where to an INSERT writes is shown as if all of it were read.
            let is_target = sql.starts_with(&format!("INSERT INTO {table} "));
            // A statement's own parameter, as a table of the rows that it writes.
            let is_parameter = notes.contains("json_table");
            assert!(is_target || is_parameter || !["ALL", "index"].contains(&access.as_str()), "{found}");
            assert!(is_parameter || !notes.contains("filesort") && !notes.contains("temporary"), "{found}");
        }
        let reads = reads_of_write(&mut session, &sql).await;
        assert!(reads <= most, "{reads} reads: {sql}");
    }
}

#[tokio::test]
async fn to_tell_how_a_group_stands_costs_the_same_however_much_is_delivered_waits_or_is_open() {
    let server = OwnServer::start().await;
    let shop = &server.shop;
    let mut admin = shop.admin().await;
    let rows = delivered_log(shop).await;
    server.log_statements(&mut admin).await;
    let (relay, recorder) = shop.recording_relay();
    // As many notes as a relay makes in minutes; the newest is held against the row that has its id.
    shop.run(format!(
        "UPDATE outbox_position SET position = {rows};
         INSERT INTO outbox_checkpoints SELECT 'default', id, event_id, UTC_TIMESTAMP(6) FROM outbox
         WHERE id BETWEEN 19001 AND 20000 OR id > {rows} - 1000"
    ))
    .await;
    relay.drain(in_a_minute()).await.unwrap();
    let standing = server.logged(&mut admin, "SELECT UTC_TIMESTAMP(6) AS now, p.position%").await;
    let mut session = session(shop).await;
    let idle = reads(&mut session, &standing).await;
    shop.run(
        "UPDATE outbox_position SET position = 20000; DELETE FROM outbox_checkpoints WHERE position > 20000;
         INSERT INTO outbox_gaps SELECT 'default', id - 1, id - 1, UTC_TIMESTAMP(6) FROM outbox
         WHERE id <= 20000 AND id % 2 = 0",
    )
    .await;
    let behind = reads(&mut session, &standing).await;
    // The row of the newest note is gone, as after a relay that died and much that was pruned.
    shop.run(
        "DELETE FROM outbox_checkpoints;
         INSERT INTO outbox_checkpoints VALUES ('default', 19999, UUID(), UTC_TIMESTAMP(6))",
    )
    .await;
    let gone = reads(&mut session, &standing).await;
    shop.run("DELETE FROM outbox_checkpoints").await;
    let parked = |state: &str, first: u32, last: u32| {
        format!(
            "INSERT INTO outbox_failures (relay_group, id, event_id, aggregate_id, aggregate_type, event_type,
                 aggregate_version, payload, headers, created_at, state, next_attempt_at, parked_at, history)
             SELECT 'default', id, event_id, aggregate_id, aggregate_type, event_type, aggregate_version, payload,
                 headers, created_at, '{state}', UTC_TIMESTAMP(6), UTC_TIMESTAMP(6), '[]'
             FROM outbox WHERE id BETWEEN {first} AND {last}"
        )
    };
    shop.run(parked("waiting", 20_001, 25_000)).await;
    let waiting = reads(&mut session, &standing).await;
    shop.run(parked("dead", 25_001, 26_000)).await;
    let dead = reads(&mut session, &standing).await;
    shop.run(parked("retry", 26_001, 26_500)).await;
    // With nothing behind the position: of a drain's statements one is wanted.
    shop.run(format!("UPDATE outbox_position SET position = {rows}")).await;
    relay.drain(in_a_minute()).await.unwrap();
    let due = server.logged(&mut admin, "SELECT id, event_id%FROM outbox_failures WHERE relay_group%").await;
    shop.run("UPDATE outbox_failures SET state = 'retry', next_attempt_at = UTC_TIMESTAMP(6) WHERE state = 'waiting'")
        .await;
    let (due_plan, due_reads) = (plan(&mut session, &due).await, reads(&mut session, &due).await);

    assert!(idle <= 14 && behind <= idle + 6, "{idle} reads, then {behind}");
    // For the lowest row.
    assert!(gone <= behind + 3, "{behind} reads, and {gone} where a note's row is gone");
    assert!(waiting <= behind + 1, "{behind} reads, and {waiting} with events that wait");
    // Heads are counted up to a bound: each is one entry of an index, and one of the table that is bounded.
    assert!(dead <= waiting + 2_005, "{waiting} reads, and {dead} with 1,000 dead letters");
    let [(_, access, key, notes)] = &due_plan[..] else { panic!("one table: {due_plan:?}") };
    assert_eq!((access.as_str(), key.as_str()), ("range", "outbox_failures_due"), "{notes}");
    assert!(!notes.contains("filesort"), "{notes}");
    assert!(due_reads <= 101, "{due_reads} reads for 100 of 5,000 that are due");
    assert!(recorder.published().len() >= 500);
}

#[tokio::test]
async fn a_tick_on_an_idle_outbox_asks_at_most_twice_also_with_dead_letters_and_while_paused() {
    const TICKS: i64 = 10;
    let server = OwnServer::start().await;
    let shop = &server.shop;
    let mut admin = shop.admin().await;
    let (relay, recorder) = shop.recording_relay();
    recorder.refuse_as(FailureKind::Record { permanent: true }, &["dead"]);
    shop.commit("a", 1).await;
    relay.drain(in_a_minute()).await.unwrap();
    // The first tick looks at the server as well, and for rows to prune.
    relay.drain(in_a_minute()).await.unwrap();

    for state in ["idle", "dead letters", "paused with a backlog"] {
        match state {
            "dead letters" => {
                shop.commit("dead", 1).await;
                shop.commit("dead", 2).await;
                relay.drain(in_a_minute()).await.unwrap();
            }
            "paused with a backlog" => {
                shop.run("UPDATE outbox_position SET paused_at = UTC_TIMESTAMP(6)").await;
                shop.commit("a", 2).await;
            }
            _ => {}
        }
        let before = statements(&mut admin).await;
        for _ in 0..TICKS {
            let report = relay.drain(in_a_minute()).await.unwrap();
            assert_eq!((report.published, report.paused), (0, state.starts_with("paused")));
        }
        let asked = statements(&mut admin).await - before;
        assert!(asked <= 2 * TICKS, "{state}: {asked} queries in {TICKS} ticks");
    }
    assert_eq!(recorder.versions_of("a"), [1]);
    assert_eq!(shop.number("SELECT COUNT(*) FROM outbox_failures").await, 2);
}

/// Confirms all, and counts.
#[derive(Clone, Debug, Default)]
struct Counter(Arc<AtomicU64>);

impl Publisher for Counter {
    async fn publish(&self, events: &[OutboxEvent]) -> Vec<Result<(), PublishError>> {
        self.0.fetch_add(events.len() as u64, Ordering::Relaxed);
        events.iter().map(|_| Ok(())).collect()
    }

    fn timeout(&self) -> Duration {
        Duration::ZERO
    }
}

/// A relay cannot know how large the next rows are, and stops reading where they are larger than it thought.
#[tokio::test]
async fn a_backlog_of_large_events_is_sent_to_the_relay_about_once() {
    const BYTES: u64 = 800_000;
    let events: u64 = if long() { 1_000 } else { 300 };
    let server = OwnServer::start().await;
    let shop = &server.shop;
    let mut admin = shop.admin().await;
    // Small ones first, after which large ones are not expected.
    shop.run(
        "INSERT INTO outbox (event_id, aggregate_id, aggregate_type, event_type, aggregate_version, payload, headers)
         WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 1000)
         SELECT UUID(), CONCAT('small-', n), 'Order', 'Changed', 1, '{}', '{}' FROM n",
    )
    .await;
    for first in (0..events).step_by(20) {
        shop.run(format!(
            "INSERT INTO outbox (event_id, aggregate_id, aggregate_type, event_type, aggregate_version, payload, headers)
             WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 20)
             SELECT UUID(), CONCAT('large-', {first} + n), 'Order', 'Changed', 1,
                 JSON_OBJECT('x', REPEAT('x', {BYTES})), '{{}}' FROM n"
        ))
        .await;
    }
    let counter = Counter::default();
    let relay = shop.relay(counter.clone(), 1_000, Duration::from_secs(60));

    let before = counters(&mut admin, true, "Bytes_sent").await["Bytes_sent"];
    let report = relay.drain(in_a_minute()).await.unwrap();
    let sent = counters(&mut admin, true, "Bytes_sent").await["Bytes_sent"] - before;

    assert_eq!((report.published, report.backlog), (1_000 + events, 0));
    assert_eq!(counter.0.load(Ordering::Relaxed), 1_000 + events);
    let once = i64::try_from(events * BYTES).unwrap();
    assert!(sent >= once && sent < once / 4 * 5, "{sent} bytes sent for events of {once}");
}

/// Beside one open transaction, a tick has a gap to ask for: more than an idle one, and still little.
#[tokio::test]
async fn a_tick_with_an_open_gap_asks_little() {
    let server = OwnServer::start().await;
    let shop = &server.shop;
    let mut admin = shop.admin().await;
    let recorder = Recorder::default();
    let settings = RelaySettings { gap_grace: Duration::from_secs(600), ..RelaySettings::default() };
    let relay = shop.relay_to(&recorder, settings);
    let mut slow = shop.begin().await;
    write_event(&mut slow, "slow", 1).await;
    shop.commit("a", 1).await;
    relay.drain(in_a_minute()).await.unwrap();
    relay.drain(in_a_minute()).await.unwrap();

    let before = statements(&mut admin).await;
    relay.drain(in_a_minute()).await.unwrap();
    let asked = statements(&mut admin).await - before;

    assert!(asked <= 25, "{asked} queries");
    slow.commit().await.unwrap();
    assert_eq!(relay.drain(in_a_minute()).await.unwrap().published, 1);
}
