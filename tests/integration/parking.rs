//! An event that is refused for its own sake stops its aggregate and nothing else, and order holds when it is through.

mod many;

use outflow_outbox::{FailureKind, Relay, RelayError, RelaySettings, RetrySettings};
use outflow_tests::{Recorder, TestShop, in_a_minute, until};
use serde_json::Value;
use sqlx::Executor;
use std::time::{Duration, Instant};

const REFUSED: FailureKind = FailureKind::Record { permanent: false };
const NEVER: FailureKind = FailureKind::Record { permanent: true };

fn relay(shop: &TestShop, retry: RetrySettings) -> (Relay<Recorder>, Recorder) {
    let recorder = Recorder::default();
    (shop.relay_to(&recorder, RelaySettings { retry, ..RelaySettings::default() }), recorder)
}

/// Pauses too short to wait for.
fn soon() -> RetrySettings {
    RetrySettings { first_pause: Duration::from_millis(1), ..RetrySettings::default() }
}

/// Pauses longer than any test.
fn late() -> RetrySettings {
    let pause = Duration::from_secs(600);
    RetrySettings { first_pause: pause, longest_pause: pause, ..RetrySettings::default() }
}

async fn commit(shop: &TestShop, events: &[(&str, u32)]) {
    for (aggregate, version) in events {
        shop.commit(aggregate, *version).await;
    }
}

/// Aggregate, version, state and attempts of everything that is parked.
async fn parked(shop: &TestShop) -> Vec<(String, u32, String, u32)> {
    let sql = "SELECT aggregate_id, aggregate_version, state, attempts FROM outbox_failures ORDER BY id";
    sqlx::query_as(sql).fetch_all(shop.store.pool()).await.unwrap()
}

fn row(aggregate: &str, version: u32, state: &str, attempts: u32) -> (String, u32, String, u32) {
    (aggregate.to_owned(), version, state.to_owned(), attempts)
}

/// An operator says: now.
async fn due_now(shop: &TestShop) {
    shop.run("UPDATE outbox_failures SET next_attempt_at = UTC_TIMESTAMP(6) WHERE state = 'retry'").await;
}

#[tokio::test]
async fn only_the_refused_events_aggregate_waits_and_follows_in_order_once_it_is_through() {
    let shop = TestShop::start().await;
    let (relay, recorder) = relay(&shop, late());
    commit(&shop, &[("a", 1), ("b", 1), ("a", 2), ("b", 2)]).await;
    recorder.refuse_as(REFUSED, &["a"]);

    let first = relay.drain(in_a_minute()).await.unwrap();
    commit(&shop, &[("a", 3), ("b", 3)]).await;
    let second = relay.drain(in_a_minute()).await.unwrap();
    let waiting = parked(&shop).await;
    recorder.refuse(&[]);
    due_now(&shop).await;
    let third = relay.drain(in_a_minute()).await.unwrap();
    commit(&shop, &[("a", 4)]).await;
    relay.drain(in_a_minute()).await.unwrap();

    assert_eq!((first.published, first.parked, first.backlog), (2, 1, 0));
    assert_eq!((second.published, second.retried, second.parked), (1, 0, 1));
    assert_eq!(waiting, [row("a", 1, "retry", 1), row("a", 2, "waiting", 0), row("a", 3, "waiting", 0)]);
    assert_eq!((third.published, third.retried, third.parked), (3, 3, 0));
    assert_eq!(recorder.versions_of("a"), [1, 2, 3, 4]);
    assert_eq!(recorder.versions_of("b"), [1, 2, 3]);
    assert_eq!(parked(&shop).await, []);
}

#[tokio::test]
async fn an_event_that_will_never_be_accepted_is_dead_at_once_and_left_alone() {
    let shop = TestShop::start().await;
    let (relay, recorder) = relay(&shop, soon());
    commit(&shop, &[("a", 1), ("a", 2), ("b", 1)]).await;
    recorder.refuse_as(NEVER, &["a"]);

    let report = relay.drain(in_a_minute()).await.unwrap();
    recorder.refuse(&[]);
    let idle = relay.drain(in_a_minute()).await.unwrap();

    assert_eq!((report.published, report.dead_lettered, report.parked), (1, 1, 1));
    assert_eq!((idle.published, idle.retried, idle.dead_lettered, idle.parked), (0, 0, 0, 1));
    assert_eq!(parked(&shop).await, [row("a", 1, "dead", 1), row("a", 2, "waiting", 0)]);
    assert_eq!(recorder.offers("a"), 1);
    let (cause, error, next): (String, String, i64) = sqlx::query_as(
        "SELECT cause, last_error, next_attempt_at IS NULL FROM outbox_failures WHERE state = 'dead'",
    )
    .fetch_one(shop.store.pool())
    .await
    .unwrap();
    assert_eq!((cause.as_str(), error.as_str(), next), ("refused", "by the test", 1));
}

#[tokio::test]
async fn attempts_come_after_pauses_that_double_to_a_cap_and_end_with_a_dead_letter_and_its_history() {
    let shop = TestShop::start().await;
    let ms = Duration::from_millis;
    let retry = RetrySettings {
        max_attempts: 4,
        first_pause: ms(200),
        longest_pause: ms(500),
        ..RetrySettings::default()
    };
    let (relay, recorder) = relay(&shop, retry);
    commit(&shop, &[("a", 1), ("a", 2)]).await;
    recorder.refuse_as(REFUSED, &["a"]);
    let (mut pauses, mut dead) = (Vec::new(), 0);

    until("the event is dead", async || {
        let offers = recorder.offers("a");
        dead += relay.drain(in_a_minute()).await.unwrap().dead_lettered;
        if recorder.offers("a") > offers && dead == 0 {
            // Both are the time of one statement.
            let at = "SELECT CAST(TIMESTAMPDIFF(MICROSECOND, STR_TO_DATE(
                          JSON_UNQUOTE(JSON_EXTRACT(history, CONCAT('$[', JSON_LENGTH(history) - 1, '].at'))),
                          '%Y-%m-%dT%H:%i:%s.%fZ'), next_attempt_at) / 1000 AS SIGNED) FROM outbox_failures WHERE state = 'retry'";
            pauses.push(shop.number(at).await);
        }
        dead > 0
    })
    .await;

    assert_eq!((dead, recorder.offers("a")), (1, 4));
    let bounds = [(100, 200), (200, 400), (250, 500)];
    assert_eq!(pauses.len(), bounds.len());
    for (pause, (least, most)) in pauses.iter().zip(bounds) {
        assert!((least..=most).contains(pause), "{pauses:?} ms");
    }
    let history: Value = sqlx::query_scalar("SELECT history FROM outbox_failures WHERE state = 'dead'")
        .fetch_one(shop.store.pool())
        .await
        .unwrap();
    let history = history.as_array().unwrap();
    assert_eq!(history.len(), 4);
    assert!(history.iter().all(|attempt| attempt["cause"] == "refused" && attempt["error"] == "by the test"));
    let times: Vec<_> = history.iter().map(|attempt| attempt["at"].as_str().unwrap()).collect();
    assert!(times.is_sorted() && times.iter().all(|at| at.ends_with('Z')), "{times:?}");
    assert_eq!(parked(&shop).await, [row("a", 1, "dead", 4), row("a", 2, "waiting", 0)]);
}

#[tokio::test]
async fn a_broker_that_is_down_or_asks_for_a_pause_parks_nothing_and_burns_no_attempt() {
    let shop = TestShop::start().await;
    let (relay, recorder) = relay(&shop, late());
    commit(&shop, &[("a", 1), ("a", 2), ("b", 1)]).await;

    recorder.refuse_as(FailureKind::Retriable, &["a", "b"]);
    let down = relay.drain(in_a_minute()).await.unwrap_err();
    recorder.refuse_as(FailureKind::Backpressure, &["a", "b"]);
    let busy = relay.drain(Instant::now() + Duration::from_millis(300)).await.unwrap();
    let none = parked(&shop).await;

    assert!(matches!(down, RelayError::Publish { failed: 2, position: 0, .. }), "{down}");
    assert_eq!((busy.published, busy.backlog, busy.parked), (0, 3, 0));
    assert_eq!(none, []);
    recorder.refuse_as(REFUSED, &["a"]);
    relay.drain(in_a_minute()).await.unwrap();
    for kind in [FailureKind::Retriable, FailureKind::Backpressure] {
        recorder.refuse_as(kind, &["a"]);
        due_now(&shop).await;
        let offers = recorder.offers("a");
        let report = relay.drain(in_a_minute()).await.unwrap();
        assert_eq!((report.published, report.dead_lettered, report.parked), (0, 0, 1));
        assert_eq!(recorder.offers("a"), offers + 1, "{kind:?}");
        assert_eq!(parked(&shop).await, [row("a", 1, "retry", 1), row("a", 2, "waiting", 0)]);
    }
    recorder.refuse(&[]);
    due_now(&shop).await;
    relay.drain(in_a_minute()).await.unwrap();
    assert_eq!(
        recorder.versions(),
        [("b", 1), ("a", 1), ("a", 2)].map(|(id, version)| (id.to_owned(), version))
    );
}

#[tokio::test]
async fn heads_that_meet_a_broker_at_fault_let_those_behind_them_have_their_turn() {
    let shop = TestShop::start().await;
    let (relay, recorder) = relay(&shop, RetrySettings { quota: 2, ..late() });
    commit(&shop, &[("stuck-1", 1), ("stuck-2", 1), ("behind-1", 1), ("behind-2", 1)]).await;
    recorder.refuse_as(REFUSED, &["stuck-1", "stuck-2", "behind-1", "behind-2"]);
    relay.drain(in_a_minute()).await.unwrap();
    // As if the topic of two of them had no leader.
    recorder.refuse(&["stuck-1", "stuck-2"]);
    due_now(&shop).await;

    let report = relay.drain(in_a_minute()).await.unwrap();

    assert_eq!((report.published, report.retried, report.parked), (2, 2, 2));
    assert_eq!(parked(&shop).await, ["stuck-1", "stuck-2"].map(|head| row(head, 1, "retry", 1)));
    assert_eq!((recorder.offers("stuck-1"), recorder.offers("stuck-2")), (2, 2), "once, then put off");
    recorder.refuse(&[]);
    due_now(&shop).await;
    assert_eq!(relay.drain(in_a_minute()).await.unwrap().published, 2);
}

#[tokio::test]
async fn a_relay_that_is_fenced_at_the_broker_ends_with_an_error_of_its_own_and_blames_no_event() {
    let shop = TestShop::start().await;
    let (relay, recorder) = relay(&shop, late());
    commit(&shop, &[("parked", 1)]).await;
    recorder.refuse_as(REFUSED, &["parked"]);
    relay.drain(in_a_minute()).await.unwrap();
    commit(&shop, &[("fresh", 1), ("fresh", 2)]).await;
    recorder.refuse_as(FailureKind::Fenced, &["parked", "fresh"]);

    let fresh = relay.drain(in_a_minute()).await.unwrap_err();
    assert_eq!(recorder.offers("fresh"), 1, "nothing more is sent");
    recorder.refuse_as(FailureKind::Fenced, &["parked"]);
    relay.drain(in_a_minute()).await.unwrap();
    due_now(&shop).await;
    let lane = relay.drain(in_a_minute()).await.unwrap_err();

    for error in [fresh, lane] {
        assert!(matches!(error, RelayError::FencedByPublisher { .. }), "{error}");
    }
    assert_eq!(parked(&shop).await, [row("parked", 1, "retry", 1)]);
    assert_eq!(recorder.versions_of("fresh"), [1, 2]);
}

#[tokio::test]
async fn while_a_pass_over_parked_events_hangs_fresh_ones_are_delivered() {
    let shop = TestShop::start().await;
    let (relay, recorder) = relay(&shop, late());
    commit(&shop, &[("stuck", 1)]).await;
    recorder.refuse_as(REFUSED, &["stuck"]);
    relay.drain(in_a_minute()).await.unwrap();
    recorder.refuse(&[]);
    recorder.hold(&["stuck"]);
    due_now(&shop).await;
    let offers = recorder.offers("stuck");
    let beside = relay.clone();
    let drain = tokio::spawn(async move { beside.drain(in_a_minute()).await });
    recorder.until_offered("stuck", offers + 1).await;

    for version in 1..=3 {
        commit(&shop, &[("fresh", version)]).await;
        until("fresh events are delivered", async || recorder.versions_of("fresh").len() == version as usize)
            .await;
    }

    assert!(recorder.versions_of("stuck").is_empty());
    recorder.hold(&[]);
    let report = drain.await.unwrap().unwrap();
    assert_eq!((report.published, report.parked), (4, 0));
}

#[tokio::test]
async fn a_relay_that_starts_anew_keeps_the_later_events_of_a_parked_aggregate_back() {
    let shop = TestShop::start().await;
    let (first, first_recorder) = relay(&shop, late());
    commit(&shop, &[("a", 1), ("b", 1)]).await;
    first_recorder.refuse_as(REFUSED, &["a"]);
    first.drain(in_a_minute()).await.unwrap();
    drop(first);
    commit(&shop, &[("a", 2), ("b", 2), ("a", 3)]).await;

    let (second, recorder) = relay(&shop, late());
    let report = second.drain(in_a_minute()).await.unwrap();
    assert_eq!((report.published, report.parked), (1, 1));
    due_now(&shop).await;
    second.drain(in_a_minute()).await.unwrap();

    assert_eq!(recorder.versions_of("a"), [1, 2, 3]);
    assert_eq!(parked(&shop).await, []);
}

#[tokio::test]
async fn a_row_that_is_no_event_parks_its_aggregate_alone_and_is_told() {
    let shop = TestShop::start().await;
    let (relay, recorder) = relay(&shop, soon());
    commit(&shop, &[("a", 1), ("a", 2), ("a", 3), ("b", 1)]).await;
    shop.run("UPDATE outbox SET headers = '{\"n\": 1}' WHERE id = 2").await;

    let report = relay.drain(in_a_minute()).await.unwrap();

    assert_eq!(recorder.versions_of("a"), [1]);
    assert_eq!(recorder.versions_of("b"), [1]);
    assert_eq!(parked(&shop).await, [row("a", 2, "dead", 1), row("a", 3, "waiting", 0)]);
    assert_eq!((report.published, report.dead_lettered, report.parked), (2, 1, 1));
    shop.run(
        "UPDATE outbox_failures SET headers = '{}', state = 'retry', next_attempt_at = UTC_TIMESTAMP(6) WHERE id = 2",
    )
    .await;
    relay.drain(in_a_minute()).await.unwrap();
    assert_eq!(recorder.versions_of("a"), [1, 2, 3], "once an operator has mended it");
}

#[tokio::test]
async fn at_the_bound_of_parked_aggregates_the_position_stops_and_goes_on_once_they_are_through() {
    let shop = TestShop::start().await;
    let (relay, recorder) = relay(&shop, RetrySettings { max_parked: 3, ..late() });
    commit(&shop, &[("a", 1), ("b", 1), ("c", 1), ("d", 1), ("e", 1)]).await;
    recorder.refuse_as(REFUSED, &["a", "b", "c", "d", "e"]);
    let stopped = relay.drain(in_a_minute()).await.unwrap_err();
    recorder.refuse(&[]);
    commit(&shop, &[("a", 2), ("e", 2), ("fresh", 1)]).await;
    let stays = relay.drain(in_a_minute()).await.unwrap_err();

    for error in [stopped, stays] {
        assert!(matches!(error, RelayError::TooManyParked { limit: 3, .. }), "{error}");
    }
    assert_eq!(recorder.published(), []);
    due_now(&shop).await;
    until("all is delivered", async || match relay.drain(in_a_minute()).await {
        Ok(report) => report.backlog == 0 && report.parked == 0,
        Err(RelayError::TooManyParked { .. }) => false,
        Err(error) => panic!("{error}"),
    })
    .await;
    assert_eq!(recorder.published().len(), 8);
    assert_eq!((recorder.versions_of("a"), recorder.versions_of("e")), (vec![1, 2], vec![1, 2]));
}

#[tokio::test]
async fn what_an_operator_discards_beside_a_live_relay_is_followed_in_order() {
    let shop = TestShop::start().await;
    let (relay, recorder) = relay(&shop, soon());
    commit(&shop, &[("a", 1), ("a", 2), ("a", 3)]).await;
    recorder.refuse_as(NEVER, &["a"]);
    let beside = relay.clone();
    let run = tokio::spawn(async move { beside.run(in_a_minute(), Duration::from_secs(20)).await });
    until("the first is dead", async || parked(&shop).await.len() == 3).await;
    recorder.refuse(&[]);

    let mut operator = shop.begin().await;
    operator
        .execute("SELECT position FROM outbox_position WHERE relay_group = 'default' FOR UPDATE")
        .await
        .unwrap();
    commit(&shop, &[("a", 4)]).await;
    operator.execute("DELETE FROM outbox_failures WHERE aggregate_version = 1").await.unwrap();
    operator
        .execute(
            "UPDATE outbox_failures SET state = 'retry', next_attempt_at = UTC_TIMESTAMP(6) WHERE aggregate_version = 2",
        )
        .await
        .unwrap();
    operator.commit().await.unwrap();
    until("the others have followed", async || recorder.versions_of("a").len() == 3).await;
    commit(&shop, &[("a", 5)]).await;
    until("the next goes the usual way", async || recorder.versions_of("a").len() == 4).await;

    until("nothing is parked", async || parked(&shop).await.is_empty()).await;
    run.abort();
    assert_eq!(recorder.versions_of("a"), [2, 3, 4, 5]);
}

#[tokio::test]
async fn a_relay_that_dies_between_a_delivery_and_its_move_only_repeats() {
    let shop = TestShop::start().await;
    let (first, recorder) = relay(&shop, late());
    commit(&shop, &[("parked", 1)]).await;
    recorder.refuse_as(REFUSED, &["parked"]);
    first.drain(in_a_minute()).await.unwrap();
    recorder.refuse(&[]);
    commit(&shop, &[("parked", 2), ("fresh", 1), ("fresh", 2)]).await;
    due_now(&shop).await;
    // Whoever holds the group's row keeps the relay from writing down what it has delivered.
    let stopper = std::sync::Arc::new(tokio::sync::Mutex::new(Some(shop.begin().await)));
    let held = std::sync::Arc::clone(&stopper);
    recorder
        .during_next(move || {
            let held = std::sync::Arc::clone(&held);
            async move {
                let mut held = held.lock().await;
                let transaction = held.as_mut().expect("nobody has taken it");
                transaction.execute("SELECT position FROM outbox_position FOR UPDATE").await.unwrap();
            }
        })
        .await;
    let dying = tokio::spawn(async move { first.drain(in_a_minute()).await });
    until("both are delivered", async || {
        recorder.versions_of("parked").len() == 1 && recorder.versions_of("fresh").len() == 2
    })
    .await;
    dying.abort();
    stopper.lock().await.take().expect("it was only lent").rollback().await.unwrap();
    shop.run("UPDATE outbox_position SET lease_until = UTC_TIMESTAMP(6)").await;

    let (second, second_recorder) = relay(&shop, late());
    until("nothing is left", async || {
        let report = second.drain(in_a_minute()).await.unwrap();
        report.backlog == 0 && report.parked == 0 && !report.lease_held_elsewhere
    })
    .await;

    for aggregate in ["parked", "fresh"] {
        let mut seen = recorder.versions_of(aggregate);
        seen.extend(second_recorder.versions_of(aggregate));
        let mut first_seen = Vec::new();
        seen.iter().for_each(|version| {
            if !first_seen.contains(version) {
                first_seen.push(*version);
            }
        });
        assert_eq!(first_seen, [1, 2], "{aggregate}: {seen:?}");
    }
    assert_eq!(parked(&shop).await, []);
}
