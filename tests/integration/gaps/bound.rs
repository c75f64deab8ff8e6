//! More gaps than a relay opens by itself: a row that appears in the middle of one leaves two.

use super::ranges;
use outflow_outbox::{Relay, RelayError, RelaySettings};
use outflow_tests::{Recorder, TestShop, in_a_minute, long, until};
use std::{collections::BTreeSet, time::Duration};

/// A relay that buries nothing meanwhile.
fn relay(shop: &TestShop, max_gaps: usize) -> (Relay<Recorder>, Recorder) {
    let recorder = Recorder::default();
    let settings =
        RelaySettings { gap_grace: Duration::from_secs(3_600), max_gaps, ..RelaySettings::default() };
    (shop.relay_to(&recorder, settings), recorder)
}

/// Commits rows with just these ids.
async fn commit_ids(shop: &TestShop, ids: impl IntoIterator<Item = u64>) {
    let rows: Vec<String> = ids
        .into_iter()
        .map(|id| format!("({id}, UUID(), 'order-{id}', 'Order', 'Changed', 1, '{{}}', '{{}}')"))
        .collect();
    for rows in rows.chunks(4_000) {
        shop.run(format!(
            "INSERT INTO outbox (id, event_id, aggregate_id, aggregate_type, event_type, aggregate_version, payload,
                 headers) VALUES {}",
            rows.join(", ")
        ))
        .await;
    }
}

fn published(recorder: &Recorder) -> BTreeSet<u64> {
    let events = recorder.published();
    let ids: BTreeSet<u64> = events.iter().map(|event| event.id).collect();
    assert_eq!(ids.len(), events.len(), "each is published once");
    ids
}

#[tokio::test]
async fn rows_within_gaps_are_delivered_beyond_the_bound_and_the_position_stops_until_there_is_room() {
    let shop = TestShop::start().await;
    // The highest bound there is; else more than MySQL keeps a prepared statement for.
    let bound: u64 = if long() { 16_000 } else { 2_100 };
    let (relay, recorder) = relay(&shop, usize::try_from(bound).unwrap());
    let mut written: BTreeSet<u64> = (1..=bound).map(|n| n * 4).collect();
    commit_ids(&shop, written.iter().copied()).await;
    let first = relay.drain(in_a_minute()).await.unwrap();

    let middles = [2, bound * 2 + 2, bound * 4 - 2];
    commit_ids(&shop, middles).await;
    let split = relay.drain(in_a_minute()).await.unwrap();
    let again = relay.drain(in_a_minute()).await.unwrap();
    written.extend(middles);
    assert_eq!((first.published, first.gaps), (bound, bound));
    assert_eq!((split.published, split.gaps), (3, bound + 3));
    assert_eq!((again.published, again.gaps), (0, bound + 3));
    assert_eq!(published(&recorder), written);

    // Behind one gap more than there may be, and in the midst of those there are.
    commit_ids(&shop, [bound * 4 + 2, 10]).await;
    let stopped = relay.drain(in_a_minute()).await.unwrap_err();
    assert!(matches!(stopped, RelayError::TooManyGaps { .. }), "{stopped}");
    written.insert(10);
    assert_eq!(published(&recorder), written);
    assert_eq!(ranges(&shop).await.len() as u64, bound + 4);

    // The first ten gaps are filled.
    let missing: Vec<u64> = (1..=40).filter(|id| !written.contains(id)).collect();
    commit_ids(&shop, missing.iter().copied()).await;
    let report = relay.drain(in_a_minute()).await.unwrap();
    written.extend(missing);
    written.insert(bound * 4 + 2);
    assert_eq!(published(&recorder), written);
    assert_eq!(report.backlog, 0);
}

#[tokio::test]
async fn more_gaps_than_a_page_asks_for_are_worked_off_from_the_lowest() {
    const ASKED: u64 = 100_000;
    let shop = TestShop::start().await;
    let (relay, recorder) = relay(&shop, 100);
    let position = (ASKED + 2) * 4;
    commit_ids(&shop, [position, position + 1]).await;
    shop.run(format!(
        "INSERT INTO outbox_position (relay_group, position, server_uuid) VALUES ('default', {position}, @@server_uuid);
         INSERT INTO outbox_gaps
         WITH RECURSIVE n (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM n WHERE n < {ASKED})
         SELECT /*+ SET_VAR(cte_max_recursion_depth = 1000000) */
             'default', n * 4 + 1, n * 4 + 2, UTC_TIMESTAMP(6) FROM n"
    ))
    .await;
    // In the lowest, in the last that is asked for, and in the one behind that.
    commit_ids(&shop, [1, ASKED * 4 - 3, ASKED * 4 + 1]).await;

    let stopped = relay.drain(in_a_minute()).await.unwrap_err();
    let lowest = published(&recorder);
    // One gap is filled for good: there is room for the last one, and with it for what lies behind.
    commit_ids(&shop, [2]).await;
    until("the position goes on", async || relay.drain(in_a_minute()).await.is_ok()).await;

    assert!(matches!(stopped, RelayError::TooManyGaps { .. }), "{stopped}");
    assert_eq!(lowest, BTreeSet::from([1, ASKED * 4 - 3]));
    assert_eq!(published(&recorder), BTreeSet::from([1, 2, ASKED * 4 - 3, ASKED * 4 + 1, position + 1]));
}
