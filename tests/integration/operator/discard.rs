//! Discarding: what follows an event that is given up, as far as that can be known, and who has to be asked.

use super::{
    Parking,
    change::{by_cause, named},
    commit_events, hold, run, signature, state,
};
use outflow_outbox::operator::{
    AuditFilter, Discard, Discarded, Filter, Operator, OperatorError, OrderBreak, Page, SkippedBecause,
};
use outflow_tests::{TestShop, counters, until, write_event};
use sqlx::{Row, mysql::MySqlPoolOptions};

fn of(aggregate: &str) -> Filter {
    Filter { aggregate_id: Some(aggregate.to_owned()), ..Filter::default() }
}

fn whole(filter: Filter) -> Discard {
    Discard { filter, whole_aggregate: true, ..Discard::default() }
}

async fn plan(parking: &Parking, discard: &Discard) -> Discarded {
    let plan = Discard { dry_run: true, ..discard.clone() };
    parking.operator.discard(&plan, &signature()).await.unwrap()
}

/// What becomes of each aggregate's order, and how many follow.
fn orders(discarded: &Discarded) -> Vec<(&str, Option<OrderBreak>, u64)> {
    let events = discarded.events.iter();
    events.map(|event| (event.aggregate_id.as_str(), event.breaks_order, event.followed_by)).collect()
}

/// Waits until so many wait for a lock in this database.
async fn until_waiting(shop: &TestShop, count: usize) {
    let mut admin = shop.admin().await;
    let (_, database) = shop.database_url.rsplit_once('/').unwrap();
    let table = format!("of table `{database}`.");
    until("they wait for a lock", async || {
        let report = sqlx::raw_sql("SHOW ENGINE INNODB STATUS").fetch_one(&mut admin).await.unwrap();
        let report: String = report.get("Status");
        let waits = |line: &&str| line.contains(&table) && line.ends_with(" waiting");
        report.lines().filter(waits).count() >= count
    })
    .await;
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

    let expected = [
        ("begun", Some(OrderBreak::LaterFollow), 2),
        ("alone", Some(OrderBreak::LaterMayFollow), 0),
        ("known", Some(OrderBreak::VersionMissing), 0),
    ];
    assert_eq!(orders(&planned), expected);
    assert_eq!((planned.broken, planned.discarded, planned.dry_run), (3, 3, true));
    let OperatorError::BreaksOrder { events, ref aggregate_id, version, .. } = refused else {
        panic!("{refused}")
    };
    assert_eq!((events, aggregate_id.as_str(), version, untouched), (3, "begun", 1, 5));
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
    let discard = whole(named(&[1]));

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
    let discard = whole(of("long"));

    let planned = plan(&parking, &discard).await;
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
async fn version_1_by_itself_goes_unconfirmed_only_where_the_whole_aggregate_is_meant() {
    let parking = Parking::start().await;
    parking.park(&["big"], 1..=1, true, "message_too_large").await;
    let alone = Discard { filter: of("big"), ..Discard::default() };

    let planned = plan(&parking, &alone).await;
    let refused = parking.operator.discard(&alone, &signature()).await.unwrap_err();
    let meant = parking.operator.discard(&whole(of("big")), &signature()).await.unwrap();
    commit_events(&parking.shop, "big", 2..=2).await;
    parking.picky.accept_all();
    parking.drain().await;

    assert_eq!(orders(&planned), [("big", Some(OrderBreak::LaterMayFollow), 0)]);
    assert!(matches!(refused, OperatorError::BreaksOrder { events: 1, version: 1, .. }), "{refused}");
    assert_eq!(orders(&meant), [("big", None, 0)]);
    assert_eq!(parking.published("big"), [2], "why the other one wants to be confirmed");
}

#[tokio::test]
async fn what_stands_in_the_outbox_follows_without_it_and_that_has_to_be_confirmed() {
    let parking = Parking::start().await;
    parking.park(&["big", "other"], 1..=2, true, "message_too_large").await;
    // As behind a pause, or a relay that is busy.
    commit_events(&parking.shop, "big", 3..=4).await;
    commit_events(&parking.shop, "fresh", 1..=3).await;
    let all = whole(by_cause("message_too_large"));

    let planned = plan(&parking, &all).await;
    let refused = parking.operator.discard(&all, &signature()).await.unwrap_err();
    let untouched = parking.states().await.len();
    let accepted = Discard { breaks_order: true, ..all.clone() };
    let discarded = parking.operator.discard(&accepted, &signature()).await.unwrap();
    parking.picky.accept_all();
    parking.drain().await;

    let expected = [("big", Some(OrderBreak::LaterFollow), 2), ("other", None, 0)];
    assert_eq!((orders(&planned), planned.broken), (expected.to_vec(), 1));
    let OperatorError::BreaksOrder { events, ref aggregate_id, .. } = refused else { panic!("{refused}") };
    assert_eq!((events, aggregate_id.as_str(), untouched), (1, "big", 4));
    assert_eq!(orders(&discarded), expected);
    assert_eq!((parking.published("big"), parking.published("other")), (vec![3, 4], vec![]));
}

#[tokio::test]
async fn what_waits_and_what_stands_in_the_outbox_is_counted_once_each() {
    let parking = Parking::start().await;
    parking.park(&["big"], 1..=3, true, "message_too_large").await;
    commit_events(&parking.shop, "big", 4..=5).await;
    let head = Discard { filter: of("big"), breaks_order: true, ..Discard::default() };

    let planned = plan(&parking, &head).await;
    // A relay reaches what stood in the outbox, and parks it behind the others.
    parking.drain().await;
    let discarded = parking.operator.discard(&head, &signature()).await.unwrap();

    assert_eq!(orders(&planned), [("big", Some(OrderBreak::LaterFollow), 4)]);
    assert_eq!(orders(&discarded), orders(&planned));
}

#[tokio::test]
async fn what_has_appeared_in_a_gap_follows_as_well() {
    let parking = Parking::start().await;
    parking.picky.refuse("big", true, "message_too_large");
    commit_events(&parking.shop, "big", 1..=1).await;
    let mut slow = parking.shop.begin().await;
    write_event(&mut slow, "big", 2).await;
    commit_events(&parking.shop, "other", 1..=1).await;
    parking.drain().await;
    slow.commit().await.unwrap();

    let planned = plan(&parking, &whole(of("big"))).await;
    let refused = parking.operator.discard(&whole(of("big")), &signature()).await.unwrap_err();

    assert_eq!(orders(&planned), [("big", Some(OrderBreak::LaterFollow), 1)]);
    assert!(matches!(refused, OperatorError::BreaksOrder { events: 1, .. }), "{refused}");
    assert_eq!(parking.states().await, [state("big", 1, "dead", 1)]);
}

#[tokio::test]
async fn behind_a_position_that_went_back_parked_events_do_not_follow_themselves() {
    let parking = Parking::start().await;
    parking.park(&["big"], 1..=2, true, "message_too_large").await;
    run(&parking.shop, "UPDATE outbox_position SET position = 0").await;

    let planned = plan(&parking, &whole(of("big"))).await;
    run(&parking.shop, "UPDATE outbox SET event_id = UUID() WHERE id = 2").await;
    let given_again = plan(&parking, &whole(of("big"))).await;

    assert_eq!(orders(&planned), [("big", None, 0)]);
    assert_eq!(orders(&given_again), [("big", Some(OrderBreak::LaterFollow), 1)], "another event has its id");
}

#[tokio::test]
async fn an_aggregate_that_goes_on_while_others_are_discarded_is_left_and_told() {
    let parking = Parking::start().await;
    parking.park(&["first", "second", "third"], 1..=1, true, "message_too_large").await;
    let relay = hold(&parking.shop).await;
    let operator = parking.operator.clone();
    let discard = whole(by_cause("message_too_large"));
    let discarding = tokio::spawn(async move { operator.discard(&discard, &signature()).await });
    // It has planned, and nothing is discarded yet.
    parking.shop.until_locked_out().await;
    commit_events(&parking.shop, "second", 2..=3).await;
    relay.rollback().await.unwrap();

    let discarded = discarding.await.unwrap().unwrap();
    parking.drain().await;

    assert_eq!(orders(&discarded), [("first", None, 0), ("third", None, 0)]);
    assert_eq!((discarded.discarded, discarded.broken), (2, 0));
    let skipped: Vec<_> = discarded.skipped.iter().map(|s| (s.event.as_str(), &s.because)).collect();
    assert_eq!(skipped, [("2", &SkippedBecause::BreaksOrder { followed_by: 2 })]);
    let left = [("dead", 1), ("waiting", 2), ("waiting", 3)];
    let left = left.map(|(is, version)| state("second", version, is, u32::from(is == "dead")));
    assert_eq!(parking.states().await, left, "nothing of it has overtaken");
}

#[tokio::test]
async fn what_is_discarded_behind_a_head_that_goes_is_counted_and_told() {
    let parking = Parking::start().await;
    // More than one transaction takes.
    parking.park(&["long"], 1..=150, true, "message_too_large").await;
    let first = hold(&parking.shop).await;
    let operator = parking.operator.clone();
    let discarding = tokio::spawn(async move { operator.discard(&whole(of("long")), &signature()).await });
    until_waiting(&parking.shop, 1).await;
    // A relay comes in between two of its transactions, and has delivered the head.
    let shop = &parking.shop;
    let relaying = async {
        let mut relay = hold(shop).await;
        for sql in [
            "DELETE FROM outbox_failures WHERE id = 1",
            "UPDATE outbox_failures SET state = 'retry', next_attempt_at = UTC_TIMESTAMP(6) WHERE id = 2",
        ] {
            sqlx::query(sql).execute(&mut *relay).await.unwrap();
        }
        relay.commit().await.unwrap();
    };
    let then = async {
        until_waiting(shop, 2).await;
        first.rollback().await.unwrap();
    };
    tokio::join!(relaying, then);

    let discarded = discarding.await.unwrap().unwrap();

    assert_eq!((discarded.events.len(), discarded.discarded, discarded.broken), (0, 100, 1));
    let skipped: Vec<_> = discarded.skipped.iter().map(|s| (s.event.as_str(), &s.because)).collect();
    assert_eq!(skipped, [("1", &SkippedBecause::HeadGone { with_it: 100 })]);
    assert_eq!(parking.shop.number("SELECT COUNT(*) FROM outbox_audit WHERE action = 'discard'").await, 100);
    assert_eq!(parking.states().await.len(), 49, "2 to 50 follow the head");
}

#[tokio::test]
async fn backlog_and_gaps_are_passed_over_once_however_many_aggregates_are_discarded() {
    const AGGREGATES: u32 = 40;
    const BACKLOG: u32 = 4_000;
    const GAPS: u32 = 300;
    let parking = Parking::start().await;
    let aggregates: Vec<String> = (0..AGGREGATES).map(|n| format!("big-{n:02}")).collect();
    let names: Vec<&str> = aggregates.iter().map(String::as_str).collect();
    parking.park(&names, 1..=1, true, "message_too_large").await;
    run(
        &parking.shop,
        format!(
            "INSERT INTO outbox (id, event_id, aggregate_id, aggregate_type, event_type, aggregate_version, payload, headers)
             WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {BACKLOG})
             SELECT /*+ SET_VAR(cte_max_recursion_depth = 10000) */
                 100000 + n, UUID(), IF(n % 1000 = 0, 'big-07', n), 'Order', 'Changed', 2, '{{}}', '{{}}' FROM n"
        ),
    )
    .await;
    run(
        &parking.shop,
        format!(
            "INSERT INTO outbox_gaps (relay_group, first_id, last_id, first_seen_at)
             WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {GAPS})
             SELECT 'default', 1000 + 10 * n, 1002 + 10 * n, UTC_TIMESTAMP(6) FROM n"
        ),
    )
    .await;
    run(&parking.shop, "UPDATE outbox_position SET position = 100000").await;
    run(&parking.shop, "ANALYZE TABLE outbox, outbox_gaps, outbox_failures").await;
    // With one connection its counters are those of the operator.
    let one = MySqlPoolOptions::new().max_connections(1).connect(&parking.shop.database_url).await.unwrap();
    let operator = Operator::new(one.clone(), super::GROUP).unwrap();
    let reads = async || -> i64 {
        let mut connection = one.acquire().await.unwrap();
        counters(&mut connection, false, "Handler_read%").await.values().sum()
    };

    let before = reads().await;
    let discard = Discard { dry_run: true, ..whole(by_cause("message_too_large")) };
    let planned = operator.discard(&discard, &signature()).await.unwrap();
    let read = reads().await - before;

    let followed: Vec<_> =
        orders(&planned).into_iter().filter(|(.., followed_by)| *followed_by > 0).collect();
    assert_eq!(followed, [("big-07", Some(OrderBreak::LaterFollow), 4)]);
    let most = i64::from(3 * BACKLOG + 10 * GAPS + 100 * AGGREGATES);
    assert!(read <= most, "{read} rows read, wants at most {most}");
}
