//! The step of `auto_increment`: which ids a server gives, and when its word for that is believed.
//!
//! A session keeps the step that it began with, and rows that come from another server keep that one's. An id off the
//! step that the server tells of may be in the hands of either. So it is no gap only where the newest rows of the log
//! show that nobody has used another step lately. Pure; the rows are read by `log`.

use super::Gap;
use time::PrimitiveDateTime;

/// Which ids the server gives: `auto_increment_offset`, then every `auto_increment_increment`-th. What lies between
/// them is nobody's, and no gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IdStep {
    pub(crate) increment: u64,
    pub(crate) offset: u64,
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

    pub(crate) fn gives_all(self) -> bool {
        self.increment == 1
    }

    /// The part of a range that begins and ends with an id the server gives; None where it gives none in between.
    pub(super) fn trim(self, first: u64, last: u64) -> Option<(u64, u64)> {
        let residue = self.offset % self.increment;
        let first = first + (residue + self.increment - first % self.increment) % self.increment;
        let last = last.checked_sub((last % self.increment + self.increment - residue) % self.increment)?;
        (first <= last).then_some((first, last))
    }

    /// The gaps before and within `ids`, which lie behind `position` in ascending order.
    pub(crate) fn gaps_within(
        self,
        position: u64,
        ids: impl IntoIterator<Item = u64>,
        now: PrimitiveDateTime,
    ) -> Vec<Gap> {
        let mut previous = position;
        let mut gaps = Vec::new();
        for id in ids {
            if id > previous + 1
                && let Some((first, last)) = self.trim(previous + 1, id - 1)
            {
                gaps.push(Gap { first, last, first_seen_at: now });
            }
            previous = id;
        }
        gaps
    }
}

/// The server's step, and what the log says about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StepWatch {
    told: IdStep,
    /// No row behind this id lies off the step, as far as rows have been seen.
    since: u64,
    /// How many rows those are.
    kept: u64,
    /// How many it takes.
    enough: u64,
}

impl StepWatch {
    /// Rows without one off the step before the step is believed. They leave as many gaps, which `max_gaps` has room for.
    pub(crate) const ENOUGH: u64 = 10_000;

    /// Of the server's `step` and the newest rows up to the position, of which `kept` lie on the step behind `since`.
    pub(crate) fn new(told: IdStep, (since, kept): (u64, u64)) -> Self {
        Self { told, since, kept, enough: Self::ENOUGH }
    }

    #[cfg(test)]
    pub(crate) fn with_enough(self, enough: u64) -> Self {
        Self { enough, ..self }
    }

    /// The step by which the ids that a page lacks are judged, whose rows have these ids: every id counts where one of
    /// them, or one of too few before them, lies off what the server tells.
    pub(crate) fn judge(&self, mut ids: impl Iterator<Item = u64>) -> IdStep {
        if self.kept >= self.enough && ids.all(|id| self.told.gives(id)) {
            self.told
        } else {
            IdStep::default()
        }
    }

    /// Takes in the ids of a page, each only once. Returns one that lies off the step.
    pub(crate) fn see(&mut self, ids: impl Iterator<Item = u64>) -> Option<u64> {
        let mut off = None;
        for id in ids {
            if self.told.gives(id) {
                self.kept += 1;
            } else {
                (self.since, self.kept, off) = (self.since.max(id), 0, Some(id));
            }
        }
        off
    }

    /// The step by which what is left of a gap is trimmed, once an id in it has appeared.
    ///
    /// A gap between two rows on the step begins and ends on the step only where it was cut to it when it was found:
    /// then no id off the step is in it. Of any other gap nothing is cut away.
    pub(crate) fn of_gap(&self, judged: IdStep, gap: &Gap) -> IdStep {
        if gap.first > self.since && judged.gives(gap.first) && judged.gives(gap.last) {
            judged
        } else {
            IdStep::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    const NOW: PrimitiveDateTime = datetime!(2026-11-23 07:00);
    const TENS: IdStep = IdStep { increment: 10, offset: 3 };

    fn gaps(step: IdStep, position: u64, ids: &[u64]) -> Vec<(u64, u64)> {
        let found = step.gaps_within(position, ids.iter().copied(), NOW);
        found.iter().map(|gap| (gap.first, gap.last)).collect()
    }

    #[test]
    fn what_is_missing_before_and_within_a_page_is_a_gap_and_what_follows_it_is_not() {
        let every = IdStep::default();
        assert_eq!(gaps(every, 10, &[12, 13, 17]), [(11, 11), (14, 16)]);
        assert_eq!(gaps(every, 10, &[11, 12]), []);
        assert_eq!(gaps(every, 10, &[]), []);
    }

    #[test]
    fn ids_off_the_step_are_no_gaps() {
        assert_eq!(gaps(TENS, 3, &[13, 23, 53]), [(33, 43)]);
        assert_eq!(gaps(TENS, 0, &[3, 13]), []);
        assert_eq!(IdStep::new(10, 11), IdStep::new(10, 1), "mysql ignores an offset above the increment");
        assert!(TENS.gives(43) && !TENS.gives(44));
    }

    #[test]
    fn a_step_is_believed_after_enough_rows_on_it_and_no_longer_after_one_off_it() {
        let mut watch = StepWatch::new(TENS, (0, 0)).with_enough(3);
        let judged: Vec<bool> = [vec![3, 13, 23], vec![33], vec![44, 53, 63, 73], vec![83], vec![93]]
            .into_iter()
            .map(|page| {
                let step = watch.judge(page.iter().copied());
                watch.see(page.into_iter());
                step == TENS
            })
            .collect();
        assert_eq!(judged, [false, true, false, true, true]);
    }

    #[test]
    fn only_a_gap_that_was_cut_to_the_step_is_cut_again() {
        let watch = StepWatch::new(TENS, (100, 9)).with_enough(3);
        let step = |first, last| watch.of_gap(TENS, &Gap { first, last, first_seen_at: NOW });
        assert_eq!(step(113, 133), TENS);
        assert_eq!(step(114, 132), IdStep::default(), "found while every id counted");
        assert_eq!(step(83, 93), IdStep::default(), "between rows that nobody has looked at");
    }
}
