//! `outflow transform activate` and the live table: what it adds after a yes, and what it refuses.

use super::Workbench;
use crate::analytics::figures::Figures;
use nix::pty::{OpenptyResult, openpty};
use outflow_analytics::{Amount, Timestamp};
use outflow_tests::OrderRow;
use serde_json::{Value, json};
use std::{fs, io::Write};
use tokio::process::Command;
use xtask::pipe::Called;

const GUEST: &str = "order-analytics";
const TABLE: &str = "orders_analytics";

/// A published module beside a database of its own.
struct Live {
    figures: Figures,
    bench: Workbench,
    digest: String,
}

impl Live {
    async fn start() -> Self {
        let figures = Figures::start("UTC").await;
        let bench = Workbench::beside(&figures.env()).await;
        let digest = bench.outflow.publish(GUEST).await.unwrap();
        Self { figures, bench, digest }
    }

    async fn alter(&self, change: &str) {
        self.figures.query(&format!("ALTER TABLE {TABLE} {change} SETTINGS mutations_sync = 2")).await;
    }

    /// Name, type and kind of default of each column.
    async fn columns(&self) -> Vec<Value> {
        let sql = "SELECT name, type, default_kind FROM system.columns
                   WHERE database = currentDatabase() AND table = 'orders_analytics' ORDER BY position";
        self.figures.query(sql).await
    }

    async fn activate(&self, more: &[&str]) -> Called {
        self.bench.call(&[&["activate", &self.digest], more].concat()).await
    }

    /// As [`Live::activate`], by somebody who sits at a terminal.
    async fn answer(&self, answer: &str) -> Called {
        let OpenptyResult { master, slave } = openpty(None, None).unwrap();
        let mut terminal = fs::File::from(master);
        writeln!(terminal, "{answer}").unwrap();
        let outflow = &self.bench.outflow;
        let mut command = Command::new(outflow.program());
        command.args(["transform", "activate", &self.digest]).envs(outflow.env()).stdin(slave);
        let output = command.kill_on_drop(true).output().await.unwrap();
        let [stdout, stderr] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
        Called { code: output.status.code().unwrap(), stdout, stderr }
    }

    /// It exits with 1, says why, and neither the table nor the registry has changed.
    async fn refused(&self, because: &str, activate: impl AsyncFnOnce() -> Called) {
        let before = self.columns().await;
        let called = activate().await;
        assert_eq!((called.code, called.stdout.as_str()), (1, ""), "{called:?}");
        assert!(called.stderr.contains(because), "{called:?}");
        assert_eq!(self.columns().await, before);
        assert!(!self.bench.registry("pointers").exists());
    }
}

#[tokio::test]
async fn a_column_is_added_after_a_yes_alone() {
    let live = Live::start().await;
    let stored = OrderRow::new(Timestamp::from_millis(1_793_491_200_000), Amount::from_cents(500));
    live.figures.insert([&stored]).await;
    live.alter("DROP COLUMN order_band").await;
    let lacking = "orders_analytics.order_band LowCardinality(String)";

    live.refused(lacking, async || live.activate(&[]).await).await;
    live.refused("Nobody can be asked here: --yes says yes", async || live.activate(&[]).await).await;
    for no in ["n", "", "yesterday"] {
        live.refused("[y/N] outflow: nothing was changed", async || live.answer(no).await).await;
    }

    let added = live.bench.json(0, &["activate", &live.digest, "--yes"]).await;
    assert_eq!(added["added_columns"], json!(["orders_analytics.order_band"]));
    assert_eq!(added["generation"], 1);
    let column = json!({"name": "order_band", "type": "LowCardinality(String)", "default_kind": "DEFAULT"});
    assert_eq!(live.columns().await.last(), Some(&column));
    let row = live.figures.query("SELECT toString(order_id) AS id, order_band FROM orders_analytics").await;
    assert_eq!(
        row,
        [json!({"id": stored.order_id, "order_band": ""})],
        "rows that are there have its default"
    );

    let again = live.bench.json(0, &["activate", &live.digest]).await;
    assert_eq!((&again["generation"], again.get("added_columns")), (&json!(2), None));
    live.alter("DROP COLUMN order_band").await;
    let said = live.answer("y").await;
    assert_eq!(said.code, 0, "{said:?}");
    assert_eq!(live.columns().await.last(), Some(&column));
    live.figures.finish().await;
}

#[tokio::test]
async fn a_module_that_can_not_be_activated_adds_nothing() {
    let live = Live::start().await;
    live.alter("DROP COLUMN order_band").await;
    // Of each machine that a function may run on.
    let machines: Vec<_> = fs::read_dir(live.bench.registry("artifacts")).unwrap().collect();
    assert!(machines.len() > 1);
    for machine in machines {
        let code = machine.unwrap().path().join(format!("{}.metered.cwasm", live.digest));
        let whole = fs::read(&code).unwrap();
        fs::write(&code, "torn").unwrap();
        live.refused("damaged", async || live.activate(&["--yes"]).await).await;
        fs::write(&code, whole).unwrap();
    }
    live.figures.finish().await;
}

#[tokio::test]
async fn a_table_that_can_not_be_mended_by_adding_is_refused_and_nothing_is_added() {
    let live = Live::start().await;
    live.alter("DROP COLUMN order_band").await;
    live.alter("MODIFY COLUMN quantity UInt64").await;
    let retyped = "orders_analytics.quantity: the module says UInt32, the table UInt64";
    live.refused(retyped, async || live.activate(&["--yes"]).await).await;

    live.alter("MODIFY COLUMN quantity UInt32").await;
    live.alter("ADD COLUMN channel String").await;
    let unfilled = "orders_analytics.channel String: the module does not fill it";
    live.refused(unfilled, async || live.activate(&["--yes"]).await).await;

    // One that has a default may be left out.
    live.alter("MODIFY COLUMN channel String DEFAULT 'shop'").await;
    let added = live.bench.json(0, &["activate", &live.digest, "--yes"]).await;
    assert_eq!(added["added_columns"], json!(["orders_analytics.order_band"]));
    live.figures.finish().await;
}

/// The record is signed by nobody; its types would stand in SQL.
#[tokio::test]
async fn a_forged_record_of_a_module_adds_nothing_and_drops_nothing() {
    let live = Live::start().await;
    let path = live.bench.registry(&format!("modules/{}.json", live.digest));
    let mut record: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let columns = record["tables"][0]["columns"].as_array_mut().unwrap();
    columns.push(json!(["extra", "String, DROP COLUMN order_band, ADD COLUMN z UInt8"]));
    fs::write(&path, record.to_string()).unwrap();

    let forged = "is not what the module says of itself";
    live.refused(forged, async || live.activate(&["--yes"]).await).await;
    live.figures.finish().await;
}
