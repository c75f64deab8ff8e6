//! A bare producer that sends what a relay has sent, from memory: the ceiling that no relay on this machine can pass.

use super::site::Site;
use anyhow::{Context, ensure};
use rdkafka::{
    ClientConfig, ClientContext, Message,
    error::{KafkaError, RDKafkaErrorCode},
    message::OwnedMessage,
    producer::{BaseRecord, DeliveryResult, Producer as _, ProducerContext, ThreadedProducer},
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// Everything must be confirmed by then.
const PATIENCE: Duration = Duration::from_secs(120);
/// A full queue is tried again after so long.
const FULL_QUEUE_PAUSE: Duration = Duration::from_millis(1);

#[derive(Default)]
struct Confirmed(AtomicU64);

impl ClientContext for Confirmed {}

impl ProducerContext for Confirmed {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        self.0.fetch_add(u64::from(result.is_ok()), Ordering::Relaxed);
    }
}

/// Sends all and waits for every confirmation. The broker's times tell how long it took.
pub(super) async fn send(site: &Site, records: Arc<Vec<OwnedMessage>>) -> anyhow::Result<()> {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", &site.brokers)
        .set("acks", "all")
        .set("enable.idempotence", "true")
        .set("compression.type", "lz4")
        .set("partitioner", "murmur2_random")
        // As large as the broker takes them, and time enough to fill them: nobody waits for a single record.
        .set("linger.ms", "20")
        .set("batch.size", "1000000")
        .set("batch.num.messages", "10000")
        .set("queue.buffering.max.messages", "200000")
        .set("queue.buffering.max.kbytes", "524288");
    tokio::task::spawn_blocking(move || {
        let producer: ThreadedProducer<Confirmed> =
            config.create_with_context(Confirmed::default()).context("setting up a producer")?;
        for record in records.iter() {
            enqueue(&producer, record)?;
        }
        producer.flush(PATIENCE).context("waiting for the confirmations")?;
        let confirmed = producer.context().0.load(Ordering::Relaxed);
        ensure!(confirmed == records.len() as u64, "{confirmed} of {} records were confirmed", records.len());
        Ok(())
    })
    .await?
}

fn enqueue(producer: &ThreadedProducer<Confirmed>, record: &OwnedMessage) -> anyhow::Result<()> {
    let mut next: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(record.topic())
        .key(record.key().context("a record without a key")?)
        .payload(record.payload().context("a record without a payload")?)
        .headers(record.headers().context("a record without headers")?.clone());
    loop {
        match producer.send(next) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), refused)) => {
                next = refused;
                std::thread::sleep(FULL_QUEUE_PAUSE);
            }
            Err((error, _)) => return Err(error).context("handing a record to the producer"),
        }
    }
}
