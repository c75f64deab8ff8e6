//! Gaps: ranges of ids that the position has passed, or is about to pass, without having seen their rows.
//!
//! InnoDB gives an id at insert and shows it at commit. So an id missing below a visible one may still appear, and a
//! reader that only moves forward would lose it. Pure arithmetic; asking MySQL is the work of `log` and `burial`.
//!
//! What is open stays open until its row has appeared or it has proven dead: no setting of the server takes it away.

mod step;

pub(crate) use step::{IdStep, StepWatch};

use std::collections::{BTreeMap, BTreeSet};
use time::PrimitiveDateTime;

/// Ids first to last, both included, none of them seen yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Gap {
    pub(crate) first: u64,
    pub(crate) last: u64,
    /// UTC, the database's clock: no transaction older than this may be open when the gap is declared dead.
    pub(crate) first_seen_at: PrimitiveDateTime,
}

/// The open gaps of a relay group, in order, never touching each other's ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Gaps {
    ranges: BTreeMap<u64, Gap>,
}

impl Gaps {
    pub(crate) fn insert(&mut self, gap: Gap) {
        self.ranges.insert(gap.first, gap);
    }

    /// The gap that this id lies in.
    pub(crate) fn around(&self, id: u64) -> Option<&Gap> {
        self.ranges.range(..=id).next_back().map(|(_, gap)| gap).filter(|gap| gap.last >= id)
    }

    /// Takes out one id, whose row has appeared: what is left of its range, cut to `step`, stays open.
    pub(crate) fn fill(&mut self, id: u64, step: IdStep) {
        let Some(&gap) = self.around(id) else { return };
        self.ranges.remove(&gap.first);
        for (first, last) in [(gap.first, id - 1), (id + 1, gap.last)] {
            if first <= last
                && let Some((first, last)) = step.trim(first, last)
            {
                self.insert(Gap { first, last, ..gap });
            }
        }
    }

    /// Takes out a range that has proven dead, unless it has changed since.
    pub(crate) fn remove(&mut self, gap: &Gap) -> bool {
        let known = self.ranges.get(&gap.first).is_some_and(|known| known.last == gap.last);
        if known {
            self.ranges.remove(&gap.first);
        }
        known
    }

    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = &Gap> {
        self.ranges.values()
    }

    pub(crate) fn get(&self, first: u64) -> Option<&Gap> {
        self.ranges.get(&first)
    }

    /// Ranges, not ids.
    pub(crate) fn len(&self) -> usize {
        self.ranges.len()
    }
}

/// The gaps as they are confirmed, and what of that the table does not know yet.
#[derive(Debug, Default)]
pub(crate) struct StoredGaps {
    gaps: Gaps,
    /// First and last id of each row in the table.
    stored: BTreeMap<u64, u64>,
    /// First ids whose row may differ from the table.
    dirty: BTreeSet<u64>,
}

/// What to write so that the table follows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct GapChanges {
    /// First ids of rows to delete.
    pub(crate) gone: Vec<u64>,
    /// Rows to insert or to replace.
    pub(crate) changed: Vec<Gap>,
}

impl GapChanges {
    pub(crate) fn is_empty(&self) -> bool {
        self.gone.is_empty() && self.changed.is_empty()
    }
}

impl StoredGaps {
    /// As read from the table.
    pub(crate) fn load(rows: Vec<Gap>) -> Self {
        let stored = rows.iter().map(|gap| (gap.first, gap.last)).collect();
        let mut gaps = Gaps::default();
        rows.into_iter().for_each(|gap| gaps.insert(gap));
        Self { gaps, stored, dirty: BTreeSet::new() }
    }

    pub(crate) fn gaps(&self) -> &Gaps {
        &self.gaps
    }

    pub(crate) fn insert(&mut self, gap: Gap) {
        self.dirty.insert(gap.first);
        self.gaps.insert(gap);
    }

    pub(crate) fn fill(&mut self, id: u64, step: IdStep) {
        if let Some(&Gap { first, last, .. }) = self.gaps.around(id) {
            self.gaps.fill(id, step);
            self.dirty.insert(first);
            self.dirty.extend(self.gaps.ranges.range(first..=last).map(|(first, _)| *first));
        }
    }

    pub(crate) fn remove(&mut self, gap: &Gap) -> bool {
        let removed = self.gaps.remove(gap);
        if removed {
            self.dirty.insert(gap.first);
        }
        removed
    }

    pub(crate) fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// What to write now. The caller writes it, or gives this whole value up.
    pub(crate) fn take_changes(&mut self) -> GapChanges {
        let mut changes = GapChanges::default();
        for first in std::mem::take(&mut self.dirty) {
            match (self.gaps.get(first), self.stored.get(&first)) {
                (Some(gap), stored) if stored != Some(&gap.last) => {
                    self.stored.insert(first, gap.last);
                    changes.changed.push(*gap);
                }
                (None, Some(_)) => {
                    self.stored.remove(&first);
                    changes.gone.push(first);
                }
                _ => {}
            }
        }
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use time::macros::datetime;

    const NOW: PrimitiveDateTime = datetime!(2026-11-23 07:00);

    fn ranges(gaps: &Gaps) -> Vec<(u64, u64)> {
        gaps.iter().map(|gap| (gap.first, gap.last)).collect()
    }

    const EVERY: IdStep = IdStep { increment: 1, offset: 1 };

    fn of_page(step: IdStep, position: u64, ids: &[u64]) -> Gaps {
        let mut gaps = Gaps::default();
        step.gaps_within(position, ids.iter().copied(), NOW).into_iter().for_each(|gap| gaps.insert(gap));
        gaps
    }

    #[test]
    fn a_filled_id_splits_its_range() {
        let mut gaps = of_page(EVERY, 0, &[10]);

        for id in [5, 1, 42] {
            gaps.fill(id, EVERY);
        }

        assert_eq!(ranges(&gaps), [(2, 4), (6, 9)]);
    }

    #[test]
    fn what_is_left_of_a_range_is_cut_to_the_step_only_where_that_is_asked_for() {
        let gap = Gap { first: 33, last: 63, first_seen_at: NOW };
        let left = |step| {
            let mut gaps = Gaps::default();
            gaps.insert(gap);
            gaps.fill(43, step);
            ranges(&gaps)
        };
        assert_eq!(left(IdStep::new(10, 3)), [(33, 33), (53, 63)]);
        assert_eq!(left(EVERY), [(33, 42), (44, 63)]);
    }

    #[test]
    fn a_gap_that_changed_since_it_was_proven_dead_stays() {
        let mut gaps = of_page(EVERY, 0, &[10]);
        let before = Gap { first: 1, last: 9, first_seen_at: NOW };
        gaps.fill(5, EVERY);

        assert!(!gaps.remove(&before));
        assert_eq!(ranges(&gaps), [(1, 4), (6, 9)]);
    }

    #[test]
    fn what_the_table_holds_is_neither_cut_nor_written_anew() {
        let rows = [(5, 5), (6, 8), (13, 24)].map(|(first, last)| Gap { first, last, first_seen_at: NOW });
        let mut stored = StoredGaps::load(rows.to_vec());

        assert_eq!(ranges(stored.gaps()), [(5, 5), (6, 8), (13, 24)]);
        assert!(!stored.is_dirty());
        assert!(stored.take_changes().is_empty());
    }

    proptest! {
        #[test]
        fn filling_in_any_order_leaves_exactly_the_ids_that_were_not_seen(
            increment in 1_u64..5,
            cut in any::<bool>(),
            page in proptest::collection::btree_set(0_u64..60, 1..20),
            filled in proptest::collection::vec(0_u64..60, 0..40),
        ) {
            // Cut to the step, its ids are what counts; else each id is.
            let step = if cut { IdStep::new(increment, 1) } else { EVERY };
            let id = |n: u64| 1 + n * increment;
            let page: BTreeSet<u64> = page.into_iter().map(id).collect();
            let filled: BTreeSet<u64> = filled.into_iter().map(id).collect();
            let mut gaps = of_page(step, 0, &page.iter().copied().collect::<Vec<_>>());
            for id in &filled {
                gaps.fill(*id, step);
            }

            let last = *page.last().expect("never empty");
            let expected: BTreeSet<u64> = (1..last)
                .filter(|id| step.gives(*id) && !page.contains(id) && !filled.contains(id))
                .collect();
            let open: BTreeSet<u64> =
                gaps.iter().flat_map(|gap| gap.first..=gap.last).filter(|id| step.gives(*id)).collect();
            prop_assert_eq!(open, expected);
        }

        #[test]
        fn the_table_follows_whatever_happens_between_two_writes(
            pages in proptest::collection::vec(proptest::collection::btree_set(0_u64..200, 1..12), 1..6),
            filled in proptest::collection::vec(0_u64..200, 0..80),
            write_each in 1_usize..7,
        ) {
            let mut stored = StoredGaps::default();
            let mut table: BTreeMap<u64, u64> = BTreeMap::new();
            let mut write = |stored: &mut StoredGaps| {
                let changes = stored.take_changes();
                for first in &changes.gone {
                    assert!(table.remove(first).is_some(), "only rows that are there are deleted");
                }
                for gap in &changes.changed {
                    table.insert(gap.first, gap.last);
                }
                table.clone()
            };
            let mut position = 0;
            for page in pages {
                let ids: Vec<u64> = page.into_iter().filter(|id| *id > position).collect();
                for gap in EVERY.gaps_within(position, ids.iter().copied(), NOW) {
                    stored.insert(gap);
                }
                position = ids.last().copied().unwrap_or(position);
            }
            for (n, id) in filled.into_iter().enumerate() {
                stored.fill(id, EVERY);
                if n % write_each == 0 {
                    write(&mut stored);
                }
            }
            let table = write(&mut stored);
            let open: BTreeMap<u64, u64> = stored.gaps().iter().map(|gap| (gap.first, gap.last)).collect();
            prop_assert_eq!(table, open);
        }
    }
}
