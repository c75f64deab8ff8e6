//! A publisher that remembers, and that can be made to fail or to let something happen in the middle.

use outflow_outbox::{FailureKind, OutboxEvent, PublishError, Publisher};
use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex},
    time::Duration,
};

type Hook = Box<dyn Fn() -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// In place of a broker where a test looks at what the relay publishes, and when.
#[derive(Clone, Default)]
pub struct Recorder(Arc<Inner>);

#[derive(Default)]
struct Inner {
    published: Mutex<Vec<OutboxEvent>>,
    /// Events whose aggregate id is in here are not confirmed.
    refused: Mutex<Vec<String>>,
    hook: tokio::sync::Mutex<Option<Hook>>,
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Recorder({} events)", self.published().len())
    }
}

impl Recorder {
    /// Everything confirmed so far, in order; duplicates included.
    pub fn published(&self) -> Vec<OutboxEvent> {
        self.0.published.lock().expect("no holder panics").clone()
    }

    /// Aggregate and version of everything confirmed so far.
    pub fn versions(&self) -> Vec<(String, u32)> {
        self.published().into_iter().map(|event| (event.aggregate_id, event.aggregate_version)).collect()
    }

    /// Does not confirm events of these aggregates from now on.
    pub fn refuse(&self, aggregates: &[&str]) {
        *self.0.refused.lock().expect("no holder panics") =
            aggregates.iter().map(|id| (*id).to_owned()).collect();
    }

    /// Runs once, in the middle of the next publishing.
    pub async fn during_next<F: Future<Output = ()> + Send + 'static>(
        &self,
        hook: impl Fn() -> F + Send + Sync + 'static,
    ) {
        *self.0.hook.lock().await = Some(Box::new(move || Box::pin(hook())));
    }
}

impl Publisher for Recorder {
    async fn publish(&self, events: &[OutboxEvent]) -> Vec<Result<(), PublishError>> {
        let hook = self.0.hook.lock().await.take();
        if let Some(hook) = hook {
            hook().await;
        }
        let refused = self.0.refused.lock().expect("no holder panics").clone();
        let mut published = self.0.published.lock().expect("no holder panics");
        events
            .iter()
            .map(|event| {
                if refused.contains(&event.aggregate_id) {
                    return Err(PublishError {
                        kind: FailureKind::Retriable,
                        cause: "unconfirmed",
                        source: "refused by the test".into(),
                    });
                }
                published.push(event.clone());
                Ok(())
            })
            .collect()
    }

    fn timeout(&self) -> Duration {
        Duration::ZERO
    }
}
