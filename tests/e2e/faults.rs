//! Services and functions that go away in mid-run, and come back.

use crate::harness::{Shop, eventually, on_the_pipe};
use anyhow::ensure;
use outflow_stack::Service;
use serde_json::{Value, json};
use std::time::Duration;

/// Orders before, during and after a fault: enough to have some in every place of the pipe.
const ORDERS: usize = 30;

async fn invoke(shop: &Shop, function: &str, payload: &Value) -> anyhow::Result<(u16, Value)> {
    let url = format!("{}/2015-03-31/functions/{function}/invocations", shop.pipe.system.functions_url);
    let client = reqwest::Client::builder().timeout(Duration::from_secs(60)).build()?;
    let response = client.post(url).json(payload).send().await?;
    let status = response.status().as_u16();
    let text = response.text().await?;
    Ok((status, serde_json::from_str(&text).unwrap_or(Value::String(text))))
}

#[test]
fn mysql_down_is_a_503_and_the_function_recovers_by_itself() {
    on_the_pipe(async |shop| {
        shop.orders(ORDERS).await?;
        shop.pipe.stack.kill(Service::Mysql).await?;

        let body = json!({"userId": "u-1", "items": [{"productId": "p-001", "quantity": 1}]}).to_string();
        let (status, answer) = shop.customer.post(body).await?;
        shop.pipe.stack.start(Service::Mysql).await?;

        ensure!(status == 503, "answered {status}: {answer}");
        ensure!(answer["type"] == "urn:outflow:problem:unavailable", "{answer}");
        shop.orders(ORDERS).await?;
        shop.assert_conserved().await
    });
}

#[test]
fn kafka_down_fails_the_relay_clearly_and_the_rows_stay_until_it_is_back() {
    on_the_pipe(async |shop| {
        shop.assert_conserved().await?;
        shop.pipe.stack.kill(Service::Kafka).await?;
        shop.orders(ORDERS).await?;

        // The schedule's own tick may hold the lease; then this one has nothing to do.
        let failure = eventually("the relay fails", async || {
            let (status, answer) = invoke(shop, "outbox-relay", &json!({})).await?;
            Ok((status != 200).then_some(answer))
        })
        .await?;
        let waiting = shop.mysql("SELECT COUNT(*) FROM outbox_status WHERE processed = 0").await?;
        shop.pipe.stack.start(Service::Kafka).await?;

        let text = failure.to_string();
        ensure!(text.contains("not confirmed") && text.contains("position stays"), "{text}");
        ensure!(waiting >= i64::try_from(ORDERS * 2)?, "{waiting} rows wait");
        shop.assert_conserved().await
    });
}

#[test]
fn clickhouse_down_is_waited_out_and_nothing_is_lost() {
    on_the_pipe(async |shop| {
        shop.pipe.stack.kill(Service::Clickhouse).await?;
        shop.orders(ORDERS).await?;
        // Let the loader fail at least once.
        let log = shop.pipe.system.logs()[0].to_owned();
        eventually("the loader meets the outage", async || {
            let text = std::fs::read_to_string(&log)?;
            Ok(text.contains("clickhouse").then_some(()))
        })
        .await?;
        shop.pipe.stack.start(Service::Clickhouse).await?;

        shop.orders(ORDERS).await?;
        shop.assert_conserved().await
    });
}

#[test]
fn kafka_killed_in_mid_run_ends_with_exact_figures() {
    on_the_pipe(async |shop| {
        shop.orders(ORDERS).await?;
        shop.pipe.stack.kill(Service::Kafka).await?;
        shop.orders(ORDERS).await?;
        shop.pipe.stack.start(Service::Kafka).await?;
        shop.orders(ORDERS).await?;

        shop.assert_conserved().await
    });
}

#[test]
fn every_function_killed_in_mid_run_ends_with_exact_figures() {
    on_the_pipe(async |shop| {
        for function in ["create-order", "outbox-relay", "transform-events", "load-analytics"] {
            shop.orders(ORDERS).await?;
            let victims = eventually("the function runs", async || {
                let processes = shop.pipe.system.function_processes(function);
                Ok((!processes.is_empty()).then_some(processes))
            })
            .await?;
            for process in &victims {
                process.destroy().await?;
            }
            shop.orders(ORDERS).await?;
        }

        shop.assert_conserved().await
    });
}

#[test]
fn event_sources_killed_in_mid_run_end_with_exact_figures() {
    on_the_pipe(async |shop| {
        shop.orders(ORDERS).await?;
        shop.pipe.system.event_sources_process().destroy().await?;
        shop.pipe.system.restart_event_sources().await?;
        shop.orders(ORDERS).await?;

        shop.assert_conserved().await
    });
}
