//! Orders in the real MySQL: all or nothing, and never more than there is.

use outflow_domain::{OrderId, OrderRequest};
use outflow_store::StoreError;
use outflow_tests::TestShop;
use sqlx::{Connection, MySqlConnection};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use time::OffsetDateTime;
use uuid::Uuid;

#[tokio::test]
async fn an_order_is_written_with_its_lines_its_stock_and_its_two_events() {
    let shop = TestShop::start().await;
    shop.put_product("cup", "19.99", 10).await;
    shop.put_product("saucer", "0.10", 10).await;

    let order = shop.order(&[("saucer", 7), ("cup", 3)]).await.unwrap();

    assert_eq!(order.total.to_string(), "60.67");
    let cents = "SELECT CAST(total_amount * 100 AS SIGNED) FROM orders WHERE status = 'PENDING' AND version = 1 AND reservation_version = 1";
    assert_eq!(shop.number(cents).await, 6_067);
    assert_eq!(shop.number("SELECT CAST(SUM(line_total) * 100 AS SIGNED) FROM order_items").await, 6_067);
    let stock = "SELECT CAST(SUM(available * 1000 + reserved) AS SIGNED) FROM inventory";
    assert_eq!(shop.number(stock).await, 10 * 1_000 + 10);
    let events: Vec<(String, String, String, u32)> = sqlx::query_as(
        "SELECT aggregate_type, event_type, aggregate_id, aggregate_version FROM outbox ORDER BY id",
    )
    .fetch_all(shop.store.pool())
    .await
    .unwrap();
    let id = order.id.to_string();
    let expected = [("Order", "OrderCreated"), ("Inventory", "StockReserved")]
        .map(|(aggregate, event)| (aggregate.to_owned(), event.to_owned(), id.clone(), 1));
    assert_eq!(events, expected);
}

#[tokio::test]
async fn an_orders_events_go_on_with_the_callers_trace() {
    let shop = TestShop::start().await;
    shop.put_product("cup", "19.99", 10).await;
    let request =
        OrderRequest::from_json(br#"{"userId": "u-1", "items": [{"productId": "cup", "quantity": 1}]}"#);
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    let (id, now) = (OrderId(Uuid::now_v7()), OffsetDateTime::now_utc());
    let (request, parent) = (request.unwrap(), trace.parse().unwrap());
    shop.store.create_order(id, &request, now, &parent, Uuid::now_v7).await.unwrap();

    let traces: Vec<String> = sqlx::query_scalar("SELECT headers->>'$.traceparent' FROM outbox")
        .fetch_all(shop.store.pool())
        .await
        .unwrap();
    assert_eq!(traces, [trace; 2]);
}

#[tokio::test]
async fn too_little_stock_of_one_line_leaves_nothing_of_the_order() {
    let shop = TestShop::start().await;
    shop.put_product("plenty", "1.00", 100).await;
    shop.put_product("scarce", "1.00", 2).await;

    let error = shop.order(&[("plenty", 5), ("scarce", 3)]).await.unwrap_err();

    let StoreError::OutOfStock(shortages) = error else { panic!("{error}") };
    assert_eq!(
        shortages.iter().map(|s| (s.index, s.requested, s.available)).collect::<Vec<_>>(),
        [(1, 3, 2)]
    );
    assert_untouched(&shop, 102).await;
}

#[tokio::test]
async fn an_unknown_product_leaves_nothing_of_the_order() {
    let shop = TestShop::start().await;
    shop.put_product("known", "1.00", 100).await;

    let error = shop.order(&[("known", 5), ("unknown", 1)]).await.unwrap_err();

    assert!(matches!(error, StoreError::UnknownProducts(_)), "{error}");
    assert_untouched(&shop, 100).await;
}

async fn assert_untouched(shop: &TestShop, stock: i64) {
    assert_eq!(shop.number("SELECT CAST(SUM(available) AS SIGNED) FROM inventory").await, stock);
    for sql in
        ["SELECT COUNT(*) FROM orders", "SELECT COUNT(*) FROM order_items", "SELECT COUNT(*) FROM outbox"]
    {
        assert_eq!(shop.number(sql).await, 0, "{sql}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_race_for_the_last_pieces_sells_each_piece_once() {
    let shop = Arc::new(TestShop::start().await);
    shop.put_product("a", "1.00", 15).await;
    shop.put_product("b", "1.00", 100).await;
    let mut customers = tokio::task::JoinSet::new();
    for n in 0..40 {
        let shop = Arc::clone(&shop);
        // Half name the products the other way round, which would deadlock if that were the order of the locks.
        let items = if n % 2 == 0 { [("a", 1), ("b", 1)] } else { [("b", 1), ("a", 1)] };
        customers.spawn(async move { shop.order(&items).await });
    }
    let outcomes = customers.join_all().await;

    let sold = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
    let refused = outcomes.iter().filter(|outcome| matches!(outcome, Err(StoreError::OutOfStock(_)))).count();
    assert_eq!((sold, refused), (15, 25));
    assert_eq!(
        shop.number("SELECT CAST(available AS SIGNED) FROM inventory WHERE product_id = 'a'").await,
        0
    );
    assert_eq!(shop.number("SELECT CAST(SUM(reserved) AS SIGNED) FROM inventory").await, 30);
    assert_eq!(shop.number("SELECT COUNT(*) FROM outbox").await, 30);
}

/// Lambda freezes the process as soon as it has answered: here, a runtime that nobody polls any more.
#[test]
fn a_refused_order_holds_no_product_once_it_is_answered() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (frozen, other) = (runtime(), runtime());
    let shop = frozen.block_on(async {
        let shop = TestShop::start().await;
        shop.put_product("scarce", "1.00", 2).await;
        shop.order(&[("scarce", 3)]).await.unwrap_err();
        shop
    });

    let locked = other.block_on(async {
        let mut customer = MySqlConnection::connect(&shop.database_url).await.unwrap();
        let sql = "SELECT available FROM inventory WHERE product_id = 'scarce' FOR UPDATE NOWAIT";
        sqlx::query(sql).fetch_one(&mut customer).await.map(drop)
    });

    assert!(locked.is_ok(), "{locked:?}");
    frozen.block_on(async { drop(shop) });
}

#[tokio::test]
async fn an_order_that_waits_too_long_for_another_transaction_is_given_up_and_leaves_nothing() {
    let shop = TestShop::start().await;
    shop.put_product("held", "1.00", 10).await;
    let mut holder = shop.begin().await;
    sqlx::query("UPDATE inventory SET available = available WHERE product_id = 'held'")
        .execute(&mut *holder)
        .await
        .unwrap();
    let started = Instant::now();

    let error = shop.order(&[("held", 1)]).await.unwrap_err();

    assert!(error.is_unavailable(), "{error}");
    // Below the function's timeout, which would cut the caller off.
    assert!(started.elapsed() < Duration::from_secs(12), "{:?}", started.elapsed());
    holder.rollback().await.unwrap();
    assert_untouched(&shop, 10).await;
    shop.order(&[("held", 1)]).await.unwrap();
}

#[tokio::test]
async fn the_schema_can_be_migrated_twice_and_after_a_run_that_was_killed() {
    let shop = TestShop::start().await;
    sqlx::query("UPDATE _sqlx_migrations SET success = FALSE ORDER BY version DESC LIMIT 1")
        .execute(shop.store.pool())
        .await
        .unwrap();

    shop.store.migrate().await.unwrap();
    shop.store.migrate().await.unwrap();

    assert_eq!(shop.number("SELECT COUNT(*) FROM _sqlx_migrations WHERE success = FALSE").await, 0);
}
