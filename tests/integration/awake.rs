//! When a writer is told to nudge: only where a nudge is of use.

use outflow_tests::{TestShop, in_a_minute, write_event};
use sqlx::{AssertSqlSafe, MySqlConnection};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

async fn set(shop: &TestShop, assignments: &str) {
    let sql = format!("UPDATE outbox_position SET {assignments} WHERE relay_group = 'default'");
    let changed = sqlx::query(AssertSqlSafe(sql)).execute(shop.store.pool()).await.unwrap();
    assert_eq!(changed.rows_affected(), 1, "there is a position to set");
}

async fn position(shop: &TestShop) {
    sqlx::query("INSERT INTO outbox_position (relay_group, fencing_token) VALUES ('default', 7)")
        .execute(shop.store.pool())
        .await
        .unwrap();
}

#[tokio::test]
async fn a_group_that_never_had_a_relay_sleeps() {
    let shop = TestShop::start().await;

    assert_eq!(shop.store.sleeping_relay().await, Some(0));
}

#[tokio::test]
async fn a_held_lease_is_awake_and_one_that_is_over_or_given_back_sleeps_with_its_token() {
    let shop = TestShop::start().await;
    position(&shop).await;
    assert_eq!(shop.store.sleeping_relay().await, Some(7), "given back");

    set(&shop, "lease_owner = 'a', lease_until = UTC_TIMESTAMP(6) + INTERVAL 15 SECOND").await;
    assert_eq!(shop.store.sleeping_relay().await, None, "held");

    set(&shop, "lease_until = UTC_TIMESTAMP(6) - INTERVAL 1 MICROSECOND").await;
    assert_eq!(shop.store.sleeping_relay().await, Some(7), "over");
}

#[tokio::test]
async fn a_paused_group_is_left_alone() {
    let shop = TestShop::start().await;
    position(&shop).await;
    set(&shop, "paused_at = UTC_TIMESTAMP(6), paused_by = 'test', paused_reason = 'test'").await;
    assert_eq!(shop.store.sleeping_relay().await, None);

    set(&shop, "paused_at = NULL").await;
    assert_eq!(shop.store.sleeping_relay().await, Some(7));
}

#[tokio::test]
async fn a_real_relay_is_awake_while_it_publishes_and_sleeps_afterwards_with_a_new_token() {
    let shop = TestShop::start().await;
    let (relay, recorder) = shop.recording_relay();
    let mut transaction = shop.begin().await;
    write_event(&mut transaction, "order", 1).await;
    transaction.commit().await.unwrap();
    let before = shop.store.sleeping_relay().await;
    let during = Arc::new(Mutex::new(Some(0)));
    let (store, seen) = (shop.store.clone(), Arc::clone(&during));
    recorder
        .during_next(move || {
            let (store, seen) = (store.clone(), Arc::clone(&seen));
            async move {
                let awake = store.sleeping_relay().await;
                *seen.lock().unwrap() = awake;
            }
        })
        .await;

    relay.drain(in_a_minute()).await.unwrap();

    assert_eq!(*during.lock().unwrap(), None);
    assert!(shop.store.sleeping_relay().await > before, "a token that was nudged for must not be met again");
}

#[tokio::test]
async fn the_question_is_one_read_by_the_primary_key() {
    let shop = TestShop::start().await;
    position(&shop).await;
    for group in 0..200 {
        sqlx::query("INSERT INTO outbox_position (relay_group) VALUES (?)")
            .bind(format!("other-{group}"))
            .execute(shop.store.pool())
            .await
            .unwrap();
    }
    let mut connection = shop.store.pool().acquire().await.unwrap();
    let before = handlers(&mut connection).await;

    outflow_outbox::sleeping_relay(&mut connection, "default").await.unwrap();

    let after = handlers(&mut connection).await;
    let read = |name: &str| after[name] - before[name];
    let by_scanning = ["Handler_read_first", "Handler_read_last", "Handler_read_next", "Handler_read_prev"];
    assert_eq!(read("Handler_read_key"), 1);
    assert_eq!(by_scanning.map(read), [0; 4]);
}

/// What this session has read so far, by how it was found.
async fn handlers(connection: &mut MySqlConnection) -> HashMap<String, u64> {
    let sql = "SHOW SESSION STATUS LIKE 'Handler_read%'";
    let rows: Vec<(String, String)> = sqlx::query_as(sql).fetch_all(connection).await.unwrap();
    rows.into_iter().map(|(name, number)| (name, number.parse().unwrap())).collect()
}

#[tokio::test]
async fn a_server_that_does_not_answer_costs_a_nudge_and_fails_nobody() {
    // Takes connections and says nothing.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("mysql://u:p@{}/shop", silent.local_addr().unwrap());
    let store = outflow_store::Store::new(&url).unwrap();
    let started = std::time::Instant::now();

    assert_eq!(store.sleeping_relay().await, None);

    assert!(started.elapsed() < std::time::Duration::from_secs(1), "{:?}", started.elapsed());
}
