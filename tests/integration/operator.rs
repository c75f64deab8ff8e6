//! What an operator sees of the outbox and may do about it, against the real server.

mod prune;

use outflow_tests::{TestShop, write_event};
use sqlx::{AssertSqlSafe, Executor};

/// Runs a statement of the test's own making.
async fn run(shop: &TestShop, sql: impl Into<String>) {
    shop.store.pool().execute(sqlx::query(AssertSqlSafe(sql.into()))).await.expect("mysql takes it");
}

/// Commits an event of each version to this aggregate.
async fn commit_events(shop: &TestShop, aggregate: &str, versions: std::ops::RangeInclusive<u32>) {
    for version in versions {
        let mut writer = shop.begin().await;
        write_event(&mut writer, aggregate, version).await;
        writer.commit().await.unwrap();
    }
}

/// The ids in the outbox.
async fn ids(shop: &TestShop) -> Vec<u64> {
    sqlx::query_scalar("SELECT id FROM outbox ORDER BY id").fetch_all(shop.store.pool()).await.unwrap()
}
