//! What every publisher promises the relay: one suite, run against Kafka and against CloudEvents over HTTP in both modes.

mod http;
mod kafka;

use outflow_outbox::{FailureKind, OutboxEvent, PublishError, Publisher};
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};
use time::OffsetDateTime;
use uuid::Uuid;

/// Enough for whatever is up.
const TIMEOUT: Duration = Duration::from_secs(20);
/// What a receiver with a limit takes: a few small events, or one of middle size.
const LIMIT: usize = 2_000;

/// A publisher and its receiver, which is the real thing.
trait Harness: Sized {
    type Publisher: Publisher + Clone + 'static;

    /// A receiver that nothing has reached yet; with a limit in bytes, it refuses what is larger. What is measured
    /// is the receiver's to say: a batch, a request.
    async fn start(limit: Option<usize>) -> Self;
    /// A receiver that can go down without others.
    async fn start_alone() -> Self;
    async fn go_down(&mut self);
    /// At the same address.
    async fn come_back(&mut self);
    fn publisher(&self, timeout: Duration) -> Self::Publisher;
    /// One whose events have the same size everywhere.
    fn plain_publisher(&self) -> Self::Publisher {
        self.publisher(TIMEOUT)
    }
    /// Events of this type come here.
    fn aggregate_type(&self) -> &str;
    /// Everything that has come, as often as it came.
    async fn arrived(&self) -> Vec<Arrived>;
}

/// An event as its reader sees it.
#[derive(Clone, Debug, PartialEq)]
struct Arrived {
    id: String,
    source: String,
    specversion: String,
    event_type: String,
    aggregate_id: String,
    aggregate_type: String,
    aggregate_version: String,
    time: String,
    traceparent: Option<String>,
    payload: Value,
    /// What the receiver's limit is about, had the event come by itself.
    bytes: usize,
}

/// An event of an aggregate of its own, whose payload is filled up by so many characters.
fn event(harness: &impl Harness, filling: usize) -> OutboxEvent {
    // Nothing that a codec could make smaller.
    let mut note: String = (0..=filling / 32).map(|_| Uuid::new_v4().simple().to_string()).collect();
    note.truncate(filling);
    OutboxEvent {
        id: 1,
        event_id: Uuid::now_v7().to_string(),
        aggregate_type: harness.aggregate_type().to_owned(),
        aggregate_id: Uuid::now_v7().to_string(),
        aggregate_version: 1,
        event_type: "Changed".to_owned(),
        payload: json!({ "note": note }).to_string(),
        headers: vec![("traceparent".to_owned(), format!("00-{}-{:016x}-01", Uuid::now_v7().simple(), 7))],
        created_at: OffsetDateTime::from_unix_timestamp(1_795_417_892).unwrap(),
    }
}

fn events(harness: &impl Harness, count: usize) -> Vec<OutboxEvent> {
    (0..count).map(|_| event(harness, 100)).collect()
}

fn assert_all_taken(results: &[Result<(), PublishError>]) {
    let failed: Vec<_> = results.iter().filter_map(|result| result.as_ref().err()).collect();
    assert!(failed.is_empty(), "{} of {}, the first: {:?}", failed.len(), results.len(), failed[0]);
}

fn ids(arrived: &[Arrived]) -> BTreeSet<&str> {
    arrived.iter().map(|event| event.id.as_str()).collect()
}

async fn each_event_arrives_once_with_all_that_is_known_of_it<H: Harness>() {
    let harness = H::start(None).await;
    let mut sent = events(&harness, 3);
    sent[1].aggregate_version = 4_294_967_295;
    sent[2].headers.clear();

    let results = harness.publisher(TIMEOUT).publish(&sent).await;

    assert_all_taken(&results);
    let arrived = harness.arrived().await;
    assert_eq!(arrived.len(), sent.len());
    for event in &sent {
        let found = arrived.iter().find(|arrived| arrived.id == event.event_id).expect("it has come");
        let expected = Arrived {
            id: event.event_id.clone(),
            source: "outflow/outbox".to_owned(),
            specversion: "1.0".to_owned(),
            event_type: "Changed".to_owned(),
            aggregate_id: event.aggregate_id.clone(),
            aggregate_type: event.aggregate_type.clone(),
            aggregate_version: event.aggregate_version.to_string(),
            time: "2026-11-23T07:11:32Z".to_owned(),
            traceparent: event.headers.first().map(|(_, value)| value.clone()),
            payload: serde_json::from_str(&event.payload).unwrap(),
            bytes: found.bytes,
        };
        assert_eq!(found, &expected);
    }
}

async fn a_call_without_events_is_over_at_once<H: Harness>() {
    let harness = H::start(None).await;

    assert!(harness.publisher(TIMEOUT).publish(&[]).await.is_empty());
    assert!(harness.arrived().await.is_empty());
}

async fn a_refused_event_is_blamed_alone_and_the_others_arrive<H: Harness>() {
    let harness = H::start(Some(LIMIT)).await;
    let publisher = harness.publisher(TIMEOUT);
    let mut sent = events(&harness, 40);
    let bad = [0, 17, 18, 39];
    for index in bad {
        sent[index] = event(&harness, 5_000);
    }

    // The second time the limit is known.
    for _ in 0..2 {
        let results = publisher.publish(&sent).await;

        assert_eq!(results.len(), sent.len());
        for (index, result) in results.iter().enumerate() {
            match result {
                Ok(()) => assert!(!bad.contains(&index), "{index} was taken"),
                Err(error) => {
                    assert!(bad.contains(&index), "{index}: {error:?}");
                    let own = FailureKind::Record { permanent: true };
                    assert_eq!((error.kind, error.cause), (own, "message_too_large"), "{error:?}");
                }
            }
        }
    }
    let arrived = harness.arrived().await;
    assert_eq!((arrived.len(), ids(&arrived).len()), (72, 36));
}

async fn events_that_are_too_large_together_all_arrive<H: Harness>() {
    let harness = H::start(Some(LIMIT)).await;
    let sent = events(&harness, 100);

    let results = harness.publisher(TIMEOUT).publish(&sent).await;

    assert_all_taken(&results);
    let arrived = harness.arrived().await;
    assert!(arrived.iter().map(|event| event.bytes).sum::<usize>() > 10 * LIMIT);
    assert_eq!((arrived.len(), ids(&arrived).len()), (100, 100));
}

async fn an_event_at_the_limit_is_taken_and_one_above_it_is_not<H: Harness>() {
    let harness = H::start(Some(LIMIT)).await;
    let publisher = harness.plain_publisher();
    // Long enough that one more character is one more byte, whatever encodes the length.
    let probe = event(&harness, 1_000);
    assert_all_taken(&publisher.publish(std::slice::from_ref(&probe)).await);
    let room = LIMIT - harness.arrived().await[0].bytes;
    let at_the_limit = event(&harness, 1_000 + room);
    let above_it = event(&harness, 1_000 + room + 1);

    let results = publisher.publish(&[at_the_limit.clone(), above_it]).await;

    assert!(results[0].is_ok(), "{results:?}");
    let refused = results[1].as_ref().unwrap_err();
    assert_eq!(refused.kind, FailureKind::Record { permanent: true }, "{refused:?}");
    let arrived = harness.arrived().await;
    assert_eq!(ids(&arrived), [probe.event_id.as_str(), &at_the_limit.event_id].into());
    assert_eq!(arrived.iter().map(|event| event.bytes).max(), Some(LIMIT));
}

async fn calls_side_by_side_are_answered_each_by_its_own_results<H: Harness>() {
    let harness = H::start(Some(LIMIT)).await;
    let publisher = harness.publisher(TIMEOUT);
    let mut calls = tokio::task::JoinSet::new();
    for call in 0..30_usize {
        let mut sent = events(&harness, 20);
        // Every third call holds one that is refused, each at another place.
        let bad = (call % 3 == 0).then_some(call % 20);
        if let Some(bad) = bad {
            sent[bad] = event(&harness, 5_000);
        }
        let publisher = publisher.clone();
        calls.spawn(async move { (bad, publisher.publish(&sent).await) });
    }
    for (bad, results) in calls.join_all().await {
        assert_eq!(results.len(), 20);
        for (index, result) in results.iter().enumerate() {
            assert_eq!(result.is_err(), bad == Some(index), "{index}: {result:?}");
        }
    }
    let arrived = harness.arrived().await;
    assert_eq!((arrived.len(), ids(&arrived).len()), (590, 590));
}

async fn what_a_receiver_that_is_down_did_not_take_never_arrives_and_it_works_again_once_it_is_back<
    H: Harness,
>() {
    let mut harness = H::start_alone().await;
    let publisher = harness.publisher(Duration::from_secs(4));
    let before = events(&harness, 5);
    assert_all_taken(&publisher.publish(&before).await);
    harness.go_down().await;
    let lost = events(&harness, 50);

    let started = Instant::now();
    let results = publisher.publish(&lost).await;

    assert!(started.elapsed() < publisher.timeout(), "{:?}", started.elapsed());
    assert_eq!(results.len(), lost.len());
    for result in results {
        let error = result.unwrap_err();
        assert_eq!(error.kind, FailureKind::Retriable, "{error:?}");
    }
    harness.come_back().await;
    let after = events(&harness, 5);
    let patience = Instant::now() + Duration::from_secs(60);
    while !publisher.publish(&after).await.iter().all(Result::is_ok) {
        assert!(Instant::now() < patience, "the receiver is back, and nothing gets through");
    }
    let arrived = harness.arrived().await;
    let expected: BTreeSet<&str> = before.iter().chain(&after).map(|event| event.event_id.as_str()).collect();
    assert_eq!(ids(&arrived), expected);
}

/// The suite for one harness.
macro_rules! conforms {
    ($module:ident, $harness:ty: $($promise:ident),+ $(,)?) => {
        mod $module {
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $promise() {
                    super::$promise::<$harness>().await;
                }
            )+
        }
    };
    ($($module:ident: $harness:ty),+ $(,)?) => {
        $(conforms!(
            $module, $harness:
            each_event_arrives_once_with_all_that_is_known_of_it,
            a_call_without_events_is_over_at_once,
            a_refused_event_is_blamed_alone_and_the_others_arrive,
            events_that_are_too_large_together_all_arrive,
            an_event_at_the_limit_is_taken_and_one_above_it_is_not,
            calls_side_by_side_are_answered_each_by_its_own_results,
            what_a_receiver_that_is_down_did_not_take_never_arrives_and_it_works_again_once_it_is_back,
        );)+
    };
}

conforms!(
    through_kafka: crate::publishers::kafka::Broker,
    through_http_one_by_one: crate::publishers::http::Receiver<false>,
    through_http_in_batches: crate::publishers::http::Receiver<true>,
);
