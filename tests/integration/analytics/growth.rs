//! A table that changes while rows flow: what fits goes on, and nothing is taken for something else.

use super::{DAY, loader::Loader, orders::Shop, utc};
use outflow_tests::OrderRow;
use serde_json::{Value, json};

const TABLE: &str = "orders_analytics";

/// As a newer module makes it.
fn with_column(row: &OrderRow, value: Value) -> Vec<u8> {
    let mut row: Value = serde_json::from_slice(&row.json()).expect("it is JSON");
    row["channel"] = value;
    row.to_string().into_bytes()
}

#[tokio::test]
async fn a_column_is_added_while_rows_of_old_and_new_modules_flow() {
    let loader = Loader::start().await;
    let mut shop = Shop::new(utc);
    let mut orders = |count: i64| (0..count).map(|n| shop.place(DAY + n * 1_000)).collect::<Vec<_>>();
    let json = |rows: &[OrderRow]| rows.iter().map(OrderRow::json).collect::<Vec<_>>();
    let (before, old, new, later) = (orders(300), orders(200), orders(100), orders(50));
    loader.load(&[(TABLE, json(&before))]).await.expect("it is loaded");

    let column = "ALTER TABLE orders_analytics ADD COLUMN channel LowCardinality(String) DEFAULT 'shop'";
    loader.figures.query(column).await;
    // Both modules' rows in one batch, as they come around a swap.
    let mut mixed = json(&old);
    for (n, row) in new.iter().enumerate() {
        mixed.insert(n * 3, with_column(row, json!("app")));
    }
    loader.load(&[(TABLE, mixed)]).await.expect("it is loaded");
    loader.load(&[(TABLE, json(&later))]).await.expect("it is loaded");

    let channels = loader
        .figures
        .query("SELECT channel, count() AS n FROM orders_analytics FINAL GROUP BY channel ORDER BY channel")
        .await;
    assert_eq!(channels, [json!({"channel": "app", "n": "100"}), json!({"channel": "shop", "n": "550"})]);
    loader.figures.check(&shop).await;
    loader.figures.finish().await;
}

#[tokio::test]
async fn a_column_that_was_retyped_behind_the_loaders_back_is_never_misread() {
    let loader = Loader::start().await;
    let mut shop = Shop::new(utc);
    let mut order = |quantity| {
        let mut row = shop.place(DAY);
        row.quantity = quantity;
        row.json()
    };
    loader.load(&[(TABLE, vec![order(1)])]).await.expect("it is loaded");

    loader
        .figures
        .query("ALTER TABLE orders_analytics MODIFY COLUMN quantity UInt64 SETTINGS mutations_sync = 2")
        .await;
    let rows = vec![order(20), order(300)];
    let error =
        loader.load(&[(TABLE, rows.clone())]).await.expect_err("the rows were encoded for another table");
    assert!(error["errorMessage"].as_str().is_some_and(|text| text.contains("changed")), "{error}");
    assert_eq!(loader.figures.number("SELECT sum(quantity) FROM orders_analytics FINAL").await, 1);

    // Delivered again, as Lambda does after an error.
    loader.load(&[(TABLE, rows)]).await.expect("the table is known anew");
    assert_eq!(loader.figures.number("SELECT sum(quantity) FROM orders_analytics FINAL").await, 321);
    loader.figures.finish().await;
}
