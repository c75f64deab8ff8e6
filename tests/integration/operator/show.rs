//! What has become of an event is told from wherever a trace of it is left.

use super::{GROUP, Parking, commit_events, run, signature};
use outflow_outbox::operator::{Discard, EventRef, Fate, Filter, Operator, OperatorError, Shown, prune_step};
use outflow_tests::write_event;
use serde_json::json;
use sqlx::{Connection, MySqlConnection};
use std::time::Duration;
use uuid::Uuid;

async fn show(parking: &Parking, id: u64) -> Shown {
    parking.operator.show(EventRef::Id(id)).await.unwrap().expect("a number is always told of")
}

#[tokio::test]
async fn a_parked_event_is_shown_whole_with_its_history_and_its_neighbours() {
    let parking = Parking::start().await;
    parking.park(&["big"], 1..=3, false, "invalid_record").await;
    run(&parking.shop, "UPDATE outbox_failures SET next_attempt_at = UTC_TIMESTAMP(6) WHERE state = 'retry'")
        .await;
    parking.drain().await;

    let head = show(&parking, 1).await;
    let middle = show(&parking, 2).await;

    let event = head.event.as_ref().expect("it is copied");
    assert_eq!((event.aggregate_id.as_str(), event.aggregate_version), ("big", 1));
    assert_eq!(event.payload, json!({"aggregate": "big", "version": 1}));
    assert_eq!((head.fate, head.in_outbox, head.delivered_at), (Fate::Parked, true, None));
    let parked = head.parked.as_ref().expect("it is");
    assert_eq!((parked.standing.attempts, parked.standing.cause.as_deref()), (2, Some("invalid_record")));
    let history = parked.standing.history.as_array().expect("a list");
    assert_eq!(history.len(), 2);
    assert_eq!(
        (&history[1]["cause"], &history[1]["error"]),
        (&json!("invalid_record"), &json!("big was refused"))
    );
    let around = middle.parked.expect("it is");
    let ids = |neighbours: &[outflow_outbox::operator::Neighbour]| {
        neighbours.iter().map(|n| n.id).collect::<Vec<_>>()
    };
    assert_eq!((ids(&around.ahead), ids(&around.behind), around.behind_count), (vec![1], vec![3], 1));
    assert_eq!(around.standing.state.as_str(), "waiting");
}

#[tokio::test]
async fn each_fate_is_told_apart() {
    let parking = Parking::start().await;
    commit_events(&parking.shop, "pruned", 1..=2).await;
    commit_events(&parking.shop, "delivered", 1..=1).await;
    let mut lost = parking.shop.begin().await;
    write_event(&mut lost, "lost", 1).await;
    lost.rollback().await.unwrap();
    let mut open = parking.shop.begin().await;
    write_event(&mut open, "open", 1).await;
    let mut late = parking.shop.begin().await;
    write_event(&mut late, "late", 1).await;
    parking.park(&["given-up"], 1..=1, true, "message_too_large").await;
    let discard = Discard {
        filter: Filter { events: vec![EventRef::Id(7)], ..Filter::default() },
        breaks_order: true,
        ..Discard::default()
    };
    parking.operator.discard(&discard, &signature()).await.unwrap();
    late.commit().await.unwrap();
    commit_events(&parking.shop, "behind", 1..=1).await;
    // The relay has found out what will never come.
    run(&parking.shop, "UPDATE outbox_gaps SET first_id = 5 WHERE first_id = 4").await;
    let mut connection = MySqlConnection::connect(&parking.shop.database_url).await.unwrap();
    assert_eq!(prune_step(&mut connection, GROUP, Duration::ZERO, 2).await.unwrap().deleted, 2);

    let fates = [1, 2, 3, 4, 5, 6, 7, 8, 9].map(|id| (id, show(&parking, id)));

    let expected = [
        Fate::Pruned,
        Fate::Pruned,
        Fate::Delivered,
        Fate::RolledBack,
        Fate::NotVisible,
        Fate::InGap,
        Fate::Discarded,
        Fate::Undelivered,
        Fate::Unknown,
    ];
    for ((id, shown), expected) in fates.into_iter().zip(expected) {
        let shown = shown.await;
        assert_eq!(shown.fate, expected, "{id}: {shown:?}");
        assert_eq!(shown.delivered_at.is_some(), expected == Fate::Delivered, "{id}");
        assert_eq!(shown.in_outbox, matches!(id, 3 | 6 | 7 | 8), "{id}");
        assert_eq!(shown.event.is_some(), shown.in_outbox, "{id}");
    }
    open.rollback().await.unwrap();
}

#[tokio::test]
async fn a_discarded_event_is_shown_from_the_audit_when_its_row_is_gone() {
    let parking = Parking::start().await;
    parking.park(&["given-up"], 1..=1, true, "message_too_large").await;
    let discard = Discard { all: true, breaks_order: true, ..Discard::default() };
    parking.operator.discard(&discard, &signature()).await.unwrap();
    commit_events(&parking.shop, "other", 1..=1).await;
    parking.drain().await;
    let before = show(&parking, 1).await;
    let mut connection = MySqlConnection::connect(&parking.shop.database_url).await.unwrap();
    assert_eq!(prune_step(&mut connection, GROUP, Duration::ZERO, 10).await.unwrap().deleted, 1);

    let after = show(&parking, 1).await;
    let event_id =
        before.event.as_ref().expect("its row is there").event_id.parse().map(EventRef::EventId).unwrap();
    let by_event_id = parking.operator.show(event_id).await.unwrap().expect("the audit knows it");

    assert_eq!((before.fate, before.in_outbox), (Fate::Discarded, true));
    assert_eq!((after.fate, after.in_outbox, by_event_id.id), (Fate::Discarded, false, 1));
    let (row, copy) = (before.event.expect("its row"), after.event.expect("the copy"));
    assert_eq!(
        (row.event_id, row.payload, row.headers, row.created_at),
        (copy.event_id, copy.payload, copy.headers, copy.created_at)
    );
    assert_eq!(
        (after.audit[0].action.as_str(), after.audit[0].reason.as_str()),
        ("discard", "the test says so")
    );
}

#[tokio::test]
async fn an_event_is_found_by_its_event_id_without_an_index_of_them() {
    let parking = Parking::start().await;
    commit_events(&parking.shop, "order", 1..=30).await;
    parking.drain().await;
    // Rows of days before, as a log has them.
    run(&parking.shop, "UPDATE outbox SET created_at = created_at - INTERVAL 3 DAY WHERE id <= 15").await;
    let event_id = |id: u64| {
        let pool = parking.shop.store.pool();
        async move {
            let text: String = sqlx::query_scalar("SELECT event_id FROM outbox WHERE id = ?")
                .bind(id)
                .fetch_one(pool)
                .await
                .unwrap();
            text.parse::<Uuid>().unwrap()
        }
    };

    for id in [16, 23, 30] {
        let shown = parking.operator.show(EventRef::EventId(event_id(id).await)).await.unwrap();
        assert_eq!(shown.map(|shown| (shown.id, shown.fate)), Some((id, Fate::Delivered)));
    }
    let nobody = parking.operator.show(EventRef::EventId(Uuid::now_v7())).await.unwrap();
    let error = parking.operator.show(EventRef::EventId(Uuid::new_v4())).await.unwrap_err();
    assert!(nobody.is_none());
    assert!(matches!(error, OperatorError::Field { field: "event", .. }), "{error}");
    let elsewhere = Operator::new(parking.shop.store.pool().clone(), "archive").unwrap();
    let error = elsewhere.show(EventRef::Id(1)).await.unwrap_err();
    assert!(matches!(error, OperatorError::UnknownGroup { .. }), "{error}");
}
