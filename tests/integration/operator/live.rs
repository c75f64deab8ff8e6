//! Each command beside a relay that is at work, and that finds out by itself.

use super::{Parking, commit_events, signature, state};
use outflow_outbox::operator::{Bounds, Discard, EventRef, Fate, Filter, Page};
use outflow_outbox::{RelayError, Report};
use outflow_tests::in_a_minute;
use std::{
    collections::BTreeMap,
    ops::Deref,
    time::{Duration, Instant},
};
use tokio::task::JoinHandle;

/// A relay that runs until somebody pauses it.
struct Live {
    parking: Parking,
    running: JoinHandle<Result<Report, RelayError>>,
}

impl Live {
    async fn start() -> Self {
        let parking = Parking::start().await;
        // A relay that finds nothing at all has nothing to stay for.
        commit_events(&parking.shop, "first", 1..=1).await;
        let relay = parking.relay.clone();
        let longest = Instant::now() + Duration::from_secs(600);
        let running = tokio::spawn(async move { relay.run(longest, Duration::from_secs(60)).await });
        let live = Self { parking, running };
        live.until(|| live.published("first") == [1]).await;
        live
    }

    /// Waits for something that the relay does.
    async fn until(&self, happened: impl Fn() -> bool) {
        let deadline = in_a_minute();
        while !happened() {
            assert!(Instant::now() < deadline, "it never happens: {:?}", self.parking.states().await);
            assert!(!self.running.is_finished(), "the relay has ended");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn until_parked(&self, count: usize) {
        let deadline = in_a_minute();
        while self.states().await.len() < count {
            assert!(Instant::now() < deadline, "they are not parked");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Pauses the group, and the relay ends by itself.
    async fn stop(self) -> (Parking, Report) {
        self.operator.pause(&signature(), false).await.unwrap();
        let report = self.running.await.unwrap().unwrap();
        (self.parking, report)
    }
}

impl Deref for Live {
    type Target = Parking;

    fn deref(&self) -> &Parking {
        &self.parking
    }
}

#[tokio::test]
async fn a_retry_makes_a_live_relay_deliver_what_was_dead_and_all_that_waited() {
    let live = Live::start().await;
    live.picky.refuse("big", true, "message_too_large");
    commit_events(&live.shop, "big", 1..=3).await;
    live.until_parked(3).await;
    commit_events(&live.shop, "other", 1..=1).await;
    live.until(|| live.published("other") == [1]).await;

    live.picky.accept_all();
    let retried = live.operator.retry(&Filter::default(), true, &signature(), false).await.unwrap();
    live.until(|| live.published("big") == [1, 2, 3]).await;
    commit_events(&live.shop, "big", 4..=4).await;
    live.until(|| live.published("big") == [1, 2, 3, 4]).await;

    assert_eq!(retried.events.len(), 1);
    let (parking, report) = live.stop().await;
    // The fourth waits as well where it comes before the third is written off.
    assert!((3..=4).contains(&report.retried), "{report:?}");
    assert_eq!((report.parked, report.dead_lettered), (0, 1));
    assert_eq!(parking.states().await, []);
}

#[tokio::test]
async fn after_a_discard_a_live_relay_goes_on_with_what_waited() {
    let live = Live::start().await;
    live.picky.refuse("big", true, "message_too_large");
    commit_events(&live.shop, "big", 1..=3).await;
    live.until_parked(3).await;
    live.picky.accept_all();
    let head = live.id("big", 1).await;
    let filter = Filter { events: vec![EventRef::Id(head)], ..Filter::default() };

    let discard = Discard { filter, breaks_order: true, ..Discard::default() };
    live.operator.discard(&discard, &signature()).await.unwrap();
    live.until(|| live.published("big") == [2, 3]).await;
    commit_events(&live.shop, "big", 4..=4).await;
    live.until(|| live.published("big") == [2, 3, 4]).await;

    let shown = live.operator.show(EventRef::Id(head)).await.unwrap().expect("its row is there");
    assert_eq!(shown.fate, Fate::Discarded);
    let (parking, report) = live.stop().await;
    assert_eq!((report.parked, parking.states().await), (0, vec![]));
}

#[tokio::test]
async fn a_discarded_aggregate_is_free_again_beside_a_live_relay() {
    let live = Live::start().await;
    live.picky.refuse("big", true, "message_too_large");
    commit_events(&live.shop, "big", 1..=2).await;
    live.until_parked(2).await;
    live.picky.accept_all();
    let discard = Discard { all: true, whole_aggregate: true, ..Discard::default() };

    let discarded = live.operator.discard(&discard, &signature()).await.unwrap();
    // Written later, so it follows without them: nobody could know of it, and the operator was told.
    commit_events(&live.shop, "big", 3..=4).await;
    live.until(|| live.published("big") == [3, 4]).await;

    assert_eq!((discarded.discarded, discarded.events[0].breaks_order), (2, None));
    let (parking, _) = live.stop().await;
    assert_eq!(parking.states().await, []);
}

#[tokio::test]
async fn a_pause_ends_a_live_relay_and_nothing_is_published_until_it_is_resumed() {
    let live = Live::start().await;
    live.picky.refuse("big", false, "invalid_record");
    commit_events(&live.shop, "big", 1..=1).await;
    live.until_parked(1).await;

    let (parking, report) = live.stop().await;
    parking.picky.accept_all();
    parking.operator.retry(&Filter::default(), true, &signature(), false).await.unwrap();
    commit_events(&parking.shop, "order", 1..=2).await;
    let paused = parking.drain().await;
    let quiet = (parking.published("order"), parking.published("big"));
    parking.operator.resume(&signature()).await.unwrap();
    let resumed = parking.drain().await;

    assert!(report.paused);
    assert_eq!((paused.paused, paused.published, quiet), (true, 0, (vec![], vec![])));
    assert_eq!((resumed.paused, resumed.published), (false, 3));
    assert_eq!((parking.published("order"), parking.published("big")), (vec![1, 2], vec![1]));
}

#[tokio::test]
async fn status_and_list_follow_a_live_relay() {
    let live = Live::start().await;
    live.picky.refuse("big", true, "message_too_large");
    commit_events(&live.shop, "big", 1..=2).await;
    live.until_parked(2).await;

    let status = live.operator.status().await.unwrap();
    let list = live.operator.list(&Filter::default(), Page::default()).await.unwrap();

    assert!(status.lease.remaining_ms.is_some_and(|left| left <= 10_000), "{:?}", status.lease);
    assert_eq!((status.backlog, status.parked.dead, status.parked.waiting), (0, 1, 1));
    assert_eq!(status.problems(&Bounds::default()).len(), 1);
    assert_eq!(list.failures.iter().map(|failure| failure.aggregate_version).collect::<Vec<_>>(), [1, 2]);
    let (parking, _) = live.stop().await;
    let stopped = parking.operator.status().await.unwrap();
    assert_eq!((stopped.lease.owner, stopped.lease.remaining_ms), (None, None));
    assert_eq!(parking.states().await, [state("big", 1, "dead", 1), state("big", 2, "waiting", 0)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn pruning_beside_a_live_relay_and_writers_loses_nothing() {
    let live = Live::start().await;
    let (writers, events): (u32, u32) = if outflow_tests::long() { (8, 2_000) } else { (4, 100) };
    let mut writing = tokio::task::JoinSet::new();
    for writer in 0..writers {
        let pool = live.shop.store.pool().clone();
        writing.spawn(async move {
            for version in 1..=events {
                let mut transaction = pool.begin().await.unwrap();
                outflow_tests::write_event(&mut transaction, &format!("writer-{writer}"), version).await;
                if version % 7 == 0 {
                    transaction.rollback().await.unwrap();
                    transaction = pool.begin().await.unwrap();
                    outflow_tests::write_event(&mut transaction, &format!("writer-{writer}"), version).await;
                }
                transaction.commit().await.unwrap();
            }
        });
    }
    let mut pruned = 0;
    while !writing.is_empty() {
        while writing.try_join_next().map(Result::unwrap).is_some() {}
        pruned += live.operator.prune(Duration::ZERO, 100, &signature(), |_| {}).await.unwrap().rows;
    }
    let total = (writers * events) as usize + 1;
    live.until(|| live.picky.recorder.published().len() >= total).await;

    let (parking, _) = live.stop().await;
    let mut published: BTreeMap<String, Vec<u32>> = BTreeMap::new();
    for (aggregate, version) in parking.picky.recorder.versions() {
        published.entry(aggregate).or_default().push(version);
    }
    for writer in 0..writers {
        assert!(published[&format!("writer-{writer}")].iter().copied().eq(1..=events), "writer {writer}");
    }
    assert!(pruned > 0, "there was something to prune beside them");
}
