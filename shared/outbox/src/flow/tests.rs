//! A log in memory, written and read in every order that chance finds, with a relay that may crash at any moment.

use super::*;
use crate::{gaps::GapChanges, log, settings::RetrySettings};
use proptest::prelude::*;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use time::{OffsetDateTime, macros::datetime};

const NOW: PrimitiveDateTime = datetime!(2026-11-23 07:00);
const MAX_GAPS: usize = 6;
const AGGREGATES: u8 = 4;

fn row(id: u64, aggregate: &str, version: u32) -> Fetched {
    let event = OutboxEvent {
        id,
        event_id: id.to_string(),
        aggregate_type: "Order".to_owned(),
        aggregate_id: aggregate.to_owned(),
        aggregate_version: version,
        event_type: "Changed".to_owned(),
        payload: "{}".to_owned(),
        headers: Vec::new(),
        created_at: OffsetDateTime::UNIX_EPOCH,
    };
    Fetched { event, fault: None }
}

fn page(ids: impl IntoIterator<Item = u64>) -> Page {
    Page { rows: ids.into_iter().map(|id| row(id, &id.to_string(), 1)).collect(), ..Page::default() }
}

fn open(flow: &Flow) -> Vec<(u64, u64)> {
    log::ranges(flow.open_gaps())
}

/// Confirms all that was taken in; the table's ranges after that.
fn confirm_all(flow: &mut Flow) -> Vec<(u64, u64)> {
    let tasks = flow.dispatch.take_ready();
    tasks.iter().for_each(|task| flow.confirm(task));
    flow.advance();
    log::ranges(flow.confirmed_gaps())
}

/// Which ids MySQL gives.
#[derive(Clone, Copy, Debug)]
struct Ids {
    increment: u64,
    /// Some sessions keep an increment of 1.
    strays: bool,
}

impl Default for Ids {
    fn default() -> Self {
        Self { increment: 1, strays: false }
    }
}

impl Ids {
    /// Rows after which the server's step is believed: never, where it is not true.
    fn enough(self) -> u64 {
        if self.strays { u64::MAX } else { 3 }
    }
}

/// What MySQL holds: rows that are committed, rows that are not yet, and the relay's tables.
#[derive(Default)]
struct Database {
    ids: Ids,
    last_id: u64,
    committed: BTreeMap<u64, (u8, u32)>,
    open: BTreeMap<u64, (u8, u32)>,
    versions: BTreeMap<u8, u32>,
    position: u64,
    gaps: BTreeMap<u64, u64>,
    parked: BTreeSet<u64>,
    /// Confirmed by the broker, in order; a crash repeats some.
    delivered: Vec<u64>,
}

impl Database {
    /// Gives an id to the next version of an aggregate whose row nobody else holds.
    fn insert(&mut self, aggregate: u8) {
        let locked = self.open.values().any(|(holder, _)| *holder == aggregate);
        if !locked {
            let step = if self.ids.strays && aggregate.is_multiple_of(2) { 1 } else { self.ids.increment };
            self.last_id += step - (self.last_id + step - 1) % step;
            let version = self.versions.get(&aggregate).copied().unwrap_or(0) + 1;
            self.open.insert(self.last_id, (aggregate, version));
        }
    }

    fn end(&mut self, nth: usize, commits: bool) {
        let Some(id) = self.open.keys().nth(nth % self.open.len().max(1)).copied() else { return };
        let (aggregate, version) = self.open.remove(&id).expect("it was just found");
        if commits {
            self.versions.insert(aggregate, version);
            self.committed.insert(id, (aggregate, version));
        }
    }

    fn page(&self, flow: &Flow, rows: usize) -> Page {
        let asked = |id: u64| {
            id > flow.cursor() || flow.open_gaps().iter().any(|gap| (gap.first..=gap.last).contains(&id))
        };
        let found = self.committed.iter().filter(|(id, _)| asked(**id)).take(rows);
        let rows =
            found.map(|(id, (aggregate, version))| row(*id, &aggregate.to_string(), *version)).collect();
        Page { rows, ..Page::default() }
    }

    /// Gaps in which nothing can appear any more.
    fn dead_gaps(&self, flow: &Flow) -> Vec<Gap> {
        let is_dead = |gap: &&Gap| {
            let range = gap.first..=gap.last;
            self.open.range(range.clone()).next().is_none() && self.committed.range(range).next().is_none()
        };
        flow.confirmed_gaps().iter().filter(is_dead).copied().collect()
    }

    fn write(&mut self, progress: &Progress) {
        self.position = progress.position;
        let GapChanges { gone, changed } = &progress.gaps;
        self.gaps.retain(|first, _| !gone.contains(first));
        self.gaps.extend(changed.iter().map(|gap| (gap.first, gap.last)));
        let failures = &progress.failures;
        let places = failures.refused.iter().map(|(place, _)| place).chain(&failures.waiting);
        self.parked.extend(places.map(|place| place.id));
    }

    fn flow(&self) -> Flow {
        let gaps =
            self.gaps.iter().map(|(first, last)| Gap { first: *first, last: *last, first_seen_at: NOW });
        let enough = self.ids.enough();
        let newest = self.committed.range(..=self.position).rev().take(usize::try_from(enough).unwrap_or(9));
        let newest: Vec<u64> = newest.map(|(id, _)| *id).collect();
        let seen = (newest.last().map_or(self.position, |lowest| lowest - 1), newest.len() as u64);
        let step = StepWatch::new(IdStep::new(self.ids.increment, 1), seen).with_enough(enough);
        let mut flow = Flow::new(self.position, gaps.collect(), step);
        let aggregates = self.parked.iter().map(|id| ("Order".to_owned(), self.committed[id].0.to_string()));
        flow.park_all(aggregates.collect());
        flow
    }

    /// Whatever is committed and neither delivered nor parked would be found by a relay that starts now.
    fn nothing_is_lost(&self) -> Result<(), TestCaseError> {
        for id in self.committed.keys() {
            let found = *id > self.position
                || self.gaps.range(..=id).next_back().is_some_and(|(_, last)| last >= id)
                || self.parked.contains(id)
                || self.delivered.contains(id);
            prop_assert!(found, "{id} is lost: position {}, gaps {:?}", self.position, self.gaps);
        }
        Ok(())
    }
}

#[derive(Clone, Debug)]
enum Act {
    Insert(u8),
    End(usize, bool),
    Read(usize),
    /// Confirms, refuses or sends again one of those on their way.
    Answer(usize, u8),
    Move,
    Bury,
    Crash,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        5 => (0..AGGREGATES).prop_map(Act::Insert),
        5 => (any::<usize>(), prop::bool::weighted(0.8)).prop_map(|(nth, commits)| Act::End(nth, commits)),
        4 => (1_usize..6).prop_map(Act::Read),
        6 => (any::<usize>(), any::<u8>()).prop_map(|(nth, outcome)| Act::Answer(nth, outcome)),
        2 => Just(Act::Move),
        1 => Just(Act::Bury),
        1 => Just(Act::Crash),
    ]
}

fn attempt() -> Attempt {
    Attempt { cause: "refused", error: "refused by the test".to_owned(), pause: None }
}

proptest! {
    #[test]
    fn whatever_happens_nothing_is_lost_and_versions_appear_in_order(
        acts in proptest::collection::vec(act(), 1..150),
        refusals in prop::bool::weighted(0.3),
        (increment, strays) in (1_u64..5, any::<bool>()),
    ) {
        let mut database = Database { ids: Ids { increment, strays }, ..Database::default() };
        let mut flow = database.flow();
        let mut on_their_way: Vec<Task> = Vec::new();
        let settle = (0..200)
            .flat_map(|n| [Act::End(0, true), Act::Read(5), Act::Answer(n, 7), Act::Move, Act::Bury]);
        for act in acts.into_iter().chain(settle) {
            match act {
                Act::Insert(aggregate) => database.insert(aggregate),
                Act::End(nth, commits) => database.end(nth, commits),
                Act::Read(rows) => {
                    let page = database.page(&flow, rows);
                    flow.take_page(page, NOW, MAX_GAPS);
                }
                Act::Answer(nth, outcome) => {
                    on_their_way.extend(flow.dispatch.take_ready());
                    if on_their_way.is_empty() {
                        continue;
                    }
                    let task = on_their_way.swap_remove(nth % on_their_way.len());
                    match outcome % 16 {
                        0 if refusals => flow.park(&task, attempt()),
                        1 => flow.dispatch.again(task),
                        _ => {
                            database.delivered.push(task.event.id);
                            flow.confirm(&task);
                        }
                    }
                }
                Act::Move => {
                    if flow.advance() {
                        let progress = flow.take_progress(false);
                        database.write(&progress);
                        flow.written(&progress.failures, &[]);
                    }
                }
                Act::Bury => {
                    flow.bury(&database.dead_gaps(&flow));
                }
                Act::Crash => {
                    on_their_way.clear();
                    flow = database.flow();
                }
            }
            prop_assert!(flow.open_gaps().len() <= 2 * MAX_GAPS);
            database.nothing_is_lost()?;
        }
        for id in database.committed.keys() {
            prop_assert!(database.delivered.contains(id) || database.parked.contains(id), "{} stands", id);
        }
        prop_assert_eq!(open(&flow), []);
        let mut seen: BTreeMap<u8, u32> = BTreeMap::new();
        for id in &database.delivered {
            let (aggregate, version) = database.committed[id];
            let last = seen.entry(aggregate).or_default();
            prop_assert!(version <= *last + 1, "version {version} of {aggregate} appeared after {last}");
            *last = version.max(*last);
        }
    }
}

#[test]
fn a_page_is_smaller_where_rows_are_large_and_none_is_read_while_memory_is_full() {
    let settings = RelaySettings {
        batch_bytes: 10_000,
        in_flight_bytes: 20_000,
        retry: RetrySettings { first_pause: Duration::ZERO, ..RetrySettings::default() },
        ..RelaySettings::default()
    };
    let mut flow = Database::default().flow();
    let large = |id: u64| {
        let mut row = row(id, &id.to_string(), 1);
        row.event.payload = "x".repeat(5_000);
        row
    };
    let rows = |flow: &Flow| flow.next_page(&settings).map(|(rows, bytes)| (rows, bytes == 10_000));

    flow.take_page(page(1..=4), NOW, MAX_GAPS);
    let small = rows(&flow);
    flow.take_page(Page { rows: vec![large(5)], ..Page::default() }, NOW, MAX_GAPS);
    let after_large = rows(&flow);
    confirm_all(&mut flow);
    // One page of small rows among large ones says little.
    flow.take_page(page(6..=7), NOW, MAX_GAPS);
    let after_small = rows(&flow);
    flow.take_page(page(8..=47), NOW, MAX_GAPS);

    assert_eq!(small, Some((10_000 / 512 + 1, true)));
    assert_eq!(after_large, Some((2, true)));
    assert!(after_small.is_some_and(|(rows, _)| (3..=4).contains(&rows)), "{after_small:?}");
    assert_eq!(rows(&flow), None);
}

#[test]
fn a_row_pays_for_one_look_into_a_gap_until_bytes_comparisons_or_parked_aggregates_bound_the_page() {
    // Rows of the next page, and looks into gaps for each of them.
    let looks = |gaps: u64, row_bytes: usize, parked: usize| {
        let gap = |n: u64| Gap { first: n * 4 + 1, last: n * 4 + 3, first_seen_at: NOW };
        let step = StepWatch::new(IdStep::default(), (0, 0));
        let mut flow = Flow::new(gaps * 4, (0..gaps).map(gap).collect(), step);
        flow.row_bytes = row_bytes;
        flow.park_all((0..parked).map(|n| ("Order".to_owned(), n.to_string())).collect());
        let (rows, _) = flow.next_page(&RelaySettings::default()).expect("memory is empty");
        (rows, gaps.div_ceil(rows as u64))
    };
    // 420 bytes of JSON with a key and a trace.
    const ROW: usize = 780;

    assert_eq!(looks(500, ROW, 0), (1_000, 1));
    assert_eq!(looks(5_000, ROW, 0), (5_000, 1));
    assert_eq!(looks(10_000, 300, 0), (10_000, 1));
    assert_eq!(looks(16_000, ROW, 0), (5_378, 3), "4 MiB are full");
    assert_eq!(looks(16_000, 300, 0), (6_250, 3), "each row is held against each gap");
    assert_eq!(looks(16_000, 10_000, 0), (420, 39), "large rows");
    assert_eq!(looks(16_000, ROW, PARKED_A_MOVE), (1_000, 16), "the page may be parked as a whole");
    assert_eq!(looks(log::MOST_ASKED as u64, ROW, 0), (1_000, 100), "gaps that rows have split");
}

#[test]
fn a_row_within_a_gap_leaves_two_whatever_the_bound_and_the_position_stops_there() {
    const BOUND: u64 = log::MOST_RANGES as u64;
    let gap = |n: u64| Gap { first: n * 4 + 1, last: n * 4 + 3, first_seen_at: NOW };
    let mut flow =
        Flow::new(BOUND * 4, (0..BOUND).map(gap).collect(), StepWatch::new(IdStep::default(), (0, 0)));
    let next = BOUND * 4 + 2;

    let split = flow.take_page(page([2, 6, next]), NOW, log::MOST_RANGES);
    let ranges = open(&flow);

    assert_eq!(split, Taken { events: 2, invalid: 0, at_bound: true });
    assert_eq!(ranges.len(), log::MOST_RANGES + 2);
    assert_eq!(ranges[..5], [(1, 1), (3, 3), (5, 5), (7, 7), (9, 11)]);
    assert_eq!(flow.cursor(), BOUND * 4);
    assert_eq!(confirm_all(&mut flow), ranges, "and so they stand in the table");
}

fn stepped(position: u64, gaps: &[(u64, u64)], seen: (u64, u64)) -> Flow {
    let gaps = gaps.iter().map(|&(first, last)| Gap { first, last, first_seen_at: NOW });
    Flow::new(position, gaps.collect(), StepWatch::new(IdStep::new(10, 3), seen).with_enough(3))
}

#[test]
fn a_gap_of_another_step_stays_open_whole_until_its_rows_have_appeared() {
    // Found when each id counted, now the server gives every tenth, and the log shows nothing else.
    let mut flow = stepped(103, &[(5, 5), (6, 12), (33, 43)], (50, 9));
    let found = open(&flow);

    flow.take_page(page([33, 113]), NOW, 100);
    flow.take_page(page([5, 9]), NOW, 100);

    assert_eq!(found, [(5, 5), (6, 12), (33, 43)]);
    assert_eq!(open(&flow), [(6, 8), (10, 12), (34, 43)]);
    assert_eq!(confirm_all(&mut flow), open(&flow));
}

#[test]
fn every_missing_id_counts_until_enough_rows_lie_on_the_step() {
    let mut flow = stepped(3, &[], (3, 0));
    flow.take_page(page([13, 23, 33]), NOW, 100);
    let unknown = open(&flow);
    flow.take_page(page([43, 83, 93]), NOW, 100);
    let believed = open(&flow);
    // A session that has kept an older step.
    flow.take_page(page([103, 114, 123]), NOW, 100);
    let doubted = open(&flow);
    flow.take_page(page([63, 133]), NOW, 100);

    assert_eq!(unknown, [(4, 12), (14, 22), (24, 32)]);
    assert_eq!(believed[3..], [(53, 73)]);
    assert_eq!(doubted[3..], [(53, 73), (94, 102), (104, 113), (115, 122)]);
    assert_eq!(open(&flow)[3..5], [(53, 62), (64, 73)], "nothing is cut while the step is in doubt");
    assert_eq!(open(&flow)[8..], [(124, 132)]);
    assert_eq!(confirm_all(&mut flow), open(&flow));
}

#[test]
fn rows_that_the_bound_leaves_for_later_say_nothing_about_the_step_yet() {
    let mut flow = stepped(3, &[], (3, 0));
    for _ in 0..5 {
        let taken = flow.take_page(page([13, 23, 33, 43]), NOW, 1);
        assert!(taken.at_bound);
    }
    flow.take_page(page([23, 33, 43]), NOW, 100);

    assert_eq!(open(&flow), [(4, 12), (14, 22), (24, 32), (34, 42)]);
}

#[test]
fn with_more_gaps_than_one_page_asks_for_the_drain_tells_of_the_bound() {
    let gap = |n: u64| Gap { first: n * 2 + 1, last: n * 2 + 1, first_seen_at: NOW };
    let gaps: Vec<Gap> = (0..=log::MOST_ASKED as u64).map(gap).collect();
    let mut flow = Flow::new(1_000_000, gaps, StepWatch::new(IdStep::default(), (0, 0)));

    let taken = flow.take_page(page([3]), NOW, log::MOST_RANGES);

    assert_eq!(taken, Taken { events: 1, invalid: 0, at_bound: true });
}

#[test]
fn a_move_parks_so_many_events_at_most_and_the_next_one_goes_on() {
    let mut flow = Database::default().flow();
    flow.park_all(vec![("Order".to_owned(), "a".to_owned())]);
    for first in [1, 601, 1_201, 1_801] {
        let rows = (first..first + 600).map(|id| row(id, "a", u32::try_from(id).expect("small"))).collect();
        flow.take_page(Page { rows, ..Page::default() }, NOW, MAX_GAPS);
    }

    let mut moves = Vec::new();
    while flow.advance() {
        let progress = flow.take_progress(false);
        moves.push((progress.position, progress.failures.waiting.len()));
    }

    assert_eq!(moves, [(1_200, 1_200), (2_400, 1_200)]);
}
