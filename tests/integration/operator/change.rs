//! Retrying, and what retrying and discarding have in common: what they touch, and what they leave alone.

use super::{Parking, hold, signature, state};
use outflow_outbox::operator::{
    AuditFilter, Discard, EventRef, FailureState, Filter, OperatorError, Page, SkippedBecause,
};

pub(super) fn by_cause(cause: &str) -> Filter {
    Filter { cause: Some(cause.to_owned()), ..Filter::default() }
}

pub(super) fn named(ids: &[u64]) -> Filter {
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
async fn a_change_waits_for_whoever_holds_the_group_and_tells_of_what_went_meanwhile() {
    let parking = Parking::start().await;
    parking.park(&["big", "other"], 1..=1, true, "message_too_large").await;
    for discards in [false, true] {
        let filter = named(if discards { &[2] } else { &[1] });
        let mut relay = hold(&parking.shop).await;
        let operator = parking.operator.clone();
        let changing = tokio::spawn(async move {
            if discards {
                let discard = Discard { filter, breaks_order: true, ..Discard::default() };
                let discarded = operator.discard(&discard, &signature()).await.unwrap();
                (discarded.events.len(), discarded.skipped)
            } else {
                let retried = operator.retry(&filter, false, &signature(), false).await.unwrap();
                (retried.events.len(), retried.skipped)
            }
        });
        parking.shop.until_locked_out().await;
        // Meanwhile it went through after all.
        sqlx::query("DELETE FROM outbox_failures ORDER BY id LIMIT 1").execute(&mut *relay).await.unwrap();
        relay.commit().await.unwrap();

        let (changed, skipped) = changing.await.unwrap();

        assert_eq!(changed, 0, "nothing is left to change");
        let skipped: Vec<_> = skipped.iter().map(|s| (s.event.as_str(), &s.because)).collect();
        let named = if discards { "2" } else { "1" };
        assert_eq!(skipped, [(named, &SkippedBecause::NotParked)]);
    }
    assert_eq!(audit(&parking).await, []);
}
