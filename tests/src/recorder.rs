//! A publisher that remembers, that can be made to fail or to wait, and that holds the relay to its contract.

use outflow_outbox::{FailureKind, OutboxEvent, PublishError, Publisher};
use std::{
    collections::{HashMap, HashSet},
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};
use tokio::sync::watch;

type Hook = Box<dyn Fn() -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;
/// Type and id.
type Aggregate = (String, String);

/// In place of a broker where a test looks at what one relay publishes, and when.
///
/// Panics where the relay breaks the trait's promise: no aggregate twice in a call, nor in two calls at once.
#[derive(Clone, Default)]
pub struct Recorder(Arc<Inner>);

#[derive(Default)]
struct Inner {
    published: Mutex<Vec<OutboxEvent>>,
    /// Aggregate and version of everything that was handed over, whatever came of it.
    offered: watch::Sender<Vec<(String, u32)>>,
    /// What events of these aggregates fail with.
    refused: Mutex<HashMap<String, FailureKind>>,
    /// Calls with an event of these aggregates wait.
    held: watch::Sender<HashSet<String>>,
    on_their_way: Mutex<HashSet<Aggregate>>,
    hook: tokio::sync::Mutex<Option<Hook>>,
    timeout: Duration,
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Recorder({} events)", self.published().len())
    }
}

impl Recorder {
    /// One that says that a call may take so long.
    pub fn with_timeout(timeout: Duration) -> Self {
        Self(Arc::new(Inner { timeout, ..Inner::default() }))
    }

    /// Everything confirmed so far, in order; duplicates included.
    pub fn published(&self) -> Vec<OutboxEvent> {
        lock(&self.0.published).clone()
    }

    /// Aggregate and version of everything confirmed so far.
    pub fn versions(&self) -> Vec<(String, u32)> {
        self.published().into_iter().map(|event| (event.aggregate_id, event.aggregate_version)).collect()
    }

    /// Versions of one aggregate confirmed so far.
    pub fn versions_of(&self, aggregate: &str) -> Vec<u32> {
        self.versions().into_iter().filter(|(id, _)| id == aggregate).map(|(_, version)| version).collect()
    }

    /// How often this aggregate's events were handed over, whatever came of it.
    pub fn offers(&self, aggregate: &str) -> usize {
        self.0.offered.borrow().iter().filter(|(id, _)| id == aggregate).count()
    }

    /// Waits until this aggregate's events were handed over so often.
    ///
    /// # Panics
    /// After a minute.
    pub async fn until_offered(&self, aggregate: &str, times: usize) {
        let mut offered = self.0.offered.subscribe();
        let often = offered.wait_for(|all| all.iter().filter(|(id, _)| id == aggregate).count() >= times);
        tokio::time::timeout(Duration::from_secs(60), often)
            .await
            .expect("handed over within a minute")
            .expect("the recorder lives");
    }

    /// Does not confirm events of these aggregates from now on, as if the broker were at fault.
    pub fn refuse(&self, aggregates: &[&str]) {
        self.refuse_as(FailureKind::Retriable, aggregates);
    }

    /// Fails events of these aggregates from now on, and of no others.
    pub fn refuse_as(&self, kind: FailureKind, aggregates: &[&str]) {
        *lock(&self.0.refused) = aggregates.iter().map(|id| ((*id).to_owned(), kind)).collect();
    }

    /// Calls with an event of these aggregates wait from now on, and no others do.
    pub fn hold(&self, aggregates: &[&str]) {
        self.0.held.send_replace(aggregates.iter().map(|id| (*id).to_owned()).collect());
    }

    /// Runs once, in the middle of the next publishing.
    pub async fn during_next<F: Future<Output = ()> + Send + 'static>(
        &self,
        hook: impl Fn() -> F + Send + Sync + 'static,
    ) {
        *self.0.hook.lock().await = Some(Box::new(move || Box::pin(hook())));
    }
}

/// What is on its way in one call, until it ends or is dropped.
struct OnTheirWay<'a> {
    all: &'a Mutex<HashSet<Aggregate>>,
    here: Vec<Aggregate>,
}

impl<'a> OnTheirWay<'a> {
    fn new(all: &'a Mutex<HashSet<Aggregate>>, events: &[OutboxEvent]) -> Self {
        let here: Vec<Aggregate> =
            events.iter().map(|event| (event.aggregate_type.clone(), event.aggregate_id.clone())).collect();
        for aggregate in &here {
            assert!(lock(all).insert(aggregate.clone()), "two events of {aggregate:?} on their way at once");
        }
        Self { all, here }
    }
}

impl Drop for OnTheirWay<'_> {
    fn drop(&mut self) {
        let mut all = lock(self.all);
        all.retain(|aggregate| !self.here.contains(aggregate));
    }
}

impl Publisher for Recorder {
    async fn publish(&self, events: &[OutboxEvent]) -> Vec<Result<(), PublishError>> {
        assert!(!events.is_empty(), "a call with nothing in it");
        let inner = &*self.0;
        let _on_their_way = OnTheirWay::new(&inner.on_their_way, events);
        inner.offered.send_modify(|offered| {
            offered.extend(events.iter().map(|event| (event.aggregate_id.clone(), event.aggregate_version)));
        });
        let hook = inner.hook.lock().await.take();
        if let Some(hook) = hook {
            hook().await;
        }
        let mut held = inner.held.subscribe();
        held.wait_for(|held| !events.iter().any(|event| held.contains(&event.aggregate_id)))
            .await
            .expect("the recorder lives");
        let refused = lock(&inner.refused).clone();
        let mut published = lock(&inner.published);
        events
            .iter()
            .map(|event| match refused.get(&event.aggregate_id) {
                Some(&kind) => Err(PublishError { kind, cause: "refused", source: "by the test".into() }),
                None => {
                    published.push(event.clone());
                    Ok(())
                }
            })
            .collect()
    }

    fn timeout(&self) -> Duration {
        self.0.timeout
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no holder panics")
}
