//! What fencing at the broker would be: a transactional producer, each call in a transaction of its own.

use crate::load::{TIMEOUT, headers};
use anyhow::ensure;
use outflow_outbox::OutboxEvent;
use rdkafka::{
    ClientConfig,
    producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer},
};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// As `outflow_broker::Producer` sets its client, which has no door for transactions: change both.
const AS_THE_RELAY: [(&str, &str); 13] = [
    ("client.id", "outflow"),
    ("acks", "all"),
    ("enable.idempotence", "true"),
    ("compression.type", "lz4"),
    ("linger.ms", "0"),
    ("queue.buffering.max.kbytes", "32768"),
    // Twice the time-out of a call.
    ("message.timeout.ms", "60000"),
    ("reconnect.backoff.max.ms", "1000"),
    ("topic.metadata.propagation.max.ms", "3000"),
    ("topic.metadata.refresh.interval.ms", "10000"),
    ("message.max.bytes", "10000000"),
    ("partitioner", "murmur2_random"),
    ("batch.size", "1000000"),
];

pub(crate) struct Transactions(ThreadedProducer<DefaultProducerContext>);

impl Transactions {
    pub(crate) fn connect(brokers: &str) -> anyhow::Result<Self> {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", brokers)
            .set("transactional.id", format!("measure-{}", Uuid::now_v7()));
        for (name, value) in AS_THE_RELAY {
            config.set(name, value);
        }
        // A transaction that begins while the last one is still being closed is tried again; the default waits 100 ms.
        config.set("retry.backoff.ms", "1").set("retry.backoff.max.ms", "10");
        let producer: ThreadedProducer<DefaultProducerContext> = config.create()?;
        producer.init_transactions(TIMEOUT)?;
        Ok(Self(producer))
    }

    /// Sends these in one transaction, and waits for its end.
    pub(crate) fn send(&self, events: &[OutboxEvent]) -> anyhow::Result<()> {
        self.0.begin_transaction()?;
        for event in events {
            let topic = format!("{}.events", event.aggregate_type.to_lowercase());
            let record = BaseRecord::to(&topic).key(&event.aggregate_id).payload(&event.payload);
            let written_at =
                event.created_at.unix_timestamp() * 1_000 + i64::from(event.created_at.millisecond());
            let record = record.headers(headers(event)?).timestamp(written_at);
            self.0.send(record).map_err(|(error, _)| error)?;
        }
        // The client's own `flush`, with which a commit begins, looks each 100 ms only.
        let until = Instant::now() + TIMEOUT;
        while self.0.in_flight_count() > 0 {
            ensure!(Instant::now() < until, "the records are not confirmed");
            std::thread::sleep(Duration::from_micros(100));
        }
        Ok(self.0.commit_transaction(TIMEOUT)?)
    }
}
