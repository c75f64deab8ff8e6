//! The one pipe, and what every test asks of it.

use anyhow::Context;
use outflow_stack::Settings;
use outflow_store::Store;
use secrecy::ExposeSecret;
use serde_json::Value;
use std::{
    sync::LazyLock,
    time::{Duration, Instant},
};
use time::{OffsetDateTime, PrimitiveDateTime};
use tokio::{runtime::Runtime, sync::Mutex};
use xtask::{
    figures,
    load::{Customer, Orders},
    pipe::Pipe,
    progress::Terminal,
};

/// How long anything may take to become as wanted.
const PATIENCE: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(100);

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().expect("a runtime can be made"));
static SHOP: Mutex<Option<Shop>> = Mutex::const_new(None);

/// The running pipe with a customer in front of it.
pub(crate) struct Shop {
    pub(crate) pipe: Pipe,
    pub(crate) store: Store,
    pub(crate) customer: Customer,
    orders: Orders,
}

/// Runs a test on the pipe, which the first test starts.
pub(crate) fn on_the_pipe(test: impl AsyncFnOnce(&mut Shop) -> anyhow::Result<()>) {
    RUNTIME.block_on(async {
        let mut shop = SHOP.lock().await;
        if shop.is_none() {
            *shop = Some(Shop::start().await.expect("the pipe starts"));
        }
        let shop = shop.as_mut().expect("it was just started");
        if let Err(error) = test(shop).await {
            panic!("{error:#}");
        }
    });
}

/// Waits until `probe` answers something.
pub(crate) async fn eventually<T>(
    what: &str,
    mut probe: impl AsyncFnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let last = match probe().await {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => anyhow::anyhow!("not yet"),
            Err(error) => error,
        };
        if Instant::now() > deadline {
            return Err(last.context(format!("{what}: not after {} s", PATIENCE.as_secs())));
        }
        tokio::time::sleep(POLL).await;
    }
}

impl Shop {
    async fn start() -> anyhow::Result<Self> {
        let settings = Settings::isolated(outflow_stack::workspace_root().join(".outflow/e2e"));
        let pipe = Pipe::start(settings, 0, &Terminal::new()).await?;
        let store = Store::new(pipe.endpoints.mysql.url.expose_secret())?;
        let customer = Customer::new(&pipe.system.functions_url)?;
        Ok(Self { pipe, store, customer, orders: Orders::new(7) })
    }

    /// One order that must be taken, however long that takes.
    pub(crate) async fn order(&mut self) -> anyhow::Result<Value> {
        let body = self.orders.next_order();
        self.customer.order(&body).await
    }

    pub(crate) async fn orders(&mut self, count: usize) -> anyhow::Result<()> {
        for _ in 0..count {
            self.order().await?;
        }
        Ok(())
    }

    /// One number from MySQL.
    pub(crate) async fn mysql(&self, sql: &'static str) -> anyhow::Result<i64> {
        sqlx::query_scalar(sql).fetch_one(self.store.pool()).await.with_context(|| format!("mysql on {sql}"))
    }

    /// The oracle: every order that MySQL holds is in ClickHouse, and every figure equals MySQL's.
    pub(crate) async fn assert_conserved(&self) -> anyhow::Result<()> {
        let report = eventually("ClickHouse equals MySQL", async || {
            let (equal, report) = self.pipe.outflow.verify().await?;
            anyhow::ensure!(equal, "{report}");
            Ok(Some(report))
        })
        .await?;
        let orders = self.mysql("SELECT COUNT(*) FROM orders").await?;
        anyhow::ensure!(report["checked"].as_i64() == Some(orders), "not every order was checked: {report}");
        Ok(())
    }

    /// The same of all that the first transforms fill, for orders since then: each line of an order is in both tables of
    /// lines once, as what was sold and as what is reserved (an order has a product once), with all its pieces. Events that
    /// other tests have made up are older.
    pub(crate) async fn assert_lines_conserved(&self, since: OffsetDateTime) -> anyhow::Result<()> {
        self.assert_conserved().await?;
        let since = since.replace_millisecond(since.millisecond())?;
        let (lines, pieces): (i64, i64) = sqlx::query_as(
            "SELECT COUNT(*), CAST(COALESCE(SUM(i.quantity), 0) AS SIGNED) FROM order_items i JOIN orders o ON o.id = i.order_id
             WHERE o.created_at >= ?",
        )
        .bind(PrimitiveDateTime::new(since.date(), since.time()))
        .fetch_one(self.store.pool())
        .await
        .context("mysql could not count lines")?;
        let since_ms = since.unix_timestamp_nanos() / 1_000_000;
        for (table, time) in [("order_items_analytics", "order_date"), ("inventory_analytics", "reserved_at")]
        {
            let sql = format!(
                "SELECT count() AS n, sum(quantity) AS pieces FROM {table} FINAL
                 WHERE {time} >= fromUnixTimestamp64Milli(toInt64({since_ms}))"
            );
            eventually(&format!("{table} equals MySQL"), async || {
                let row = self.pipe.query_one(&sql).await?;
                let found = (figures::number(&row, "n")?, figures::number(&row, "pieces")?);
                let wanted = (u64::try_from(lines)?, u64::try_from(pieces)?);
                anyhow::ensure!(found == wanted, "{found:?} lines and pieces, {wanted:?} in MySQL");
                Ok(Some(()))
            })
            .await?;
        }
        Ok(())
    }
}
