//! Parked events that are due: tried beside the fresh ones, a bounded number at a time.
//!
//! A pass reads them, hands them over as soon as the lease outlasts that, and writes what came of it. Only then the next
//! one reads.

use super::{Happened, LOOK_EVERY, Means, Session, acquire, chain, in_time, shortened};
use crate::{
    error::RelayError,
    event::OutboxEvent,
    failures::{self, Due, FailureChanges},
    flow::ROW_INVALID,
    publisher::{FailureKind, PublishError, Publisher},
};
use futures_util::future::BoxFuture;
use std::time::{Duration, Instant};

/// How long an event is put off that met a broker at fault, so that those behind it have their turn.
const PUT_OFF: Duration = Duration::from_secs(5);
/// After the broker asked for a pause.
const LANE_HOLD: Duration = Duration::from_secs(5);
/// Bytes of parked events tried in one pass.
const LANE_BYTES: usize = 4 << 20;

pub(super) struct LanePass {
    due: Vec<(OutboxEvent, u32)>,
    results: Vec<Result<(), PublishError>>,
}

impl<'a, P: Publisher> Session<'a, P> {
    /// Reads the parked events that are due.
    pub(super) fn read_lane(&self) -> BoxFuture<'a, Happened> {
        let Means { pool, settings, .. } = self.means;
        Box::pin(async move {
            let due = in_time("read parked events", async {
                let mut connection = acquire(pool).await?;
                let quota = (settings.retry.quota, LANE_BYTES);
                failures::due(&mut connection, &settings.group, quota).await
            });
            Happened::LaneRead(due.await)
        })
    }

    pub(super) fn on_lane_read(&mut self, due: Result<Vec<Due>, RelayError>) {
        match due {
            Ok(due) if due.is_empty() => {
                self.lane_at = (self.flow.parked() > 0).then(|| Instant::now() + LOOK_EVERY);
            }
            Ok(due) => self.lane_due = Some(due),
            Err(error) => self.fail(error),
        }
    }

    /// Hands them over, each aggregate's first.
    pub(super) fn send_lane(&self, due: Vec<Due>) -> BoxFuture<'a, Happened> {
        let publisher = self.means.publisher;
        Box::pin(async move {
            let (mut rows, mut faults) = (Vec::with_capacity(due.len()), Vec::new());
            for Due { fetched, attempts } in due {
                match fetched.fault {
                    None => rows.push((fetched.event, attempts)),
                    Some(fault) => faults.push(((fetched.event, attempts), fault)),
                }
            }
            let (events, attempts): (Vec<OutboxEvent>, Vec<u32>) = rows.into_iter().unzip();
            let mut results = if events.is_empty() { Vec::new() } else { publisher.publish(&events).await };
            let mut due: Vec<(OutboxEvent, u32)> = events.into_iter().zip(attempts).collect();
            for (row, fault) in faults {
                due.push(row);
                results.push(Err(PublishError {
                    kind: FailureKind::Record { permanent: true },
                    cause: ROW_INVALID,
                    source: fault.into(),
                }));
            }
            Happened::LaneDone(LanePass { due, results })
        })
    }

    /// True where there is something to write about it.
    pub(super) fn on_lane(&mut self, pass: LanePass) -> bool {
        let now = Instant::now();
        // Whoever follows a head that is through is due at once, and so are those that were not picked.
        self.lane_at = Some(now);
        let (mut changes, mut violations) = (FailureChanges::default(), 0);
        for ((event, attempts), result) in pass.due.into_iter().zip(pass.results) {
            let place = self.flow.place(&event);
            match result {
                Ok(()) => {
                    self.done.published += 1;
                    self.done.retried += 1;
                    violations += u64::from(self.order().confirmed(place.key, &event));
                    changes.delivered.push(place);
                }
                Err(error) => match error.kind {
                    FailureKind::Record { permanent } => {
                        self.done.retried += 1;
                        let attempt = self.attempt(error, permanent, attempts + 1);
                        changes.refused_again.push((place, attempt));
                    }
                    FailureKind::Retriable | FailureKind::Backpressure => {
                        tracing::warn!(
                            event_id = event.event_id,
                            error = chain(error.source.as_ref()),
                            "parked event not delivered, put off without counting an attempt"
                        );
                        changes.put_off.push((place.id, shortened(PUT_OFF)));
                        if error.kind == FailureKind::Backpressure {
                            self.lane_at = Some(now + LANE_HOLD);
                        }
                    }
                    FailureKind::Fenced => self.fenced_by_publisher(&event, error),
                },
            }
        }
        self.tell_violations(violations);
        let tried = (changes.delivered.len() + changes.refused_again.len()) as u64;
        self.means.metrics.count(&self.means.metrics.retried, tried);
        self.means.metrics.count(&self.means.metrics.published, changes.delivered.len() as u64);
        let unwritten = !changes.is_empty();
        self.flow.note(changes);
        unwritten
    }
}
