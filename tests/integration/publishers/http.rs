//! A receiver of CloudEvents over HTTP, and what only HTTP can do to a publisher.

use super::{Arrived, Harness, TIMEOUT, assert_all_taken, event, events};
use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, State},
    http::{HeaderMap, StatusCode},
    middleware::map_response_with_state,
    response::{IntoResponse, Response},
    routing::post,
};
use outflow_broker::{ContentMode, HttpPublisher, HttpSettings};
use outflow_outbox::{FailureKind, Publisher, write_without_lock};
use outflow_tests::{TestShop, in_a_minute};
use serde_json::{Value, json};
use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};

/// Takes what it is sent, or answers as it was told to. In batches where `BATCHED`.
pub(super) struct Receiver<const BATCHED: bool> {
    address: SocketAddr,
    seen: Arc<Seen>,
    limit: usize,
    server: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

#[derive(Default)]
struct Seen {
    events: Mutex<Vec<Arrived>>,
    content_types: Mutex<Vec<String>>,
    authorizations: Mutex<Vec<String>>,
    requests: Mutex<usize>,
    too_large: Mutex<usize>,
    answer: Mutex<Answer>,
}

#[derive(Clone, Default)]
enum Answer {
    #[default]
    Take,
    /// A status, with `Retry-After` or without.
    Refuse(StatusCode, bool),
    /// 422 where an event's payload has a `bad`.
    RefuseBad,
    Never,
}

impl<const BATCHED: bool> Receiver<BATCHED> {
    async fn listening(limit: usize) -> Self {
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut receiver = Self { address, seen: Arc::default(), limit, server: None };
        receiver.listen().await;
        receiver
    }

    async fn listen(&mut self) {
        let listener = TcpListener::bind(self.address).await.unwrap();
        self.address = listener.local_addr().unwrap();
        let app = Router::new()
            .route("/events", post(take))
            .layer(DefaultBodyLimit::max(self.limit))
            .layer(map_response_with_state(Arc::clone(&self.seen), count_too_large))
            .with_state(Arc::clone(&self.seen));
        let (stop, stopped) = oneshot::channel();
        let serve = axum::serve(listener, app).with_graceful_shutdown(async {
            stopped.await.ok();
        });
        self.server = Some((stop, tokio::spawn(async move { serve.await.unwrap() })));
    }

    fn settings(&self, timeout: Duration) -> HttpSettings {
        HttpSettings {
            mode: if BATCHED { ContentMode::Batched } else { ContentMode::Structured },
            timeout,
            ..HttpSettings::new(format!("http://{}/events", self.address))
        }
    }

    fn answer(&self, answer: Answer) {
        *self.seen.answer.lock().unwrap() = answer;
    }

    fn requests(&self) -> usize {
        *self.seen.requests.lock().unwrap()
    }
}

impl<const BATCHED: bool> Harness for Receiver<BATCHED> {
    type Publisher = HttpPublisher;

    async fn start(limit: Option<usize>) -> Self {
        Self::listening(limit.unwrap_or(10_000_000)).await
    }

    async fn start_alone() -> Self {
        Self::start(None).await
    }

    async fn go_down(&mut self) {
        let (stop, server) = self.server.take().expect("it is up");
        stop.send(()).unwrap();
        server.await.unwrap();
    }

    async fn come_back(&mut self) {
        self.listen().await;
    }

    fn publisher(&self, timeout: Duration) -> HttpPublisher {
        HttpPublisher::new(self.settings(timeout)).unwrap()
    }

    fn aggregate_type(&self) -> &str {
        "Thing"
    }

    async fn arrived(&self) -> Vec<Arrived> {
        self.seen.events.lock().unwrap().clone()
    }
}

async fn count_too_large(State(seen): State<Arc<Seen>>, response: Response) -> Response {
    if response.status() == StatusCode::PAYLOAD_TOO_LARGE {
        *seen.too_large.lock().unwrap() += 1;
    }
    response
}

async fn take(State(seen): State<Arc<Seen>>, headers: HeaderMap, body: Bytes) -> impl IntoResponse {
    *seen.requests.lock().unwrap() += 1;
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap().to_owned());
    let content_type = text("content-type").unwrap();
    let parsed: Value = serde_json::from_slice(&body).unwrap();
    let events = match content_type.split(';').next() {
        Some("application/cloudevents-batch+json") => parsed.as_array().unwrap().clone(),
        Some("application/cloudevents+json") => vec![parsed],
        other => panic!("{other:?} is no CloudEvent in JSON"),
    };
    let alone = events.len() == 1;
    seen.content_types.lock().unwrap().push(content_type);
    seen.authorizations.lock().unwrap().extend(text("authorization"));
    let answer = seen.answer.lock().unwrap().clone();
    match answer {
        Answer::RefuseBad if events.iter().any(|event| event["data"].get("bad").is_some()) => {
            return (StatusCode::UNPROCESSABLE_ENTITY, [("x-why", "")], "bad is not allowed").into_response();
        }
        Answer::Take | Answer::RefuseBad => {}
        Answer::Refuse(status, true) => return (status, [("retry-after", "1")]).into_response(),
        Answer::Refuse(status, false) => return status.into_response(),
        Answer::Never => std::future::pending().await,
    }
    let bytes = if alone { body.len() } else { 0 };
    seen.events.lock().unwrap().extend(events.iter().map(|event| read(event, bytes)));
    StatusCode::NO_CONTENT.into_response()
}

/// `bytes`: of the request, where the event was alone in it.
fn read(event: &Value, bytes: usize) -> Arrived {
    let text = |name: &str| event[name].as_str().unwrap_or_else(|| panic!("{name} in {event}")).to_owned();
    assert_eq!(event["datacontenttype"], "application/json");
    Arrived {
        id: text("id"),
        source: text("source"),
        specversion: text("specversion"),
        event_type: text("type"),
        aggregate_id: text("subject"),
        aggregate_type: text("aggregatetype"),
        aggregate_version: event["aggregateversion"].as_u64().unwrap().to_string(),
        time: text("time"),
        traceparent: event["traceparent"].as_str().map(str::to_owned),
        payload: event["data"].clone(),
        bytes: if bytes == 0 { event.to_string().len() } else { bytes },
    }
}

#[tokio::test]
async fn an_answer_tells_whose_fault_it_was() {
    let own = FailureKind::Record { permanent: true };
    for (status, names_a_time, kind) in [
        (StatusCode::BAD_REQUEST, false, own),
        (StatusCode::UNPROCESSABLE_ENTITY, false, own),
        (StatusCode::TOO_MANY_REQUESTS, false, FailureKind::Backpressure),
        (StatusCode::SERVICE_UNAVAILABLE, true, FailureKind::Backpressure),
        (StatusCode::SERVICE_UNAVAILABLE, false, FailureKind::Retriable),
        (StatusCode::NOT_FOUND, false, FailureKind::Retriable),
        (StatusCode::UNAUTHORIZED, false, FailureKind::Retriable),
        (StatusCode::TEMPORARY_REDIRECT, false, FailureKind::Retriable),
        (StatusCode::INTERNAL_SERVER_ERROR, false, FailureKind::Retriable),
    ] {
        let receiver = Receiver::<true>::start(None).await;
        receiver.answer(Answer::Refuse(status, names_a_time));

        let results = receiver.publisher(TIMEOUT).publish(&events(&receiver, 4)).await;

        for result in results {
            assert_eq!(result.unwrap_err().kind, kind, "{status}");
        }
        assert!(receiver.arrived().await.is_empty());
    }
}

#[tokio::test]
async fn an_event_that_the_receiver_cannot_take_is_found_in_its_batch() {
    let receiver = Receiver::<true>::start(None).await;
    receiver.answer(Answer::RefuseBad);
    let mut sent = events(&receiver, 300);
    for bad in [3, 211] {
        sent[bad].payload = r#"{"bad": true}"#.to_owned();
    }
    // No receiver ever sees it.
    sent[100].payload = "{".to_owned();

    let results = receiver.publisher(TIMEOUT).publish(&sent).await;

    for (index, result) in results.iter().enumerate() {
        assert_eq!(result.is_err(), [3, 100, 211].contains(&index), "{index}: {result:?}");
    }
    let told = results[3].as_ref().unwrap_err();
    assert_eq!(told.kind, FailureKind::Record { permanent: true });
    assert!(outflow_telemetry::chain(told).contains("bad is not allowed"), "{told:?}");
    assert_eq!(receiver.arrived().await.len(), 297);
    assert!(receiver.requests() < 60, "{} requests", receiver.requests());
}

#[tokio::test]
async fn a_receiver_that_never_answers_ends_the_call_in_time() {
    let receiver = Receiver::<false>::start(None).await;
    receiver.answer(Answer::Never);
    let publisher = receiver.publisher(Duration::from_millis(500));

    let started = Instant::now();
    let results = publisher.publish(&events(&receiver, 40)).await;

    assert!(started.elapsed() < publisher.timeout(), "{:?}", started.elapsed());
    for result in results {
        let error = result.unwrap_err();
        assert_eq!((error.kind, error.cause), (FailureKind::Retriable, "timed_out"));
    }
    // No more at once than the settings say, and none after the call.
    assert_eq!(receiver.requests(), 16);
}

#[tokio::test]
async fn a_receiver_in_trouble_is_not_sent_the_rest() {
    let receiver = Receiver::<false>::start(None).await;
    receiver.answer(Answer::Refuse(StatusCode::TOO_MANY_REQUESTS, true));

    let results = receiver.publisher(TIMEOUT).publish(&events(&receiver, 500)).await;

    assert!(results.iter().all(|result| matches!(result, Err(e) if e.kind == FailureKind::Backpressure)));
    assert!(receiver.requests() <= 16, "{} requests", receiver.requests());
}

#[tokio::test]
async fn a_batch_that_was_too_large_is_not_sent_again_by_later_calls() {
    let receiver = Receiver::<true>::start(Some(20_000)).await;
    let publisher = receiver.publisher(TIMEOUT);
    assert_all_taken(&publisher.publish(&events(&receiver, 400)).await);
    let too_large = || *receiver.seen.too_large.lock().unwrap();
    let at_first = too_large();

    assert_all_taken(&publisher.publish(&events(&receiver, 400)).await);

    assert!(at_first > 0);
    assert_eq!(too_large(), at_first);
    assert_eq!(receiver.arrived().await.len(), 800);
}

#[tokio::test]
async fn the_authorization_and_the_content_type_go_with_every_request() {
    let receiver = Receiver::<false>::start(None).await;
    let settings = HttpSettings {
        authorization: Some("Bearer 123".to_owned().into()),
        source: "shop/outbox".to_owned(),
        ..receiver.settings(TIMEOUT)
    };
    let publisher = HttpPublisher::new(settings).unwrap();
    assert!(!format!("{publisher:?}").contains("123"), "{publisher:?}");

    assert_all_taken(&publisher.publish(&[event(&receiver, 10)]).await);

    assert_eq!(*receiver.seen.authorizations.lock().unwrap(), ["Bearer 123"]);
    assert_eq!(*receiver.seen.content_types.lock().unwrap(), ["application/cloudevents+json; charset=utf-8"]);
    assert_eq!(receiver.arrived().await[0].source, "shop/outbox");
}

/// What a receiver refuses stops its aggregate and no other; each aggregate's versions come in order, before and after.
async fn a_relay_keeps_the_order_and_parks_the_refused_aggregate_alone<const BATCHED: bool>() {
    const AGGREGATES: u32 = 12;
    const BAD: (u32, u32) = (3, 2);
    let shop = TestShop::start().await;
    let receiver = Receiver::<BATCHED>::start(None).await;
    receiver.answer(Answer::RefuseBad);
    let mut writer = shop.connect().await;
    for version in 1..=3 {
        let place = |aggregate: u32| {
            let mut placed = outflow_tests::event("Thing", &format!("a-{aggregate}"), version);
            if (aggregate, version) == BAD {
                placed.event.payload = json!({"bad": true});
            }
            placed
        };
        let events: Vec<_> = (0..AGGREGATES).map(place).collect();
        write_without_lock(&mut writer, &events).await.unwrap();
    }
    let relay = shop.relay(receiver.publisher(TIMEOUT), 100, TIMEOUT);
    let versions_of = async |aggregate: u32| -> Vec<String> {
        let (arrived, aggregate) = (receiver.arrived().await, format!("a-{aggregate}"));
        let own = arrived.into_iter().filter(|event| event.aggregate_id == aggregate);
        own.map(|event| event.aggregate_version).collect()
    };
    let parked = async || -> Vec<(String, u32, String)> {
        let sql = "SELECT aggregate_id, aggregate_version, state FROM outbox_failures ORDER BY id";
        sqlx::query_as(sql).fetch_all(shop.store.pool()).await.unwrap()
    };

    let report = relay.drain(in_a_minute()).await.unwrap();

    assert_eq!((report.published, report.dead_lettered, report.parked), (34, 1, 1));
    let row = |version: u32, state: &str| ("a-3".to_owned(), version, state.to_owned());
    assert_eq!(parked().await, [row(2, "dead"), row(3, "waiting")]);
    for aggregate in 0..AGGREGATES {
        let expected: &[&str] = if aggregate == BAD.0 { &["1"] } else { &["1", "2", "3"] };
        assert_eq!(versions_of(aggregate).await, expected, "a-{aggregate}");
    }
    // The receiver was mended, and an operator says: again.
    receiver.answer(Answer::Take);
    shop.run(
        "UPDATE outbox_failures SET state = 'retry', next_attempt_at = UTC_TIMESTAMP(6) WHERE state = 'dead'",
    )
    .await;
    let again = relay.drain(in_a_minute()).await.unwrap();
    assert_eq!((again.published, again.parked), (2, 0));
    assert_eq!(versions_of(BAD.0).await, ["1", "2", "3"]);
    assert_eq!(parked().await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn under_a_relay_events_one_by_one_keep_their_order() {
    a_relay_keeps_the_order_and_parks_the_refused_aggregate_alone::<false>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn under_a_relay_events_in_batches_keep_their_order() {
    a_relay_keeps_the_order_and_parks_the_refused_aggregate_alone::<true>().await;
}
