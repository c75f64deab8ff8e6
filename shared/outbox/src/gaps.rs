//! Gaps: ranges of ids that the position has passed, or is about to pass, without having seen their rows.
//!
//! InnoDB gives an id at insert and shows it at commit. So an id missing below a visible one may still appear, and a
//! reader that only moves forward would lose it. Pure arithmetic; asking MySQL is `log`'s work.

use std::collections::BTreeMap;
use time::PrimitiveDateTime;

/// Ids first to last, both included, none of them seen yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Gap {
    pub first: u64,
    pub last: u64,
    /// UTC, the database's clock: no transaction older than this may be open when the gap is declared dead.
    pub first_seen_at: PrimitiveDateTime,
}

/// The open gaps of a relay group, in order, never touching each other's ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gaps(BTreeMap<u64, Gap>);

impl Gaps {
    /// The ids missing between `position` and the last of `ids`, which are the ids of a page in ascending order.
    pub fn of_page(position: u64, ids: impl IntoIterator<Item = u64>, now: PrimitiveDateTime) -> Self {
        let mut gaps = Self::default();
        let mut previous = position;
        for id in ids {
            if id > previous + 1 {
                gaps.insert(Gap { first: previous + 1, last: id - 1, first_seen_at: now });
            }
            previous = id;
        }
        gaps
    }

    /// How many of `ids`, a page behind `position` in ascending order, can be passed with at most `room` new gaps.
    pub fn passable(position: u64, ids: impl IntoIterator<Item = u64>, room: usize) -> usize {
        let (mut previous, mut gaps) = (position, 0);
        ids.into_iter()
            .take_while(|id| {
                gaps += usize::from(*id > previous + 1);
                previous = *id;
                gaps <= room
            })
            .count()
    }

    pub fn insert(&mut self, gap: Gap) {
        self.0.insert(gap.first, gap);
    }

    pub fn extend(&mut self, other: &Self) {
        self.0.extend(other.iter().map(|gap| (gap.first, gap)));
    }

    /// Takes out one id, whose row has appeared: what is left of its range stays open.
    pub fn fill(&mut self, id: u64) {
        let Some((&first, &gap)) = self.0.range(..=id).next_back().filter(|(_, gap)| gap.last >= id) else {
            return;
        };
        self.0.remove(&first);
        if gap.first < id {
            self.insert(Gap { last: id - 1, ..gap });
        }
        if id < gap.last {
            self.insert(Gap { first: id + 1, ..gap });
        }
    }

    /// Takes out a range that has proven dead.
    pub fn remove(&mut self, gap: Gap) {
        self.0.remove(&gap.first);
    }

    pub fn iter(&self) -> impl DoubleEndedIterator<Item = Gap> + '_ {
        self.0.values().copied()
    }

    /// Ranges, not ids.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn contains(&self, gap: &Gap) -> bool {
        self.0.get(&gap.first) == Some(gap)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;
    use time::macros::datetime;

    const NOW: PrimitiveDateTime = datetime!(2026-11-23 07:00);

    fn ranges(gaps: &Gaps) -> Vec<(u64, u64)> {
        gaps.iter().map(|gap| (gap.first, gap.last)).collect()
    }

    #[test]
    fn what_is_missing_before_and_within_a_page_is_a_gap_and_what_follows_it_is_not() {
        assert_eq!(ranges(&Gaps::of_page(10, [12, 13, 17], NOW)), [(11, 11), (14, 16)]);
        assert_eq!(ranges(&Gaps::of_page(10, [11, 12], NOW)), []);
        assert_eq!(ranges(&Gaps::of_page(10, [], NOW)), []);
    }

    #[test]
    fn a_page_is_passable_up_to_the_gap_that_there_is_no_room_for() {
        let page = [12, 13, 17, 18, 20];
        let passable = [0, 1, 2, 3, 4].map(|room| Gaps::passable(10, page, room));
        assert_eq!(passable, [0, 2, 4, 5, 5]);
        assert_eq!(Gaps::passable(11, [12, 13, 17], 0), 2);
    }

    #[test]
    fn a_filled_id_splits_its_range() {
        let mut gaps = Gaps::of_page(0, [10], NOW);

        gaps.fill(5);
        gaps.fill(1);
        gaps.fill(42);

        assert_eq!(ranges(&gaps), [(2, 4), (6, 9)]);
    }

    proptest! {
        #[test]
        fn filling_in_any_order_leaves_exactly_the_ids_that_were_not_seen(
            page in proptest::collection::btree_set(1_u64..60, 1..20),
            filled in proptest::collection::vec(1_u64..60, 0..40),
        ) {
            let mut gaps = Gaps::of_page(0, page.iter().copied(), NOW);
            filled.iter().for_each(|id| gaps.fill(*id));

            let last = *page.last().expect("never empty");
            let expected: BTreeSet<u64> = (1..last).filter(|id| !page.contains(id) && !filled.contains(id)).collect();
            let open: BTreeSet<u64> = gaps.iter().flat_map(|gap| gap.first..=gap.last).collect();
            prop_assert_eq!(open, expected);
        }
    }
}
