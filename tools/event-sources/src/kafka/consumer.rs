//! The Kafka consumer of one mapping, with what its callbacks report turned into a list of notices.

use crate::{
    event::{Message, TimestampType},
    template::{Mapping, StartingPosition},
};
use rdkafka::{
    ClientConfig, ClientContext, Message as _, Offset, Timestamp, TopicPartitionList,
    consumer::{BaseConsumer, CommitMode, Consumer as _, ConsumerContext, Rebalance, StreamConsumer},
    error::{KafkaError, KafkaResult},
    message::{BorrowedMessage, Headers},
};
use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

/// A consumer that dies without a word frees its partitions after this long; Kafka's brokers accept no less than 6 s.
const SESSION_TIMEOUT_MS: &str = "10000";

/// A topic that does not exist yet is looked for so often.
const TOPIC_LOOKUP_MS: &str = "2000";

/// After a broker's restart nobody wants to wait for librdkafka's 10 s.
const RECONNECT_MAX_MS: &str = "1000";

/// A fetch that finds nothing comes back after this long; a resumed partition waits for the fetch before it.
const FETCH_WAIT_MS: &str = "100";

/// What librdkafka itself may read ahead, kB; our own queues come on top.
const READ_AHEAD_KB: &str = "8192";

/// What happened since the last look.
#[derive(Debug)]
pub(super) enum Notice {
    Assigned(Vec<i32>),
    Revoked(Vec<i32>),
    CommitFailed(Vec<(i32, i64)>, String),
}

#[derive(Default)]
struct Notices(Mutex<Vec<Notice>>);

impl Notices {
    fn add(&self, notice: Notice) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(notice);
    }
}

impl ClientContext for Notices {}

impl ConsumerContext for Notices {
    fn pre_rebalance(&self, _: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        match rebalance {
            Rebalance::Assign(list) => self.add(Notice::Assigned(partitions(list))),
            Rebalance::Revoke(list) => self.add(Notice::Revoked(partitions(list))),
            // librdkafka goes on by itself.
            Rebalance::Error(_) => {}
        }
    }

    fn commit_callback(&self, result: KafkaResult<()>, offsets: &TopicPartitionList) {
        if let Err(error) = result {
            let offsets = offsets
                .elements()
                .iter()
                .filter_map(|element| match element.offset() {
                    Offset::Offset(offset) => Some((element.partition(), offset)),
                    _ => None,
                })
                .collect();
            self.add(Notice::CommitFailed(offsets, error.to_string()));
        }
    }
}

fn partitions(list: &TopicPartitionList) -> Vec<i32> {
    list.elements().iter().map(|element| element.partition()).collect()
}

/// A member of the mapping's consumer group. Errors are texts: they are for the log.
pub(super) struct Consumer {
    inner: StreamConsumer<Notices>,
    topic: String,
}

impl Consumer {
    /// Subscribes; that the broker or the topic is not there yet is no error.
    pub(super) fn connect(mapping: &Mapping, brokers: &str) -> Result<Self, String> {
        let reset = match mapping.start {
            StartingPosition::TrimHorizon => "earliest",
            StartingPosition::Latest => "latest",
        };
        let inner: StreamConsumer<Notices> = ClientConfig::new()
            .set("bootstrap.servers", brokers)
            .set("group.id", &mapping.group)
            .set("client.id", "event-sources")
            .set("auto.offset.reset", reset)
            // An offset is committed when the function has answered, never before.
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("session.timeout.ms", SESSION_TIMEOUT_MS)
            .set("topic.metadata.refresh.interval.ms", TOPIC_LOOKUP_MS)
            .set("reconnect.backoff.max.ms", RECONNECT_MAX_MS)
            .set("fetch.wait.max.ms", FETCH_WAIT_MS)
            .set("queued.max.messages.kbytes", READ_AHEAD_KB)
            .create_with_context(Notices::default())
            .map_err(|error| error.to_string())?;
        inner.subscribe(&[&mapping.topic]).map_err(|error| error.to_string())?;
        Ok(Self { inner, topic: mapping.topic.clone() })
    }

    /// The next record. Safe to drop at any time.
    pub(super) async fn receive(&self) -> Result<Message, String> {
        match self.inner.recv().await {
            Ok(message) => Ok(own(&message)),
            Err(KafkaError::MessageConsumption(code)) => Err(code.to_string()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// A fatal error: the client says itself that it is of no more use.
    pub(super) fn is_dead(&self) -> bool {
        self.inner.client().fatal_error().is_some()
    }

    pub(super) fn notices(&self) -> Vec<Notice> {
        let context = self.inner.context();
        std::mem::take(&mut *context.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Sends the commit; whether the broker took it comes as a notice if it did not.
    pub(super) fn commit(&self, offsets: &BTreeMap<i32, i64>) -> Result<(), String> {
        self.inner.commit(&self.list(offsets)?, CommitMode::Async).map_err(|error| error.to_string())
    }

    /// Commits what is left, waits for the broker, leaves the group. Blocks.
    pub(super) fn close(self, offsets: &BTreeMap<i32, i64>) -> Result<(), String> {
        let outcome = match offsets.is_empty() {
            true => Ok(()),
            false => {
                self.inner.commit(&self.list(offsets)?, CommitMode::Sync).map_err(|error| error.to_string())
            }
        };
        drop(self.inner);
        outcome
    }

    pub(super) fn pause(&self, partition: i32) {
        // Fails only for a partition that has just been taken away.
        let _ = self.inner.pause(&self.one(partition));
    }

    pub(super) fn resume(&self, partition: i32) {
        let _ = self.inner.resume(&self.one(partition));
    }

    fn one(&self, partition: i32) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        list.add_partition(&self.topic, partition);
        list
    }

    fn list(&self, offsets: &BTreeMap<i32, i64>) -> Result<TopicPartitionList, String> {
        let mut list = TopicPartitionList::new();
        for (partition, offset) in offsets {
            list.add_partition_offset(&self.topic, *partition, Offset::Offset(*offset))
                .map_err(|error| error.to_string())?;
        }
        Ok(list)
    }
}

fn own(message: &BorrowedMessage<'_>) -> Message {
    let (timestamp_ms, timestamp_type) = match message.timestamp() {
        Timestamp::CreateTime(ms) => (ms, TimestampType::Create),
        Timestamp::LogAppendTime(ms) => (ms, TimestampType::LogAppend),
        Timestamp::NotAvailable => (0, TimestampType::Unknown),
    };
    let headers = message.headers().into_iter().flat_map(|headers| headers.iter());
    Message {
        partition: message.partition(),
        offset: message.offset(),
        timestamp_ms,
        timestamp_type,
        key: message.key().map(<[u8]>::to_vec),
        value: message.payload().map(<[u8]>::to_vec),
        headers: headers
            .map(|header| (header.key.to_owned(), header.value.unwrap_or_default().to_vec()))
            .collect(),
    }
}
