//! Follows the registry's pointers: asked at the start of each invocation, since Lambda freezes whatever
//! would watch in the background.
//!
//! Whatever is wrong with a newer pointer, the last good module goes on; the reason and the command that
//! mends it are logged, and the bad pointer is tried again at growing intervals.

use crate::{Digest, Engine, Generation, LoadError, Module, Registry, RegistryError};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// First wait before a pointer that failed is tried again; doubled each time, up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// An operator who mended a module by publishing it again waits no longer than this.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// A function that starts with a bad pointer goes back this far for a good one.
const LOOK_BACK: usize = 16;

/// The active module, with the generation that its rows carry.
#[derive(Debug)]
pub struct Loaded {
    pub generation: Generation,
    pub module: Arc<Module>,
}

impl Loaded {
    pub fn digest(&self) -> &Digest {
        self.module.digest()
    }
}

/// Why there is no module to run. Both mend themselves once the registry does: retry.
#[derive(Debug, thiserror::Error)]
pub enum ActiveError {
    #[error("the registry {registry} could not be asked which transform is active")]
    Registry {
        registry: String,
        #[source]
        source: RegistryError,
    },
    #[error(
        "no transform is active in {registry}: run `outflow transform publish NAME`, then `outflow transform \
         activate DIGEST`"
    )]
    None { registry: String },
    #[error(
        "none of the last transforms in {registry} can be used: see the log, then run `outflow transform publish NAME` and `outflow transform activate DIGEST`"
    )]
    NoGoodOne { registry: String },
}

#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("its pointer or artifact can't be used")]
    Registry(#[source] RegistryError),
    #[error("module {digest} is refused")]
    Module {
        digest: Digest,
        #[source]
        source: LoadError,
    },
}

/// Knows the active module. One a process.
#[derive(Debug)]
pub struct Active {
    registry: Registry,
    engine: Engine,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    current: Option<Arc<Loaded>>,
    failures: HashMap<Generation, Failure>,
}

#[derive(Clone, Copy, Debug)]
struct Failure {
    wait: Duration,
    again: Instant,
}

impl Active {
    pub fn new(engine: Engine, registry: Registry) -> Self {
        Self { registry, engine, state: Mutex::default() }
    }

    /// The active module now. Lists the pointers; loads only what is new.
    pub async fn refresh(&self, now: Instant) -> Result<Arc<Loaded>, ActiveError> {
        let current = self.lock().current.clone();
        let registry = || self.registry.location().to_owned();
        let generations = match (self.registry.generations().await, &current) {
            (Ok(generations), _) => generations,
            (Err(error), Some(current)) => {
                tracing::warn!(error = chain(&error), generation = %current.generation, "registry unreadable, last transform goes on");
                return Ok(current.clone());
            }
            (Err(source), None) => return Err(ActiveError::Registry { registry: registry(), source }),
        };
        let newer =
            |generation: &Generation| current.as_ref().is_none_or(|current| *generation > current.generation);
        for &generation in generations.iter().rev().take_while(|g| newer(g)).take(LOOK_BACK) {
            if self.waits(generation, now) {
                continue;
            }
            match self.load(generation, current.as_deref()).await {
                Ok(loaded) => return Ok(self.swap(loaded)),
                Err(refused) => self.note(generation, &refused, now),
            }
        }
        match (current, generations.is_empty()) {
            (Some(current), _) => Ok(current),
            (None, true) => Err(ActiveError::None { registry: registry() }),
            (None, false) => Err(ActiveError::NoGoodOne { registry: registry() }),
        }
    }

    async fn load(&self, generation: Generation, current: Option<&Loaded>) -> Result<Loaded, Refused> {
        let pointer = self.registry.pointer(generation).await.map_err(Refused::Registry)?;
        if let Some(current) = current.filter(|current| *current.digest() == pointer.digest) {
            return Ok(Loaded { generation, module: current.module.clone() });
        }
        let artifact = self.registry.artifact(&pointer.digest).await.map_err(Refused::Registry)?;
        let digest = pointer.digest;
        let module = Module::load(&self.engine, digest.clone(), &artifact)
            .map_err(|source| Refused::Module { digest, source })?;
        Ok(Loaded { generation, module: Arc::new(module) })
    }

    fn swap(&self, loaded: Loaded) -> Arc<Loaded> {
        let loaded = Arc::new(loaded);
        let mut state = self.lock();
        // Another invocation in this process may have loaded a newer one meanwhile.
        if let Some(current) = state.current.as_ref().filter(|c| c.generation >= loaded.generation) {
            return current.clone();
        }
        let schema = loaded.module.schema();
        tracing::info!(
            generation = %loaded.generation, digest = %loaded.digest(), name = schema.name, version = schema.version,
            "transform active"
        );
        state.failures.retain(|&generation, _| generation > loaded.generation);
        state.current = Some(loaded.clone());
        loaded
    }

    fn waits(&self, generation: Generation, now: Instant) -> bool {
        self.lock().failures.get(&generation).is_some_and(|failure| failure.again > now)
    }

    fn note(&self, generation: Generation, refused: &Refused, now: Instant) {
        let mut state = self.lock();
        let wait = state.failures.get(&generation).map_or(FIRST_WAIT, |f| (f.wait * 2).min(LONGEST_WAIT));
        state.failures.insert(generation, Failure { wait, again: now + wait });
        tracing::error!(
            %generation,
            reason = chain(refused),
            goes_on = state.current.as_ref().map(|current| current.digest().to_string()),
            again_in_s = wait.as_secs(),
            mend = "outflow transform rollback, or outflow transform publish and activate a good one",
            "transform refused, last good one goes on"
        );
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // Nothing is left half done under the lock, so a panic elsewhere doesn't spoil it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The error and its causes in one line, outermost first.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |e| e.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
