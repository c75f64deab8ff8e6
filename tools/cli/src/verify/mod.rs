//! `outflow verify`: MySQL's truth against ClickHouse's figures, order by order and cell by cell.
//!
//! Orders are compared as two sorted streams, so that memory does not grow with them. Cells are added up here, from
//! MySQL's orders, and held against the table and against the views that people query.
//!
//! Must not: change anything.

mod cells;
mod clock;
mod orders;
mod truth;

use crate::output::{Finding, Json};
use anyhow::{Context, ensure};
use cells::{CellDifference, CellReport};
use clock::ShopClock;
use orders::{OrderDifference, OrderReport};
use outflow_analytics::{Reader, TimeRange, Timestamp};
use outflow_store::Store;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use std::fmt;
use truth::Truth;

/// How many differences are shown and kept; the counts tell the rest.
const SHOWN: usize = 20;

/// `outflow verify`.
#[derive(Debug, clap::Args)]
pub(crate) struct VerifyArgs {
    /// Orders created at this time or later: 2026-11-23T07:00:00Z, or 2026-11-23 and 2026-11-23T07:00 in the shop's zone.
    #[arg(long, value_name = "T")]
    from: Option<String>,
    /// Orders created before this time.
    #[arg(long, value_name = "T")]
    to: Option<String>,
    #[command(flatten)]
    json: Json,
}

/// Where the services are, from the environment.
#[derive(Debug, Deserialize)]
struct Config {
    /// `OUTFLOW_DATABASE_URL`
    database_url: SecretString,
    /// `OUTFLOW_CLICKHOUSE_URL`, `_USER`, `_PASSWORD`, `_DATABASE`
    #[serde(flatten)]
    clickhouse: outflow_analytics::Config,
}

/// The result; its keys are a contract.
#[derive(Debug, Default, Serialize)]
struct Report {
    /// Orders looked at: those in MySQL and those that only ClickHouse has.
    checked: u64,
    /// Orders with another status, amount, creation time or version in ClickHouse.
    wrong: u64,
    /// Orders that ClickHouse lacks.
    missing: u64,
    /// Orders that only ClickHouse has.
    extra: u64,
    /// Cells compared, each against the table and the views that hold it.
    cells_checked: u64,
    cells_wrong: u64,
    /// In which hours and days are told.
    time_zone: String,
    /// The first ones, both sides of each.
    differences: Vec<OrderDifference>,
    /// The first ones, both sides of each.
    cell_differences: Vec<CellDifference>,
}

impl Report {
    fn new(orders: OrderReport, cells: CellReport, time_zone: String) -> Self {
        Self {
            checked: orders.checked,
            wrong: orders.wrong,
            missing: orders.missing,
            extra: orders.extra,
            cells_checked: cells.checked,
            cells_wrong: cells.wrong,
            time_zone,
            differences: orders.first,
            cell_differences: cells.first,
        }
    }

    fn finding(&self) -> Finding {
        let differences = self.wrong + self.missing + self.extra + self.cells_wrong;
        if differences == 0 { Finding::Fine } else { Finding::Wrong }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for difference in &self.differences {
            writeln!(f, "{difference}")?;
        }
        for difference in &self.cell_differences {
            writeln!(f, "{difference}")?;
        }
        writeln!(
            f,
            "orders  {} checked, {} wrong, {} missing, {} extra",
            self.checked, self.wrong, self.missing, self.extra
        )?;
        write!(f, "cells   {} checked, {} wrong ({})", self.cells_checked, self.cells_wrong, self.time_zone)
    }
}

pub(crate) async fn run(args: VerifyArgs) -> anyhow::Result<Finding> {
    let config: Config = outflow_telemetry::config::from_env()?;
    let store = Store::new(config.database_url.expose_secret())?;
    let reader = Reader::new(&config.clickhouse)?;
    let time_zone = reader.time_zone().await.with_context(|| {
        format!(
            "ClickHouse at {} was not asked: `cargo xtask stack status` tells what runs",
            config.clickhouse.clickhouse_url
        )
    })?;
    let clock = ShopClock::new(&time_zone)?;
    let range = Range::new(args.from.as_deref(), args.to.as_deref(), &clock)?;

    let mut truth = Truth::open(store.pool(), range.asked);
    let mut stored = reader.orders(range.all)?;
    let mut cells = cells::Tally::new(range.all, clock);
    let orders = orders::compare(&mut truth, &mut stored, |order| cells.add(order))
        .await
        .context("the orders were not compared: `cargo xtask stack status` tells what runs")?;
    let cells = cells.compare(&reader).await?;

    let report = Report::new(orders, cells, time_zone);
    args.json.report(&report, &report)?;
    Ok(report.finding())
}

/// The orders to look at.
#[derive(Clone, Copy, Debug)]
struct Range {
    /// None where nothing bounds it: MySQL then walks its key without looking at times.
    asked: Option<TimeRange>,
    /// The same with bounds that hold every order ClickHouse can have.
    all: TimeRange,
}

impl Range {
    fn new(from: Option<&str>, to: Option<&str>, clock: &ShopClock) -> anyhow::Result<Self> {
        let everything: TimeRange = TimeRange {
            from: "2000-01-01 00:00:00.000".parse().expect("it is a time"),
            to: "2100-01-01 00:00:00.000".parse().expect("it is a time"),
        };
        let bound = |name: &str, text: Option<&str>, unbounded: Timestamp| match text {
            Some(text) => clock.parse(text).with_context(|| format!("--{name} {text:?} is no time")),
            None => Ok(unbounded),
        };
        let all =
            TimeRange { from: bound("from", from, everything.from)?, to: bound("to", to, everything.to)? };
        ensure!(all.from < all.to, "--from must be before --to");
        Ok(Self { asked: (from.is_some() || to.is_some()).then_some(all), all })
    }
}
