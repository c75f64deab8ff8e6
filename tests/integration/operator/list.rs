//! Parked events are found by what they are and by what went wrong.

use super::{Parking, run};
use outflow_outbox::operator::{FailureState, Filter, OperatorError, Page};
use time::{Duration, OffsetDateTime};

/// 1 to 3 are of big-1, 4 to 6 of big-2, 7 of odd.
async fn seven() -> Parking {
    let parking = Parking::start().await;
    parking.park(&["big-1", "big-2"], 1..=3, true, "message_too_large").await;
    parking.park(&["odd"], 1..=1, false, "invalid_record").await;
    run(&parking.shop, "UPDATE outbox_failures SET event_type = 'Cancelled' WHERE id IN (3, 6)").await;
    run(&parking.shop, "UPDATE outbox_failures SET aggregate_type = 'Inventory' WHERE id = 7").await;
    run(&parking.shop, "UPDATE outbox_failures SET parked_at = parked_at - INTERVAL 1 DAY WHERE id <= 2")
        .await;
    parking
}

#[tokio::test]
async fn filters_narrow_the_list_and_go_together() {
    let parking = seven().await;
    let text = |text: &str| Some(text.to_owned());
    let yesterday = OffsetDateTime::now_utc() - Duration::hours(12);
    for (filter, expected) in [
        (Filter::default(), vec![1, 2, 3, 4, 5, 6, 7]),
        (Filter { state: Some(FailureState::Dead), ..Filter::default() }, vec![1, 4]),
        (Filter { state: Some(FailureState::Waiting), ..Filter::default() }, vec![2, 3, 5, 6]),
        (Filter { cause: text("invalid_record"), ..Filter::default() }, vec![7]),
        (Filter { aggregate_type: text("Inventory"), ..Filter::default() }, vec![7]),
        (Filter { aggregate_id: text("big-2"), ..Filter::default() }, vec![4, 5, 6]),
        (Filter { event_type: text("Cancelled"), ..Filter::default() }, vec![3, 6]),
        (Filter { parked_from: Some(yesterday), ..Filter::default() }, vec![3, 4, 5, 6, 7]),
        (Filter { parked_to: Some(yesterday), ..Filter::default() }, vec![1, 2]),
        (Filter { event_type: text("Cancelled"), aggregate_id: text("big-1"), ..Filter::default() }, vec![3]),
        (Filter { cause: text("no_such_cause"), ..Filter::default() }, vec![]),
    ] {
        let list = parking.operator.list(&filter, Page::default()).await.unwrap();
        let found: Vec<u64> = list.failures.iter().map(|failure| failure.id).collect();
        assert_eq!((found, list.next_after), (expected, None), "{filter:?}");
    }
    let list = parking.operator.list(&Filter::default(), Page::default()).await.unwrap();
    let (dead, waiting) = (&list.failures[0], &list.failures[1]);
    assert_eq!((dead.head_id, dead.behind, dead.attempts, dead.next_attempt_at), (1, Some(2), 1, None));
    assert_eq!(dead.last_error.as_deref(), Some("big-1 was refused"));
    assert_eq!((waiting.head_id, waiting.behind, waiting.cause.as_deref()), (1, None, None));
}

#[tokio::test]
async fn a_long_list_comes_in_parts_that_hold_each_event_once() {
    let parking = seven().await;
    let mut page = Page { limit: 3, after: 0 };
    let mut parts = Vec::new();
    loop {
        let list = parking.operator.list(&Filter::default(), page).await.unwrap();
        parts.push(list.failures.iter().map(|failure| failure.id).collect::<Vec<_>>());
        let Some(after) = list.next_after else { break };
        page.after = after;
    }
    assert_eq!(parts, [vec![1, 2, 3], vec![4, 5, 6], vec![7]]);
    for limit in [0, 1_001] {
        let page = Page { limit, after: 0 };
        let error = parking.operator.list(&Filter::default(), page).await.unwrap_err();
        assert_eq!(error.to_string(), "limit is refused: wants 1 to 1,000");
    }
}

#[tokio::test]
async fn causes_are_counted_with_what_waits_behind_and_an_example() {
    let parking = seven().await;
    parking.picky.accept_all();

    let causes = parking.operator.causes(&Filter::default()).await.unwrap();
    let one = Filter { aggregate_id: Some("big-2".to_owned()), ..Filter::default() };
    let of_one = parking.operator.causes(&one).await.unwrap();
    let waiting = Filter { state: Some(FailureState::Waiting), ..Filter::default() };
    let error = parking.operator.causes(&waiting).await.unwrap_err();

    let big = &causes[0];
    assert_eq!((big.cause.as_deref(), big.events, big.dead, big.retry), (Some("message_too_large"), 2, 2, 0));
    assert_eq!(
        (big.waiting, big.example_id, big.example_error.as_deref()),
        (4, 1, Some("big-1 was refused"))
    );
    assert!(big.first_seen_at < big.last_seen_at - Duration::hours(23), "{big:?}");
    assert_eq!((causes[1].cause.as_deref(), causes[1].retry), (Some("invalid_record"), 1));
    assert_eq!((of_one.len(), of_one[0].events, of_one[0].example_id), (1, 1, 4));
    assert!(matches!(error, OperatorError::Field { field: "state", .. }), "{error}");
}
