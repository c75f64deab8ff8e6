//! A log in memory, written and read in every order that chance finds, with a relay that may crash at any moment.

use super::*;
use crate::{gaps::GapChanges, settings::RetrySettings};
use proptest::prelude::*;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use time::{OffsetDateTime, macros::datetime};

const NOW: PrimitiveDateTime = datetime!(2026-11-23 07:00);
const MAX_GAPS: usize = 6;
const AGGREGATES: u8 = 4;

/// What MySQL holds: rows that are committed, rows that are not yet, and the relay's tables.
#[derive(Default)]
struct Database {
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
            self.last_id += 1;
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
        let rows: Vec<Fetched> = found
            .map(|(id, (aggregate, version))| Fetched {
                event: OutboxEvent {
                    id: *id,
                    event_id: id.to_string(),
                    aggregate_type: "Order".to_owned(),
                    aggregate_id: aggregate.to_string(),
                    aggregate_version: *version,
                    event_type: "Changed".to_owned(),
                    payload: "{}".to_owned(),
                    headers: Vec::new(),
                    created_at: OffsetDateTime::UNIX_EPOCH,
                },
                fault: None,
            })
            .collect();
        Page { more: false, rows }
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
        let mut flow = Flow::new(self.position, gaps.collect(), IdStep::default());
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
    Crash,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        5 => (0..AGGREGATES).prop_map(Act::Insert),
        5 => (any::<usize>(), prop::bool::weighted(0.8)).prop_map(|(nth, commits)| Act::End(nth, commits)),
        4 => (1_usize..6).prop_map(Act::Read),
        6 => (any::<usize>(), any::<u8>()).prop_map(|(nth, outcome)| Act::Answer(nth, outcome)),
        2 => Just(Act::Move),
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
    ) {
        let mut database = Database::default();
        let mut flow = database.flow();
        let mut on_their_way: Vec<Task> = Vec::new();
        let settle = (0..200).flat_map(|n| [Act::End(0, true), Act::Read(5), Act::Answer(n, 7), Act::Move]);
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
                Act::Crash => {
                    on_their_way.clear();
                    flow = database.flow();
                }
            }
            prop_assert!(flow.open_gaps().len() <= 2 * MAX_GAPS);
            database.nothing_is_lost()?;
        }
        // All that is committed is through or parked, but for what the bound of gaps still holds up.
        if flow.open_gaps().len() < MAX_GAPS {
            for id in database.committed.keys() {
                prop_assert!(database.delivered.contains(id) || database.parked.contains(id), "{} stands", id);
            }
        }
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
    let mut database = Database::default();
    let mut flow = database.flow();
    for aggregate in 0..60 {
        database.insert(aggregate);
        database.end(0, true);
    }

    flow.take_page(database.page(&flow, 20), NOW, MAX_GAPS);
    let after_small = flow.next_page(&settings).expect("there is room");
    flow.take_page(database.page(&flow, 40), NOW, MAX_GAPS);

    assert_eq!(after_small.1, 10_000);
    assert!((30..60).contains(&after_small.0), "{after_small:?}");
    assert_eq!(flow.next_page(&settings), None);
}
