//! A database of figures of its own, and what is asked of it.

use super::{DAY, DAY_MS, orders::Shop};
use outflow_analytics::{Config, Reader, Schema, Source, Sum, TimeRange, Timestamp, Writer};
use outflow_stack::Clickhouse;
use outflow_tests::{OrderRow, order_row, services};
use secrecy::ExposeSecret;
use serde_json::Value;
use std::time::Duration;
use uuid::Uuid;

/// In a hurry, how old a mark is when it begins to count: longer than a query takes on a busy machine.
pub(super) const MARKS_COUNT: Duration = Duration::from_secs(1);

/// A database of its own, and every way into it.
pub(crate) struct Figures {
    pub(crate) clickhouse: Clickhouse,
    pub(crate) config: Config,
    pub(super) schema: Schema,
    pub(super) writer: Writer,
    pub(super) reader: Reader,
}

impl Figures {
    pub(crate) async fn start(time_zone: &str) -> Self {
        let mut clickhouse = server();
        clickhouse.database = format!("test_{}", Uuid::now_v7().simple());
        let config = Config {
            clickhouse_url: clickhouse.url.clone(),
            clickhouse_user: clickhouse.user.clone(),
            clickhouse_password: clickhouse.password.clone(),
            clickhouse_database: clickhouse.database.clone(),
        };
        let schema = Schema::new(&config).expect("the name is an identifier");
        schema.apply(Some(time_zone)).await.expect("an empty server can be migrated");
        let writer = Writer::new(&config).expect("the configuration is good");
        let reader = Reader::new(&config).expect("the configuration is good");
        Self { clickhouse, config, schema, writer, reader }
    }

    pub(crate) async fn query(&self, sql: &str) -> Vec<Value> {
        xtask::figures::query(&self.clickhouse, sql).await.expect("clickhouse answers")
    }

    /// What the functions and the operator's command are told of the database.
    pub(crate) fn env(&self) -> [(&'static str, &str); 4] {
        [
            ("OUTFLOW_CLICKHOUSE_URL", &self.config.clickhouse_url),
            ("OUTFLOW_CLICKHOUSE_USER", &self.config.clickhouse_user),
            ("OUTFLOW_CLICKHOUSE_PASSWORD", self.config.clickhouse_password.expose_secret()),
            ("OUTFLOW_CLICKHOUSE_DATABASE", &self.config.clickhouse_database),
        ]
    }

    /// Drops the database: its views would go on refreshing every minute.
    pub(crate) async fn finish(self) {
        self.query(&format!("DROP DATABASE {}", self.clickhouse.database)).await;
    }

    pub(super) async fn number(&self, sql: &str) -> u64 {
        let rows = self.query(&format!("SELECT toUInt64(({sql})) AS n")).await;
        xtask::figures::number(&rows[0], "n").expect("it is a number")
    }

    pub(crate) async fn insert<'a>(&self, rows: impl IntoIterator<Item = &'a OrderRow>) {
        order_row::insert(&self.writer, rows).await;
    }

    /// As though all that happened so far had happened earlier.
    async fn age(&self, by: &str) {
        for (table, time) in [("slot_changes", "changed_at"), ("sales_history", "computed_at")] {
            for statement in [
                format!("CREATE TABLE aged AS {table}"),
                format!("INSERT INTO aged SELECT * REPLACE ({time} - INTERVAL {by} AS {time}) FROM {table}"),
                format!("TRUNCATE TABLE {table}"),
                format!("INSERT INTO {table} SELECT * FROM aged"),
                "DROP TABLE aged".to_owned(),
            ] {
                self.query(&statement).await;
            }
        }
    }

    /// No slack instead of ten minutes, and marks that count after [`MARKS_COUNT`]: fit for sums that never change.
    pub(super) async fn hurry(&self) {
        let rows = self
            .query("SELECT as_select FROM system.tables WHERE database = currentDatabase() AND name = 'stale_slots'")
            .await;
        let mut select = rows[0]["as_select"].as_str().expect("a view has a text").to_owned();
        for (long, short) in [
            ("toIntervalMinute(10)", "toIntervalSecond(0)".to_owned()),
            ("toIntervalSecond(30)", format!("toIntervalSecond({})", MARKS_COUNT.as_secs())),
        ] {
            assert!(select.contains(long), "{select}");
            select = select.replace(long, &short);
        }
        self.query(&format!("CREATE OR REPLACE VIEW stale_slots AS {select}")).await;
    }

    /// From now on all quarters are served from history.
    pub(super) async fn settle(&self) {
        self.age("1 HOUR").await;
        self.reader.refresh().await.expect("the history can be refreshed");
        self.age("1 MINUTE").await;
        assert_eq!(self.number("SELECT count() FROM stale_slots").await, 0);
    }

    /// Holds every path to the figures against the orders; returns the cells compared.
    pub(super) async fn check(&self, shop: &Shop) -> usize {
        let range = TimeRange {
            from: Timestamp::from_millis(DAY - 40 * DAY_MS),
            to: Timestamp::from_millis(DAY + 2 * DAY_MS),
        };
        let truth = shop.cells();
        for source in [Source::Table, Source::Served] {
            let found = self.reader.cells(source, range).await.expect("clickhouse answers");
            assert_eq!(found, truth, "{source:?}");
        }
        let mut hours = 0;
        for row in self.reader.hours(range).await.expect("clickhouse answers") {
            let cells: Vec<_> = truth.iter().filter(|cell| cell.hour == row.hour).collect();
            assert_eq!(row.placed, cells.iter().map(|cell| cell.orders).sum::<u64>());
            let counted: Vec<_> = cells.iter().filter(|cell| cell.status != "CANCELLED").collect();
            assert_eq!(row.order_count, counted.iter().map(|cell| cell.orders).sum::<u64>());
            assert_eq!(
                row.total_revenue.cents(),
                counted.iter().map(|cell| cell.revenue.cents()).sum::<i128>()
            );
            hours += 1;
        }
        let days = self.reader.days(0, u16::MAX).await.expect("clickhouse answers");
        let by_day = shop.days();
        assert_eq!(days.len(), by_day.len());
        for (row, (day, (orders, cents))) in days.iter().zip(by_day) {
            assert_eq!(
                (i64::from(row.day), row.order_count, row.total_revenue.cents()),
                (day, orders, cents)
            );
            let average = (orders > 0).then(|| (2 * cents + i128::from(orders)) / (2 * i128::from(orders)));
            assert_eq!(row.average.map(Sum::cents), average, "average of {cents} cents over {orders}");
        }
        2 * truth.len() + hours + days.len()
    }
}

/// The stack's, or the one that the environment names as it does for the functions.
fn server() -> Clickhouse {
    match outflow_telemetry::config::from_env::<Config>() {
        Ok(config) => Clickhouse {
            url: config.clickhouse_url,
            database: config.clickhouse_database,
            user: config.clickhouse_user,
            password: config.clickhouse_password,
            reader: None,
        },
        Err(_not_named) => services().clickhouse,
    }
}
