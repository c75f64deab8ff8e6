//! Pausing, resuming and pruning a whole group, and the audit of it.

use super::{GROUP, HOUR, Parking, commit_events, ids, run, signature};
use outflow_outbox::operator::{AuditFilter, Operator, OperatorError, Page, Pruned, Signature};
use outflow_tests::TestShop;
use std::time::Duration;

#[tokio::test]
async fn a_paused_group_publishes_nothing_until_it_is_resumed() {
    let parking = Parking::start().await;
    commit_events(&parking.shop, "order", 1..=2).await;
    parking.drain().await;
    let first = parking.operator.pause(&signature(), false).await.unwrap();
    let other = Signature::new("somebody", "another reason").unwrap();
    let again = parking.operator.pause(&other, false).await.unwrap();
    commit_events(&parking.shop, "order", 3..=4).await;

    let paused = parking.drain().await;
    let resumed = parking.operator.resume(&other).await.unwrap();
    let going_on = parking.drain().await;
    let nothing = parking.operator.resume(&other).await.unwrap();

    assert_eq!((first.changed, again.changed), (true, false));
    assert_eq!(first.pause, again.pause, "the first one's name and reason stay");
    assert_eq!((paused.published, paused.paused, paused.backlog), (0, true, 2));
    assert_eq!((resumed.changed, &resumed.pause), (true, &first.pause));
    assert_eq!((going_on.published, nothing.changed, nothing.pause), (2, false, None));
    let audit = parking.operator.audit(&AuditFilter::default(), Page::default()).await.unwrap();
    let told: Vec<_> = audit.iter().map(|e| (e.action.as_str(), e.by.as_str(), e.reason.as_str())).collect();
    assert_eq!(
        told,
        [("resume", "somebody", "another reason"), ("pause", "tester@host", "the test says so")]
    );
}

#[tokio::test]
async fn a_group_that_has_not_run_yet_is_paused_and_a_mistaken_name_is_none() {
    let shop = TestShop::start().await;
    let operator = |group: &str| Operator::new(shop.store.pool().clone(), group).unwrap();

    let first = operator("archive").pause(&signature(), false).await.unwrap();
    let mistaken = operator("archvie").pause(&signature(), false).await.unwrap_err();
    let second = operator(GROUP).pause(&signature(), true).await.unwrap();
    let unknown = operator("archvie").resume(&signature()).await.unwrap_err();

    assert!(first.changed && second.changed);
    for error in [mistaken, unknown] {
        assert!(matches!(&error, OperatorError::UnknownGroup { group, .. } if group == "archvie"), "{error}");
    }
    assert_eq!(Operator::groups(shop.store.pool()).await.unwrap(), ["archive", GROUP]);
}

#[tokio::test]
async fn pruning_goes_to_its_end_in_steps_tells_how_far_and_leaves_a_note() {
    let parking = Parking::start().await;
    commit_events(&parking.shop, "order", 1..=25).await;
    parking.drain().await;
    run(&parking.shop, "UPDATE outbox SET created_at = created_at - INTERVAL 2 HOUR WHERE id <= 21").await;
    run(&parking.shop, "INSERT INTO outbox_position (relay_group, position) VALUES ('archive', 24)").await;

    let prunable = parking.operator.prunable(HOUR).await.unwrap();
    let everything = parking.operator.prunable(Duration::ZERO).await.unwrap();
    let mut seen = Vec::new();
    let pruned = parking.operator.prune(HOUR, 10, &signature(), |step| seen.push(step.rows)).await.unwrap();
    let nothing_left = parking.operator.prunable(HOUR).await.unwrap();

    assert_eq!((prunable.rows, prunable.first_id, prunable.last_id), (21, Some(1), Some(21)));
    assert_eq!((everything.rows, everything.below, everything.held_by.as_deref()), (23, 24, Some("archive")));
    assert_eq!((pruned.rows, pruned.steps, seen), (21, 3, vec![10, 20, 21]));
    assert_eq!((nothing_left.rows, nothing_left.first_id), (0, None));
    assert_eq!(ids(&parking.shop).await, [22, 23, 24, 25]);
    let audit = parking.operator.audit(&AuditFilter::default(), Page::default()).await.unwrap();
    let note = audit[0].event.as_ref().expect("it tells how far");
    assert_eq!((note["rows"].as_u64(), note["keep_seconds"].as_u64()), (Some(21), Some(3_600)));
    let error = parking.operator.prune(HOUR, 0, &signature(), |_| {}).await.unwrap_err();
    assert_eq!(error.to_string(), "rows is refused: wants 1 to 10,000");
}

#[tokio::test(flavor = "multi_thread")]
async fn pruning_ends_where_all_was_delivered_when_it_began_however_busy_the_relay_is() {
    let parking = Parking::start().await;
    commit_events(&parking.shop, "order", 1..=25).await;
    parking.drain().await;
    let mut written = 25;
    let deliver_as_many_as_a_step_deletes = |_: &Pruned| {
        assert!(written < 200, "it goes on and on");
        tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(async {
                commit_events(&parking.shop, "order", written + 1..=written + 10).await;
                parking.drain().await;
            });
        });
        written += 10;
    };

    let pruned = parking
        .operator
        .prune(Duration::ZERO, 10, &signature(), deliver_as_many_as_a_step_deletes)
        .await
        .unwrap();

    assert_eq!((pruned.rows, pruned.steps), (24, 3));
    assert_eq!(ids(&parking.shop).await, (25..=u64::from(written)).collect::<Vec<_>>());
}

#[tokio::test]
async fn the_audit_is_filtered_and_comes_in_parts() {
    let parking = Parking::start().await;
    commit_events(&parking.shop, "order", 1..=1).await;
    parking.drain().await;
    for _ in 0..3 {
        parking.operator.pause(&signature(), false).await.unwrap();
        parking.operator.resume(&signature()).await.unwrap();
    }
    let pauses = AuditFilter { action: Some("pause".to_owned()), ..AuditFilter::default() };

    let first = parking.operator.audit(&pauses, Page { limit: 2, after: 0 }).await.unwrap();
    let rest = parking.operator.audit(&pauses, Page { limit: 2, after: first[1].id }).await.unwrap();
    let before = AuditFilter { to: Some(first[0].at), ..AuditFilter::default() };

    assert_eq!((first.len(), rest.len()), (2, 1));
    assert!(first[0].id > first[1].id && first[1].id > rest[0].id, "the newest first");
    assert_eq!(parking.operator.audit(&before, Page::default()).await.unwrap().len(), 4);
}
