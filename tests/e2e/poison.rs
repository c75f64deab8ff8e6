//! Records that cannot be processed go aside with their reason, and their neighbours go on.

use crate::harness::{Shop, eventually, on_the_pipe};
use anyhow::{Context, ensure};
use outflow_broker::{Producer, Record, topics};
use rdkafka::{
    ClientConfig, Message,
    consumer::{Consumer, StreamConsumer},
    message::Headers,
};
use std::{collections::HashMap, time::Duration};
use uuid::Uuid;

const TIMEOUT: Duration = Duration::from_secs(20);

fn event_headers(order: &str) -> Vec<(String, Vec<u8>)> {
    let header = |name: &str, value: &str| (name.to_owned(), value.as_bytes().to_vec());
    vec![
        header("eventType", "OrderCreated"),
        header("aggregateType", "Order"),
        header("aggregateVersion", "1"),
        header("ce_id", &Uuid::now_v7().to_string()),
        header("ce_type", "OrderCreated"),
        header("ce_source", order),
        header("ce_time", "2026-11-23T07:11:32.123Z"),
        header("ce_specversion", "1.0"),
    ]
}

/// Sends a record that must fail, and returns what the dead-letter topic holds for its key: payload and headers.
async fn dead_letter(
    shop: &Shop,
    topic: &str,
    payload: &[u8],
    with_headers: bool,
) -> anyhow::Result<(Vec<u8>, HashMap<String, String>)> {
    let brokers = &shop.pipe.endpoints.kafka.brokers;
    let key = Uuid::now_v7().to_string();
    let headers = if with_headers { event_headers(&key) } else { Vec::new() };
    let record = Record {
        topic: topic.to_owned(),
        key: Some(key.clone().into_bytes()),
        payload: Some(payload.to_vec()),
        headers,
    };
    let sent = Producer::connect(brokers, TIMEOUT)?.send_all(vec![record]).await;
    sent.into_iter().collect::<Result<Vec<_>, _>>()?;

    let reader: StreamConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", Uuid::now_v7().to_string())
        .set("auto.offset.reset", "earliest")
        .create()?;
    reader.subscribe(&[&topics::dead_letters(topic)])?;
    eventually("the record is in the dead-letter topic", async || {
        let record = tokio::time::timeout(TIMEOUT, reader.recv()).await.context("no dead letter comes")??;
        if record.key() != Some(key.as_bytes()) {
            return Ok(None);
        }
        let headers = record.headers().context("a dead letter has headers")?;
        let text = |value: Option<&[u8]>| String::from_utf8_lossy(value.unwrap_or_default()).into_owned();
        let headers = headers.iter().map(|header| (header.key.to_owned(), text(header.value))).collect();
        Ok(Some((record.payload().unwrap_or_default().to_vec(), headers)))
    })
    .await
}

#[test]
fn an_event_that_is_not_json_goes_to_the_dead_letters_and_its_neighbours_go_on() {
    on_the_pipe(async |shop| {
        shop.orders(5).await?;
        let (payload, headers) = dead_letter(shop, topics::ORDER_EVENTS, b"not json", true).await?;
        shop.orders(5).await?;

        ensure!(payload == b"not json", "the original value is kept");
        ensure!(headers["eventType"] == "OrderCreated", "the original headers are kept: {headers:?}");
        ensure!(!headers["outflow-reason"].is_empty() && !headers["outflow-code"].is_empty(), "{headers:?}");
        ensure!(headers["outflow-topic"] == topics::ORDER_EVENTS, "{headers:?}");
        shop.assert_conserved().await
    });
}

#[test]
fn an_event_that_the_module_rejects_goes_to_the_dead_letters_with_its_reason() {
    on_the_pipe(async |shop| {
        let (_, headers) =
            dead_letter(shop, topics::ORDER_EVENTS, br#"{"orderId": "no uuid"}"#, true).await?;

        ensure!(!headers["outflow-reason"].is_empty(), "{headers:?}");
        ensure!(headers["outflow-transform-digest"].len() == 64, "{headers:?}");
        shop.assert_conserved().await
    });
}

#[test]
fn an_event_without_headers_goes_to_the_dead_letters() {
    on_the_pipe(async |shop| {
        let (_, headers) = dead_letter(shop, topics::ORDER_EVENTS, b"{}", false).await?;

        ensure!(!headers["outflow-reason"].is_empty(), "{headers:?}");
        shop.assert_conserved().await
    });
}

#[test]
fn a_row_that_does_not_fit_the_table_goes_to_the_dead_letters() {
    on_the_pipe(async |shop| {
        shop.orders(5).await?;
        let (_, headers) = dead_letter(shop, topics::ORDERS_ANALYTICS, br#"{"order_id": 7}"#, true).await?;
        shop.orders(5).await?;

        ensure!(headers["outflow-stage"] == "load", "{headers:?}");
        ensure!(!headers["outflow-reason"].is_empty(), "{headers:?}");
        shop.assert_conserved().await
    });
}
