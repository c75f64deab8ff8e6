//! `outflow verify` finds what differs between MySQL and ClickHouse, and nothing else.

use outflow_analytics::{Amount, Config, Schema, Timestamp, Writer};
use outflow_tests::{OrderRow, TestShop, order_row};
use secrecy::ExposeSecret;
use serde_json::Value;
use sqlx::Row;
use time::PrimitiveDateTime;
use uuid::Uuid;
use xtask::{pipe::Outflow, progress::Terminal};

const ORDERS: usize = 24;

/// A shop whose orders are all in ClickHouse.
struct Compared {
    shop: TestShop,
    clickhouse: outflow_stack::Clickhouse,
    writer: Writer,
    outflow: Outflow,
    rows: Vec<OrderRow>,
}

impl Compared {
    async fn start() -> Self {
        let shop = TestShop::start().await;
        let mut clickhouse = shop.endpoints.clickhouse.clone();
        clickhouse.database = format!("test_{}", Uuid::now_v7().simple());
        let config = Config {
            clickhouse_url: clickhouse.url.clone(),
            clickhouse_user: clickhouse.user.clone(),
            clickhouse_password: clickhouse.password.clone(),
            clickhouse_database: clickhouse.database.clone(),
        };
        let schema = Schema::new(&config).expect("the name is an identifier");
        schema.apply(None).await.expect("an empty server can be migrated");
        let writer = Writer::new(&config).expect("the configuration is good");
        let env = [
            ("OUTFLOW_DATABASE_URL", shop.database_url.as_str()),
            ("OUTFLOW_CLICKHOUSE_URL", &clickhouse.url),
            ("OUTFLOW_CLICKHOUSE_USER", &clickhouse.user),
            ("OUTFLOW_CLICKHOUSE_PASSWORD", clickhouse.password.expose_secret()),
            ("OUTFLOW_CLICKHOUSE_DATABASE", &clickhouse.database),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
        let outflow =
            Outflow::build(env.to_vec(), &Terminal::new()).await.expect("the operator's command compiles");

        shop.put_product("p-1", "19.99", 1_000).await;
        for quantity in 1..=ORDERS {
            let quantity = u32::try_from(quantity).expect("it is small");
            shop.order(&[("p-1", quantity)]).await.expect("there is enough");
        }
        let mut compared = Self { shop, clickhouse, writer, outflow, rows: Vec::new() };
        compared.rows = compared.truth().await;
        compared.load(&compared.rows).await;
        compared
    }

    /// MySQL's orders as rows.
    async fn truth(&self) -> Vec<OrderRow> {
        let orders = sqlx::query(
            "SELECT id, user_id, status, total_amount, version, created_at FROM orders ORDER BY id",
        );
        let orders = orders.fetch_all(self.shop.store.pool()).await.expect("mysql answers");
        let row = |order: sqlx::mysql::MySqlRow| {
            let created: PrimitiveDateTime = order.get("created_at");
            let at = Timestamp::from(created.assume_utc());
            let total: rust_decimal::Decimal = order.get("total_amount");
            let mut row = OrderRow::new(at, Amount::try_from(total).expect("it has two decimals"));
            row.order_id = Uuid::parse_str(order.get("id")).expect("ids are UUIDs");
            row.user_id = order.get("user_id");
            row.status = order.get("status");
            row.version = u64::from(order.get::<u32, _>("version")) << 24;
            row
        };
        orders.into_iter().map(row).collect()
    }

    async fn load<'a>(&self, rows: impl IntoIterator<Item = &'a OrderRow>) {
        order_row::insert(&self.writer, rows).await;
    }

    /// The same row with a higher generation: a wrong one that wins.
    async fn overwrite(&self, index: usize, change: impl FnOnce(&mut OrderRow)) {
        let mut row = self.rows[index].clone();
        row.version += 1;
        change(&mut row);
        self.load([&row]).await;
    }

    /// Drops the figures: their views would go on refreshing every minute.
    async fn finish(self) {
        let drop = format!("DROP DATABASE {}", self.clickhouse.database);
        xtask::figures::query(&self.clickhouse, &drop).await.expect("clickhouse drops it");
    }

    async fn verify(&self, range: &[&str]) -> (i32, Value) {
        let args = [&["verify", "--json", "-"], range].concat();
        let (code, text) = self.outflow.try_run(&args).await.expect("outflow verify can run");
        (code, serde_json::from_str(&text).expect("it prints JSON alone"))
    }
}

fn counts(report: &Value) -> [u64; 4] {
    ["checked", "wrong", "missing", "extra"].map(|key| report[key].as_u64().expect("a count"))
}

#[tokio::test]
async fn equal_sides_are_found_equal() {
    let compared = Compared::start().await;

    let (code, report) = compared.verify(&[]).await;

    assert_eq!((code, counts(&report)), (0, [ORDERS as u64, 0, 0, 0]), "{report}");
    assert_eq!(report["cells_wrong"], 0);
    // Table and views by hour and status, hours, days: four at least.
    assert!(report["cells_checked"].as_u64().is_some_and(|cells| cells >= 4), "{report}");
    compared.finish().await;
}

#[tokio::test]
async fn every_planted_difference_is_found_with_both_sides() {
    let compared = Compared::start().await;
    // Gone from ClickHouse, without a word to the views.
    let gone = compared.rows[0].order_id;
    let delete = format!("DELETE FROM orders_analytics WHERE order_id = '{gone}'");
    xtask::figures::query(&compared.clickhouse, &delete).await.expect("clickhouse deletes");
    // Two amounts swapped, so that every total is right.
    let amounts = (compared.rows[1].total_amount, compared.rows[2].total_amount);
    compared.overwrite(1, |row| row.total_amount = amounts.1).await;
    compared.overwrite(2, |row| row.total_amount = amounts.0).await;
    // A status that MySQL has left behind.
    sqlx::query("UPDATE orders SET status = 'COMPLETED', version = 2 WHERE id = ?")
        .bind(compared.rows[3].order_id.to_string())
        .execute(compared.shop.store.pool())
        .await
        .expect("mysql takes it");
    // Another hour: the old row goes, one elsewhere comes.
    compared.overwrite(4, |row| row.is_deleted = 1).await;
    compared
        .overwrite(4, |row| row.order_date = Timestamp::from_millis(row.order_date.millis() - 7_200_000))
        .await;
    // An order that nobody placed.
    compared.overwrite(5, |row| row.order_id = Uuid::now_v7()).await;

    let (code, report) = compared.verify(&[]).await;

    assert_eq!((code, counts(&report)), (1, [ORDERS as u64 + 1, 4, 1, 1]), "{report}");
    assert!(report["cells_wrong"].as_u64().is_some_and(|cells| cells > 0), "{report}");
    let differences = report["differences"].as_array().expect("a list");
    let of = |index: usize| {
        let id = compared.rows[index].order_id.to_string();
        differences.iter().find(|difference| difference["order_id"] == id).expect("it is told")
    };
    assert_eq!((of(0)["mysql"]["status"].as_str(), &of(0)["clickhouse"]), (Some("PENDING"), &Value::Null));
    assert_eq!(of(1)["mysql"]["total_amount"], of(2)["clickhouse"]["total_amount"]);
    assert_eq!(of(3)["mysql"]["status"], "COMPLETED");
    assert_ne!(of(4)["mysql"]["created_at"], of(4)["clickhouse"]["created_at"]);
    compared.finish().await;
}

#[tokio::test]
async fn a_range_looks_at_its_own_orders_alone() {
    let compared = Compared::start().await;
    compared.overwrite(0, |row| row.total_amount = Amount::from_cents(1)).await;

    let (code, report) = compared.verify(&["--to", "2020-01-01"]).await;
    assert_eq!((code, counts(&report)), (0, [0, 0, 0, 0]), "{report}");

    let (code, report) = compared.verify(&["--from", "2020-01-01"]).await;
    assert_eq!((code, counts(&report)), (1, [ORDERS as u64, 1, 0, 0]), "{report}");

    let refused = compared.outflow.call(&["verify", "--from", "yesterday"]).await.expect("it can run");
    assert_eq!(refused.code, 2, "{refused:?}");
    assert!(refused.stderr.contains("--from"), "{refused:?}");
    compared.finish().await;
}
