//! Follows the registry's pointers: asked at the start of each invocation, since Lambda freezes whatever
//! would watch in the background.
//!
//! Whatever is wrong with a newer pointer, the last good module of its slot goes on; the reason and the command that
//! mends it are logged, and the bad one is tried again at growing intervals. Where its slot never had a good one nothing
//! goes on, in no slot: a batch is one for all of them, and would be done with without that one's rows.

use crate::{
    ActiveTransform, Digest, Engine, Generation, LoadError, Module, Pointer, Registry, RegistryError,
    RejectLimit, Signed, Slot, Target, metrics::Metrics, watch::Counts,
};
use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// First wait before a module that failed is tried again; doubled each time, up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// An operator who mended a module by publishing it again waits no longer than this.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// A function that starts with a bad module goes back this far for a good one.
const LOOK_BACK: usize = 16;

/// An active module, with the generation that its rows carry.
#[derive(Debug)]
pub struct Loaded {
    pub slot: Slot,
    pub generation: Generation,
    pub module: Arc<Module>,
    pub limit: Option<RejectLimit>,
    /// What this process did with it.
    pub counts: Counts,
}

impl Loaded {
    pub fn digest(&self) -> &Digest {
        self.module.digest()
    }
}

/// Why there is no module to run. Both mend themselves once the registry does: retry.
#[derive(Debug, thiserror::Error)]
pub enum ActiveError {
    #[error("the registry {registry} could not be asked which transforms are active")]
    Registry {
        registry: String,
        #[source]
        source: Box<RegistryError>,
    },
    #[error(
        "no transform is active in {registry}: run `outflow transform publish NAME`, then `outflow transform \
         activate DIGEST`"
    )]
    None { registry: String },
    #[error(
        "no transform of {slot} in {registry} can be used: {reason}; every batch waits, so that no row is lost, until \
         `outflow transform publish NAME` with a key that this function trusts has mended it, `outflow transform \
         activate DIGEST` has put a good one there, or `outflow transform deactivate --slot {slot}` leaves its events out"
    )]
    NoGoodOne {
        registry: String,
        slot: Slot,
        /// What is wrong with the newest.
        reason: String,
    },
}

#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("its artifact can't be used")]
    Registry(#[source] RegistryError),
    #[error("module {digest} is refused")]
    Module {
        digest: Digest,
        #[source]
        source: LoadError,
    },
}

/// Knows the active modules. One a process.
#[derive(Debug)]
pub struct Active {
    registry: Registry,
    engine: Engine,
    state: Mutex<State>,
    metrics: Metrics,
}

#[derive(Debug, Default)]
struct State {
    /// The highest number that was seen, whatever is in it.
    seen: Option<Generation>,
    /// What should be active, by the highest pointer that could be read.
    wanted: Vec<ActiveTransform>,
    /// What is, by slot.
    loaded: BTreeMap<Slot, Arc<Loaded>>,
    failures: HashMap<Generation, Failure>,
}

#[derive(Debug)]
struct Failure {
    wait: Duration,
    again: Instant,
    reason: String,
}

impl Active {
    /// Its counters ([`crate::metrics`]) report to the provider that the process has by now.
    pub fn new(engine: Engine, registry: Registry) -> Self {
        Self { registry, engine, state: Mutex::default(), metrics: Metrics::new() }
    }

    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The active modules now, in the order of their slots. Asks for one name; loads only what is new.
    ///
    /// # Errors
    /// Where a slot that is in use has no module that can be used, nor an earlier one: its rows would be lost.
    pub async fn refresh(&self, now: Instant) -> Result<Vec<Arc<Loaded>>, ActiveError> {
        if let Err(source) = self.follow().await {
            if self.lock().loaded.is_empty() {
                let registry = self.registry.location().to_owned();
                return Err(ActiveError::Registry { registry, source: Box::new(source) });
            }
            tracing::warn!(error = chain(&source), "registry unreadable, last transforms go on");
        }
        for wanted in self.missing(now) {
            match self.load(&wanted).await {
                Ok(loaded) => self.swap(loaded),
                Err(refused) => {
                    self.find_earlier(&wanted).await;
                    self.note(&wanted, &refused, now);
                }
            }
        }
        self.current()
    }

    /// Rolls back a module that was judged, as [`Registry::roll_back_by_itself`] does. Its verdict is not told again once
    /// it is rolled back, or nothing is left to roll back: another one is active there, none is, or none was before.
    ///
    /// # Errors
    /// As there.
    pub async fn roll_back(&self, judged: &Loaded, signed: Signed) -> Result<Pointer, RegistryError> {
        let pointed = self.registry.roll_back_by_itself(&judged.slot, judged.generation, signed).await;
        match &pointed {
            Ok(_) => {
                self.metrics.rolled_back(&judged.slot);
                judged.settle();
            }
            Err(
                RegistryError::Superseded { .. }
                | RegistryError::NotActive { .. }
                | RegistryError::NothingToRollBackTo { .. },
            ) => judged.settle(),
            Err(_) => {}
        }
        pointed
    }

    /// Reads the pointers that have come since.
    async fn follow(&self) -> Result<(), RegistryError> {
        let seen = self.lock().seen;
        let Some(mut seen) = seen else {
            let (newest, last) = self.registry.newest().await?;
            newest.into_iter().for_each(|pointer| self.want(pointer));
            self.lock().seen = last;
            return Ok(());
        };
        while let Ok(next) = seen.next() {
            match self.registry.pointer(next).await {
                Ok(None) => break,
                Ok(Some(pointer)) => self.want(pointer),
                Err(error @ RegistryError::Read { .. }) => return Err(error),
                Err(error) => {
                    self.metrics.refused_pointer();
                    tracing::error!(
                        generation = %next,
                        reason = chain(&error),
                        mend = "outflow transform activate, or rollback",
                        "pointer refused, last good one goes on"
                    );
                }
            }
            seen = next;
            self.lock().seen = Some(next);
        }
        Ok(())
    }

    /// The pointer counts from now on.
    fn want(&self, pointer: Pointer) {
        pointer.active.iter().for_each(|active| self.metrics.know(&active.slot));
        self.lock().want(pointer);
    }

    /// What is wanted and not loaded, and has waited long enough if it failed before.
    fn missing(&self, now: Instant) -> Vec<ActiveTransform> {
        let state = self.lock();
        let loaded = |wanted: &&ActiveTransform| {
            state.loaded.get(&wanted.slot).is_some_and(|loaded| loaded.generation == wanted.generation)
        };
        let waits = |wanted: &&ActiveTransform| {
            state.failures.get(&wanted.generation).is_some_and(|failure| failure.again > now)
        };
        state.wanted.iter().filter(|wanted| !loaded(wanted) && !waits(wanted)).cloned().collect()
    }

    async fn load(&self, wanted: &ActiveTransform) -> Result<Loaded, Refused> {
        let known = self.lock().loaded.get(&wanted.slot).map(|loaded| loaded.module.clone());
        let module = match known.filter(|module| *module.digest() == wanted.digest) {
            Some(module) => module,
            None => {
                let artifact = self.registry.artifact(&wanted.digest, Target::THIS).await;
                let artifact = artifact.map_err(Refused::Registry)?;
                let digest = wanted.digest.clone();
                let module = Module::load(&self.engine, digest.clone(), &artifact);
                Arc::new(module.map_err(|source| Refused::Module { digest, source })?)
            }
        };
        let (slot, generation, limit) = (wanted.slot.clone(), wanted.generation, wanted.limit);
        Ok(Loaded { slot, generation, module, limit, counts: Counts::default() })
    }

    /// For a function that has just started and can't use what is active: an earlier module of the slot.
    async fn find_earlier(&self, wanted: &ActiveTransform) {
        if self.lock().loaded.contains_key(&wanted.slot) {
            return;
        }
        let Ok(generations) = self.registry.generations().await else { return };
        let earlier = generations.iter().rev().filter(|generation| **generation < wanted.generation);
        for &generation in earlier.take(LOOK_BACK) {
            let Ok(Some(pointer)) = self.registry.pointer(generation).await else { continue };
            let Some(active) = pointer.in_slot(&wanted.slot) else { continue };
            if active.digest != wanted.digest
                && let Ok(loaded) = self.load(active).await
            {
                return self.swap(loaded);
            }
        }
    }

    fn swap(&self, loaded: Loaded) {
        let schema = loaded.module.schema();
        tracing::info!(
            slot = %loaded.slot, generation = %loaded.generation, digest = %loaded.digest(),
            name = schema.name, version = schema.version,
            "transform active"
        );
        let mut state = self.lock();
        state.failures.remove(&loaded.generation);
        state.loaded.insert(loaded.slot.clone(), Arc::new(loaded));
    }

    fn current(&self) -> Result<Vec<Arc<Loaded>>, ActiveError> {
        let state = self.lock();
        let registry = || self.registry.location().to_owned();
        if state.wanted.is_empty() {
            return Err(ActiveError::None { registry: registry() });
        }
        if let Some(wanted) = state.wanted.iter().find(|wanted| !state.loaded.contains_key(&wanted.slot)) {
            let reason = state.failures.get(&wanted.generation).map(|failure| failure.reason.clone());
            let (slot, reason) = (wanted.slot.clone(), reason.unwrap_or_default());
            return Err(ActiveError::NoGoodOne { registry: registry(), slot, reason });
        }
        Ok(state.loaded.values().cloned().collect())
    }

    fn note(&self, wanted: &ActiveTransform, refused: &Refused, now: Instant) {
        self.metrics.refused(&wanted.slot);
        let mut state = self.lock();
        let before = state.failures.get(&wanted.generation);
        let wait = before.map_or(FIRST_WAIT, |failure| (failure.wait * 2).min(LONGEST_WAIT));
        let reason = chain(refused);
        let goes_on = state.loaded.get(&wanted.slot).map(|loaded| loaded.digest().to_string());
        let (mend, message) = if goes_on.is_some() {
            (
                "outflow transform rollback, or outflow transform publish and activate a good one",
                "transform refused, last good one goes on",
            )
        } else {
            (
                "outflow transform publish, by a trusted key, or outflow transform deactivate --slot",
                "transform refused, and its slot has no other: every batch waits",
            )
        };
        tracing::error!(
            slot = %wanted.slot,
            generation = %wanted.generation,
            reason,
            goes_on,
            again_in_s = wait.as_secs(),
            mend,
            "{message}"
        );
        state.failures.insert(wanted.generation, Failure { wait, again: now + wait, reason });
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing is left half done under the lock, so a panic elsewhere doesn't spoil it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The pointer counts from now on.
    fn want(&mut self, pointer: Pointer) {
        self.wanted = pointer.active;
        let wanted = &self.wanted;
        self.loaded.retain(|slot, _| wanted.iter().any(|active| active.slot == *slot));
        self.failures.retain(|generation, _| wanted.iter().any(|active| active.generation == *generation));
    }
}

/// The error and its causes in one line, outermost first.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |e| e.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
