//! Someone who reads the topic as the pipe's next step does, and notes when each record comes.

use crate::load::TIMEOUT;
use anyhow::Context;
use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    message::{BorrowedMessage, Headers},
};
use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};
use uuid::Uuid;

/// When each event came, by its id.
pub(crate) type Arrivals = HashMap<String, Instant>;

pub(crate) struct Reader {
    thread: JoinHandle<anyhow::Result<Arrivals>>,
    expected: mpsc::Sender<usize>,
}

impl Reader {
    /// Reads what comes from now on. With `read_committed`, which waits for a transaction's end and is the same where there
    /// are none.
    pub(crate) fn start(brokers: &str, topic: &str) -> anyhow::Result<Self> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", brokers)
            .set("group.id", Uuid::now_v7().to_string())
            .set("isolation.level", "read_committed")
            .set("enable.auto.commit", "false")
            .set("fetch.wait.max.ms", "100")
            .create()?;
        let metadata = consumer.fetch_metadata(Some(topic), TIMEOUT)?;
        let mut assignment = TopicPartitionList::new();
        for partition in metadata.topics()[0].partitions() {
            let (_, end) = consumer.fetch_watermarks(topic, partition.id(), TIMEOUT)?;
            assignment.add_partition_offset(topic, partition.id(), Offset::Offset(end))?;
        }
        consumer.assign(&assignment)?;
        let ready = Arc::new(AtomicBool::new(false));
        let (expected, all) = mpsc::channel();
        let is_ready = Arc::clone(&ready);
        let thread = std::thread::spawn(move || {
            let mut arrivals = Arrivals::new();
            let mut patience: Option<(usize, Instant)> = None;
            loop {
                let message = consumer.poll(Duration::from_millis(20));
                is_ready.store(true, Ordering::Release);
                if let Some(message) = message {
                    let message = message?;
                    let id = event_id(&message).context("a record has no ce_id")?;
                    arrivals.insert(id, Instant::now());
                }
                patience = patience.or_else(|| Some((all.try_recv().ok()?, Instant::now() + TIMEOUT)));
                if patience.is_some_and(|(count, until)| arrivals.len() >= count || Instant::now() > until) {
                    return Ok(arrivals);
                }
            }
        });
        while !ready.load(Ordering::Acquire) {
            std::thread::yield_now();
        }
        Ok(Self { thread, expected })
    }

    /// Waits for so many.
    pub(crate) fn finish(self, count: usize) -> anyhow::Result<Arrivals> {
        self.expected.send(count).ok();
        self.thread.join().map_err(|_| anyhow::anyhow!("the reader panicked"))?
    }
}

fn event_id(message: &BorrowedMessage<'_>) -> Option<String> {
    let headers = message.headers()?;
    let header = headers.iter().find(|header| header.key == "ce_id")?;
    String::from_utf8(header.value?.to_vec()).ok()
}
