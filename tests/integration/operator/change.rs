//! Retrying and discarding: what they touch, what they leave alone, and what they leave behind.

use super::{Parking, run, signature, state};
use outflow_outbox::operator::{
    AuditFilter, Discard, EventRef, FailureState, Filter, OperatorError, OrderBreak, Page, SkippedBecause,
};
use sqlx::Row;

fn by_cause(cause: &str) -> Filter {
    Filter { cause: Some(cause.to_owned()), ..Filter::default() }
}

fn named(ids: &[u64]) -> Filter {
    Filter { events: ids.iter().copied().map(EventRef::Id).collect(), ..Filter::default() }
}

async fn audit(parking: &Parking) -> Vec<(String, Option<u64>)> {
    let audit =
        parking.operator.audit(&AuditFilter::default(), Page { limit: 1_000, after: 0 }).await.unwrap();
    audit.into_iter().rev().map(|entry| (entry.action, entry.outbox_id)).collect()
}

#[tokio::test]
async fn dead_events_of_a_cause_begin_again_and_what_waits_follows_them_in_order() {
    let parking = Parking::start().await;
    parking.park(&["big-1", "big-2"], 1..=3, true, "message_too_large").await;
    parking.park(&["odd"], 1..=1, true, "invalid_record").await;

    let planned =
        parking.operator.retry(&by_cause("message_too_large"), false, &signature(), true).await.unwrap();
    let untouched = parking.states().await;
    let retried =
        parking.operator.retry(&by_cause("message_too_large"), false, &signature(), false).await.unwrap();

    assert_eq!(planned.events, retried.events);
    assert_eq!((planned.dry_run, retried.dry_run, retried.more), (true, false, false));
    assert_eq!(untouched[0], state("big-1", 1, "dead", 1));
    let told: Vec<_> = retried.events.iter().map(|e| (e.id, e.was, e.attempts, e.behind)).collect();
    assert_eq!(told, [(1, FailureState::Dead, 1, 2), (4, FailureState::Dead, 1, 2)]);
    let states = parking.states().await;
    assert_eq!(states[0], state("big-1", 1, "retry", 0));
    assert_eq!(states[1], state("big-1", 2, "waiting", 0));
    assert_eq!(states[6], state("odd", 1, "dead", 1));
    let history = "SELECT CAST(SUM(JSON_LENGTH(history)) AS SIGNED) FROM outbox_failures WHERE id IN (1, 4)";
    assert_eq!(parking.shop.number(history).await, 2, "history stays");
    assert_eq!(audit(&parking).await, [("retry".to_owned(), Some(1)), ("retry".to_owned(), Some(4))]);

    parking.picky.accept_all();
    let report = parking.drain().await;
    assert_eq!((report.retried, report.parked), (6, 1));
    assert_eq!((parking.published("big-1"), parking.published("big-2")), (vec![1, 2, 3], vec![1, 2, 3]));
    assert_eq!(parking.states().await, [state("odd", 1, "dead", 1)]);
}

#[tokio::test]
async fn one_that_pauses_between_attempts_is_brought_forward_and_keeps_its_count() {
    let parking = Parking::start().await;
    parking.park(&["odd"], 1..=2, false, "invalid_record").await;
    assert_eq!(parking.drain().await.retried, 0, "an hour's pause");

    let retried = parking.operator.retry(&Filter::default(), true, &signature(), false).await.unwrap();
    parking.drain().await;

    assert_eq!((retried.events.len(), retried.events[0].was), (1, FailureState::Retry));
    assert_eq!(parking.states().await, [state("odd", 1, "retry", 2), state("odd", 2, "waiting", 0)]);
}

#[tokio::test]
async fn what_is_named_and_cannot_be_changed_is_told_with_the_reason() {
    let parking = Parking::start().await;
    parking.park(&["big"], 1..=2, true, "message_too_large").await;
    parking.park(&["odd"], 1..=1, true, "invalid_record").await;
    let filter = Filter { cause: Some("message_too_large".to_owned()), ..named(&[1, 2, 3, 99]) };

    let retried = parking.operator.retry(&filter, false, &signature(), false).await.unwrap();

    assert_eq!(retried.events.iter().map(|event| event.id).collect::<Vec<_>>(), [1]);
    let skipped: Vec<_> = retried.skipped.iter().map(|s| (s.event.as_str(), &s.because)).collect();
    let expected = [
        ("2", &SkippedBecause::Waits { head_id: 1 }),
        ("3", &SkippedBecause::DoesNotFit),
        ("99", &SkippedBecause::NotParked),
    ];
    assert_eq!(skipped, expected);
    let error = parking.operator.retry(&Filter::default(), false, &signature(), false).await.unwrap_err();
    assert!(matches!(error, OperatorError::NothingSelected), "{error}");
    let waiting = Filter { state: Some(FailureState::Waiting), ..Filter::default() };
    let error = parking.operator.retry(&waiting, false, &signature(), false).await.unwrap_err();
    assert!(matches!(error, OperatorError::Field { field: "state", .. }), "{error}");
}

#[tokio::test]
async fn a_discard_that_leaves_an_aggregate_out_of_order_says_so_and_wants_to_be_confirmed() {
    let parking = Parking::start().await;
    parking.park(&["begun"], 1..=3, true, "message_too_large").await;
    parking.park(&["alone"], 1..=1, true, "message_too_large").await;
    super::commit_events(&parking.shop, "known", 1..=1).await;
    parking.drain().await;
    parking.park(&["known"], 2..=2, true, "message_too_large").await;
    let mut discard = Discard { filter: by_cause("message_too_large"), dry_run: true, ..Discard::default() };

    let planned = parking.operator.discard(&discard, &signature()).await.unwrap();
    discard.dry_run = false;
    let refused = parking.operator.discard(&discard, &signature()).await.unwrap_err();
    let untouched = parking.states().await.len();
    discard.breaks_order = true;
    let discarded = parking.operator.discard(&discard, &signature()).await.unwrap();

    let breaks: Vec<_> =
        planned.events.iter().map(|e| (e.aggregate_id.as_str(), e.breaks_order, e.followed_by)).collect();
    let expected = [
        ("begun", Some(OrderBreak::LaterFollow), 2),
        ("alone", None, 0),
        ("known", Some(OrderBreak::VersionMissing), 0),
    ];
    assert_eq!(breaks, expected);
    assert_eq!((planned.broken, planned.discarded, planned.dry_run), (2, 3, true));
    let OperatorError::BreaksOrder { events, ref aggregate_id, version, .. } = refused else {
        panic!("{refused}")
    };
    assert_eq!((events, aggregate_id.as_str(), version, untouched), (2, "begun", 1, 5));
    assert_eq!(discarded.events, planned.events);
    let left = [state("begun", 2, "retry", 0), state("begun", 3, "waiting", 0)];
    assert_eq!(parking.states().await, left, "the next is due at once");

    parking.picky.accept_all();
    parking.drain().await;
    assert_eq!(parking.published("begun"), [2, 3]);
    assert_eq!(parking.published("alone"), [0; 0]);
}

#[tokio::test]
async fn the_audit_keeps_a_discarded_event_whole() {
    let parking = Parking::start().await;
    parking.park(&["big"], 1..=1, true, "message_too_large").await;
    let columns =
        "event_id, aggregate_type, aggregate_id, event_type, CAST(payload AS CHAR), CAST(headers AS CHAR)";
    let row = sqlx::query(sqlx::AssertSqlSafe(format!("SELECT {columns} FROM outbox WHERE id = 1")))
        .fetch_one(parking.shop.store.pool())
        .await
        .unwrap();
    let discard = Discard { filter: named(&[1]), ..Discard::default() };

    parking.operator.discard(&discard, &signature()).await.unwrap();

    let audit = parking.operator.audit(&AuditFilter::default(), Page::default()).await.unwrap();
    let [entry] = &audit[..] else { panic!("one event, one entry: {audit:?}") };
    let event = entry.event.as_ref().expect("the whole of it");
    for (index, key) in ["event_id", "aggregate_type", "aggregate_id", "event_type"].into_iter().enumerate() {
        assert_eq!(event[key].as_str(), Some(row.get::<&str, _>(index)), "{key}");
    }
    for (index, key) in [(4, "payload"), (5, "headers")] {
        let written: serde_json::Value = serde_json::from_str(row.get(index)).unwrap();
        assert_eq!(event[key], written, "{key}");
    }
    assert_eq!((event["cause"].as_str(), event["attempts"].as_u64()), (Some("message_too_large"), Some(1)));
    assert_eq!(event["history"].as_array().map(Vec::len), Some(1));
    assert_eq!(
        (entry.action.as_str(), entry.by.as_str(), entry.reason.as_str()),
        ("discard", "tester@host", "the test says so")
    );
}

#[tokio::test]
async fn a_whole_aggregate_goes_with_everything_that_waits_and_nothing_of_it_slips_out() {
    let parking = Parking::start().await;
    // More than one transaction takes.
    parking.park(&["long"], 1..=250, true, "message_too_large").await;
    parking.park(&["other"], 1..=2, true, "message_too_large").await;
    let discard = Discard {
        filter: Filter { aggregate_id: Some("long".to_owned()), ..Filter::default() },
        whole_aggregate: true,
        ..Discard::default()
    };

    let planned =
        parking.operator.discard(&Discard { dry_run: true, ..discard.clone() }, &signature()).await.unwrap();
    let discarded = parking.operator.discard(&discard, &signature()).await.unwrap();
    parking.picky.accept_all();
    parking.drain().await;

    assert_eq!(planned.events, discarded.events);
    let told = &discarded.events[0];
    assert_eq!((told.with_it, told.followed_by, told.breaks_order), (249, 0, None));
    assert_eq!((discarded.discarded, discarded.broken), (250, 0));
    assert_eq!(parking.published("long"), [0; 0]);
    assert_eq!(parking.states().await, [state("other", 1, "dead", 1), state("other", 2, "waiting", 0)]);
    assert_eq!(parking.shop.number("SELECT COUNT(*) FROM outbox_audit WHERE action = 'discard'").await, 250);
}

#[tokio::test]
async fn many_events_are_changed_in_chunks_and_each_once() {
    let parking = Parking::start().await;
    let aggregates: Vec<String> = (0..230).map(|n| format!("big-{n:03}")).collect();
    let names: Vec<&str> = aggregates.iter().map(String::as_str).collect();
    parking.park(&names, 1..=2, true, "message_too_large").await;

    let retried = parking.operator.retry(&Filter::default(), true, &signature(), false).await.unwrap();
    let all = Discard { all: true, breaks_order: true, ..Discard::default() };
    let discarded = parking.operator.discard(&all, &signature()).await.unwrap();

    assert_eq!((retried.events.len(), discarded.events.len()), (230, 230));
    let states = parking.states().await;
    assert_eq!(
        states.len(),
        230,
        "a version 2 that has become the first is not one of those that were meant"
    );
    assert!(states.iter().all(|(_, version, state, _)| *version == 2 && state == "retry"));
}

#[tokio::test]
async fn a_change_waits_for_whoever_holds_the_group() {
    let parking = Parking::start().await;
    parking.park(&["big"], 1..=1, true, "message_too_large").await;
    let mut relay = parking.shop.begin().await;
    sqlx::query("SELECT position FROM outbox_position WHERE relay_group = 'default' FOR UPDATE")
        .fetch_one(&mut *relay)
        .await
        .unwrap();
    let operator = parking.operator.clone();
    let retrying =
        tokio::spawn(async move { operator.retry(&Filter::default(), true, &signature(), false).await });
    parking.shop.until_locked_out().await;
    // Meanwhile it went through after all.
    sqlx::query("DELETE FROM outbox_failures WHERE id = 1").execute(&mut *relay).await.unwrap();
    relay.commit().await.unwrap();

    let retried = retrying.await.unwrap().unwrap();

    assert_eq!(retried.events.len(), 0, "nothing is left to try again: {retried:?}");
    run(&parking.shop, "DO 0").await;
    assert_eq!(audit(&parking).await, []);
}
