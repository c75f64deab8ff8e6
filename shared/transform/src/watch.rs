//! What a module did since its activation, and when that is too bad to go on with.

use crate::{Batch, Loaded, Outcome, RejectLimit, Stage, Stats};
use std::{
    sync::{
        OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

/// Counts of one process and one activation.
#[derive(Debug, Default)]
pub struct Counts {
    records: AtomicU64,
    rows: AtomicU64,
    skipped: AtomicU64,
    rejected: AtomicU64,
    trapped: AtomicU64,
    run_us: AtomicU64,
    /// Stands, whatever the module does after it.
    verdict: OnceLock<String>,
    /// Nothing is left to be done about the verdict.
    settled: AtomicBool,
}

impl Counts {
    /// `outcomes` are those of the records that the module was asked about.
    fn add<'a>(&self, outcomes: impl Iterator<Item = &'a Outcome>, took: Duration) {
        let mut stats = Stats::default();
        for outcome in outcomes {
            stats.records += 1;
            match outcome {
                Outcome::Rows(rows) => stats.rows += rows.len() as u64,
                Outcome::Skip => stats.skipped += 1,
                Outcome::Reject(rejection) => {
                    stats.rejected += 1;
                    stats.trapped += u64::from(rejection.stage == Stage::Trap);
                }
            }
        }
        // The time of a batch that had nothing for the module would be told as news, and hold up what is.
        if stats.records == 0 {
            return;
        }
        self.records.fetch_add(stats.records, Relaxed);
        self.rows.fetch_add(stats.rows, Relaxed);
        self.skipped.fetch_add(stats.skipped, Relaxed);
        self.rejected.fetch_add(stats.rejected, Relaxed);
        self.trapped.fetch_add(stats.trapped, Relaxed);
        self.run_us.fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Relaxed);
    }

    pub fn stats(&self) -> Stats {
        Stats {
            records: self.records.load(Relaxed),
            rows: self.rows.load(Relaxed),
            skipped: self.skipped.load(Relaxed),
            rejected: self.rejected.load(Relaxed),
            trapped: self.trapped.load(Relaxed),
            run_us: self.run_us.load(Relaxed),
        }
    }
}

impl Loaded {
    /// Adds a batch that took so long; `wanted` tells which of its records the module was asked about.
    pub fn count(&self, batch: &Batch, wanted: impl Iterator<Item = bool>, took: Duration) {
        let outcomes = batch.outcomes.iter().zip(wanted).filter(|(_, wanted)| *wanted);
        self.counts.add(outcomes.map(|(outcome, _)| outcome), took);
    }

    /// Why the module has to be rolled back: told from the moment that its limit is passed until
    /// [`Active::roll_back`](crate::Active::roll_back) has settled it.
    pub fn verdict(&self) -> Option<&str> {
        if self.counts.settled.load(Relaxed) {
            return None;
        }
        if let Some(told) = self.counts.verdict.get() {
            return Some(told);
        }
        let verdict = verdict(&self.counts.stats(), self.limit?)?;
        Some(self.counts.verdict.get_or_init(|| verdict))
    }

    /// The verdict is done with, and not told again.
    pub(crate) fn settle(&self) {
        self.counts.settled.store(true, Relaxed);
    }
}

fn verdict(stats: &Stats, limit: RejectLimit) -> Option<String> {
    let Stats { records, rejected, trapped, .. } = *stats;
    let judged = (limit.from_records..=limit.to_records).contains(&records);
    let bad = u128::from(rejected) * 100 > u128::from(records) * u128::from(limit.percent);
    (judged && bad).then(|| {
        format!(
            "it rejected {rejected} of its first {records} records ({trapped} by trapping), more than {} %",
            limit.percent
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_without_anything_for_the_module_is_no_news() {
        let counts = Counts::default();
        counts.add([].iter(), Duration::from_millis(5));
        assert_eq!(counts.stats(), Stats::default());
        counts.add([Outcome::Skip].iter(), Duration::from_millis(5));
        assert_eq!(counts.stats(), Stats { records: 1, skipped: 1, run_us: 5_000, ..Stats::default() });
    }

    #[test]
    fn a_module_is_judged_within_its_first_records_by_the_part_it_rejects() {
        let limit = RejectLimit { percent: 5, from_records: 100, to_records: 1_000 };
        let judged =
            |records, rejected| verdict(&Stats { records, rejected, ..Stats::default() }, limit).is_some();
        assert!(!judged(99, 99), "too few to tell");
        assert!(!judged(100, 5));
        assert!(judged(100, 6));
        assert!(judged(1_000, 51));
        assert!(!judged(1_001, 1_001), "it has proven itself by then");
        let all = RejectLimit { percent: 0, from_records: 0, to_records: u64::MAX };
        let stats = |rejected| Stats { records: u64::MAX, rejected, ..Stats::default() };
        assert!(verdict(&stats(1), all).is_some());
        assert!(verdict(&stats(0), all).is_none());
    }
}
