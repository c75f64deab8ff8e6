//! `load-analytics` itself, called as Lambda calls it: whichever table a batch is for, only a row at fault is left out.

use super::{DAY, DAY_MS, LIMIT, figures::Figures, orders::Shop, utc};
use outflow_broker::{Record, topics};
use outflow_stack::workspace_root;
use outflow_tests::{Function, kafka_event, services};
use rdkafka::{
    ClientConfig, Message,
    consumer::{Consumer, StreamConsumer},
    message::Headers,
};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use uuid::Uuid;

/// The function beside a database of its own. Kafka, for its dead letters, is everybody's.
pub(super) struct Loader {
    pub(super) figures: Figures,
    function: Function,
    brokers: String,
}

impl Loader {
    pub(super) async fn start() -> Self {
        let figures = Figures::start("UTC").await;
        let brokers = services().kafka.brokers;
        topics::ensure(&brokers, &topics::all()).await.expect("kafka makes the topics");
        let env = [&[("OUTFLOW_KAFKA_BROKERS", brokers.as_str())][..], &figures.env()].concat();
        let function = Function::start("load-analytics", &env).await.expect("the function compiles");
        Self { figures, function, brokers }
    }

    /// Loads a batch of rows by topic.
    ///
    /// # Errors
    /// What the function says where the whole batch is to be delivered again.
    pub(super) async fn load(&self, rows: &[(&str, Vec<Vec<u8>>)]) -> Result<(), Value> {
        let record = |topic: &str, (number, row): (usize, &Vec<u8>)| Record {
            topic: topic.to_owned(),
            key: Some(number.to_string().into_bytes()),
            payload: Some(row.clone()),
            headers: Vec::new(),
        };
        let records =
            rows.iter().flat_map(|(topic, rows)| rows.iter().enumerate().map(|row| record(topic, row)));
        let answer = self.function.invoke(kafka_event(records)).await?;
        assert_eq!(answer, json!({"batchItemFailures": []}));
        Ok(())
    }

    /// The dead letters of a topic whose value tells of one of these ids: reason and code by id.
    async fn dead_letters(&self, topic: &str, ids: &[Uuid]) -> BTreeMap<Uuid, (String, String)> {
        let reader: StreamConsumer = ClientConfig::new()
            .set("bootstrap.servers", &self.brokers)
            .set("group.id", Uuid::now_v7().to_string())
            .set("auto.offset.reset", "earliest")
            .create()
            .expect("the settings are known");
        reader.subscribe(&[&topics::dead_letters(topic)]).expect("the topic has a name");
        let mut found = BTreeMap::new();
        while found.len() < ids.len() {
            let record = tokio::time::timeout(LIMIT, reader.recv()).await.expect("a dead letter comes");
            let record = record.expect("kafka answers");
            let value = String::from_utf8_lossy(record.payload().unwrap_or_default()).into_owned();
            let Some(id) = ids.iter().find(|id| value.contains(&id.to_string())) else { continue };
            let headers = record.headers().expect("a dead letter has headers");
            let header = |name: &str| {
                let header = headers.iter().find(|header| header.key == name).expect(name);
                String::from_utf8_lossy(header.value.unwrap_or_default()).into_owned()
            };
            assert!(
                found.insert(*id, (header("outflow-reason"), header("outflow-code"))).is_none(),
                "{id} came twice"
            );
        }
        found
    }
}

/// Rows that the guests make of their fixtures, as the host writes them: by table.
fn rows_of_the_guests() -> BTreeMap<String, Vec<Vec<u8>>> {
    let mut rows: BTreeMap<String, Vec<Vec<u8>>> = BTreeMap::new();
    for guest in ["order-analytics", "order-items-analytics", "inventory-analytics"] {
        let path = workspace_root().join(format!("transforms/{guest}/fixtures/outcomes.jsonl"));
        let text = std::fs::read_to_string(&path).expect("a guest has fixtures");
        for line in text.lines() {
            let outcome: Value = serde_json::from_str(line).expect("fixtures are JSON lines");
            for made in outcome["rows"].as_array().into_iter().flatten() {
                let mut row = made["row"].clone();
                for (column, value) in [
                    ("version", json!(16_777_217)),
                    ("is_deleted", json!(0)),
                    ("event_id", json!(Uuid::now_v7())),
                    ("transform_digest", json!("d1")),
                    ("occurred_at", json!("2026-11-23 07:11:32.123")),
                    ("relayed_at", json!("2026-11-23 07:11:35.001")),
                    ("transformed_at", json!("2026-11-23 07:11:35.040")),
                    ("is_canary", json!(0)),
                ] {
                    row[column] = value;
                }
                let table = made["table"].as_str().expect("a row has a table").to_owned();
                rows.entry(table).or_default().push(row.to_string().into_bytes());
            }
        }
    }
    rows
}

#[tokio::test]
async fn rows_of_three_tables_in_one_batch_go_each_into_its_own() {
    let loader = Loader::start().await;
    let rows = rows_of_the_guests();
    assert_eq!(
        rows.keys().collect::<Vec<_>>(),
        ["inventory_analytics", "order_items_analytics", "orders_analytics"]
    );
    let batch: Vec<_> = rows.iter().map(|(table, rows)| (table.as_str(), rows.clone())).collect();

    loader.load(&batch).await.expect("all of it can be loaded");
    // Delivered again, as Kafka may.
    loader.load(&batch).await.expect("all of it can be loaded");

    for (table, rows) in &rows {
        let wanted: Vec<Value> = rows.iter().map(|row| serde_json::from_slice(row).expect("JSON")).collect();
        let columns: Vec<_> = wanted[0].as_object().expect("an object").keys().map(String::as_str).collect();
        let found = loader.figures.query(&format!("SELECT {} FROM {table} FINAL", columns.join(", "))).await;
        let sorted = |rows: Vec<Value>| {
            let mut rows: Vec<String> = rows.iter().map(as_clickhouse_prints).collect();
            rows.sort();
            rows
        };
        assert_eq!(sorted(found), sorted(wanted), "{table}");
    }
    loader.figures.finish().await;
}

/// 64-bit numbers are quoted when asked for, and a decimal's last zeros say nothing.
fn as_clickhouse_prints(row: &Value) -> String {
    let cells = row.as_object().expect("an object").iter().map(|(column, value)| {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let is_amount = ["total_amount", "unit_price", "line_total"].contains(&column.as_str());
        let text = match text.split_once('.') {
            Some(_) if is_amount => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
            _ => text,
        };
        format!("{column}={text}")
    });
    cells.collect::<Vec<_>>().join(" ")
}

#[tokio::test]
async fn rows_at_fault_among_five_thousand_go_alone_and_each_with_its_reason() {
    let loader = Loader::start().await;
    // Known to the table alone: the loader learns of it by a refusal.
    loader.figures.query("ALTER TABLE orders_analytics ADD CONSTRAINT small CHECK quantity < 100").await;
    let mut shop = Shop::new(utc);
    let mut orders: Vec<_> = (0..5_000).map(|n| shop.place(DAY + n * 60_000)).collect();
    orders[3_333].quantity = 100;
    let mut rows: Vec<_> = orders.iter().map(|row| row.json()).collect();
    let mut change = |at: usize, column: &str, value: Value| {
        let mut row: Value = serde_json::from_slice(&rows[at]).expect("it is JSON");
        row[column] = value;
        rows[at] = row.to_string().into_bytes();
    };
    change(0, "quantity", json!("5"));
    change(1_234, "colour", json!("red"));
    change(4_999, "total_amount", json!("1.005"));
    let bad = [0, 1_234, 3_333, 4_999].map(|at: usize| orders[at].order_id);

    loader.load(&[("orders_analytics", rows)]).await.expect("the batch is done with");

    assert_eq!(loader.figures.number("SELECT count() FROM orders_analytics").await, 4_996);
    let letters = loader.dead_letters("orders_analytics", &bad).await;
    let told: Vec<_> = bad.iter().map(|id| (letters[id].1.as_str(), letters[id].0.as_str())).collect();
    for ((code, reason), (wanted, part)) in told.iter().zip([
        ("cell_kind", "orders_analytics.quantity does not fit: a string where UInt32 is wanted"),
        ("unknown_column", "orders_analytics.colour is not for a row to fill"),
        ("clickhouse_469", "small"),
        ("cell_form", "orders_analytics.total_amount does not fit: \"1.005\" is no Decimal(18, 2)"),
    ]) {
        assert!(*code == wanted && reason.contains(part), "{code}: {reason}");
    }
    loader.figures.finish().await;
}

#[tokio::test]
async fn a_batch_over_a_hundred_and_one_months_is_loaded_whole() {
    let loader = Loader::start().await;
    let mut shop = Shop::new(utc);
    let rows = (0..3 * 101).map(|n| shop.place(DAY - (n % 101) * 31 * DAY_MS).json()).collect();

    loader.load(&[("orders_analytics", rows)]).await.expect("the batch is done with");

    let months = "SELECT uniqExact(toYYYYMM(order_date)) FROM orders_analytics FINAL";
    assert_eq!(loader.figures.number(months).await, 101);
    assert_eq!(loader.figures.number("SELECT count() FROM orders_analytics FINAL").await, 303);
    // Nobody had to find out by refusals, which would have cut months up: each was inserted once.
    let parts = "SELECT count() FROM system.parts WHERE database = currentDatabase() \
                 AND table = 'orders_analytics' AND min_block_number = max_block_number AND active";
    assert_eq!(loader.figures.number(parts).await, 101);
    loader.figures.finish().await;
}

#[tokio::test]
async fn a_topic_without_a_table_is_nobodys_fault_but_the_set_ups() {
    let loader = Loader::start().await;

    let error = loader.load(&[("no_such_table", vec![b"{}".to_vec()])]).await.expect_err("there is no table");

    let text = error["errorMessage"].as_str().expect("an error has a message");
    assert!(error["errorType"] == "Bug" && text.contains("no_such_table"), "{error}");
    loader.figures.finish().await;
}
