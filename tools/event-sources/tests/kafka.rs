//! Kafka event source mappings against a real broker.

mod support;

use serde_json::{Value, json};
use std::{
    sync::Arc,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::{Duration, Instant},
};
use support::{Broker, Functions, Reply, fresh_name, group, mapping, options, records, resume_at, until};

fn values(range: std::ops::Range<usize>) -> impl Iterator<Item = String> {
    range.map(|number| format!("v{number}"))
}

/// The offsets of one partition in the order of their delivery.
fn delivered(functions: &Functions, partition: i64) -> Vec<i64> {
    let all = functions.batches().into_iter().flatten();
    all.filter(|(p, _)| *p == partition).map(|(_, offset)| offset).collect()
}

async fn until_committed(broker: &Broker, topic: &str, expected: &[(i32, i64)]) {
    until("the offsets are committed", async || {
        let committed = broker.committed(&group(topic), topic).await;
        (committed.into_iter().collect::<Vec<_>>() == expected).then_some(())
    })
    .await;
}

#[tokio::test]
async fn records_arrive_as_aws_sends_them_and_only_once_if_all_is_well() {
    let broker = Broker::shared().await;
    let topic = broker.fresh_topic().await;
    broker.produce(&topic, 0, values(0..5)).await;
    broker.produce(&topic, 2, values(5..7)).await;
    let functions = Functions::start(|_, _| Reply::Answer(Value::Null)).await;
    let options = options(&functions.url, &broker.brokers);

    let running = mapping(&topic, "").start(options.clone()).await.expect("it starts");
    until_committed(&broker, &topic, &[(0, 5), (2, 2)]).await;
    running.stop().await;

    let running = mapping(&topic, "").start(options).await.expect("it starts again");
    broker.produce(&topic, 1, values(7..8)).await;
    until_committed(&broker, &topic, &[(0, 5), (1, 1), (2, 2)]).await;
    running.stop().await;
    assert_eq!(delivered(&functions, 0), [0, 1, 2, 3, 4]);
    assert_eq!(delivered(&functions, 1), [0]);
    assert_eq!(delivered(&functions, 2), [0, 1]);
    let (name, event) = &functions.calls()[0];
    assert_eq!(name, "load-rows");
    assert_eq!(event["eventSource"], "SelfManagedKafka");
    let record = &event["records"][format!("{topic}-0")][0];
    assert_eq!((&record["topic"], &record["value"]), (&json!(topic), &json!("djA=")));
    assert_eq!(record["timestampType"], "CREATE_TIME");
}

#[tokio::test]
async fn a_partial_failure_is_resumed_in_order_while_other_partitions_go_on() {
    let broker = Broker::shared().await;
    let topic = broker.fresh_topic().await;
    broker.produce(&topic, 0, values(0..6)).await;
    let healed = Arc::new(AtomicBool::new(false));
    let (name, is_healed) = (topic.clone(), Arc::clone(&healed));
    let functions = Functions::start(move |_, event| {
        let fails = records(event).contains(&(0, 3)) && !is_healed.load(Ordering::SeqCst);
        Reply::Answer(if fails { resume_at(&name, 0, 3) } else { Value::Null })
    })
    .await;
    let sources = mapping(&topic, "MaximumRetryAttempts: 10000");
    let running = sources.start(options(&functions.url, &broker.brokers)).await.expect("it starts");
    until_committed(&broker, &topic, &[(0, 3)]).await;

    broker.produce(&topic, 1, values(6..9)).await;
    until_committed(&broker, &topic, &[(0, 3), (1, 3)]).await;
    healed.store(true, Ordering::SeqCst);
    until_committed(&broker, &topic, &[(0, 6), (1, 3)]).await;
    running.stop().await;

    let zero = delivered(&functions, 0);
    assert_eq!(zero[..6], [0, 1, 2, 3, 4, 5]);
    assert!(zero[6..].chunks(3).all(|retry| retry == [3, 4, 5]), "{zero:?}");
}

#[tokio::test]
async fn a_record_that_fails_the_function_is_split_off_and_put_aside_with_its_reason() {
    let broker = Broker::shared().await;
    let topic = broker.fresh_topic().await;
    broker.produce(&topic, 0, values(0..7)).await;
    let functions = Functions::start(|_, event| match records(event).contains(&(0, 4)) {
        true => Reply::Error("cannot digest"),
        false => Reply::Answer(json!({ "batchItemFailures": [] })),
    })
    .await;
    let sources = mapping(&topic, "MaximumRetryAttempts: 2");
    let running = sources.start(options(&functions.url, &broker.brokers)).await.expect("it starts");

    until_committed(&broker, &topic, &[(0, 7)]).await;
    running.stop().await;

    let aside = broker.read(&format!("{topic}.dlq"), 1).await;
    let (value, headers) = &aside[0];
    assert_eq!(value, "v4");
    let expected = [
        ("lambda-condition", "RetriesExhausted"),
        ("lambda-error-message", "cannot digest"),
        ("lambda-error-type", "Retriable"),
        ("lambda-function", "load-rows"),
        ("lambda-invoke-count", "3"),
        ("lambda-source-offset", "4"),
        ("lambda-source-partition", "0"),
        ("lambda-source-topic", &topic),
    ];
    for (name, value) in expected {
        assert_eq!(headers.get(name).map(String::as_str), Some(value), "{name}");
    }
    let well: Vec<_> =
        functions.batches().into_iter().filter(|batch| !batch.contains(&(0, 4))).flatten().collect();
    assert_eq!(well, [(0, 0), (0, 1), (0, 2), (0, 3), (0, 5), (0, 6)]);
}

#[tokio::test]
async fn a_function_that_is_out_of_reach_costs_no_record_its_retries() {
    let broker = Broker::shared().await;
    let topic = broker.fresh_topic().await;
    broker.produce(&topic, 0, values(0..3)).await;
    let turn = Arc::new(AtomicUsize::new(0));
    let functions = Functions::start(move |_, _| match turn.fetch_add(1, Ordering::SeqCst) {
        0 => Reply::Silence,
        1 => Reply::Status(500),
        2 => Reply::Status(404),
        _ => Reply::Answer(Value::Null),
    })
    .await;
    let sources = mapping(&topic, "MaximumRetryAttempts: 0");
    let running = sources.start(options(&functions.url, &broker.brokers)).await.expect("it starts");

    until_committed(&broker, &topic, &[(0, 3)]).await;
    running.stop().await;
    assert_eq!(functions.calls().len(), 4);
}

#[tokio::test]
async fn functions_that_start_late_are_waited_for() {
    let broker = Broker::shared().await;
    let topic = broker.fresh_topic().await;
    broker.produce(&topic, 0, values(0..3)).await;
    let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let address = free.local_addr().expect("it is bound").to_string();
    drop(free);
    let options = options(&format!("http://{address}"), &broker.brokers);
    let running = mapping(&topic, "MaximumRetryAttempts: 0").start(options).await.expect("it starts");
    // The condition to wait for is that something was tried and refused, which leaves no trace outside.
    tokio::time::sleep(Duration::from_secs(2)).await;

    let functions = Functions::start_at(&address, |_, _| Reply::Answer(Value::Null)).await;
    until_committed(&broker, &topic, &[(0, 3)]).await;
    running.stop().await;
    assert_eq!(delivered(&functions, 0), [0, 1, 2]);
}

#[tokio::test]
async fn a_topic_that_does_not_exist_yet_is_waited_for() {
    let broker = Broker::shared().await;
    let topic = fresh_name();
    let functions = Functions::start(|_, _| Reply::Answer(Value::Null)).await;
    let running =
        mapping(&topic, "").start(options(&functions.url, &broker.brokers)).await.expect("it starts");

    broker.create_topic(&topic, 3).await;
    broker.produce(&topic, 1, values(0..4)).await;
    until_committed(&broker, &topic, &[(1, 4)]).await;
    running.stop().await;
}

#[tokio::test]
async fn what_cannot_be_put_aside_stays_until_it_can() {
    let broker = Broker::shared().await;
    let topic = fresh_name();
    broker.create_topic(&topic, 3).await;
    broker.produce(&topic, 0, values(0..2)).await;
    let functions = Functions::start(|_, event| match records(event).contains(&(0, 0)) {
        true => Reply::Error("cannot digest"),
        false => Reply::Answer(Value::Null),
    })
    .await;
    let sources = mapping(&topic, "MaximumRetryAttempts: 1");
    let running = sources.start(options(&functions.url, &broker.brokers)).await.expect("it starts");
    until("the record is given up", async || (functions.calls().len() >= 3).then_some(())).await;
    assert!(broker.committed(&group(&topic), &topic).await.is_empty());

    broker.create_topic(&format!("{topic}.dlq"), 1).await;
    until_committed(&broker, &topic, &[(0, 2)]).await;
    running.stop().await;
    assert_eq!(broker.read(&format!("{topic}.dlq"), 1).await[0].0, "v0");
}

#[tokio::test]
async fn a_stop_lets_the_running_invocation_end_and_commits_it() {
    let broker = Broker::shared().await;
    let topic = broker.fresh_topic().await;
    broker.produce(&topic, 0, values(0..3)).await;
    let functions = Functions::start(|_, _| Reply::After(Duration::from_millis(800), Value::Null)).await;
    let running =
        mapping(&topic, "").start(options(&functions.url, &broker.brokers)).await.expect("it starts");
    until("the function is called", async || (!functions.calls().is_empty()).then_some(())).await;

    let asked = Instant::now();
    running.stop().await;
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
    assert_eq!(broker.committed(&group(&topic), &topic).await.into_iter().collect::<Vec<_>>(), [(0, 3)]);
}

#[tokio::test]
async fn what_has_failed_at_a_stop_comes_again() {
    let broker = Broker::shared().await;
    let topic = broker.fresh_topic().await;
    broker.produce(&topic, 0, values(0..3)).await;
    let sick = Functions::start(|_, _| Reply::Error("sick")).await;
    let sources = mapping(&topic, "MaximumRetryAttempts: 10000");
    let running = sources.clone().start(options(&sick.url, &broker.brokers)).await.expect("it starts");
    until("the function has failed", async || (sick.calls().len() > 2).then_some(())).await;
    running.stop().await;
    assert!(broker.committed(&group(&topic), &topic).await.is_empty());

    let well = Functions::start(|_, _| Reply::Answer(Value::Null)).await;
    let running = sources.start(options(&well.url, &broker.brokers)).await.expect("it starts");
    until_committed(&broker, &topic, &[(0, 3)]).await;
    running.stop().await;
    assert_eq!(delivered(&well, 0), [0, 1, 2]);
}

#[tokio::test]
async fn a_backlog_larger_than_the_read_ahead_arrives_whole_and_in_order() {
    let broker = Broker::shared().await;
    let topic = broker.fresh_topic().await;
    // 15 MB in a partition, of which 8 are read ahead.
    let filler = "x".repeat(50_000);
    for partition in 0..2 {
        broker.produce(&topic, partition, (0..300).map(|number| format!("{number} {filler}"))).await;
    }
    let functions = Functions::start(|_, _| Reply::Answer(Value::Null)).await;
    let sources = mapping(&topic, "BatchSize: 70");
    let running = sources.start(options(&functions.url, &broker.brokers)).await.expect("it starts");

    until_committed(&broker, &topic, &[(0, 300), (1, 300)]).await;
    running.stop().await;
    for partition in 0..2 {
        assert_eq!(delivered(&functions, partition), (0..300).collect::<Vec<_>>());
    }
    assert!(functions.batches().iter().all(|batch| batch.len() <= 70));
}

#[tokio::test]
async fn partitions_that_were_read_ahead_go_on_after_the_group_was_assigned_anew() {
    let broker = Broker::shared().await;
    let topic = broker.fresh_topic().await;
    // 15 MB in a partition, of which 8 are read ahead.
    let filler = "x".repeat(50_000);
    for partition in 0..2 {
        broker.produce(&topic, partition, (0..300).map(|number| format!("{number} {filler}"))).await;
    }
    let reachable = Arc::new(AtomicBool::new(false));
    let is_reachable = Arc::clone(&reachable);
    let functions = Functions::start(move |_, _| match is_reachable.load(Ordering::SeqCst) {
        true => Reply::Answer(Value::Null),
        false => Reply::Status(500),
    })
    .await;
    let sources = mapping(&topic, "BatchSize: 70");
    let running = sources.start(options(&functions.url, &broker.brokers)).await.expect("it starts");
    until("the function is called", async || (!functions.calls().is_empty()).then_some(())).await;
    // The condition to wait for is that both partitions are read no further, which leaves no trace outside.
    tokio::time::sleep(Duration::from_secs(2)).await;

    broker.join_and_leave(&group(&topic), &topic).await;
    reachable.store(true, Ordering::SeqCst);

    until_committed(&broker, &topic, &[(0, 300), (1, 300)]).await;
    running.stop().await;
}
