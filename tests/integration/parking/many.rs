//! Many events that are refused: what is written of them in one go, and what they leave to others.

use super::{late, parked};
use outflow_outbox::{
    FailureKind, OutboxEvent, PublishError, Publisher, Relay, RelaySettings, RetrySettings,
    write_without_lock,
};
use outflow_tests::{OwnServer, TestShop, event, in_a_minute, long, statements, until};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

/// Type, aggregate and version of each event of a call.
type Call = Vec<(String, String, u32)>;

/// Refuses all events of type "Missing", as a broker does that lacks their topic. Remembers each call.
#[derive(Clone, Default)]
struct WithoutTopic(Arc<Mutex<Vec<Call>>>);

impl WithoutTopic {
    fn calls(&self) -> Vec<Call> {
        self.0.lock().unwrap().clone()
    }

    /// How often events of this type were handed over.
    fn offers(&self, aggregate_type: &str) -> usize {
        self.0.lock().unwrap().iter().flatten().filter(|(of, _, _)| of == aggregate_type).count()
    }
}

impl Publisher for WithoutTopic {
    async fn publish(&self, events: &[OutboxEvent]) -> Vec<Result<(), PublishError>> {
        let told = |event: &OutboxEvent| {
            (event.aggregate_type.clone(), event.aggregate_id.clone(), event.aggregate_version)
        };
        self.0.lock().unwrap().push(events.iter().map(told).collect());
        let answer = |event: &OutboxEvent| match event.aggregate_type.as_str() {
            "Missing" => Err(PublishError {
                kind: FailureKind::Record { permanent: false },
                cause: "unknown_topic",
                source: "no such topic".into(),
            }),
            _ => Ok(()),
        };
        events.iter().map(answer).collect()
    }

    fn timeout(&self) -> Duration {
        Duration::ZERO
    }
}

#[tokio::test]
async fn a_topic_that_is_missing_for_thousands_of_events_costs_few_statements_and_stops_no_other() {
    let server = OwnServer::start().await;
    let shop = &server.shop;
    let mut admin = shop.admin().await;
    let events = if long() { 20_000 } else { 5_000 };
    // Four of five have no topic, and are of 2,000 aggregates: many are refused, and many wait behind those.
    shop.run(format!(
        "INSERT INTO outbox (event_id, aggregate_id, aggregate_type, event_type, aggregate_version, payload, headers)
         WITH RECURSIVE n (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM n WHERE n + 1 < {events})
         SELECT /*+ SET_VAR(cte_max_recursion_depth = 100000) */
             UUID(), IF(n % 5 = 0, n, n % 2000), IF(n % 5 = 0, 'Order', 'Missing'), 'Changed',
             IF(n % 5 = 0, 1, n DIV 2000 + 1), '{{}}', '{{}}' FROM n"
    ))
    .await;
    let publisher = WithoutTopic::default();
    let settings = RelaySettings { retry: late(), keep_delivered: None, ..RelaySettings::default() };
    let relay = Relay::new(&shop.database_url, publisher.clone(), settings).unwrap();
    let before = statements(&mut admin).await;

    let report = relay.drain(in_a_minute()).await.unwrap();

    let asked = statements(&mut admin).await - before;
    assert_eq!((report.published, report.backlog), (events / 5, 0));
    let mut delivered: HashMap<String, usize> = HashMap::new();
    let calls = publisher.calls();
    for (_, aggregate, _) in calls.iter().flatten().filter(|(of, _, _)| of == "Order") {
        *delivered.entry(aggregate.clone()).or_default() += 1;
    }
    assert_eq!(delivered.len() as u64, events / 5);
    assert!(delivered.values().all(|times| *times == 1), "each is delivered once");
    assert_eq!(publisher.offers("Missing"), 1_600, "the first of each aggregate");
    let states = parked(shop).await;
    assert_eq!(states.len() as u64, events - events / 5);
    assert!(states.iter().all(|(_, version, state, attempts)| match version {
        1 => (state.as_str(), *attempts) == ("retry", 1),
        _ => (state.as_str(), *attempts) == ("waiting", 0),
    }));
    assert!(asked < events as i64 / 20, "{asked} questions for {events} events");
}

/// An operator's discard of a head comes between two moves: what waits behind it must still become the head.
#[tokio::test]
async fn of_many_aggregates_that_change_in_one_move_each_has_its_lowest_event_as_its_head() {
    let shop = TestShop::start().await;
    let publisher = WithoutTopic::default();
    let soon = RetrySettings { first_pause: Duration::from_secs(600), ..RetrySettings::default() };
    let settings = RelaySettings { retry: soon, ..RelaySettings::default() };
    let relay = Relay::new(&shop.database_url, publisher.clone(), settings).unwrap();
    let write = async |version: u32| {
        let events: Vec<_> = (0..30).map(|n| event("Missing", &format!("m-{n}"), version)).collect();
        write_without_lock(&mut shop.connect().await, &events).await.unwrap();
    };
    write(1).await;
    relay.drain(in_a_minute()).await.unwrap();
    write(2).await;
    relay.drain(in_a_minute()).await.unwrap();
    assert_eq!(parked(&shop).await.len(), 60);
    // A third of them lose all, and a third their head.
    shop.run(
        "DELETE FROM outbox_failures WHERE aggregate_version = 1 AND CAST(SUBSTR(aggregate_id, 3) AS UNSIGNED) < 20;
         DELETE FROM outbox_failures WHERE CAST(SUBSTR(aggregate_id, 3) AS UNSIGNED) < 10",
    )
    .await;
    write(3).await;
    relay.drain(in_a_minute()).await.unwrap();

    let mut lowest: HashMap<String, (u32, String)> = HashMap::new();
    for (aggregate, version, state, _) in parked(&shop).await {
        lowest.entry(aggregate).or_insert((version, state));
    }
    assert_eq!(lowest.len(), 30);
    for (aggregate, (version, state)) in &lowest {
        let n: u32 = aggregate[2..].parse().unwrap();
        let expected = [3, 2, 1][n as usize / 10];
        assert_eq!((*version, state.as_str()), (expected, "retry"), "{aggregate}");
    }
}

#[tokio::test]
async fn a_flood_of_retries_leaves_fresh_events_alone() {
    const BAD: usize = 500;
    const QUOTA: usize = 50;
    const FRESH: u32 = 100;
    let shop = TestShop::start().await;
    let publisher = WithoutTopic::default();
    // All of them are due all the time.
    let pause = Duration::from_millis(1);
    let retry = RetrySettings {
        max_attempts: u32::MAX,
        first_pause: pause,
        longest_pause: pause,
        quota: QUOTA,
        ..RetrySettings::default()
    };
    let settings = RelaySettings { retry, ..RelaySettings::default() };
    let relay = Relay::new(&shop.database_url, publisher.clone(), settings).unwrap();
    let bad: Vec<_> = (0..BAD).map(|n| event("Missing", &format!("bad-{n}"), 1)).collect();
    write_without_lock(&mut shop.connect().await, &bad).await.unwrap();
    let beside = relay.clone();
    let run = tokio::spawn(async move { beside.run(in_a_minute(), Duration::from_secs(30)).await });
    until("all are parked and tried again", async || publisher.offers("Missing") > 2 * BAD).await;
    let flooded = publisher.calls().len();

    for version in 1..=FRESH {
        shop.commit("fresh", version).await;
        until("it is delivered", async || publisher.offers("Order") >= version as usize).await;
    }

    run.abort();
    let calls = &publisher.calls()[flooded..];
    let fresh: Vec<u32> =
        calls.iter().flatten().filter(|(of, _, _)| of == "Order").map(|(_, _, version)| *version).collect();
    assert_eq!(fresh, (1..=FRESH).collect::<Vec<_>>());
    let retries: Vec<usize> =
        calls.iter().map(|call| call.iter().filter(|(of, _, _)| of == "Missing").count()).collect();
    assert!(retries.iter().sum::<usize>() > 0, "the flood went on meanwhile");
    assert!(retries.iter().all(|retries| *retries <= QUOTA), "{retries:?}");
    let mixed = calls.iter().filter(|call| call.iter().any(|(of, _, _)| of == "Order") && call.len() > 1);
    assert_eq!(mixed.count(), 0, "a fresh event never waits for the answers to retries");
}
