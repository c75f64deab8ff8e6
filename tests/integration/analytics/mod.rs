//! Figures in ClickHouse: exact whatever was duplicated, reordered, replayed or changed later, from every path.

mod canaries;
pub(crate) mod figures;
mod growth;
mod loader;
mod orders;
mod types;

use figures::{Figures, MARKS_COUNT};
use orders::{Random, Shop};
use outflow_analytics::{Amount, Config, Sum, Writer, blocks};
use outflow_telemetry::ErrorKind;
use outflow_tests::{OrderRow, order_row::encode};
use secrecy::SecretString;
use serde_json::Value;
use std::{
    cell::Cell,
    collections::BTreeMap,
    time::{Duration, Instant},
};

const LIMIT: Duration = Duration::from_secs(60);
const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;
/// 2026-11-01 00:00 UTC, a day on which clocks go back in North America.
const DAY: i64 = 1_793_491_200_000;

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
async fn deliver_badly(figures: &Figures, shop: &mut Shop, mut events: Vec<OrderRow>) {
    while events.len() < 4_905 {
        let copied = shop.random.index(3_981);
        events.push(events[copied].clone());
    }
    shop.random.shuffle(&mut events);
    let mut rest = events.as_slice();
    while !rest.is_empty() {
        let size = (1 + shop.random.index(400)).min(rest.len());
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
    figures.finish().await;
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
    figures.finish().await;
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
    figures.finish().await;
}

#[tokio::test]
async fn figures_stand_still_while_orders_change_and_history_is_refreshed() {
    let figures = Figures::start("UTC").await;
    let mut shop = Shop::new(utc);
    let mut rows: Vec<_> = (0..2_000).map(|n| shop.place(DAY + n * DAY_MS / 2_000)).collect();
    figures.insert(&rows).await;
    let truth = figures.query("SELECT sum(placed) AS n, sum(total_revenue) AS r FROM daily_sales_mv").await;

    // Without slack each quarter is by turns read live and from history.
    figures.hurry().await;
    let at_least = Instant::now() + Duration::from_secs(10);
    let enough = Cell::new(false);
    // Refreshes so far. On a slow machine changes that never wait would touch every quarter between two of them.
    let refreshed = Cell::new(0_u32);
    let (left, right) = rows.split_at_mut(1_000);
    let changes = async |rows: &mut [OrderRow], mut random: Random| {
        while !enough.get() {
            // A new version of some neighbours, with the same amounts.
            let from = random.index(rows.len() - 50);
            let some = &mut rows[from..][..1 + random.index(50)];
            for row in &mut *some {
                row.version += 1 << 24;
                row.status = if row.status == "PENDING" { "COMPLETED" } else { "PENDING" }.to_owned();
            }
            figures.insert(&*some).await;
            // Every third refresh finds nothing new, so that the marks of the last one come to count.
            while refreshed.get() % 3 == 2 && !enough.get() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    };
    let refreshes = async {
        let mut sizes = std::collections::BTreeSet::new();
        while Instant::now() < at_least || sizes.len() < 2 {
            figures.reader.refresh().await.expect("the history can be refreshed");
            if refreshed.get() % 3 == 2 {
                tokio::time::sleep(MARKS_COUNT + Duration::from_millis(100)).await;
            }
            sizes.insert(figures.number("SELECT count() FROM stale_slots").await);
            refreshed.set(refreshed.get() + 1);
        }
        enough.set(true);
        sizes
    };
    let readers = async {
        let mut reads = 0;
        while !enough.get() {
            for view in ["daily_sales_mv", "hourly_sales_mv"] {
                let sql = format!("SELECT sum(placed) AS n, sum(total_revenue) AS r FROM {view}");
                assert_eq!(figures.query(&sql).await, truth, "{view}, read {reads}");
                reads += 1;
            }
        }
        reads
    };
    let ((), (), stale, reads) =
        tokio::join!(changes(left, Random(1)), changes(right, Random(2)), refreshes, readers);
    assert!(reads > 20 && stale.len() > 1, "{reads} reads, quarters read live: {stale:?}");
    figures.finish().await;
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
    figures.finish().await;
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

    let rows = encode(&figures.writer, &rows).await.expect("clickhouse describes the table");
    let error = figures.writer.insert_block(&rows, LIMIT).await.expect_err("clickhouse takes 100 at most");
    assert_eq!((error.kind(), error.code()), (ErrorKind::Poison, Some(252)));

    let blocks = blocks(rows, |row| row);
    assert_eq!(blocks.len(), 2);
    for block in &blocks {
        figures.writer.insert_block(block, LIMIT).await.expect("clickhouse takes a block");
    }
    assert_eq!(figures.number("SELECT count() FROM orders_analytics FINAL").await, 150);
    assert_eq!(figures.number("SELECT sum(placed) FROM daily_sales_mv").await, 150);
    figures.finish().await;
}

#[tokio::test]
async fn a_row_that_the_table_cannot_hold_is_the_rows_fault() {
    let figures = Figures::start("UTC").await;
    let mut shop = Shop::new(utc);
    figures.query("ALTER TABLE orders_analytics ADD CONSTRAINT small CHECK quantity < 100").await;
    let (good, mut bad) = (shop.place(DAY), shop.place(DAY));
    bad.quantity = 100;

    let rows = encode(&figures.writer, [&good, &bad]).await.expect("clickhouse describes the table");
    let error = figures.writer.insert_block(&rows, LIMIT).await.expect_err("100 pieces are too many");

    assert_eq!((error.kind(), error.code()), (ErrorKind::Poison, Some(469)));
    assert_eq!(
        figures.number("SELECT count() FROM orders_analytics").await,
        0,
        "a block is whole or not there"
    );
    figures.finish().await;
}

#[tokio::test]
async fn a_server_that_is_away_is_tried_again_and_a_wrong_password_is_not() {
    let figures = Figures::start("UTC").await;
    let row = Shop::new(utc).place(DAY);
    let rows = encode(&figures.writer, [&row]).await.expect("clickhouse describes the table");
    let with = |change: fn(&mut Config)| {
        let mut config = figures.config.clone();
        change(&mut config);
        Writer::new(&config).expect("the configuration can be used")
    };

    let away = with(|config| "http://127.0.0.1:9".clone_into(&mut config.clickhouse_url));
    let stranger = with(|config| config.clickhouse_password = SecretString::from("wrong"));
    let lost = with(|config| "no_such_database".clone_into(&mut config.clickhouse_database));

    for (writer, kind) in [(away, ErrorKind::Retriable), (stranger, ErrorKind::Bug), (lost, ErrorKind::Bug)] {
        let error = encode(&writer, [&row]).await.expect_err("the table cannot be read");
        assert_eq!(error.kind(), kind, "{error:?}");
        let error = writer.insert_block(&rows, LIMIT).await.expect_err("it cannot be inserted");
        assert_eq!(error.kind(), kind, "{error:?}");
    }
    figures.finish().await;
}

#[tokio::test]
async fn migrations_run_once_and_follow_the_shops_time_zone() {
    let figures = Figures::start("UTC").await;

    let again = figures.schema.apply(None).await.expect("it is safe to repeat");
    assert_eq!((again.ran.len(), again.already, again.time_zone.as_str()), (0, 7, "UTC"));

    let moved = figures.schema.apply(Some("Asia/Seoul")).await.expect("the zone exists");
    // What stands behind it may have replaced its views, as 0007 has.
    assert_eq!((moved.ran[0], moved.ran.len(), moved.already), ("0004_sales_views", 4, 3));
    let slots = figures.query(
        "SELECT as_select FROM system.tables WHERE name = 'slot_sales' AND database = currentDatabase()",
    );
    assert!(slots.await[0]["as_select"].as_str().expect("a view has a text").contains("is_canary"));
    let kept = figures.schema.apply(None).await.expect("it is safe to repeat");
    assert_eq!((kept.ran.len(), kept.time_zone.as_str()), (0, "Asia/Seoul"));
    let hour = figures.reader.columns("hourly_sales_mv").await.expect("clickhouse answers").swap_remove(0);
    assert_eq!((hour.name.as_str(), hour.data_type.as_str()), ("order_hour", "DateTime('Asia/Seoul')"));

    let error = figures.schema.apply(Some("Mars/Olympus'); DROP")).await.expect_err("no such zone");
    assert!(error.to_string().contains("IANA"), "{error}");
    figures.finish().await;
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
    figures.finish().await;
}
