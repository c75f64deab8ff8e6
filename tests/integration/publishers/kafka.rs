//! Kafka as the suite's receiver, and what only Kafka can do to a publisher.

use super::{Arrived, Harness, TIMEOUT, assert_all_taken, event, events};
use outflow_broker::{OutboxPublisher, Producer};
use outflow_outbox::{FailureKind, Publisher};
use outflow_stack::{Service, Settings, Stack};
use outflow_tests::services;
use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, AlterConfig, NewTopic, ResourceSpecifier, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer},
    message::{BorrowedMessage, Headers},
};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use uuid::Uuid;

const PARTITIONS: i32 = 2;

/// A topic of its own, on the broker that all tests share or on one of its own.
pub(super) struct Broker {
    brokers: String,
    aggregate_type: String,
    own: Option<OwnBroker>,
}

/// Ends with the test, however that ends.
struct OwnBroker {
    stack: Stack,
    _state: TempDir,
}

impl Drop for OwnBroker {
    fn drop(&mut self) {
        let stack = &self.stack;
        // A test's runtime must not be blocked from within.
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(stack.kill(Service::Kafka)).ok();
            });
        });
    }
}

impl Broker {
    async fn with_topic(brokers: String, config: &[(&str, &str)]) -> Self {
        let aggregate_type = format!("T{}", Uuid::now_v7().simple());
        let broker = Self { brokers, aggregate_type, own: None };
        broker.create_topic(&broker.topic(), config).await;
        broker
    }

    fn topic(&self) -> String {
        format!("{}.events", self.aggregate_type.to_lowercase())
    }

    fn admin(&self) -> AdminClient<DefaultClientContext> {
        ClientConfig::new().set("bootstrap.servers", &self.brokers).create().unwrap()
    }

    async fn create_topic(&self, name: &str, config: &[(&str, &str)]) {
        let topic = NewTopic::new(name, PARTITIONS, TopicReplication::Fixed(1));
        let topic = config.iter().fold(topic, |topic, (key, value)| topic.set(key, value));
        let made = self.admin().create_topics([&topic], &AdminOptions::new()).await.unwrap();
        made.into_iter().next().unwrap().unwrap();
    }

    async fn limit_topic(&self, bytes: &str) {
        let topic = self.topic();
        let config = AlterConfig::new(ResourceSpecifier::Topic(&topic)).set("max.message.bytes", bytes);
        let altered = self.admin().alter_configs([&config], &AdminOptions::new()).await.unwrap();
        altered.into_iter().next().unwrap().unwrap();
    }
}

impl Harness for Broker {
    type Publisher = OutboxPublisher;

    async fn start(limit: Option<usize>) -> Self {
        let limit = limit.map(|limit| limit.to_string());
        let config = limit.as_deref().map(|limit| ("max.message.bytes", limit));
        Self::with_topic(services().kafka.brokers, config.as_slice()).await
    }

    async fn start_alone() -> Self {
        let state = TempDir::new().unwrap();
        let stack = Stack::new(Settings::isolated(state.path()));
        stack.start(Service::Kafka).await.unwrap();
        let brokers = stack.kafka().unwrap().expect("it was started").brokers;
        let own = OwnBroker { stack, _state: state };
        let mut broker = Self::with_topic(brokers, &[]).await;
        broker.own = Some(own);
        broker
    }

    async fn go_down(&mut self) {
        let own = self.own.as_ref().expect("only a broker of its own can go down");
        own.stack.kill(Service::Kafka).await.unwrap();
    }

    async fn come_back(&mut self) {
        let own = self.own.as_ref().expect("it went down");
        own.stack.start(Service::Kafka).await.unwrap();
    }

    fn publisher(&self, timeout: Duration) -> OutboxPublisher {
        OutboxPublisher::new(Producer::connect(&self.brokers, timeout).unwrap(), timeout)
    }

    fn plain_publisher(&self) -> OutboxPublisher {
        let settings = [("compression.type", "none")];
        OutboxPublisher::new(Producer::connect_with(&self.brokers, TIMEOUT, &settings).unwrap(), TIMEOUT)
    }

    fn aggregate_type(&self) -> &str {
        &self.aggregate_type
    }

    async fn arrived(&self) -> Vec<Arrived> {
        let (brokers, topic) = (self.brokers.clone(), self.topic());
        tokio::task::spawn_blocking(move || read_all(&brokers, &topic)).await.unwrap()
    }
}

/// From each partition's beginning to the end that it has now.
fn read_all(brokers: &str, topic: &str) -> Vec<Arrived> {
    let reader: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", Uuid::now_v7().to_string())
        .set("enable.auto.commit", "false")
        .create()
        .unwrap();
    let mut arrived = Vec::new();
    for partition in 0..PARTITIONS {
        let (_, end) = reader.fetch_watermarks(topic, partition, TIMEOUT).unwrap();
        let mut assignment = TopicPartitionList::new();
        assignment.add_partition_offset(topic, partition, Offset::Beginning).unwrap();
        reader.assign(&assignment).unwrap();
        let mut next = 0;
        while next < end {
            let message = reader.poll(TIMEOUT).expect("there is more").unwrap();
            next = message.offset() + 1;
            arrived.push(read(&message));
        }
    }
    arrived
}

fn read(message: &BorrowedMessage<'_>) -> Arrived {
    let headers = message.headers().unwrap();
    let find = |name: &str| {
        let header = headers.iter().find(|header| header.key == name)?;
        Some(String::from_utf8(header.value.unwrap().to_vec()).unwrap())
    };
    let header = |name: &str| find(name).unwrap_or_else(|| panic!("{name} is missing"));
    assert_eq!(header("ce_type"), header("eventType"));
    Arrived {
        id: header("ce_id"),
        source: header("ce_source"),
        specversion: header("ce_specversion"),
        event_type: header("eventType"),
        aggregate_id: String::from_utf8(message.key().unwrap().to_vec()).unwrap(),
        aggregate_type: header("aggregateType"),
        aggregate_version: header("aggregateVersion"),
        time: header("ce_time"),
        traceparent: find("traceparent"),
        payload: serde_json::from_slice(message.payload().unwrap()).unwrap(),
        bytes: batch_bytes(message),
    }
}

/// Bytes of a batch (format 2) with this record alone, and uncompressed.
fn batch_bytes(message: &BorrowedMessage<'_>) -> usize {
    const BATCH_HEADER: usize = 61;
    /// Attributes, and the differences in time and offset to the batch's first record.
    const RECORD_HEADER: usize = 3;
    let counted = |bytes: &[u8]| varint(bytes.len()) + bytes.len();
    let headers: usize = message
        .headers()
        .unwrap()
        .iter()
        .map(|header| counted(header.key.as_bytes()) + counted(header.value.unwrap()))
        .sum();
    let record = RECORD_HEADER
        + counted(message.key().unwrap())
        + counted(message.payload().unwrap())
        + varint(message.headers().unwrap().count())
        + headers;
    BATCH_HEADER + varint(record) + record
}

/// Bytes of a length in Kafka's zigzag encoding: 7 bits a byte, one of them for the sign.
fn varint(value: usize) -> usize {
    let bits = (usize::BITS - (value << 1).leading_zeros()).max(1);
    bits.div_ceil(7) as usize
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_topic_is_told_in_seconds_and_alone_and_is_found_once_it_is_there() {
    let broker = Broker::start(None).await;
    let publisher = broker.publisher(TIMEOUT);
    let mut sent = events(&broker, 3);
    sent[1].aggregate_type = format!("U{}", Uuid::now_v7().simple());

    let started = Instant::now();
    let results = publisher.publish(&sent).await;

    assert!(started.elapsed() < Duration::from_secs(6), "{:?}", started.elapsed());
    assert!(results[0].is_ok() && results[2].is_ok(), "{results:?}");
    let error = results[1].as_ref().unwrap_err();
    let own_for_now = FailureKind::Record { permanent: false };
    assert_eq!((error.kind, error.cause), (own_for_now, "unknown_topic"), "{error:?}");
    let topic = format!("{}.events", sent[1].aggregate_type.to_lowercase());
    broker.create_topic(&topic, &[]).await;
    let patience = Instant::now() + Duration::from_secs(60);
    while publisher.publish(&sent[1..2]).await[0].is_err() {
        assert!(Instant::now() < patience, "the topic is there, and is not found");
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_is_told_by_its_name() {
    let mut broker = Broker::start(None).await;
    // Port 1 is reserved and nobody listens there.
    broker.brokers = "127.0.0.1:1".to_owned();

    let results = broker.publisher(Duration::from_secs(2)).publish(&events(&broker, 2)).await;

    for result in results {
        let error = result.unwrap_err();
        assert_eq!((error.kind, error.cause), (FailureKind::Retriable, "broker_unreachable"), "{error:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_no_topic_can_have_is_the_events_own_fault_for_good() {
    let broker = Broker::start(None).await;
    let mut sent = events(&broker, 4);
    sent[0].aggregate_type = "white space".to_owned();
    sent[2].aggregate_type = "nul\0".to_owned();
    sent[3].aggregate_type = "x".repeat(300);

    let results = broker.publisher(TIMEOUT).publish(&sent).await;

    assert!(results[1].is_ok(), "{results:?}");
    for index in [0, 2, 3] {
        let error = results[index].as_ref().unwrap_err();
        assert_eq!(error.kind, FailureKind::Record { permanent: true }, "{error:?}");
    }
}

/// The broker tells 2,000 bytes; what it refuses later is searched for.
#[tokio::test(flavor = "multi_thread")]
async fn a_limit_that_is_lowered_afterwards_is_found_again() {
    let broker = Broker::start(Some(2_000)).await;
    let publisher = broker.publisher(TIMEOUT);
    assert_all_taken(&publisher.publish(&events(&broker, 50)).await);
    broker.limit_topic("700").await;
    let mut sent: Vec<_> = (0..50).map(|_| event(&broker, 20)).collect();
    sent[9] = event(&broker, 1_000);

    let results = publisher.publish(&sent).await;

    for (index, result) in results.iter().enumerate() {
        assert_eq!(result.is_err(), index == 9, "{index}: {result:?}");
    }
    assert_eq!(results[9].as_ref().unwrap_err().cause, "message_too_large");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_dropped_leaves_nothing_in_the_client() {
    let mut broker = Broker::start_alone().await;
    let publisher = broker.publisher(TIMEOUT);
    let before = events(&broker, 1);
    assert_all_taken(&publisher.publish(&before).await);
    broker.go_down().await;
    let dropped = events(&broker, 20);

    let timeout = tokio::time::timeout(Duration::from_millis(200), publisher.publish(&dropped)).await;

    assert!(timeout.is_err());
    broker.come_back().await;
    let after = events(&broker, 1);
    assert_all_taken(&publisher.publish(&after).await);
    let arrived = broker.arrived().await;
    let ids: Vec<_> = arrived.iter().map(|event| event.id.as_str()).collect();
    assert_eq!(ids.len(), 2, "{ids:?}");
}
