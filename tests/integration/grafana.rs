//! Runs the SQL of every ClickHouse panel on the real engine, as the reader that Grafana is, and holds each figure
//! against known orders.
//!
//! The macros are expanded here as grafana-clickhouse-datasource 4.x expands them in its back end.

use anyhow::{Context, ensure};
use outflow_analytics::{Amount, Config, Schema, Timestamp, Writer};
use outflow_stack::{Clickhouse, workspace_root};
use outflow_tests::{OrderRow, order_row, services};
use rust_decimal::Decimal;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use std::{collections::BTreeMap, time::Duration};
use time::{OffsetDateTime, macros::datetime};
use uuid::Uuid;

/// The range that the dashboard shows in this test. It begins and ends within an hour, as a range does.
const FROM: OffsetDateTime = datetime!(2026-03-01 10:20:00 UTC);
const TO: OffsetDateTime = datetime!(2026-03-01 13:10:00 UTC);
/// What the plugin asks for with each query: the data source's queryTimeout and five seconds.
const MAX_EXECUTION_TIME: &str = "35";

/// A panel's answer: a name and a type for each column, then the rows as text.
struct Answer {
    names: Vec<String>,
    types: Vec<String>,
    rows: Vec<Vec<String>>,
}

struct Panel {
    title: String,
    sql: String,
}

fn panels() -> anyhow::Result<Vec<Panel>> {
    let mut panels = Vec::new();
    for file in std::fs::read_dir(workspace_root().join("grafana/dashboards"))? {
        let text = std::fs::read_to_string(file?.path())?;
        let dashboard: Value = serde_json::from_str(&text)?;
        for panel in dashboard["panels"].as_array().context("a dashboard has panels")? {
            for target in panel["targets"].as_array().context("a panel has targets")? {
                if target["datasource"]["type"] == "grafana-clickhouse-datasource" {
                    let sql =
                        target["rawSql"].as_str().context("a ClickHouse target has its SQL")?.to_owned();
                    panels.push(Panel { title: panel["title"].as_str().unwrap_or_default().to_owned(), sql });
                }
            }
        }
    }
    Ok(panels)
}

/// `$__fromTime`, `$__toTime` and `$__timeFilter(column)`, the ones that our panels may use.
fn expand(sql: &str) -> anyhow::Result<String> {
    let (from, to) =
        (format!("toDateTime({})", FROM.unix_timestamp()), format!("toDateTime({})", TO.unix_timestamp()));
    let mut expanded = sql.to_owned();
    while let Some((before, rest)) = expanded.split_once("$__timeFilter(") {
        let (column, after) = rest.split_once(')').context("$__timeFilter has a column")?;
        expanded = format!("{before}{column} >= {from} AND {column} <= {to}{after}");
    }
    let expanded = expanded.replace("$__fromTime", &from).replace("$__toTime", &to);
    ensure!(!expanded.contains("$__"), "this test knows no such macro: {expanded}");
    Ok(expanded)
}

/// One request as the data source makes it.
async fn ask(clickhouse: &Clickhouse, sql: &str) -> anyhow::Result<Answer> {
    let writer = || (clickhouse.user.clone(), clickhouse.password.clone());
    ask_as(clickhouse, clickhouse.reader.clone().unwrap_or_else(writer), sql).await
}

async fn ask_as(
    clickhouse: &Clickhouse,
    (user, password): (String, SecretString),
    sql: &str,
) -> anyhow::Result<Answer> {
    let response = reqwest::Client::new()
        .post(&clickhouse.url)
        .query(&[
            ("default_format", "TabSeparatedWithNamesAndTypes"),
            ("max_execution_time", MAX_EXECUTION_TIME),
        ])
        .header("X-ClickHouse-User", user)
        .header("X-ClickHouse-Key", password.expose_secret())
        .body(sql.to_owned())
        .send()
        .await?;
    let status = response.status();
    let text = response.text().await?;
    ensure!(status.is_success(), "{status}: {text}");
    let mut lines = text.lines().map(|line| line.split('\t').map(str::to_owned).collect::<Vec<_>>());
    let (names, types) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    Ok(Answer { names, types, rows: lines.collect() })
}

fn row(created: OffsetDateTime, status: &str, cents: i64) -> OrderRow {
    let mut row = OrderRow::new(Timestamp::from(created), Amount::from_cents(cents));
    row.status = status.to_owned();
    row
}

/// The same order one version later.
fn later(row: &OrderRow, change: impl FnOnce(&mut OrderRow)) -> OrderRow {
    let mut later = row.clone();
    later.version += 1 << 24;
    later.event_id = Uuid::now_v7();
    change(&mut later);
    later
}

/// Orders whose figures can be told in the head, with what Kafka does to them: again, and out of order.
fn known_orders() -> Vec<OrderRow> {
    // Before the range, but in its first hour, which is shown whole.
    let early = row(datetime!(2026-03-01 10:05:00 UTC), "PENDING", 1999);
    let completed = later(&early, |row| row.status = "COMPLETED".to_owned());
    let small = row(datetime!(2026-03-01 10:30:00.001 UTC), "PENDING", 1);
    let cancelled = row(datetime!(2026-03-01 10:59:59.999 UTC), "CANCELLED", 10_000);
    // An hour in which nothing counts.
    let all_gone = row(datetime!(2026-03-01 11:00:00 UTC), "CANCELLED", 500);
    let one = row(datetime!(2026-03-01 12:00:00 UTC), "PENDING", 1);
    let two = row(datetime!(2026-03-01 12:59:59.999 UTC), "PENDING", 2);
    let mistaken = row(datetime!(2026-03-01 12:30:00 UTC), "PENDING", 77_700);
    let taken_back = later(&mistaken, |row| row.is_deleted = 1);
    let last = row(datetime!(2026-03-01 13:09:00 UTC), "COMPLETED", 9_000_000_000_000_007);
    let outside = [
        row(datetime!(2026-03-01 09:59:59.999 UTC), "PENDING", 300),
        row(TO + Duration::from_secs(3000), "PENDING", 400),
    ];
    let mut rows = vec![completed.clone(), early, small, cancelled.clone(), all_gone, one, two.clone()];
    rows.extend([taken_back, mistaken, last, two, cancelled, completed]);
    rows.extend(outside);
    rows
}

fn money(answer: &Answer, column: &str) -> anyhow::Result<Vec<Option<Decimal>>> {
    let index =
        answer.names.iter().position(|name| name == column).with_context(|| format!("no column {column}"))?;
    ensure!(answer.types[index].contains("Decimal"), "{column} is {}, not a decimal", answer.types[index]);
    let value = |row: &Vec<String>| (row[index] != "\\N").then(|| row[index].parse()).transpose();
    Ok(answer.rows.iter().map(value).collect::<Result<_, _>>()?)
}

fn texts(answer: &Answer, column: usize) -> Vec<&str> {
    answer.rows.iter().map(|row| row[column].as_str()).collect()
}

fn decimals<const N: usize>(values: [Option<&str>; N]) -> Vec<Option<Decimal>> {
    values.map(|value| value.map(|value| value.parse().expect("a decimal in this test"))).to_vec()
}

const HOURS: [&str; 4] =
    ["2026-03-01 10:00:00", "2026-03-01 11:00:00", "2026-03-01 12:00:00", "2026-03-01 13:00:00"];

fn check(panel: &Panel, answer: &Answer) -> anyhow::Result<()> {
    let hourly = || -> anyhow::Result<()> {
        ensure!(answer.names[0] == "time" && answer.types[0].starts_with("DateTime"), "{:?}", answer.names);
        ensure!(texts(answer, 0) == HOURS, "{:?}", answer.rows);
        Ok(())
    };
    match panel.title.as_str() {
        "Revenue by hour" => {
            hourly()?;
            let wanted = decimals([Some("20.00"), Some("0"), Some("0.03"), Some("90000000000000.07")]);
            ensure!(money(answer, "Revenue")? == wanted, "{:?}", answer.rows);
        }
        "Average order value" => {
            hourly()?;
            let wanted = decimals([Some("10.00"), None, Some("0.02"), Some("90000000000000.07")]);
            ensure!(money(answer, "Average order value")? == wanted, "{:?}", answer.rows);
        }
        "Orders by status" => {
            ensure!(answer.names == ["Status", "Orders"], "{:?}", answer.names);
            ensure!(texts(answer, 0) == ["CANCELLED", "COMPLETED", "PENDING"], "{:?}", answer.rows);
            ensure!(texts(answer, 1) == ["2", "2", "3"], "{:?}", answer.rows);
        }
        // Nothing was sold today yet: zeros, not an empty panel.
        "Orders and revenue today" => check_today(answer, "0", "0")?,
        other => anyhow::bail!("the panel «{other}» has no figures to be held against: give it some here"),
    }
    Ok(())
}

fn check_today(answer: &Answer, orders: &str, revenue: &str) -> anyhow::Result<()> {
    ensure!(answer.names == ["Orders", "Revenue"] && answer.rows.len() == 1, "{:?}", answer.rows);
    ensure!(answer.rows[0][0] == orders, "{:?}", answer.rows);
    ensure!(money(answer, "Revenue")? == decimals([Some(revenue)]), "{:?}", answer.rows);
    Ok(())
}

async fn run(clickhouse: &Clickhouse) -> anyhow::Result<()> {
    // A database of its own, so that the figures are this test's alone.
    let database = format!("grafana_{}", Uuid::now_v7().simple());
    let config = Config {
        clickhouse_url: clickhouse.url.clone(),
        clickhouse_user: clickhouse.user.clone(),
        clickhouse_password: SecretString::from(clickhouse.password.expose_secret()),
        clickhouse_database: database.clone(),
    };
    Schema::new(&config)?.apply(None).await?;
    let writer = Writer::new(&config)?;
    // Each row a block of its own, as if the loader had been given them one by one.
    for row in &known_orders() {
        order_row::insert(&writer, [row]).await;
    }
    let own_database = |sql: &str| sql.replace("analytics.", &format!("{database}."));
    let panels = panels()?;
    ensure!(panels.len() >= 4, "only {} panels were found", panels.len());
    let mut statements = BTreeMap::new();
    for panel in &panels {
        let sql = own_database(&expand(&panel.sql)?);
        let answer = ask(clickhouse, &sql).await.with_context(|| format!("«{}»: {sql}", panel.title))?;
        check(panel, &answer).with_context(|| format!("«{}»: {sql}", panel.title))?;
        statements.insert(panel.title.as_str(), sql);
    }

    let sql = &statements["Orders and revenue today"];
    loop {
        let now = OffsetDateTime::now_utc();
        let mut sold = [row(now, "PENDING", 1234), row(now, "COMPLETED", 1), row(now, "CANCELLED", 5000)];
        order_row::insert(&writer, &sold).await;
        let answer = ask(clickhouse, sql).await?;
        // Midnight between the orders and the question makes them yesterday's: ask again then.
        if OffsetDateTime::now_utc().date() == now.date() {
            check_today(&answer, "2", "12.35")?;
            break;
        }
        sold.iter_mut().for_each(|row| row.is_deleted = 1);
        order_row::insert(&writer, &sold).await;
    }

    if clickhouse.reader.is_some() {
        for statement in
            ["DROP TABLE orders_analytics", "INSERT INTO orders_analytics (user_id) VALUES ('x')"]
        {
            let refused =
                ask(clickhouse, &own_database(&statement.replace("orders_a", "analytics.orders_a"))).await;
            let error = refused.err().with_context(|| format!("the reader may: {statement}"))?;
            ensure!(format!("{error}").contains("READONLY"), "{statement}: {error}");
        }
    }
    let drop = format!("DROP DATABASE {database}");
    ask_as(clickhouse, (clickhouse.user.clone(), clickhouse.password.clone()), &drop).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_panel_shows_the_right_figures() -> anyhow::Result<()> {
    run(&services().clickhouse).await
}

#[test]
fn macros_become_what_the_plugin_makes_of_them() -> anyhow::Result<()> {
    let expanded = expand("$__timeFilter(order_hour) AND x < $__toTime AND y > $__fromTime")?;
    let (from, to) = (FROM.unix_timestamp(), TO.unix_timestamp());
    ensure!(
        expanded
            == format!(
                "order_hour >= toDateTime({from}) AND order_hour <= toDateTime({to}) \
                 AND x < toDateTime({to}) AND y > toDateTime({from})"
            )
    );
    ensure!(expand("$__timeInterval(order_hour)").is_err());
    Ok(())
}
