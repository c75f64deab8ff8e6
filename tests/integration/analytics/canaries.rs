//! Orders that are made to watch the pipe: stored, and in no figure.

use super::{DAY, HOUR_MS, figures::Figures, orders::Shop, utc};

#[tokio::test]
async fn canaries_are_stored_and_counted_nowhere() {
    let figures = Figures::start("UTC").await;
    let mut shop = Shop::new(utc);
    let rows: Vec<_> = (0..40).map(|n| shop.place(DAY + n * HOUR_MS / 2)).collect();
    // One alone in its quarter of an hour, one beside an order, and one that was told to be one later.
    let canaries =
        [rows[3].order_id, shop.place(DAY + 1).order_id].map(|id| shop.change(id, |row| row.is_canary = 1));
    figures.insert(&rows).await;
    figures.insert(&canaries).await;

    assert_eq!(figures.number("SELECT count() FROM orders_analytics FINAL").await, 41);
    assert_eq!(shop.counted().count(), 39);
    // Live, from history, and live again.
    figures.check(&shop).await;
    figures.settle().await;
    figures.check(&shop).await;
    let late = shop.change(rows[7].order_id, |row| row.is_canary = 1);
    figures.insert([&late]).await;
    figures.check(&shop).await;
    figures.finish().await;
}

/// Orders of the time before canaries were known, in the database as it was then.
#[tokio::test]
async fn orders_of_before_are_none() {
    let figures = Figures::start("UTC").await;
    let mut shop = Shop::new(utc);
    for statement in [
        "ALTER TABLE orders_analytics DROP CONSTRAINT is_canary_is_a_flag",
        "CREATE OR REPLACE VIEW slot_sales AS SELECT 1 AS n",
        "CREATE OR REPLACE VIEW stale_slot_sales AS SELECT 1 AS n",
        "ALTER TABLE orders_analytics DROP COLUMN is_canary",
        "INSERT INTO schema_migrations (name, digest, time_zone) SETTINGS async_insert = 0 \
         VALUES ('0007_canary_orders', '', '')",
        "ALTER TABLE schema_migrations DELETE WHERE name = '0007_canary_orders' SETTINGS mutations_sync = 2",
    ] {
        figures.query(statement).await;
    }
    let row = shop.place(DAY);
    let mut old: serde_json::Value = serde_json::from_slice(&row.json()).expect("it is JSON");
    old.as_object_mut().expect("an object").remove("is_canary").expect("it was there");
    figures.query(&format!("INSERT INTO orders_analytics FORMAT JSONEachRow {old}")).await;

    let applied = figures.schema.apply(None).await.expect("the migration can be applied to what is there");

    assert_eq!(applied.ran, ["0007_canary_orders"]);
    figures.check(&shop).await;
    figures.finish().await;
}
