//! The producer and the outbox's way through it, on the real broker.

use outflow_broker::{DeliveryError, OutboxPublisher, Producer, Record, topics};
use outflow_outbox::{RelayError, write_without_lock};
use outflow_tests::{TestShop, event, in_a_minute, services};
use rdkafka::{
    ClientConfig, Message,
    consumer::{Consumer, StreamConsumer},
    message::Headers,
};
use std::time::{Duration, Instant};
use uuid::Uuid;

const TIMEOUT: Duration = Duration::from_secs(10);

async fn fresh_topic(brokers: &str) -> (String, String) {
    let aggregate_type = format!("T{}", Uuid::now_v7().simple());
    let topic = format!("{}.events", aggregate_type.to_lowercase());
    topics::ensure(brokers, &[topics::TopicSpec { name: topic.clone(), partitions: 1 }]).await.unwrap();
    (aggregate_type, topic)
}

fn reader(brokers: &str, topic: &str) -> StreamConsumer {
    let consumer: StreamConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", Uuid::now_v7().to_string())
        .set("auto.offset.reset", "earliest")
        .create()
        .unwrap();
    consumer.subscribe(&[topic]).unwrap();
    consumer
}

#[tokio::test]
async fn an_event_arrives_in_kafka_with_its_key_payload_and_headers() {
    let shop = TestShop::start().await;
    let brokers = shop.endpoints.kafka.brokers.clone();
    let (aggregate_type, topic) = fresh_topic(&brokers).await;
    let mut transaction = shop.begin().await;
    let events = [event(&aggregate_type, "a-1", 1), event(&aggregate_type, "a-1", 2)];
    write_without_lock(&mut transaction, &events).await.unwrap();
    transaction.commit().await.unwrap();
    let publisher = OutboxPublisher::new(Producer::connect(&brokers, TIMEOUT).unwrap(), TIMEOUT);

    let report = shop.relay(publisher, 100, TIMEOUT).drain(in_a_minute()).await.unwrap();

    assert_eq!(report.published, 2);
    let reader = reader(&brokers, &topic);
    for (expected, version) in events.iter().zip(["1", "2"]) {
        let record = tokio::time::timeout(TIMEOUT, reader.recv()).await.expect("a record comes").unwrap();
        assert_eq!(record.key(), Some(&b"a-1"[..]));
        let payload: serde_json::Value = serde_json::from_slice(record.payload().unwrap()).unwrap();
        assert_eq!(payload, expected.event.payload);
        let headers = record.headers().unwrap();
        let header = |name: &str| {
            let header = headers
                .iter()
                .find(|header| header.key == name)
                .unwrap_or_else(|| panic!("{name} is missing"));
            String::from_utf8(header.value.unwrap().to_vec()).unwrap()
        };
        assert_eq!(header("ce_id"), expected.event.event_id.to_string());
        assert_eq!(header("aggregateVersion"), version);
        assert_eq!(
            (header("eventType"), header("aggregateType")),
            ("Changed".to_owned(), aggregate_type.clone())
        );
        assert_eq!(header("ce_specversion"), "1.0");
        assert!(header("ce_time").ends_with('Z'));
    }
}

#[tokio::test]
async fn a_broker_that_is_down_fails_the_drain_with_its_cause_and_the_rows_stay() {
    let shop = TestShop::start().await;
    let mut transaction = shop.begin().await;
    write_without_lock(&mut transaction, &[event("Order", "a-1", 1)]).await.unwrap();
    transaction.commit().await.unwrap();
    // Port 1 is reserved and nobody listens there.
    let timeout = Duration::from_secs(1);
    let publisher = OutboxPublisher::new(Producer::connect("127.0.0.1:1", timeout).unwrap(), timeout);
    let relay = shop.relay(publisher, 100, TIMEOUT);

    let error = relay.drain(in_a_minute()).await.unwrap_err();

    assert!(matches!(error, RelayError::Publish { failed: 1, position: 0, .. }), "{error}");
    assert_eq!(shop.number("SELECT COUNT(*) FROM outbox_status WHERE processed = 0").await, 1);
    assert_eq!(
        shop.number("SELECT lease_owner IS NULL FROM outbox_position").await,
        1,
        "the lease was given back"
    );
}

/// More records than the client's queue holds, so that some wait in front of it.
#[tokio::test]
async fn all_records_of_a_call_share_one_time_out_and_are_taken_back_together() {
    let limit = Duration::from_secs(2);
    let producer = Producer::connect("127.0.0.1:1", limit).unwrap();
    let record =
        Record { topic: "t".to_owned(), key: None, payload: Some(b"{}".to_vec()), headers: Vec::new() };
    let started = Instant::now();

    let results = producer.send_all(vec![record; 100_010]).await;

    // Emptying the client takes a moment more.
    assert!(started.elapsed() < limit + Duration::from_millis(1_900), "{:?}", started.elapsed());
    assert_eq!(results.len(), 100_010);
    let error = |of: usize| results[of].clone().unwrap_err();
    assert!(matches!(error(0), DeliveryError::TimedOut { .. }), "{}", error(0));
    assert!(matches!(error(99_999), DeliveryError::TimedOut { .. }), "{}", error(99_999));
    assert!(matches!(error(100_009), DeliveryError::Abandoned { .. }), "{}", error(100_009));
}

#[tokio::test]
async fn a_record_that_is_too_large_fails_and_the_producer_goes_on_afterwards() {
    let brokers = services().kafka.brokers;
    let (_, topic) = fresh_topic(&brokers).await;
    let producer = Producer::connect(&brokers, TIMEOUT).unwrap();
    let record = |payload: Vec<u8>| Record {
        topic: topic.clone(),
        key: None,
        payload: Some(payload),
        headers: Vec::new(),
    };
    // Incompressible, and above the broker's 1 MiB a record.
    let large: Vec<u8> = (0..125_000).flat_map(|_| Uuid::new_v4().into_bytes()).collect();

    let failed = producer.send_all(vec![record(large)]).await;
    let started = Instant::now();
    let good = producer.send_all(vec![record(b"{}".to_vec())]).await;

    assert!(failed[0].is_err());
    assert!(good[0].is_ok(), "{good:?}");
    assert!(started.elapsed() < TIMEOUT);
}

#[tokio::test]
async fn a_record_of_the_largest_size_can_be_put_aside_with_its_reason() {
    let brokers = services().kafka.brokers;
    let (_, topic) = fresh_topic(&brokers).await;
    let letters = topics::dead_letters(&topic);
    topics::ensure(&brokers, &[topics::TopicSpec { name: letters.clone(), partitions: 1 }]).await.unwrap();
    let producer = Producer::connect(&brokers, TIMEOUT).unwrap();
    // Incompressible, and just below the broker's 1 MiB a record.
    let payload: Vec<u8> = (0..65_525).flat_map(|_| Uuid::new_v4().into_bytes()).collect();
    let original = Record { topic, key: None, payload: Some(payload), headers: Vec::new() };
    let headers = vec![("outflow-reason".to_owned(), vec![b'x'; 1_024])];
    let letter = Record { topic: letters, headers, ..original.clone() };

    for record in [original, letter] {
        let sent = producer.send_all(vec![record]).await;
        assert!(sent[0].is_ok(), "{sent:?}");
    }
}

#[tokio::test]
async fn topics_are_created_once() {
    let brokers = services().kafka.brokers;
    let spec = topics::TopicSpec { name: format!("t-{}", Uuid::now_v7()), partitions: 3 };

    let first = topics::ensure(&brokers, std::slice::from_ref(&spec)).await.unwrap();
    let second = topics::ensure(&brokers, std::slice::from_ref(&spec)).await.unwrap();

    assert_eq!(first, [spec.name]);
    assert!(second.is_empty());
}
