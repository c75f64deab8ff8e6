//! After a batch: tell what the active modules did, and roll back one that rejects too much.
//!
//! Must not: fail a batch that was done. What goes wrong here is logged, and done again after a later batch.

use outflow_telemetry::chain;
use outflow_transform::{Active, Generation, Loaded, RegistryError, Signed, Stats};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use time::OffsetDateTime;
use uuid::Uuid;

/// Each activation's figures are told this often at most: one small object a time.
const REPORT_EVERY: Duration = Duration::from_secs(5);

/// What this process has told of each activation, and when.
#[derive(Debug)]
pub(crate) struct Reporter {
    instance: String,
    told: Mutex<HashMap<Generation, (Instant, Stats)>>,
}

impl Default for Reporter {
    fn default() -> Self {
        Self { instance: Uuid::now_v7().to_string(), told: Mutex::default() }
    }
}

impl Reporter {
    /// Judges the modules and tells of them.
    pub(crate) async fn after_batch(&self, active: &Active, loaded: &[Arc<Loaded>]) {
        for loaded in loaded {
            let verdict = loaded.verdict();
            if verdict.is_some() || self.is_due(loaded) {
                self.tell(active, loaded).await;
            }
            if let Some(verdict) = verdict {
                roll_back(active, loaded, verdict).await;
            }
        }
    }

    fn is_due(&self, loaded: &Loaded) -> bool {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let (stats, now) = (loaded.counts.stats(), Instant::now());
        let due = told
            .get(&loaded.generation)
            .is_none_or(|(at, told)| now.duration_since(*at) >= REPORT_EVERY && *told != stats);
        if due {
            told.insert(loaded.generation, (now, stats));
        }
        due
    }

    async fn tell(&self, active: &Active, loaded: &Loaded) {
        let stats = loaded.counts.stats();
        if let Err(error) = active.registry().put_stats(loaded.generation, &self.instance, &stats).await {
            tracing::warn!(
                error = chain(&error),
                generation = %loaded.generation,
                "figures of the transform not told, again after a later batch"
            );
        }
    }
}

async fn roll_back(active: &Active, loaded: &Loaded, verdict: String) {
    let signed = Signed {
        by: env!("CARGO_PKG_NAME").to_owned(),
        at: OffsetDateTime::now_utc(),
        why: Some(verdict.clone()),
    };
    let (slot, generation, digest) = (&loaded.slot, loaded.generation, loaded.digest());
    match active.registry().roll_back_by_itself(slot, generation, signed).await {
        Ok(pointer) => tracing::error!(
            %slot,
            %generation,
            %digest,
            reason = verdict,
            back_to = pointer.in_slot(slot).map(|active| active.digest.to_string()),
            next = "outflow dlq redrive --module DIGEST, once the module is mended or its predecessor can map them",
            "transform rolled back by itself"
        ),
        Err(error @ (RegistryError::Superseded { .. } | RegistryError::Conflict { .. })) => {
            tracing::info!(%slot, %generation, reason = chain(&error), "transform was replaced by somebody else");
        }
        Err(error) => tracing::error!(
            %slot,
            %generation,
            %digest,
            reason = verdict,
            error = chain(&error),
            mend = "outflow transform activate, or outflow transform deactivate",
            "transform rejects too much, and could not be rolled back"
        ),
    }
}
