//! What a customer can send wrong: a clear answer, and nothing written.

use crate::harness::{Shop, on_the_pipe};
use anyhow::ensure;
use serde_json::{Value, json};

/// Counts of everything that an order writes.
async fn written(shop: &Shop) -> anyhow::Result<[i64; 4]> {
    Ok([
        shop.mysql("SELECT COUNT(*) FROM orders").await?,
        shop.mysql("SELECT COUNT(*) FROM order_items").await?,
        shop.mysql("SELECT COUNT(*) FROM outbox").await?,
        shop.mysql("SELECT CAST(SUM(reserved) AS SIGNED) FROM inventory").await?,
    ])
}

async fn refused(
    shop: &Shop,
    body: String,
    status: u16,
    problem: &str,
    mentions: &[&str],
) -> anyhow::Result<()> {
    let before = written(shop).await?;
    let (answered, answer) = shop.customer.post(body).await?;
    ensure!(answered == status, "answered {answered}: {answer}");
    ensure!(answer["type"] == format!("urn:outflow:problem:{problem}"), "{answer}");
    ensure!(answer["status"] == status, "{answer}");
    let text = answer.to_string();
    for word in mentions {
        ensure!(text.contains(word), "{word:?} is not in {text}");
    }
    ensure!(written(shop).await? == before, "something was written");
    Ok(())
}

fn order(items: Value) -> String {
    json!({"userId": "u-1", "items": items}).to_string()
}

#[test]
fn every_malformed_order_is_refused_by_its_field_and_limit_and_writes_nothing() {
    on_the_pipe(async |shop| {
        let line = |quantity: i64| json!({"productId": "p-001", "quantity": quantity});
        let many: Vec<_> = (0..101).map(|n| json!({"productId": format!("x-{n}"), "quantity": 1})).collect();
        refused(shop, "{\"userId\": ".to_owned(), 400, "malformed-json", &["EOF"]).await?;
        refused(shop, json!({"items": [line(1)]}).to_string(), 422, "invalid-order", &["userId"]).await?;
        let unknown = json!({"userId": "u", "items": [line(1)], "coupon": "x"}).to_string();
        refused(shop, unknown, 422, "invalid-order", &["/coupon"]).await?;
        refused(shop, order(json!([])), 422, "invalid-order", &["/items", "1 to 100"]).await?;
        refused(shop, order(json!(many)), 422, "invalid-order", &["/items", "1 to 100", "101"]).await?;
        refused(shop, order(json!([line(0)])), 422, "invalid-order", &["/items/0/quantity", "1 to 9999"])
            .await?;
        refused(
            shop,
            order(json!([line(10_000)])),
            422,
            "invalid-order",
            &["/items/0/quantity", "1 to 9999"],
        )
        .await?;
        let missing = order(json!([{"productId": "no-such", "quantity": 1}]));
        refused(shop, missing, 422, "unknown-product", &["/items/0/productId", "no-such"]).await?;
        let large = order(json!([{"productId": "p".repeat(256 * 1024), "quantity": 1}]));
        refused(shop, large, 413, "body-too-large", &["262144"]).await
    });
}

#[test]
fn too_little_stock_is_a_conflict_and_writes_nothing() {
    on_the_pipe(async |shop| {
        sqlx::query("INSERT IGNORE INTO products (id, name, price) VALUES ('rare', 'Rare', 1.00)")
            .execute(shop.store.pool())
            .await?;
        sqlx::query("REPLACE INTO inventory (product_id, available) VALUES ('rare', 1)")
            .execute(shop.store.pool())
            .await?;
        let body =
            order(json!([{"productId": "p-001", "quantity": 1}, {"productId": "rare", "quantity": 2}]));
        refused(shop, body, 409, "out-of-stock", &["/items/1/quantity", "1 left"]).await
    });
}

#[test]
fn a_problem_has_its_media_type_and_an_order_its_location() {
    on_the_pipe(async |shop| {
        let url = format!("{}/orders", shop.pipe.system.functions_url);
        let client = reqwest::Client::new();
        let problem = client.post(&url).body("no json").send().await?;
        ensure!(problem.headers()["content-type"] == "application/problem+json", "{:?}", problem.headers());
        let order =
            client.post(&url).body(order(json!([{"productId": "p-001", "quantity": 1}]))).send().await?;
        let location = order.headers()["location"].to_str()?.to_owned();
        let order: Value = order.json().await?;
        ensure!(
            location == format!("/orders/{}", order["orderId"].as_str().unwrap_or_default()),
            "{location}"
        );
        ensure!(order["totalAmount"] == "12.99" && order["status"] == "PENDING", "{order}");
        shop.assert_conserved().await
    });
}
