//! What a topic's records take at the broker, which hands them out as they were sent: compressed.

use crate::load::TIMEOUT;
use anyhow::ensure;
use rdkafka::{
    ClientConfig, ClientContext, Offset, Statistics, TopicPartitionList,
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    error::KafkaError,
};
use std::{
    collections::BTreeSet,
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
        // The end is told: a topic with transactions holds marks beside its records, which nobody is handed.
        .set("enable.partition.eof", "true")
        .create_with_context(Received::default())?;
    let metadata = consumer.fetch_metadata(Some(topic), TIMEOUT)?;
    let mut assignment = TopicPartitionList::new();
    let mut unread: BTreeSet<i32> = metadata.topics()[0].partitions().iter().map(|part| part.id()).collect();
    for partition in &unread {
        assignment.add_partition_offset(topic, *partition, Offset::Beginning)?;
    }
    consumer.assign(&assignment)?;
    let until = Instant::now() + TIMEOUT;
    let mut records = 0_u64;
    while !unread.is_empty() {
        ensure!(Instant::now() < until, "the topic could not be read in time");
        match consumer.poll(TIMEOUT) {
            Some(Ok(_)) => records += 1,
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                unread.remove(&partition);
            }
            Some(Err(error)) => return Err(error.into()),
            None => {}
        }
    }
    // The figures of the last fetch come with the next statistics.
    let told = Instant::now() + Duration::from_millis(300);
    while let Some(left) = told.checked_duration_since(Instant::now()) {
        consumer.poll(left);
    }
    Ok(consumer.context().0.load(Ordering::Relaxed) as f64 / records as f64)
}
