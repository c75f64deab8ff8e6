//! Parked events that are due: tried beside the fresh ones, a bounded number at a time.

use super::{Happened, LOOK_EVERY, Means, Session, acquire, chain, in_time};
use crate::{
    error::RelayError,
    event::OutboxEvent,
    failures::{self, FailureChanges},
    flow::ROW_INVALID,
    publisher::{FailureKind, PublishError, Publisher},
};
use futures_util::future::BoxFuture;
use std::time::{Duration, Instant};

/// After parked events met a broker that is down.
const LANE_HOLD: Duration = Duration::from_secs(5);
/// Bytes of parked events tried in one pass.
const LANE_BYTES: usize = 4 << 20;

pub(super) struct LanePass {
    due: Vec<(OutboxEvent, u32)>,
    results: Vec<Result<(), PublishError>>,
}

impl<'a, P: Publisher> Session<'a, P> {
    /// Tries the parked events that are due.
    pub(super) fn pass_lane(&self) -> BoxFuture<'a, Happened> {
        let Means { pool, publisher, settings, .. } = self.means;
        Box::pin(async move {
            let due = in_time("read parked events", async {
                let mut connection = acquire(pool).await?;
                let quota = (settings.retry.quota, LANE_BYTES);
                failures::due(&mut connection, &settings.group, quota).await
            });
            let due = match due.await {
                Ok(due) => due,
                Err(error) => return Happened::LaneDone(Err(error)),
            };
            let (mut rows, mut faults) = (Vec::with_capacity(due.len()), Vec::new());
            for failures::Due { fetched, attempts } in due {
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
            Happened::LaneDone(Ok(LanePass { due, results }))
        })
    }

    /// True where there is something to write about it.
    pub(super) fn on_lane(&mut self, pass: Result<LanePass, RelayError>) -> bool {
        let LanePass { due, results } = match pass {
            Ok(pass) => pass,
            Err(error) => {
                self.fail(error);
                return false;
            }
        };
        let now = Instant::now();
        // Whoever follows a head that is through is due at once.
        self.lane_at = match due.is_empty() {
            true => (self.flow.parked() > 0).then_some(now + LOOK_EVERY),
            false => Some(now),
        };
        let mut changes = FailureChanges::default();
        for ((event, attempts), result) in due.into_iter().zip(results) {
            let place = self.flow.place(&event);
            match result {
                Ok(()) => {
                    self.done.published += 1;
                    self.done.retried += 1;
                    changes.delivered.push(place);
                }
                Err(error) => match error.kind {
                    FailureKind::Record { permanent } => {
                        self.done.retried += 1;
                        let attempt = self.attempt(error, permanent, attempts + 1);
                        changes.refused_again.push((place, attempt));
                    }
                    FailureKind::Retriable | FailureKind::Backpressure | FailureKind::Fenced => {
                        tracing::warn!(
                            event_id = event.event_id,
                            error = chain(error.source.as_ref()),
                            "parked event not delivered, no attempt counted"
                        );
                        self.lane_at = Some(now + LANE_HOLD);
                    }
                },
            }
        }
        let tried = (changes.delivered.len() + changes.refused_again.len()) as u64;
        self.means.metrics.count(&self.means.metrics.retried, tried);
        self.means.metrics.count(&self.means.metrics.published, changes.delivered.len() as u64);
        let unwritten = !changes.is_empty();
        self.flow.note(changes);
        unwritten
    }
}
