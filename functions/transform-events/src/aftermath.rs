//! After a batch: tell what the active modules did, and roll back one that rejects too much.
//!
//! Must not: fail a batch that was done. What goes wrong here is logged, and done again after a later batch.

use outflow_telemetry::chain;
use outflow_transform::{Active, Generation, Loaded, RegistryError, Signed, Stats};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use time::OffsetDateTime;
use uuid::Uuid;

/// Each activation's figures are told this often at most: one small object a time.
const REPORT_EVERY: Duration = Duration::from_secs(5);

/// Tells the registry what this process did with each activation.
#[derive(Debug)]
pub(crate) struct Reporter {
    instance: String,
    told: Mutex<Told>,
}

/// What was told last of each activation that is loaded, and when it was tried.
#[derive(Debug, Default)]
struct Told(HashMap<Generation, (Instant, Stats)>);

impl Default for Reporter {
    fn default() -> Self {
        Self { instance: Uuid::now_v7().to_string(), told: Mutex::default() }
    }
}

impl Reporter {
    /// Judges the modules and tells of them: of a module that goes for the last time.
    pub(crate) async fn after_batch(&self, active: &Active, loaded: &[Arc<Loaded>]) {
        self.told().keep(|generation| loaded.iter().any(|loaded| loaded.generation == generation));
        for loaded in loaded {
            let goes = match loaded.verdict() {
                Some(verdict) => roll_back(active, loaded, verdict).await,
                None => false,
            };
            let stats = loaded.counts.stats();
            if goes || self.told().is_due(loaded.generation, &stats, Instant::now()) {
                self.tell(active, loaded.generation, stats).await;
            }
        }
    }

    async fn tell(&self, active: &Active, generation: Generation, stats: Stats) {
        match active.registry().put_stats(generation, &self.instance, &stats).await {
            Ok(()) => self.told().note(generation, Some(stats), Instant::now()),
            Err(error) => {
                self.told().note(generation, None, Instant::now());
                tracing::warn!(
                    error = chain(&error),
                    %generation,
                    "figures of the transform not told, again after a later batch"
                );
            }
        }
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Told {
    fn keep(&mut self, is_loaded: impl Fn(Generation) -> bool) {
        self.0.retain(|generation, _| is_loaded(*generation));
    }

    /// Whether there is something new to tell, and the last try is long enough ago.
    fn is_due(&self, generation: Generation, stats: &Stats, now: Instant) -> bool {
        match self.0.get(&generation) {
            None => *stats != Stats::default(),
            Some((at, told)) => now.duration_since(*at) >= REPORT_EVERY && told != stats,
        }
    }

    /// It was tried now; `told` where that came off.
    fn note(&mut self, generation: Generation, told: Option<Stats>, now: Instant) {
        let (at, stats) = self.0.entry(generation).or_insert((now, Stats::default()));
        *at = now;
        if let Some(told) = told {
            *stats = told;
        }
    }
}

/// Whether the module is not active any more.
async fn roll_back(active: &Active, loaded: &Loaded, verdict: &str) -> bool {
    let signed = Signed {
        by: env!("CARGO_PKG_NAME").to_owned(),
        at: OffsetDateTime::now_utc(),
        why: Some(verdict.to_owned()),
    };
    let (slot, generation, digest) = (&loaded.slot, loaded.generation, loaded.digest());
    let pointed = active.roll_back(loaded, signed).await;
    match &pointed {
        Ok(pointer) => tracing::error!(
            %slot,
            %generation,
            %digest,
            reason = verdict,
            back_to = pointer.in_slot(slot).map(|active| active.digest.to_string()),
            next = "outflow dlq redrive --module DIGEST, once the module is mended or its predecessor can map them",
            "transform rolled back by itself"
        ),
        Err(error @ (RegistryError::Superseded { .. } | RegistryError::NotActive { .. })) => {
            tracing::info!(%slot, %generation, reason = chain(error), "transform was replaced by somebody else");
        }
        Err(error) => tracing::error!(
            %slot,
            %generation,
            %digest,
            reason = verdict,
            error = chain(error),
            again = loaded.verdict().is_some(),
            mend = "outflow transform activate, or outflow transform deactivate",
            "transform rejects too much, and could not be rolled back"
        ),
    }
    matches!(pointed, Ok(_) | Err(RegistryError::Superseded { .. } | RegistryError::NotActive { .. }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_new_is_told_every_few_seconds_and_what_is_not_loaded_is_forgotten() {
        let (mut told, start) = (Told::default(), Instant::now());
        let [first, second] = [1, 2].map(|number| Generation::new(number).expect("in range"));
        let stats = |records| Stats { records, ..Stats::default() };
        let at = |seconds| start + Duration::from_secs(seconds);

        assert!(!told.is_due(first, &stats(0), at(0)), "it did nothing yet");
        assert!(told.is_due(first, &stats(1), at(0)), "its first batch is told at once");
        told.note(first, Some(stats(1)), at(0));
        assert!(!told.is_due(first, &stats(2), at(4)));
        assert!(!told.is_due(first, &stats(1), at(5)), "nothing is new");
        assert!(told.is_due(first, &stats(2), at(5)));

        // One that did not come off is tried again, and not after each batch.
        told.note(first, None, at(5));
        assert!(!told.is_due(first, &stats(2), at(9)));
        assert!(told.is_due(first, &stats(2), at(10)));

        told.note(second, Some(stats(7)), at(10));
        told.keep(|generation| generation == second);
        assert_eq!(told.0.keys().collect::<Vec<_>>(), [&second]);
    }
}
