//! How the outbox stands is told at one moment, and what is wrong with it is named.

use super::{GROUP, HOUR, Parking, commit_events, run, signature};
use outflow_outbox::operator::{Bounds, FailureState, Operator, OperatorError, Problem};
use outflow_tests::write_event;
use std::time::Duration;

#[tokio::test]
async fn a_status_tells_position_backlog_gaps_lease_parked_events_and_causes() {
    let parking = Parking::start().await;
    let mut open = parking.shop.begin().await;
    for version in 1..=3 {
        write_event(&mut open, "open", version).await;
    }
    parking.park(&["big-1", "big-2"], 1..=3, true, "message_too_large").await;
    parking.park(&["odd"], 1..=1, false, "invalid_record").await;
    commit_events(&parking.shop, "late", 1..=4).await;
    run(&parking.shop, "UPDATE outbox SET created_at = created_at - INTERVAL 2 MINUTE WHERE id > 10").await;
    run(
        &parking.shop,
        "UPDATE outbox_position SET lease_owner = 'r-1', lease_until = UTC_TIMESTAMP(6) + INTERVAL 1 HOUR",
    )
    .await;
    run(&parking.shop, "UPDATE outbox_gaps SET first_seen_at = first_seen_at - INTERVAL 1 HOUR").await;

    let status = parking.operator.status().await.unwrap();

    assert_eq!((status.position, status.last_id, status.backlog, status.kept), (10, Some(14), 4, 7));
    assert!(status.oldest_age_ms.is_some_and(|age| (120_000..600_000).contains(&age)), "{status:?}");
    let gaps = &status.gaps;
    assert_eq!((gaps.ranges, gaps.ids, gaps.first_id), (1, 3, Some(1)));
    assert!(gaps.oldest_age_ms.is_some_and(|age| age >= 3_600_000), "{gaps:?}");
    assert_eq!((status.lease.owner.as_deref(), status.lease.fencing_token), (Some("r-1"), 2));
    assert!(status.lease.remaining_ms.is_some_and(|left| left > 3_000_000), "{:?}", status.lease);
    assert_eq!((&status.paused, status.on_this_server), (&None, true));
    let parked = &status.parked;
    assert_eq!((parked.aggregates, parked.retry, parked.waiting, parked.dead, parked.due), (3, 1, 4, 2, 0));
    assert!(parked.next_attempt_at.is_some());
    let causes: Vec<_> = parked
        .causes
        .iter()
        .map(|c| (c.cause.as_deref(), c.events, c.retry, c.dead, c.waiting, c.max_attempts))
        .collect();
    let expected = [(Some("message_too_large"), 2, 0, 2, 4, 1), (Some("invalid_record"), 1, 1, 0, 0, 1)];
    assert_eq!(causes, expected);
    let checkpoint = status.checkpoint.as_ref().expect("a drain leaves one");
    assert_eq!(checkpoint.position, 10);
    let problems = status.problems(&Bounds::default());
    assert_eq!(problems, [Problem::DeadLetters, Problem::Behind]);
    open.rollback().await.unwrap();
}

#[tokio::test]
async fn what_is_wrong_depends_on_the_bounds_and_a_pause_is_not() {
    let parking = Parking::start().await;
    parking.park(&["odd"], 1..=1, false, "invalid_record").await;
    let mut open = parking.shop.begin().await;
    write_event(&mut open, "open", 1).await;
    commit_events(&parking.shop, "order", 1..=1).await;
    parking.drain().await;
    commit_events(&parking.shop, "order", 2..=2).await;
    run(&parking.shop, "UPDATE outbox SET created_at = created_at - INTERVAL 1 HOUR WHERE id > 2").await;
    let loose = Bounds { max_age: 2 * HOUR, ..Bounds::default() };
    let tight = Bounds { max_gaps: 1, max_parked: 1, max_age: Duration::from_secs(1) };

    let status = parking.operator.status().await.unwrap();
    parking.operator.pause(&signature(), false).await.unwrap();
    let paused = parking.operator.status().await.unwrap();
    run(&parking.shop, "UPDATE outbox_position SET server_uuid = UUID()").await;
    let elsewhere = parking.operator.status().await.unwrap();

    assert_eq!(status.problems(&loose), []);
    assert_eq!(status.problems(&tight), [Problem::TooManyGaps, Problem::TooManyParked, Problem::Behind]);
    assert_eq!(paused.problems(&tight), [Problem::TooManyGaps, Problem::TooManyParked]);
    assert_eq!(paused.paused.as_ref().map(|pause| pause.by.as_str()), Some("tester@host"));
    assert_eq!(elsewhere.problems(&loose), [Problem::AnotherServer]);
    open.rollback().await.unwrap();
}

#[tokio::test]
async fn each_group_stands_for_itself_and_an_unknown_one_is_told_with_those_there_are() {
    let parking = Parking::start().await;
    let pool = parking.shop.store.pool();
    assert_eq!(Operator::groups(pool).await.unwrap(), [""; 0]);
    let error = parking.operator.status().await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "relay group default is unknown: there is none, a relay's first run makes it"
    );
    parking.park(&["big"], 1..=2, true, "message_too_large").await;
    run(&parking.shop, "INSERT INTO outbox_position (relay_group, position) VALUES ('archive', 1)").await;

    let archive = Operator::new(pool.clone(), "archive").unwrap().status().await.unwrap();
    let error = Operator::new(pool.clone(), "archives").unwrap().status().await.unwrap_err();

    assert_eq!(Operator::groups(pool).await.unwrap(), ["archive", GROUP]);
    assert_eq!((archive.backlog, archive.parked.dead, archive.lease.fencing_token), (1, 0, 0));
    assert!(matches!(&error, OperatorError::UnknownGroup { .. }), "{error}");
    assert!(error.to_string().ends_with("there are archive, default"), "{error}");
    assert!(Operator::new(pool.clone(), "no blanks").is_err());
}

#[tokio::test]
async fn an_event_that_follows_a_delivered_one_is_told_as_not_tried_yet() {
    let parking = Parking::start().await;
    parking.park(&["big"], 1..=2, true, "message_too_large").await;
    run(&parking.shop, "DELETE FROM outbox_failures WHERE state = 'dead'").await;
    run(&parking.shop, "UPDATE outbox_failures SET state = 'retry', next_attempt_at = UTC_TIMESTAMP(6)")
        .await;

    let parked = parking.operator.status().await.unwrap().parked;

    assert_eq!((parked.retry, parked.due, parked.causes[0].cause.as_deref()), (1, 1, None));
    assert_eq!(parked.causes[0].last_seen_at, parked.causes[0].first_seen_at);
    assert_eq!("retry".parse::<FailureState>().unwrap(), FailureState::Retry);
}
