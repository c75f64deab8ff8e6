//! Figures in ClickHouse: exact whatever was duplicated, reordered, replayed or changed later, from every path.

use outflow_analytics::{
    Amount, CellFigures, Config, OrdersAnalyticsRow, Reader, Schema, Source, Sum, TimeRange, Timestamp,
    Writer, blocks,
};
use outflow_stack::Clickhouse;
use outflow_telemetry::ErrorKind;
use outflow_tests::services;
use secrecy::SecretString;
use serde_json::Value;
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};
use uuid::Uuid;

const LIMIT: Duration = Duration::from_secs(60);
const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;
/// 2026-11-01 00:00 UTC, a day on which clocks go back in North America.
const DAY: i64 = 1_793_491_200_000;

/// A database of its own, and every way into it.
struct Figures {
    clickhouse: Clickhouse,
    config: Config,
    schema: Schema,
    writer: Writer,
    reader: Reader,
}

impl Figures {
    async fn start(time_zone: &str) -> Self {
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

    async fn query(&self, sql: &str) -> Vec<Value> {
        xtask::figures::query(&self.clickhouse, sql).await.expect("clickhouse answers")
    }

    async fn number(&self, sql: &str) -> u64 {
        let rows = self.query(&format!("SELECT toUInt64(({sql})) AS n")).await;
        xtask::figures::number(&rows[0], "n").expect("it is a number")
    }

    async fn insert<'a>(&self, rows: impl IntoIterator<Item = &'a OrdersAnalyticsRow>) {
        self.writer.insert_block(rows, LIMIT).await.expect("clickhouse takes a block");
    }

    /// As though all that happened so far had happened an hour earlier.
    async fn age(&self) {
        for (table, time) in [("slot_changes", "changed_at"), ("sales_history", "computed_at")] {
            for statement in [
                format!("CREATE TABLE aged AS {table}"),
                format!(
                    "INSERT INTO aged SELECT * REPLACE ({time} - INTERVAL 1 HOUR AS {time}) FROM {table}"
                ),
                format!("TRUNCATE TABLE {table}"),
                format!("INSERT INTO {table} SELECT * FROM aged"),
                "DROP TABLE aged".to_owned(),
            ] {
                self.query(&statement).await;
            }
        }
    }

    /// Three seconds instead of ten minutes.
    async fn shorten_slack(&self) {
        let rows = self.query("SELECT as_select FROM system.tables WHERE database = currentDatabase() AND name = 'stale_slots'").await;
        let select = rows[0]["as_select"].as_str().expect("a view has a text");
        assert!(select.contains("toIntervalMinute(10)"), "{select}");
        let shorter = select.replace("toIntervalMinute(10)", "toIntervalSecond(3)");
        self.query(&format!("CREATE OR REPLACE VIEW stale_slots AS {shorter}")).await;
    }

    /// From now on all quarters are served from history.
    async fn settle(&self) {
        self.age().await;
        self.reader.refresh().await.expect("the history can be refreshed");
        assert_eq!(self.number("SELECT count() FROM stale_slots").await, 0);
    }

    /// Holds every path to the figures against the orders; returns the cells compared.
    async fn check(&self, shop: &Shop) -> usize {
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

/// Numbers that are the same in every run (splitmix64).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, usize::try_from(self.below(last as u64 + 1)).expect("it is an index"));
        }
    }
}

/// Orders and all that happened to them, with the shop's clock as its offset from UTC.
struct Shop {
    random: Random,
    offset_ms: fn(i64) -> i64,
    /// The newest version of each order, by id.
    newest: BTreeMap<Uuid, OrdersAnalyticsRow>,
}

impl Shop {
    fn new(offset_ms: fn(i64) -> i64) -> Self {
        Self { random: Random(20_261_123), offset_ms, newest: BTreeMap::new() }
    }

    fn place(&mut self, created: i64) -> OrdersAnalyticsRow {
        let at = Timestamp::from_millis(created);
        let row = OrdersAnalyticsRow {
            order_id: Uuid::from_u128(
                (u128::from(self.random.below(u64::MAX)) << 64) | self.newest.len() as u128,
            ),
            order_date: at,
            user_id: "u-1".to_owned(),
            status: "PENDING".to_owned(),
            total_amount: Amount::from_cents(
                i64::try_from(1 + self.random.below(99_999)).expect("it is small"),
            ),
            item_count: 1,
            quantity: 1,
            order_band: "all".to_owned(),
            version: 1 << 24,
            is_deleted: 0,
            event_id: Uuid::now_v7(),
            transform_digest: "d1".to_owned(),
            occurred_at: at,
            relayed_at: at,
            transformed_at: at,
        };
        self.newest.insert(row.order_id, row.clone());
        row
    }

    /// The order's next version.
    fn change(&mut self, id: Uuid, change: impl FnOnce(&mut OrdersAnalyticsRow)) -> OrdersAnalyticsRow {
        let row = self.newest.get_mut(&id).expect("the order is known");
        row.version += 1 << 24;
        change(row);
        row.clone()
    }

    fn close(&mut self, id: Uuid) -> OrdersAnalyticsRow {
        let status = if self.random.below(4) == 0 { "CANCELLED" } else { "COMPLETED" };
        self.change(id, |row| status.clone_into(&mut row.status))
    }

    fn ids(&self) -> Vec<Uuid> {
        self.newest.keys().copied().collect()
    }

    fn counted(&self) -> impl Iterator<Item = &OrdersAnalyticsRow> {
        self.newest.values().filter(|row| row.is_deleted == 0)
    }

    /// By hour and status, ascending.
    fn cells(&self) -> Vec<CellFigures> {
        let mut cells: BTreeMap<(i64, &str), (u64, Sum)> = BTreeMap::new();
        for row in self.counted() {
            let at = row.order_date.millis();
            let offset = (self.offset_ms)(at);
            let hour = (at + offset).div_euclid(HOUR_MS) * HOUR_MS - offset;
            let cell = cells.entry((hour / 1000, &row.status)).or_default();
            cell.0 += 1;
            cell.1 += row.total_amount;
        }
        let figures = cells.into_iter().map(|((hour, status), (orders, revenue))| CellFigures {
            hour: u32::try_from(hour).expect("it is after 1970"),
            status: status.to_owned(),
            orders,
            revenue,
        });
        figures.collect()
    }

    /// Orders that aren't cancelled and their cents, by local day.
    fn days(&self) -> BTreeMap<i64, (u64, i128)> {
        let mut days: BTreeMap<i64, (u64, i128)> = BTreeMap::new();
        for row in self.counted() {
            let at = row.order_date.millis();
            let day = days.entry((at + (self.offset_ms)(at)).div_euclid(DAY_MS)).or_default();
            if row.status != "CANCELLED" {
                day.0 += 1;
                day.1 += i128::from(row.total_amount.cents());
            }
        }
        days
    }

    /// A day of 2,000 orders and 3,981 events.
    fn a_day_of_orders(&mut self) -> Vec<OrdersAnalyticsRow> {
        let mut events: Vec<_> = (0..2_000).map(|n| self.place(DAY + n * DAY_MS / 2_000)).collect();
        let ids: Vec<Uuid> = events.iter().map(|row| row.order_id).take(1_981).collect();
        events.extend(ids.into_iter().map(|id| self.close(id)));
        events
    }
}

fn utc(_at: i64) -> i64 {
    0
}

/// Newfoundland: half an hour off, and clocks that go back at 02:00 on 2026-11-01.
fn st_johns(at: i64) -> i64 {
    let goes_back = DAY + 4 * HOUR_MS + HOUR_MS / 2;
    if at < goes_back { -5 * HOUR_MS / 2 } else { -7 * HOUR_MS / 2 }
}

fn seoul(_at: i64) -> i64 {
    9 * HOUR_MS
}

/// 3,981 events delivered 4,905 times, in any order, in batches of any size.
async fn deliver_badly(figures: &Figures, shop: &mut Shop, mut events: Vec<OrdersAnalyticsRow>) {
    while events.len() < 4_905 {
        let copied = usize::try_from(shop.random.below(3_981)).expect("it is an index");
        events.push(events[copied].clone());
    }
    shop.random.shuffle(&mut events);
    let mut rest = events.as_slice();
    while !rest.is_empty() {
        let size = usize::try_from(1 + shop.random.below(400)).expect("it is small").min(rest.len());
        figures.insert(&rest[..size]).await;
        // A batch that failed is cut anew, so that half of it comes twice.
        figures.insert(&rest[..size / 2]).await;
        rest = &rest[size..];
    }
}

async fn a_day_is_exact(zone: &str, offset_ms: fn(i64) -> i64) {
    let figures = Figures::start(zone).await;
    let mut shop = Shop::new(offset_ms);
    let events = shop.a_day_of_orders();

    deliver_badly(&figures, &mut shop, events.clone()).await;
    assert!(figures.check(&shop).await > 100, "cells of a whole day");

    figures.settle().await;
    figures.check(&shop).await;

    for id in shop.ids().into_iter().step_by(37) {
        let row = shop.close(id);
        figures.insert([&row]).await;
    }
    figures.check(&shop).await;

    // Everything again, as a replay sends it: older versions never win.
    figures.insert(&events).await;
    figures.check(&shop).await;
    figures.settle().await;
    figures.check(&shop).await;
}

#[tokio::test]
async fn a_day_of_duplicates_shuffles_and_replays_is_exact() {
    a_day_is_exact("UTC", utc).await;
}

#[tokio::test]
async fn the_day_on_which_clocks_go_back_is_exact_half_an_hour_off_utc() {
    a_day_is_exact("America/St_Johns", st_johns).await;
}

#[tokio::test]
async fn days_of_a_shop_far_from_utc_are_its_own() {
    a_day_is_exact("Asia/Seoul", seoul).await;
}

#[tokio::test]
async fn a_tombstone_takes_its_order_out_of_every_figure() {
    let figures = Figures::start("UTC").await;
    let mut shop = Shop::new(utc);
    let rows: Vec<_> = (0..48).map(|n| shop.place(DAY + n * HOUR_MS / 2)).collect();
    figures.insert(&rows).await;
    figures.settle().await;

    // Each of these is alone in its quarter of an hour, so that nothing is left there.
    for row in rows.iter().step_by(5) {
        let tombstone = shop.change(row.order_id, |row| row.is_deleted = 1);
        figures.insert([&tombstone]).await;
    }
    figures.check(&shop).await;
    figures.settle().await;
    figures.check(&shop).await;

    // A late delivery doesn't bring it back.
    figures.insert(&rows).await;
    figures.check(&shop).await;
}

#[tokio::test]
async fn status_changes_weeks_later_move_the_hour_in_which_the_order_was_placed() {
    let figures = Figures::start("UTC").await;
    let mut shop = Shop::new(utc);
    let rows: Vec<_> = (0..600).map(|n| shop.place(DAY - n * HOUR_MS)).collect();
    figures.insert(&rows).await;
    figures.settle().await;

    for row in rows.iter().skip(300).step_by(3) {
        let row = shop.close(row.order_id);
        figures.insert([&row]).await;
    }

    figures.check(&shop).await;
    assert_eq!(
        figures.number("SELECT count() FROM stale_slots").await,
        100,
        "only changed quarters are read live"
    );
}

#[tokio::test]
async fn figures_stand_still_while_orders_change_and_history_is_refreshed() {
    let figures = Figures::start("UTC").await;
    let mut shop = Shop::new(utc);
    let mut rows: Vec<_> = (0..2_000).map(|n| shop.place(DAY + n * DAY_MS / 2_000)).collect();
    figures.insert(&rows).await;
    let truth = figures.query("SELECT sum(placed) AS n, sum(total_revenue) AS r FROM daily_sales_mv").await;

    // With a slack of seconds each quarter is by turns read live and from history.
    figures.shorten_slack().await;
    let until = Instant::now() + Duration::from_secs(16);
    let changes = async {
        let mut part = 0;
        while Instant::now() < until {
            // A new version of a quarter of the orders, with the same amounts.
            let part_rows = &mut rows[part * 500..][..500];
            for row in &mut *part_rows {
                row.version += 1 << 24;
                row.status = if row.status == "PENDING" { "COMPLETED" } else { "PENDING" }.to_owned();
            }
            figures.insert(&*part_rows).await;
            part = (part + 1) % 4;
            tokio::time::sleep(Duration::from_millis(1_500)).await;
        }
    };
    let refreshes = async {
        let mut sizes = std::collections::BTreeSet::new();
        while Instant::now() < until {
            figures.reader.refresh().await.expect("the history can be refreshed");
            sizes.insert(figures.number("SELECT count() FROM stale_slots").await);
        }
        sizes
    };
    let readers = async {
        let mut reads = 0;
        while Instant::now() < until {
            for view in ["daily_sales_mv", "hourly_sales_mv"] {
                let sql = format!("SELECT sum(placed) AS n, sum(total_revenue) AS r FROM {view}");
                assert_eq!(figures.query(&sql).await, truth, "{view}, read {reads}");
                reads += 1;
            }
        }
        reads
    };
    let ((), stale, reads) = tokio::join!(changes, refreshes, readers);
    assert!(reads > 20 && stale.len() > 1, "{reads} reads, quarters read live: {stale:?}");
}

#[tokio::test]
async fn the_two_queries_people_use_are_right_to_the_cent() {
    const TODAY: &str = "SELECT order_count, total_revenue, avg_order_value FROM analytics.daily_sales_mv WHERE order_date = today()";
    const LAST_DAY: &str = "SELECT toHour(order_hour) AS hour, sum(order_count) AS orders, sum(total_revenue) AS revenue \
         FROM analytics.hourly_sales_mv WHERE order_hour >= now() - INTERVAL 24 HOUR GROUP BY hour ORDER BY hour";
    let figures = Figures::start("UTC").await;
    let here = |sql: &str| sql.replace("analytics.", &format!("{}.", figures.clickhouse.database));
    let now =
        || i64::try_from(std::time::SystemTime::UNIX_EPOCH.elapsed().expect("now is after 1970").as_millis());
    // The hour in which the test runs must not end between telling the time and asking.
    loop {
        let began = now().expect("it fits");
        let mut shop = Shop::new(utc);
        let rows: Vec<_> = (0..300).map(|n| shop.place(began - n * 10 * 60_000)).collect();
        figures.query("TRUNCATE TABLE orders_analytics").await;
        figures.insert(&rows).await;
        for id in shop.ids().into_iter().step_by(2) {
            let row = shop.close(id);
            figures.insert([&row]).await;
        }
        let today = figures.query(&here(TODAY)).await;
        let last_day = figures.query(&here(LAST_DAY)).await;
        if began / HOUR_MS != now().expect("it fits") / HOUR_MS {
            continue;
        }

        let (orders, cents) = shop.days()[&(began / DAY_MS)];
        let average = Sum::from_cents((2 * cents + i128::from(orders)) / (2 * i128::from(orders)));
        assert_eq!(xtask::figures::number(&today[0], "order_count").expect("a number"), orders);
        assert_eq!(cents_of(&today[0]["total_revenue"]), cents);
        assert_eq!(cents_of(&today[0]["avg_order_value"]), average.cents());

        let mut hours: BTreeMap<i64, (u64, i128)> = BTreeMap::new();
        for cell in shop.cells() {
            let hour = i64::from(cell.hour);
            // 24 hours back lies inside an hour, which is left out whole.
            if hour * 1000 < began - DAY_MS || cell.status == "CANCELLED" {
                continue;
            }
            let sums = hours.entry(hour / 3600 % 24).or_default();
            *sums = (sums.0 + cell.orders, sums.1 + cell.revenue.cents());
        }
        let found: BTreeMap<_, _> = last_day
            .iter()
            .map(|row| {
                let number = |field| xtask::figures::number(row, field).expect("a number");
                (i64::try_from(number("hour")).expect("small"), (number("orders"), cents_of(&row["revenue"])))
            })
            .collect();
        assert_eq!(found, hours);
        break;
    }
}

fn cents_of(value: &Value) -> i128 {
    let text = value.as_str().expect("decimals are strings here");
    i128::from(text.parse::<Amount>().expect("an amount").cents())
}

#[tokio::test]
async fn a_block_over_more_than_a_hundred_months_is_split() {
    let figures = Figures::start("UTC").await;
    let mut shop = Shop::new(utc);
    let rows: Vec<_> = (0..150).map(|n| shop.place(DAY - n * 31 * DAY_MS)).collect();

    let error = figures.writer.insert_block(&rows, LIMIT).await.expect_err("clickhouse takes 100 at most");
    assert_eq!((error.kind(), error.code()), (ErrorKind::Poison, Some(252)));

    let blocks = blocks(rows, |row| row);
    assert_eq!(blocks.len(), 2);
    for block in &blocks {
        figures.insert(block).await;
    }
    assert_eq!(figures.number("SELECT count() FROM orders_analytics FINAL").await, 150);
    assert_eq!(figures.number("SELECT sum(placed) FROM daily_sales_mv").await, 150);
}

#[tokio::test]
async fn a_row_that_the_table_cannot_hold_is_the_rows_fault() {
    let figures = Figures::start("UTC").await;
    let mut shop = Shop::new(utc);
    let (good, mut bad) = (shop.place(DAY), shop.place(DAY));
    bad.order_date = Timestamp::from_millis(-1);

    let error = figures.writer.insert_block([&good, &bad], LIMIT).await.expect_err("1969 is out of range");

    assert_eq!((error.kind(), error.code()), (ErrorKind::Poison, Some(469)));
    assert_eq!(
        figures.number("SELECT count() FROM orders_analytics").await,
        0,
        "a block is whole or not there"
    );
}

#[tokio::test]
async fn a_server_that_is_away_is_tried_again_and_a_wrong_password_is_not() {
    let figures = Figures::start("UTC").await;
    let row = Shop::new(utc).place(DAY);
    let with = |change: fn(&mut Config)| {
        let mut config = figures.config.clone();
        change(&mut config);
        Writer::new(&config).expect("the configuration can be used")
    };

    let away = with(|config| "http://127.0.0.1:9".clone_into(&mut config.clickhouse_url));
    let stranger = with(|config| config.clickhouse_password = SecretString::from("wrong"));
    let lost = with(|config| "no_such_database".clone_into(&mut config.clickhouse_database));

    for (writer, kind) in [(away, ErrorKind::Retriable), (stranger, ErrorKind::Bug), (lost, ErrorKind::Bug)] {
        let error = writer.insert_block([&row], LIMIT).await.expect_err("it cannot be inserted");
        assert_eq!(error.kind(), kind, "{error:?}");
    }
}

#[tokio::test]
async fn migrations_run_once_and_follow_the_shops_time_zone() {
    let figures = Figures::start("UTC").await;

    let again = figures.schema.apply(None).await.expect("it is safe to repeat");
    assert_eq!((again.ran.len(), again.already, again.time_zone.as_str()), (0, 4, "UTC"));

    let moved = figures.schema.apply(Some("Asia/Seoul")).await.expect("the zone exists");
    assert_eq!(moved.ran, ["0004_sales_views"]);
    let kept = figures.schema.apply(None).await.expect("it is safe to repeat");
    assert_eq!((kept.ran.len(), kept.time_zone.as_str()), (0, "Asia/Seoul"));
    let hour = figures.reader.columns("hourly_sales_mv").await.expect("clickhouse answers").swap_remove(0);
    assert_eq!((hour.name.as_str(), hour.data_type.as_str()), ("order_hour", "DateTime('Asia/Seoul')"));

    let error = figures.schema.apply(Some("Mars/Olympus'); DROP")).await.expect_err("no such zone");
    assert!(error.to_string().contains("IANA"), "{error}");
}

#[tokio::test]
async fn a_migration_that_was_changed_after_it_ran_is_refused_by_name() {
    let figures = Figures::start("UTC").await;
    figures
        .query(
            "INSERT INTO schema_migrations (name, digest, time_zone) SETTINGS async_insert = 0 \
             VALUES ('0002_orders_analytics', 'another', '')",
        )
        .await;

    let error = figures.schema.apply(None).await.expect_err("the record says otherwise");

    assert_eq!(error.kind(), ErrorKind::Bug);
    assert!(error.to_string().contains("0002_orders_analytics"), "{error}");
}

#[tokio::test]
async fn the_rows_fields_are_the_tables_columns_in_order() {
    let figures = Figures::start("UTC").await;
    let row = serde_json::to_string(&Shop::new(utc).place(DAY)).expect("it is plain data");

    let columns = figures.reader.columns(outflow_analytics::ORDERS_TABLE).await.expect("clickhouse answers");
    let mut names: Vec<String> = columns.into_iter().map(|column| column.name).collect();
    assert_eq!(names.pop().as_deref(), Some("loaded_at"));

    let places: Vec<_> = names.iter().map(|name| row.find(&format!("\"{name}\":"))).collect();
    assert!(places.iter().all(Option::is_some), "{names:?} {row}");
    assert!(places.is_sorted(), "{names:?} {row}");
    assert_eq!(row.matches("\":").count(), names.len());
}
