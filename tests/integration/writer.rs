//! What the writer promises: no event without its row's lock, no version left out, nothing that MySQL or Kafka refuses.

use outflow_broker::{
    OutboxPublisher, Producer,
    topics::{self, TopicSpec},
};
use outflow_outbox::{
    AggregateTable, EventWriter, MAX_EVENT_BYTES, NewEvent, TraceParent, WriteError, write_without_lock,
};
use outflow_tests::{TestShop, event, in_a_minute, long};
use proptest::{
    prelude::*,
    strategy::{Strategy, ValueTree},
    test_runner::TestRunner,
};
use rdkafka::{
    ClientConfig, Message,
    consumer::{Consumer, StreamConsumer},
    message::Headers,
};
use serde_json::{Value, json};
use sqlx::{MySql, MySqlConnection, MySqlPool, mysql::MySqlArguments, query::Query};
use std::{collections::BTreeMap, time::Duration};
use uuid::Uuid;

/// A service's own table: an account, and its limit, which is an aggregate of its own.
const ACCOUNTS: AggregateTable<2> =
    AggregateTable::new("accounts", "id", [("Account", "version"), ("Limit", "limit_version")]);

async fn shop_with_accounts() -> TestShop {
    let shop = TestShop::start().await;
    sqlx::query(
        "CREATE TABLE accounts (
             id VARCHAR(64) NOT NULL PRIMARY KEY, balance INT NOT NULL DEFAULT 0,
             version INT UNSIGNED NOT NULL DEFAULT 0, limit_version BIGINT NOT NULL DEFAULT 0
         )",
    )
    .execute(shop.store.pool())
    .await
    .unwrap();
    shop
}

async fn outbox(shop: &TestShop) -> EventWriter<'static> {
    EventWriter::new(shop.begin().await)
}

fn open_account(id: &str) -> Query<'_, MySql, MySqlArguments> {
    sqlx::query("INSERT INTO accounts (id) VALUES (?)").bind(id)
}

fn changed(payload: Value) -> NewEvent {
    NewEvent::new(Uuid::now_v7(), "Changed", payload)
}

async fn places(pool: &MySqlPool) -> Vec<(String, String, u32)> {
    sqlx::query_as("SELECT aggregate_type, aggregate_id, aggregate_version FROM outbox ORDER BY id")
        .fetch_all(pool)
        .await
        .unwrap()
}

fn place(aggregate_type: &str, id: &str, version: u32) -> (String, String, u32) {
    (aggregate_type.to_owned(), id.to_owned(), version)
}

async fn assert_nothing_written(shop: &TestShop, why: &str) {
    assert_eq!(shop.number("SELECT COUNT(*) FROM outbox").await, 0, "{why}");
    assert_eq!(shop.number("SELECT COUNT(*) FROM accounts WHERE version <> 0").await, 0, "{why}");
}

async fn inserts(connection: &mut MySqlConnection) -> u64 {
    let status = sqlx::query_as("SHOW SESSION STATUS LIKE 'Com_insert'").fetch_one(connection).await;
    let (_, count): (String, String) = status.unwrap();
    count.parse().unwrap()
}

#[tokio::test]
async fn all_events_of_a_transaction_are_written_in_one_statement_in_the_order_they_were_added() {
    let shop = shop_with_accounts().await;
    let mut outbox = outbox(&shop).await;
    let [a, a_limit] = outbox.insert(&ACCOUNTS, "a", open_account("a")).await.unwrap();
    let [b, _] = outbox.insert(&ACCOUNTS, "b", open_account("b")).await.unwrap();
    let before = inserts(outbox.connection()).await;

    for aggregate in [a, b, a, a_limit, b, a] {
        outbox.add(aggregate, changed(json!({}))).unwrap();
    }
    let added = inserts(outbox.connection()).await;
    outbox.finish().await.unwrap();
    let finished = inserts(outbox.connection()).await;
    outbox.commit().await.unwrap();

    assert_eq!((added - before, finished - before), (0, 1));
    let expected = [("Account", "a", 1), ("Account", "b", 1), ("Account", "a", 2), ("Limit", "a", 1)];
    let expected = expected.into_iter().chain([("Account", "b", 2), ("Account", "a", 3)]);
    let expected: Vec<_> = expected.map(|(kind, id, version)| place(kind, id, version)).collect();
    assert_eq!(places(shop.store.pool()).await, expected);
    let stored = "SELECT CAST(SUM(version * 10 + limit_version) AS SIGNED) FROM accounts";
    assert_eq!(shop.number(stored).await, 51, "the rows hold the versions");
}

#[tokio::test]
async fn an_aggregate_goes_on_from_the_version_in_its_row_however_often_it_is_locked() {
    let shop = shop_with_accounts().await;
    let insert = "INSERT INTO accounts (id, version, limit_version) VALUES ('Mixed', 7, 2)";
    sqlx::query(insert).execute(shop.store.pool()).await.unwrap();
    let mut outbox = outbox(&shop).await;

    // The column ignores case, the record's key does not.
    let [first, limit] = outbox.lock(&ACCOUNTS, "MIXED").await.unwrap().unwrap();
    let eighth = outbox.add(first, changed(json!({}))).unwrap();
    let [again, _] = outbox.lock(&ACCOUNTS, "Mixed").await.unwrap().unwrap();
    let ninth = outbox.add(again, changed(json!({}))).unwrap();
    let third = outbox.add(limit, changed(json!({}))).unwrap();
    let missing = outbox.lock(&ACCOUNTS, "nobody").await.unwrap();
    outbox.commit().await.unwrap();

    assert_eq!((first.version(), eighth, ninth, third), (7, 8, 9, 3));
    assert!(missing.is_none());
    let expected = [place("Account", "Mixed", 8), place("Account", "Mixed", 9), place("Limit", "Mixed", 3)];
    assert_eq!(places(shop.store.pool()).await, expected);
    assert_eq!(shop.number("SELECT CAST(version * 10 + limit_version AS SIGNED) FROM accounts").await, 93);
}

/// Every fifth change is tried once in vain, and that takes no version with it.
#[tokio::test(flavor = "multi_thread")]
async fn versions_of_an_aggregate_have_no_hole_and_rise_with_the_ids_whoever_writes_at_the_same_time() {
    let shop = shop_with_accounts().await;
    sqlx::query("INSERT INTO accounts (id) VALUES ('hot')").execute(shop.store.pool()).await.unwrap();
    let pool = MySqlPool::connect_lazy(&shop.database_url).unwrap();
    let (writers, changes) = if long() { (8, 1_000) } else { (8, 50) };
    let mut tasks = tokio::task::JoinSet::new();
    for writer in 0..writers {
        let pool = pool.clone();
        tasks.spawn(async move {
            for change in 0..changes {
                for is_kept in [false, true].into_iter().skip(usize::from(change % 5 != 0)) {
                    let mut outbox = EventWriter::new(pool.begin().await.unwrap());
                    let [account, _] = outbox.lock(&ACCOUNTS, "hot").await.unwrap().unwrap();
                    sqlx::query("UPDATE accounts SET balance = balance + 1 WHERE id = 'hot'")
                        .execute(outbox.connection())
                        .await
                        .unwrap();
                    outbox.add(account, changed(json!({"writer": writer, "change": change}))).unwrap();
                    if is_kept {
                        outbox.commit().await.unwrap();
                    } else {
                        outbox.finish().await.unwrap();
                        outbox.rollback().await.unwrap();
                    }
                }
            }
        });
    }
    while let Some(result) = tasks.join_next().await {
        result.unwrap();
    }

    let total = writers * changes;
    let versions: Vec<_> = places(&pool).await.into_iter().map(|(_, _, version)| version).collect();
    assert_eq!(versions, (1..=total).collect::<Vec<_>>());
    let row = "SELECT CAST(version AS SIGNED) FROM accounts WHERE balance = version";
    assert_eq!(shop.number(row).await, i64::from(total));
}

#[tokio::test]
async fn what_mysql_or_kafka_could_not_take_is_refused_with_its_size_and_nothing_is_committed() {
    let shop = shop_with_accounts().await;
    let small = || changed(json!({}));
    let nested = (0..100).fold(json!(1), |inner, _| Value::Array(vec![inner]));
    let many: BTreeMap<_, _> = (0..17).map(|n| (format!("h{n}"), String::new())).collect();
    // 600,002 bytes as written here, 900,001 as MySQL prints them.
    let short_items = Value::Array(vec![json!(1); 300_001]);
    let refused = [
        (small().with_header("eventType", "x"), "header eventType is refused"),
        (small().with_header("ce_id", "x"), "header ce_id is refused"),
        (small().with_header("CE_custom", "x"), "header CE_custom is refused"),
        (small().with_header("content-type", "x"), "header content-type is refused"),
        (small().with_header("", "x"), "a header's name is refused at a size of 0"),
        (small().with_header("x".repeat(65), "x"), "at a size of 65: wants at most 64"),
        (small().with_header("Upper", "x"), "wants at most 64 of a-z"),
        (small().with_header("x", "y".repeat(1_025)), "at a size of 1025: wants at most 1024"),
        (small().with_header("x", "line\nbreak"), "value of header x"),
        (small().with_header("traceparent", "00-1"), "header traceparent is refused"),
        (NewEvent { headers: many, ..small() }, "headers is refused at a size of 17: wants at most 16"),
        (NewEvent::new(Uuid::now_v7(), "", json!({})), "event_type is refused at a size of 0"),
        (NewEvent::new(Uuid::now_v7(), "x".repeat(65), json!({})), "event_type is refused at a size of 65"),
        (NewEvent::new(Uuid::now_v7(), "größer", json!({})), "event_type is refused at a size of 8"),
        (changed(nested), "nesting is refused at a size of 101: wants at most 100"),
        (changed(json!({"k".repeat(65_536): 1})), "key is refused at a size of 65536"),
        (changed(json!("x".repeat(MAX_EVENT_BYTES))), "at most 900000 can be published"),
        (changed(short_items), "makes a record of 90"),
    ];
    for (event, message) in refused {
        let mut outbox = outbox(&shop).await;
        let [account, limit] = outbox.insert(&ACCOUNTS, "a", open_account("a")).await.unwrap();
        outbox.add(limit, small()).unwrap();

        let error = outbox.add(account, event).unwrap_err();
        let committed = outbox.commit().await;

        assert!(error.to_string().contains(message), "{error}");
        assert!(matches!(committed, Err(WriteError::Ended)), "{committed:?}");
        assert_eq!(shop.number("SELECT COUNT(*) FROM accounts").await, 0, "{message}");
        assert_nothing_written(&shop, message).await;
    }
    for id in ["", "with blank", "ümlaut", &"x".repeat(65)] {
        let error = outbox(&shop).await.lock(&ACCOUNTS, id).await.unwrap_err();

        assert!(error.to_string().starts_with("aggregate_id is refused"), "{error}");
    }
}

#[tokio::test]
async fn a_claimed_place_that_no_topic_or_version_can_have_is_refused_too() {
    let shop = TestShop::start().await;
    let mut connection = shop.store.pool().acquire().await.unwrap();
    let refused = [
        (event("Or der", "a", 1), "aggregate_type is refused at a size of 6: wants at most 64"),
        (event("", "a", 1), "aggregate_type is refused at a size of 0"),
        (event(&"x".repeat(65), "a", 1), "aggregate_type is refused at a size of 65"),
        (event("Order", "", 1), "aggregate_id is refused at a size of 0"),
        (event("Order", "a", 0), "aggregate_version is refused"),
    ];
    for (bad, message) in refused {
        let error = write_without_lock(&mut connection, &[event("Order", "good", 1), bad]).await.unwrap_err();

        assert!(error.to_string().contains(message), "{error}");
        assert_eq!(shop.number("SELECT COUNT(*) FROM outbox").await, 0, "{message}");
    }
}

#[tokio::test]
async fn a_lock_of_another_transaction_proves_nothing() {
    let shop = shop_with_accounts().await;
    let (mut theirs, mut ours) = (outbox(&shop).await, outbox(&shop).await);
    let [account, _] = theirs.insert(&ACCOUNTS, "theirs", open_account("theirs")).await.unwrap();
    ours.insert(&ACCOUNTS, "ours", open_account("ours")).await.unwrap();

    let error = ours.add(account, changed(json!({}))).unwrap_err();

    assert!(matches!(error, WriteError::ForeignLock), "{error}");
    assert!(matches!(ours.commit().await, Err(WriteError::Ended)));
    theirs.commit().await.unwrap();
    assert_nothing_written(&shop, "a foreign lock").await;
}

#[tokio::test]
async fn a_row_that_is_not_the_one_proven_takes_its_events_with_it() {
    let shop = shop_with_accounts().await;
    let existing = "INSERT INTO accounts (id) VALUES ('existing')";
    sqlx::query(existing).execute(shop.store.pool()).await.unwrap();

    let mut ignored = outbox(&shop).await;
    let insert = sqlx::query("INSERT IGNORE INTO accounts (id) VALUES ('existing')");
    let error = ignored.insert(&ACCOUNTS, "existing", insert).await.unwrap_err();
    assert!(matches!(error, WriteError::NotInserted { rows: 0, .. }), "{error}");
    ignored.rollback().await.unwrap();

    let mut other = outbox(&shop).await;
    let [account, _] = other.insert(&ACCOUNTS, "told", open_account("inserted")).await.unwrap();
    other.add(account, changed(json!({}))).unwrap();
    let error = other.commit().await.unwrap_err();
    assert!(matches!(error, WriteError::RowChanged { table: "accounts", .. }), "{error}");

    for meddling in ["UPDATE accounts SET version = 5", "DELETE FROM accounts"] {
        let mut meddler = outbox(&shop).await;
        let [account, _] = meddler.lock(&ACCOUNTS, "existing").await.unwrap().unwrap();
        sqlx::query(meddling).execute(meddler.connection()).await.unwrap();
        meddler.add(account, changed(json!({}))).unwrap();
        let error = meddler.commit().await.unwrap_err();
        assert!(matches!(error, WriteError::RowChanged { .. }), "{meddling}: {error}");
    }
    assert_eq!(shop.number("SELECT COUNT(*) FROM accounts").await, 1);
    assert_nothing_written(&shop, "rows that are not the ones proven").await;
}

#[tokio::test]
async fn a_writer_that_is_dropped_or_cut_off_in_mid_step_commits_nothing() {
    let shop = shop_with_accounts().await;
    sqlx::query("INSERT INTO accounts (id) VALUES ('held')").execute(shop.store.pool()).await.unwrap();
    let mut holder = outbox(&shop).await;
    holder.lock(&ACCOUNTS, "held").await.unwrap().unwrap();

    let mut cut_off = outbox(&shop).await;
    let [account, _] = cut_off.insert(&ACCOUNTS, "new", open_account("new")).await.unwrap();
    cut_off.add(account, changed(json!({}))).unwrap();
    let waited = tokio::time::timeout(Duration::from_millis(200), cut_off.lock(&ACCOUNTS, "held")).await;
    assert!(waited.is_err(), "somebody else holds the row");
    drop(holder);
    assert!(matches!(cut_off.commit().await, Err(WriteError::Ended)));

    let mut forgotten = outbox(&shop).await;
    let [account, _] = forgotten.insert(&ACCOUNTS, "new", open_account("new")).await.unwrap();
    forgotten.add(account, changed(json!({}))).unwrap();
    forgotten.finish().await.unwrap();
    let late = forgotten.add(account, changed(json!({}))).unwrap_err();
    assert!(matches!(late, WriteError::Ended), "nothing can follow the one statement");
    drop(forgotten);

    assert_eq!(shop.number("SELECT COUNT(*) FROM accounts").await, 1);
    assert_nothing_written(&shop, "writers that did not commit").await;
}

#[tokio::test]
async fn a_transaction_writes_events_up_to_its_bounds_and_none_beyond() {
    let shop = TestShop::start().await;
    let events = |count: u32| (1..=count).map(|version| event("Order", "a", version)).collect::<Vec<_>>();
    // The largest that is taken: what is not text is key, quotes and what a publisher adds.
    let mut large = event("Order", "a", 1);
    large.event.payload = json!("x".repeat(MAX_EVENT_BYTES - 1_024 - "a".len() - 2));
    let mut larger = large.clone();
    larger.event.payload = json!("x".repeat(MAX_EVENT_BYTES - 1_024 - "a".len() - 1));

    for (refused, message) in [
        (events(5_001), "5001 events"),
        (vec![large.clone(); 18], "18 events of 16200000 bytes"),
        (vec![larger], "900001 bytes, at most 900000"),
    ] {
        let mut transaction = shop.begin().await;
        let error = write_without_lock(&mut transaction, &refused).await.unwrap_err();
        transaction.commit().await.unwrap();

        assert!(error.to_string().contains(message), "{error}");
        assert_eq!(shop.number("SELECT COUNT(*) FROM outbox").await, 0);
    }
    for taken in [events(5_000), vec![large; 17]] {
        let mut transaction = shop.begin().await;
        write_without_lock(&mut transaction, &taken).await.unwrap();
        transaction.commit().await.unwrap();
    }
    assert_eq!(shop.number("SELECT COUNT(*) FROM outbox").await, 5_017);
}

fn decimal(digits: i32, power: i32) -> Value {
    json!(format!("{digits}e{power}").parse::<f64>().unwrap())
}

/// Names, headers and payload of the largest sizes, and nothing in them that compresses.
#[tokio::test]
async fn the_largest_event_that_the_writer_takes_is_no_larger_in_kafka_and_is_taken_there() {
    const TIMEOUT: Duration = Duration::from_secs(10);
    let shop = TestShop::start().await;
    let brokers = shop.endpoints.kafka.brokers.clone();
    let letters = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+-";
    let random = |size: usize| -> String {
        let bytes = std::iter::repeat_with(|| Uuid::new_v4().into_bytes()[0]);
        bytes.map(|byte| char::from(letters[usize::from(byte % 64)])).take(size).collect()
    };
    let aggregate_type = format!("T{:x<63}", Uuid::now_v7().simple());
    let topic = format!("{}.events", aggregate_type.to_lowercase());
    topics::ensure(&brokers, &[TopicSpec { name: topic.clone(), partitions: 1 }]).await.unwrap();
    let mut largest = event(&aggregate_type, &random(64), u32::MAX);
    largest.event.event_type = random(64);
    largest.event.headers = (0..16).map(|n| (format!("{n:x<64}"), random(1_024))).collect();
    let others = 1_024 + 64 + 16 * (64 + 1_024 + 10) + r#""""#.len();
    largest.event.payload = json!(random(MAX_EVENT_BYTES - others));
    let mut transaction = shop.begin().await;
    write_without_lock(&mut transaction, std::slice::from_ref(&largest)).await.unwrap();
    transaction.commit().await.unwrap();
    let reader: StreamConsumer = ClientConfig::new()
        .set("bootstrap.servers", &brokers)
        .set("group.id", Uuid::now_v7().to_string())
        .set("auto.offset.reset", "earliest")
        .create()
        .unwrap();
    reader.subscribe(&[&topic]).unwrap();

    let publisher = OutboxPublisher::new(Producer::connect(&brokers, TIMEOUT).unwrap(), TIMEOUT);
    let report = shop.relay(publisher, 10, TIMEOUT).drain(in_a_minute()).await.unwrap();

    assert_eq!(report.published, 1);
    let record = tokio::time::timeout(TIMEOUT, reader.recv()).await.expect("a record comes").unwrap();
    let headers = record.headers().unwrap();
    let header_bytes: usize =
        headers.iter().map(|header| header.key.len() + header.value.unwrap().len() + 10).sum();
    let bytes = record.payload_len() + record.key_len() + header_bytes;
    assert!(bytes < MAX_EVENT_BYTES && bytes > MAX_EVENT_BYTES - 1_024, "{bytes}");
}

/// Anything that JSON can hold: every plane of Unicode, every escape, numbers of every size.
fn documents() -> impl Strategy<Value = Value> {
    let number = prop_oneof![
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_filter("JSON has none", |float| float.is_finite()).prop_map(Value::from),
        // Around the sizes at which MySQL begins and ends to print an exponent.
        (1e14..1e17).prop_map(Value::from),
        (any::<i32>(), -22_i32..22).prop_map(|(digits, power)| decimal(digits, power)),
        (0_i32..100_000, -8_i32..0).prop_map(|(digits, power)| decimal(digits, power)),
    ];
    let text = prop_oneof![any::<String>(), "[\u{0}-\u{7f}]{0,20}", "\\PC{0,20}"];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        number,
        text.clone().prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 40, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::btree_map(text.clone(), inner, 0..6)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

async fn printed_bytes(connection: &mut MySqlConnection) -> Vec<usize> {
    let sql = "SELECT CAST(LENGTH(CAST(payload AS CHAR)) AS UNSIGNED) FROM outbox ORDER BY id";
    let printed: Vec<u64> = sqlx::query_scalar(sql).fetch_all(connection).await.unwrap();
    printed.into_iter().map(|bytes| usize::try_from(bytes).unwrap()).collect()
}

#[tokio::test]
async fn a_payload_is_exactly_as_long_as_mysql_prints_it() {
    let shop = TestShop::start().await;
    let mut runner = TestRunner::default();
    let strategy = documents();
    let rounds = if long() { 200 } else { 20 };
    for _ in 0..rounds {
        let payloads: Vec<Value> =
            (0..200).map(|_| strategy.new_tree(&mut runner).unwrap().current()).collect();
        let events: Vec<_> = payloads
            .iter()
            .map(|payload| {
                let mut event = event("Order", "a", 1);
                event.event.payload = payload.clone();
                event
            })
            .collect();
        let mut transaction = shop.begin().await;
        write_without_lock(&mut transaction, &events).await.unwrap();
        let printed = printed_bytes(&mut transaction).await;
        transaction.rollback().await.unwrap();

        assert_eq!(printed.len(), events.len());
        for (event, printed) in events.iter().zip(printed) {
            assert_eq!(event.event.payload_bytes().unwrap(), printed, "{}", event.event.payload);
        }
    }
}

#[tokio::test]
async fn mysql_stores_the_deepest_document_and_the_longest_key_that_the_writer_takes() {
    let shop = TestShop::start().await;
    let mut transaction = shop.begin().await;
    let deepest = (0..99).fold(json!(1), |inner, _| Value::Array(vec![inner]));
    for payload in [deepest, json!({"k".repeat(65_535): 1})] {
        let mut event = event("Order", "a", 1);
        event.event.payload = payload;
        write_without_lock(&mut transaction, &[event]).await.unwrap();
    }
    let printed = printed_bytes(&mut transaction).await;
    transaction.rollback().await.unwrap();

    assert_eq!(printed, [199, 65_542]);
}

#[tokio::test]
async fn the_callers_trace_and_other_headers_stand_in_the_row_of_each_event() {
    let shop = shop_with_accounts().await;
    let trace = TraceParent::random();
    let mut outbox = outbox(&shop).await;
    let [account, limit] = outbox.insert(&ACCOUNTS, "a", open_account("a")).await.unwrap();
    outbox
        .add(account, changed(json!({})).with_trace(&trace).with_header("tenant", "Müller \"& Co\""))
        .unwrap();
    outbox.add(limit, changed(json!({}))).unwrap();
    outbox.commit().await.unwrap();

    let rows: Vec<Value> = sqlx::query_scalar("SELECT headers FROM outbox ORDER BY id")
        .fetch_all(shop.store.pool())
        .await
        .unwrap();

    assert_eq!(rows, [json!({"traceparent": trace.as_str(), "tenant": "Müller \"& Co\""}), json!({})]);
}
