//! `cargo xtask demo`: from nothing to sales figures that are held against MySQL.

use crate::interrupt::interrupted;
use anyhow::{Context, ensure};
use clap::{Args, ValueEnum};
use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use outflow_stack::{Existing, Settings, SystemLock, versions::FUNCTIONS_PORT};
use secrecy::ExposeSecret;
use serde::Serialize;
use serde_json::Value;
use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use time::{OffsetDateTime, format_description::BorrowedFormatItem, macros::format_description};
use tokio::sync::{Mutex, watch};
use xtask::{
    figures::number,
    load::{CUSTOMERS, Customer, Orders},
    pipe::{CHANGED_TRANSFORM, FIRST_TRANSFORM, Pipe},
    progress::Terminal,
};

/// As ClickHouse reads a DateTime64(3).
const CLICKHOUSE_TIME: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day] [hour]:[minute]:[second].[subsecond digits:3]");

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Orders to send: 4 to 1,000,000
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(4..=1_000_000))]
    orders: u64,
    /// The same seed sends the same orders
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Which services to use
    #[arg(long, value_enum, default_value_t = Services::Auto)]
    services: Services,
    /// Leave the services running
    #[arg(long)]
    keep: bool,
    /// Write the result as JSON to FILE; `-` is stdout
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Services {
    /// Those that the OUTFLOW_… variables point at, else own processes
    Auto,
    /// Own processes, whatever the environment says
    Processes,
    /// Those of docker-compose.yml, which is started first
    Compose,
}

/// The result, for machines. Times in milliseconds and seconds.
#[derive(Debug, Serialize)]
struct Outcome {
    /// Orders sent and answered with 201.
    orders: u64,
    /// Their events in the outbox.
    events: u64,
    /// Their rows in ClickHouse, as delivered: what was delivered twice counts twice until it is merged.
    rows: u64,
    /// Orders and figures compared with MySQL, over all that is stored.
    cells_checked: u64,
    cells_wrong: u64,
    /// From the order's creation to its row in ClickHouse.
    p50_ms: u64,
    p99_ms: u64,
    /// From the start of the command to the first order, compiling and installing included.
    setup_s: u64,
    /// From the first order to figures that are right.
    run_s: u64,
    orders_per_s: u64,
    /// Digests of the transforms that wrote this run's rows.
    transforms: Vec<String>,
}

pub(crate) async fn run(args: DemoArgs) -> anyhow::Result<ExitCode> {
    if let Some(file) = &args.json {
        // Told now, not when all is done.
        let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
        ensure!(
            folder.is_none_or(Path::is_dir),
            "{} has no folder: make it, or name another file",
            file.display()
        );
    }
    let mut settings = Settings::workspace()?;
    let _lock = SystemLock::acquire(&settings.state)?;
    match args.services {
        Services::Auto => {}
        Services::Processes => settings.existing = Existing::default(),
        Services::Compose => settings.existing = crate::compose::up().await?,
    }
    let progress = Terminal::new();
    let outcome = tokio::select! {
        outcome = demo(&args, settings.clone(), &progress) => outcome,
        interrupted = interrupted() => {
            interrupted?;
            eprintln!("interrupted, stopping …");
            Pipe::stop_everything(&settings).await?;
            return Ok(ExitCode::from(2));
        }
    };
    if outcome.is_err() {
        Pipe::stop_everything(&settings).await?;
    }
    let outcome = outcome?;
    if let Some(file) = &args.json {
        write_json(file, &outcome)?;
    }
    Ok(if outcome.cells_wrong == 0 { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

async fn demo(args: &DemoArgs, settings: Settings, progress: &Terminal) -> anyhow::Result<Outcome> {
    let started = Instant::now();
    let pipe = Pipe::start(settings, FUNCTIONS_PORT, progress).await?;
    progress.track("activating the first transform", pipe.outflow.switch_to(FIRST_TRANSFORM)).await?;
    let run = Run::begin(&pipe).await?;
    let setup = started.elapsed();

    let first_order = Instant::now();
    send(args, &pipe, &run, progress).await?;
    let sending = first_order.elapsed();
    let orders_total = count_in_mysql(&pipe, "SELECT COUNT(*) FROM orders").await?;
    progress
        .track("waiting for the figures", async {
            let stored = "SELECT count() AS n FROM orders_analytics FINAL";
            pipe.wait_for("ClickHouse holds every order", stored, |n| n >= orders_total).await
        })
        .await?;
    let (_, report) = progress.track("holding every figure against MySQL", pipe.outflow.verify()).await?;
    let run_time = first_order.elapsed();

    let outcome = run.outcome(args.orders, &pipe, &report, setup, sending, run_time).await?;
    ensure!(
        outcome.transforms.len() > 1,
        "the transform was changed while orders flowed, and all rows are of one: {:?}",
        outcome.transforms
    );
    print_figures(&pipe, &outcome, &report, args.keep).await?;
    progress.track("stopping", pipe.stop(args.keep)).await?;
    Ok(outcome)
}

/// What belongs to this run alone.
struct Run {
    /// ClickHouse's and MySQL's text of the moment before the first order.
    since: String,
    events_before: u64,
}

impl Run {
    async fn begin(pipe: &Pipe) -> anyhow::Result<Self> {
        let since = OffsetDateTime::now_utc().format(CLICKHOUSE_TIME).context("telling the time")?;
        let events_before = count_in_mysql(pipe, "SELECT COUNT(*) FROM outbox").await?;
        // The first order must be later than `since`, by the millisecond that both are told in.
        tokio::time::sleep(Duration::from_millis(1)).await;
        Ok(Self { since, events_before })
    }

    async fn outcome(
        &self,
        orders: u64,
        pipe: &Pipe,
        report: &Value,
        setup: Duration,
        sending: Duration,
        run: Duration,
    ) -> anyhow::Result<Outcome> {
        let since = &self.since;
        let events = count_in_mysql(pipe, "SELECT COUNT(*) FROM outbox").await? - self.events_before;
        let rows = pipe
            .query_one(&format!(
                "SELECT count() AS rows,
                     toUInt64(quantileExact(0.5)(age)) AS p50, toUInt64(quantileExact(0.99)(age)) AS p99
                 FROM (SELECT dateDiff('millisecond', order_date, loaded_at) AS age FROM orders_analytics
                       WHERE order_date >= toDateTime64('{since}', 3, 'UTC'))"
            ))
            .await?;
        let transforms = pipe
            .query(&format!(
                "SELECT DISTINCT toString(transform_digest) AS digest FROM orders_analytics FINAL
                 WHERE order_date >= toDateTime64('{since}', 3, 'UTC') ORDER BY digest"
            ))
            .await?;
        let transforms =
            transforms.iter().filter_map(|row| row["digest"].as_str().map(str::to_owned)).collect();
        let millis = u64::try_from(sending.as_millis()).unwrap_or(u64::MAX).max(1);
        Ok(Outcome {
            orders,
            events,
            rows: number(&rows, "rows")?,
            cells_checked: number(report, "checked")? + number(report, "cells_checked")?,
            cells_wrong: ["wrong", "missing", "extra", "cells_wrong"]
                .into_iter()
                .map(|key| number(report, key))
                .sum::<anyhow::Result<u64>>()?,
            p50_ms: number(&rows, "p50")?,
            p99_ms: number(&rows, "p99")?,
            setup_s: setup.as_secs(),
            run_s: run.as_secs(),
            orders_per_s: orders * 1_000 / millis,
            transforms,
        })
    }
}

/// Sends the orders, and half way changes the transform while they flow.
///
/// The last quarter waits for the change, so that both transforms have orders of this run to map.
async fn send(args: &DemoArgs, pipe: &Pipe, run: &Run, progress: &Terminal) -> anyhow::Result<()> {
    let customer = Customer::new(&pipe.system.functions_url)?;
    let orders = Arc::new(Mutex::new(Orders::new(args.seed)));
    let (taken, answered) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let (half_tx, mut half_rx) = watch::channel(false);
    let (swapped_tx, swapped_rx) = watch::channel(false);
    let bar = progress.bar("sending orders", args.orders);
    let mut customers = tokio::task::JoinSet::new();
    for _ in 0..CUSTOMERS {
        let (customer, orders, bar) = (customer.clone(), Arc::clone(&orders), bar.clone());
        let (taken, answered) = (Arc::clone(&taken), Arc::clone(&answered));
        let (half_tx, mut swapped) = (half_tx.clone(), swapped_rx.clone());
        let total = args.orders;
        customers.spawn(async move {
            loop {
                let n = taken.fetch_add(1, Ordering::Relaxed);
                if n >= total {
                    return anyhow::Ok(());
                }
                if n >= total - total / 4 {
                    swapped.wait_for(|swapped| *swapped).await.context("the transform was not changed")?;
                }
                let body = orders.lock().await.next_order();
                customer.order(&body).await?;
                bar.inc(1);
                if answered.fetch_add(1, Ordering::Relaxed) + 1 == total / 2 {
                    half_tx.send_replace(true);
                }
            }
        });
    }
    let swap = async {
        half_rx.wait_for(|half| *half).await.context("half of the orders were not taken")?;
        let before = format!(
            "SELECT count() AS n FROM orders_analytics WHERE order_date >= toDateTime64('{}', 3, 'UTC')",
            run.since
        );
        pipe.wait_for("the first transform's rows are loaded", &before, |n| n > 0).await?;
        let digest = pipe.outflow.switch_to(CHANGED_TRANSFORM).await?;
        swapped_tx.send_replace(true);
        progress_note(progress, &digest);
        anyhow::Ok(())
    };
    let all_sent = async {
        while let Some(result) = customers.join_next().await {
            result.context("a customer's task ended")?.with_context(|| {
                format!("an order was not taken; look into {}", pipe.system.logs()[0].display())
            })?;
        }
        anyhow::Ok(())
    };
    tokio::try_join!(swap, all_sent)?;
    bar.finish_and_clear();
    Ok(())
}

fn progress_note(progress: &Terminal, digest: &str) {
    use outflow_stack::Progress as _;
    progress
        .note(&format!("transform changed to {CHANGED_TRANSFORM} ({}…) while orders flow", &digest[..12]));
}

async fn count_in_mysql(pipe: &Pipe, sql: &'static str) -> anyhow::Result<u64> {
    let pool = sqlx::MySqlPool::connect(pipe.endpoints.mysql.url.expose_secret())
        .await
        .context("connecting to mysql")?;
    let count: i64 = sqlx::query_scalar(sql).fetch_one(&pool).await.context("counting in mysql")?;
    pool.close().await;
    Ok(u64::try_from(count)?)
}

async fn print_figures(pipe: &Pipe, outcome: &Outcome, report: &Value, kept: bool) -> anyhow::Result<()> {
    let today = pipe
        .query("SELECT order_count, total_revenue, avg_order_value FROM analytics.daily_sales_mv WHERE order_date = today()")
        .await?;
    let hours = pipe
        .query(
            "SELECT toHour(order_hour) AS hour, sum(order_count) AS orders, sum(total_revenue) AS revenue
             FROM analytics.hourly_sales_mv WHERE order_hour >= now() - INTERVAL 24 HOUR GROUP BY hour ORDER BY hour",
        )
        .await?;
    let cell = |row: &Value, field: &str| match &row[field] {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let mut table = Table::new();
    table.load_preset(UTF8_FULL_CONDENSED).set_header(["", "orders", "revenue", "average"]);
    for row in &today {
        table.add_row([
            "today".to_owned(),
            cell(row, "order_count"),
            cell(row, "total_revenue"),
            cell(row, "avg_order_value"),
        ]);
    }
    for row in &hours {
        table.add_row([
            format!("{:0>2}:00 UTC", cell(row, "hour")),
            cell(row, "orders"),
            cell(row, "revenue"),
            String::new(),
        ]);
    }
    eprintln!("{table}");
    let verdict = if outcome.cells_wrong == 0 { "all equal MySQL" } else { "MYSQL SAYS OTHERWISE" };
    eprintln!("{} figures checked, {} wrong: {verdict}", outcome.cells_checked, outcome.cells_wrong);
    if outcome.cells_wrong > 0 {
        eprintln!("first differences: {}", report["differences"]);
    }
    eprintln!(
        "{} orders at {}/s, {} events, {} rows by {} transforms; from order to figure {} ms (p50), {} ms (p99)",
        outcome.orders,
        outcome.orders_per_s,
        outcome.events,
        outcome.rows,
        outcome.transforms.len(),
        outcome.p50_ms,
        outcome.p99_ms
    );
    eprintln!("set up in {} s, run in {} s", outcome.setup_s, outcome.run_s);
    let [functions, event_sources] = pipe.system.logs();
    eprintln!("logs: {} {}", functions.display(), event_sources.display());
    if kept {
        eprintln!(
            "clickhouse: {} (user {}), until `cargo xtask stack down`",
            pipe.endpoints.clickhouse.url, pipe.endpoints.clickhouse.user
        );
    } else {
        eprintln!(
            "to look around: `cargo xtask watch` serves all of it with this data; `cargo xtask stack status` tells where"
        );
    }
    Ok(())
}

fn write_json(file: &Path, outcome: &Outcome) -> anyhow::Result<()> {
    let mut text = serde_json::to_string_pretty(outcome)?;
    text.push('\n');
    if file == Path::new("-") {
        print!("{text}");
        return Ok(());
    }
    std::fs::write(file, text).with_context(|| format!("could not write {}", file.display()))
}
