//! Handing over what is ready, and what follows from each answer.

use super::{Happened, Session, chain, shortened};
use crate::{
    dispatch::{Key, Task},
    error::RelayError,
    event::OutboxEvent,
    failures::Attempt,
    publisher::{FailureKind, PublishError, Publisher},
};
use futures_util::future::BoxFuture;
use std::time::{Duration, Instant};

/// Pauses after the broker asked for one, doubling.
pub(super) const FIRST_HOLD: Duration = Duration::from_millis(50);
const LONGEST_HOLD: Duration = Duration::from_secs(2);

pub(super) struct Delivery {
    tasks: Vec<(u64, Key)>,
    events: Vec<OutboxEvent>,
    results: Vec<Result<(), PublishError>>,
    took: Duration,
}

impl<'a, P: Publisher> Session<'a, P> {
    /// Everything that is ready, in one call.
    pub(super) fn deliver(&mut self) -> BoxFuture<'a, Happened> {
        let ready = self.flow.dispatch.take_ready();
        let (tasks, events) = ready.into_iter().map(|task| ((task.step, task.key), task.event)).unzip();
        let publisher = self.means.publisher;
        Box::pin(async move {
            let events: Vec<OutboxEvent> = events;
            let began_at = Instant::now();
            let results = publisher.publish(&events).await;
            Happened::Delivered(Delivery { tasks, events, results, took: began_at.elapsed() })
        })
    }

    pub(super) fn on_delivery(&mut self, delivery: Delivery) {
        let Delivery { tasks, events, results, took } = delivery;
        self.means.metrics.delivered(took);
        let (mut confirmed, mut violations, mut held) = (0, 0, false);
        let mut order = self.order();
        for (((step, key), event), result) in tasks.into_iter().zip(events).zip(results) {
            let task = Task { step, key, event };
            match result {
                Ok(()) => {
                    confirmed += 1;
                    violations += u64::from(order.confirmed(key, &task.event));
                    self.flow.confirm(&task);
                }
                Err(error) => match error.kind {
                    FailureKind::Record { permanent } => {
                        let attempt = self.attempt(error, permanent, 1);
                        self.flow.park(&task, attempt);
                    }
                    FailureKind::Backpressure => {
                        held = true;
                        self.flow.dispatch.again(task);
                    }
                    FailureKind::Retriable => self.fail_to_publish(&task.event, error),
                    FailureKind::Fenced => self.fenced_by_publisher(&task.event, error),
                },
            }
        }
        drop(order);
        self.tell_violations(violations);
        self.done.published += confirmed;
        self.means.metrics.count(&self.means.metrics.published, confirmed);
        if held {
            self.hold_until = Instant::now() + shortened(self.hold);
            self.hold = (self.hold * 2).min(LONGEST_HOLD);
        } else if confirmed > 0 {
            self.hold = FIRST_HOLD;
        }
        self.check_parked();
    }

    fn fail_to_publish(&mut self, event: &OutboxEvent, source: PublishError) {
        self.unconfirmed += 1;
        self.fail(RelayError::Publish {
            failed: 1,
            position: self.flow.position(),
            event_id: event.event_id.clone(),
            source,
        });
    }

    /// Another relay has taken over at the broker: nothing more is sent, whatever the lease says.
    pub(super) fn fenced_by_publisher(&mut self, event: &OutboxEvent, source: PublishError) {
        self.fail(RelayError::FencedByPublisher {
            group: self.lease.group.clone(),
            event_id: event.event_id.clone(),
            source,
        });
    }

    /// The record's own failure, after so many attempts.
    pub(super) fn attempt(&mut self, error: PublishError, permanent: bool, attempts: u32) -> Attempt {
        let retry = &self.means.settings.retry;
        let dead = permanent || attempts >= retry.max_attempts;
        let text = chain(error.source.as_ref());
        tracing::warn!(
            cause = error.cause,
            error = text,
            attempts,
            dead,
            "event refused, its aggregate is parked"
        );
        if dead {
            self.done.dead_lettered += 1;
            self.means.metrics.dead(error.cause);
        }
        let pause = (!dead).then(|| shortened(retry.pause(attempts)));
        if let Some(pause) = pause {
            let again_at = Instant::now() + pause;
            self.lane_at = Some(self.lane_at.map_or(again_at, |at| at.min(again_at)));
        }
        Attempt { cause: error.cause, error: text, pause }
    }
}
