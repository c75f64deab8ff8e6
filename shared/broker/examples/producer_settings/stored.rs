//! What a topic's records take at the broker, which hands them out as they were sent: compressed.

use crate::load::TIMEOUT;
use anyhow::ensure;
use rdkafka::{
    ClientConfig, ClientContext, Offset, Statistics, TopicPartitionList,
    consumer::{BaseConsumer, Consumer, ConsumerContext},
};
use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};
use uuid::Uuid;

#[derive(Default)]
struct Received(AtomicU64);

impl ClientContext for Received {
    fn stats(&self, statistics: Statistics) {
        let bytes: u64 = statistics.brokers.values().map(|broker| broker.rxbytes).sum();
        self.0.store(bytes, Ordering::Relaxed);
    }
}

impl ConsumerContext for Received {}

/// Bytes a record, read from the topic's beginning to its end.
pub(crate) fn bytes_a_record(brokers: &str, topic: &str) -> anyhow::Result<f64> {
    let consumer: BaseConsumer<Received> = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", Uuid::now_v7().to_string())
        .set("enable.auto.commit", "false")
        .set("statistics.interval.ms", "100")
        .create_with_context(Received::default())?;
    let mut assignment = TopicPartitionList::new();
    let mut records = 0;
    for partition in consumer.fetch_metadata(Some(topic), TIMEOUT)?.topics()[0].partitions() {
        let (_, end) = consumer.fetch_watermarks(topic, partition.id(), TIMEOUT)?;
        assignment.add_partition_offset(topic, partition.id(), Offset::Beginning)?;
        records += end;
    }
    consumer.assign(&assignment)?;
    let until = Instant::now() + TIMEOUT;
    for _ in 0..records {
        ensure!(Instant::now() < until, "the topic could not be read in time");
        if let Some(message) = consumer.poll(TIMEOUT) {
            message?;
        }
    }
    // The figures of the last fetch come with the next statistics.
    let told = Instant::now() + Duration::from_millis(300);
    while let Some(left) = told.checked_duration_since(Instant::now()) {
        consumer.poll(left);
    }
    Ok(consumer.context().0.load(Ordering::Relaxed) as f64 / records as f64)
}
