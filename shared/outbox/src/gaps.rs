//! Gaps: ranges of ids that the position has passed, or is about to pass, without having seen their rows.
//!
//! InnoDB gives an id at insert and shows it at commit. So an id missing below a visible one may still appear, and a
//! reader that only moves forward would lose it. Pure arithmetic; asking MySQL is the work of `log` and `burial`.

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

/// Which ids the server gives: `auto_increment_offset`, then every `auto_increment_increment`-th. What lies between
/// them is nobody's, and no gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IdStep {
    increment: u64,
    offset: u64,
}

impl Default for IdStep {
    fn default() -> Self {
        Self { increment: 1, offset: 1 }
    }
}

impl IdStep {
    /// As MySQL reads the two variables: an offset above the increment counts as none.
    pub(crate) fn new(increment: u64, offset: u64) -> Self {
        let increment = increment.max(1);
        Self { increment, offset: if offset > increment { 1 } else { offset.max(1) } }
    }

    pub(crate) fn gives(self, id: u64) -> bool {
        id % self.increment == self.offset % self.increment
    }

    /// The part of a range that begins and ends with an id the server gives; None where it gives none in between.
    fn trim(self, first: u64, last: u64) -> Option<(u64, u64)> {
        let residue = self.offset % self.increment;
        let first = first + (residue + self.increment - first % self.increment) % self.increment;
        let last = last.checked_sub((last % self.increment + self.increment - residue) % self.increment)?;
        (first <= last).then_some((first, last))
    }
}

/// The open gaps of a relay group, in order, never touching each other's ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Gaps {
    ranges: BTreeMap<u64, Gap>,
    step: IdStep,
}

impl Gaps {
    pub(crate) fn new(step: IdStep) -> Self {
        Self { ranges: BTreeMap::new(), step }
    }

    pub(crate) fn step(&self) -> IdStep {
        self.step
    }

    /// From now on every missing id counts: an id has been seen that the server's settings would not give.
    pub(crate) fn distrust_step(&mut self) {
        self.step = IdStep::default();
    }

    /// The gaps before and within `ids`, which lie behind `position` in ascending order.
    pub(crate) fn within(
        &self,
        position: u64,
        ids: impl IntoIterator<Item = u64>,
        now: PrimitiveDateTime,
    ) -> Vec<Gap> {
        let mut previous = position;
        let mut gaps = Vec::new();
        for id in ids {
            if id > previous + 1
                && let Some((first, last)) = self.step.trim(previous + 1, id - 1)
            {
                gaps.push(Gap { first, last, first_seen_at: now });
            }
            previous = id;
        }
        gaps
    }

    /// Trims the range to ids that the server gives; one without any is not kept.
    pub(crate) fn insert(&mut self, gap: Gap) {
        if let Some((first, last)) = self.step.trim(gap.first, gap.last) {
            self.ranges.insert(first, Gap { first, last, ..gap });
        }
    }

    /// Takes out one id, whose row has appeared: what is left of its range stays open. False where it was in none.
    pub(crate) fn fill(&mut self, id: u64) -> bool {
        let Some((&first, &gap)) = self.ranges.range(..=id).next_back().filter(|(_, gap)| gap.last >= id)
        else {
            return false;
        };
        self.ranges.remove(&first);
        if gap.first < id {
            self.insert(Gap { last: id - 1, ..gap });
        }
        if id < gap.last {
            self.insert(Gap { first: id + 1, ..gap });
        }
        true
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
    /// As read from the table, whose rows may hold ids that the server's settings no longer give.
    pub(crate) fn load(rows: Vec<Gap>, step: IdStep) -> Self {
        let stored: BTreeMap<u64, u64> = rows.iter().map(|gap| (gap.first, gap.last)).collect();
        let mut gaps = Gaps::new(step);
        rows.into_iter().for_each(|gap| gaps.insert(gap));
        let dirty = stored.keys().copied().chain(gaps.iter().map(|gap| gap.first)).collect();
        Self { gaps, stored, dirty }
    }

    pub(crate) fn gaps(&self) -> &Gaps {
        &self.gaps
    }

    pub(crate) fn insert(&mut self, gap: Gap) {
        self.dirty.insert(gap.first);
        self.gaps.insert(gap);
    }

    pub(crate) fn fill(&mut self, id: u64) {
        if let Some((&first, gap)) = self.gaps.ranges.range(..=id).next_back()
            && gap.last >= id
        {
            let last = gap.last;
            self.gaps.fill(id);
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

    pub(crate) fn distrust_step(&mut self) {
        self.gaps.distrust_step();
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

    fn of_page(step: IdStep, position: u64, ids: &[u64]) -> Gaps {
        let mut gaps = Gaps::new(step);
        let found = gaps.within(position, ids.iter().copied(), NOW);
        found.into_iter().for_each(|gap| gaps.insert(gap));
        gaps
    }

    #[test]
    fn what_is_missing_before_and_within_a_page_is_a_gap_and_what_follows_it_is_not() {
        let every = IdStep::default();
        assert_eq!(ranges(&of_page(every, 10, &[12, 13, 17])), [(11, 11), (14, 16)]);
        assert_eq!(ranges(&of_page(every, 10, &[11, 12])), []);
        assert_eq!(ranges(&of_page(every, 10, &[])), []);
    }

    #[test]
    fn ids_off_the_servers_step_are_no_gaps() {
        let tens = IdStep::new(10, 3);
        assert_eq!(ranges(&of_page(tens, 3, &[13, 23, 53])), [(33, 43)]);
        assert_eq!(ranges(&of_page(tens, 0, &[3, 13])), []);
        assert_eq!(IdStep::new(10, 11), IdStep::new(10, 1), "mysql ignores an offset above the increment");
        assert!(tens.gives(43) && !tens.gives(44));
    }

    #[test]
    fn a_filled_id_splits_its_range() {
        let mut gaps = of_page(IdStep::default(), 0, &[10]);

        gaps.fill(5);
        gaps.fill(1);
        gaps.fill(42);

        assert_eq!(ranges(&gaps), [(2, 4), (6, 9)]);
    }

    #[test]
    fn a_gap_that_changed_since_it_was_proven_dead_stays() {
        let mut gaps = of_page(IdStep::default(), 0, &[10]);
        let before = Gap { first: 1, last: 9, first_seen_at: NOW };
        gaps.fill(5);

        assert!(!gaps.remove(&before));
        assert_eq!(ranges(&gaps), [(1, 4), (6, 9)]);
    }

    proptest! {
        #[test]
        fn filling_in_any_order_leaves_exactly_the_ids_that_were_not_seen(
            increment in 1_u64..5,
            page in proptest::collection::btree_set(0_u64..60, 1..20),
            filled in proptest::collection::vec(0_u64..60, 0..40),
        ) {
            let step = IdStep::new(increment, 1);
            let id = |n: u64| 1 + n * increment;
            let page: BTreeSet<u64> = page.into_iter().map(id).collect();
            let filled: BTreeSet<u64> = filled.into_iter().map(id).collect();
            let mut gaps = of_page(step, 0, &page.iter().copied().collect::<Vec<_>>());
            for id in &filled {
                gaps.fill(*id);
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
                for gap in stored.gaps().within(position, ids.iter().copied(), NOW) {
                    stored.insert(gap);
                }
                position = ids.last().copied().unwrap_or(position);
            }
            for (n, id) in filled.into_iter().enumerate() {
                stored.fill(id);
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
