//! Deleting delivered rows beside the events: in steps, as often as there is something to delete.
//!
//! Trouble with it is told and counted, and tried again later with a smaller step. It never fails a drain: an event that
//! waits because old rows could not be deleted would wait for ever.

use super::{acquire, chain, in_time, keep};
use crate::{
    error::RelayError,
    metrics::Metrics,
    operator::{self, PRUNE_ROWS, PruneStep},
    settings::RelaySettings,
};
use sqlx::{MySqlConnection, MySqlPool};
use std::{
    sync::{Mutex, MutexGuard},
    time::{Duration, Instant},
};
use tokio::time::timeout_at;

/// Between two steps while there is something to prune.
const PAUSE: Duration = Duration::from_millis(50);
/// After a step that found nothing more.
const EVERY: Duration = Duration::from_secs(60);
/// After a step that failed; each further one doubles it, up to [`EVERY`].
const FIRST_RETRY: Duration = Duration::from_secs(5);
/// Time for one step: a drain waits for it, so it is shorter than MySQL's time for anything else.
pub(super) const LIMIT: Duration = Duration::from_secs(2);
/// A time so long ago that MySQL can still count it.
const LONGEST_KEPT: Duration = Duration::from_secs(1_000 * 366 * 24 * 3_600);

/// Whether the lowest row that is still there may go, in one query that reads no more than a row of each table and group.
/// The same bounds as those of a step, which has the last word. Microseconds to keep, then the group.
const PRUNABLE: &str = concat!(
    "SELECT COALESCE((
     SELECT lowest.id < (SELECT MIN(",
    operator::floor!(),
    ") FROM outbox_position p)
         AND lowest.created_at <= CURRENT_TIMESTAMP(6) - INTERVAL ? MICROSECOND
     FROM (
         SELECT id, created_at FROM outbox
         WHERE id > COALESCE((
             SELECT CAST(IF(o.id IS NULL, c.position, 0) AS UNSIGNED)
             FROM outbox_checkpoints c LEFT JOIN outbox o ON o.id = c.position
             WHERE c.relay_group = ? ORDER BY c.position LIMIT 1), 0)
         ORDER BY id LIMIT 1
     ) lowest), 0) AS prunable"
);

/// When to prune next, and how much: for a relay's whole life, which is longer than a session's.
#[derive(Debug)]
pub(crate) struct Pruning(Mutex<State>);

#[derive(Debug)]
struct State {
    at: Instant,
    rows: usize,
    /// In a row.
    failures: u32,
}

impl Default for Pruning {
    fn default() -> Self {
        Self(Mutex::new(State { at: Instant::now(), rows: PRUNE_ROWS, failures: 0 }))
    }
}

impl Pruning {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no holder of this lock panics")
    }

    /// When the next step is due; None where nothing is ever pruned.
    pub(crate) fn due_at(&self, settings: &RelaySettings) -> Option<Instant> {
        settings.keep_delivered.map(|_| self.state().at)
    }

    /// Whether a step would delete anything: asked where nothing else is to do, so that a look costs one query.
    pub(crate) async fn look(
        &self,
        connection: &mut MySqlConnection,
        settings: &RelaySettings,
        metrics: &Metrics,
    ) -> bool {
        let Some(keep) = settings.keep_delivered else { return false };
        let prunable = in_time("look for events to prune", async {
            has_prunable(connection, &settings.group, keep).await.map_err(RelayError::Prune)
        });
        match prunable.await {
            Ok(true) => return true,
            Ok(false) => self.state().at = Instant::now() + EVERY,
            Err(failure) => self.failed(&failure, metrics),
        }
        false
    }

    /// One step. True where there may be more to delete.
    pub(crate) async fn step(&self, pool: &MySqlPool, settings: &RelaySettings, metrics: &Metrics) -> bool {
        let Some(keep) = settings.keep_delivered else { return false };
        let rows = self.state().rows;
        match try_step(pool, &settings.group, keep, rows).await {
            Ok(PruneStep { more, .. }) => {
                let at = Instant::now() + if more { PAUSE } else { EVERY };
                *self.state() = State { at, rows: (rows * 2).min(PRUNE_ROWS), failures: 0 };
                more
            }
            Err(failure) => {
                self.failed(&failure, metrics);
                false
            }
        }
    }

    fn failed(&self, failure: &RelayError, metrics: &Metrics) {
        metrics.count(&metrics.prune_failures, 1);
        let mut state = self.state();
        let (rows, error) = (state.rows, chain(failure));
        tracing::warn!(rows, error, "delivered events not pruned, a smaller step is tried later");
        let pause = FIRST_RETRY.saturating_mul(1 << state.failures.min(10)).min(EVERY);
        *state = State { at: Instant::now() + pause, rows: (rows / 2).max(1), failures: state.failures + 1 };
    }
}

async fn try_step(
    pool: &MySqlPool,
    group: &str,
    keep_for: Duration,
    rows: usize,
) -> Result<PruneStep, RelayError> {
    let deadline = (Instant::now() + LIMIT).into();
    let late = |_| RelayError::OutOfTime { operation: "prune delivered events", limit: LIMIT };
    let mut connection = timeout_at(deadline, acquire(pool)).await.map_err(late)??;
    let step = timeout_at(deadline, operator::prune_step(&mut connection, group, keep_for, rows)).await;
    let step = step.map_err(late).and_then(|step| step.map_err(RelayError::Prune));
    // A step that is cut off leaves its transaction open, and MySQL ends it with the connection.
    drop(keep(connection, step.is_ok()));
    step
}

async fn has_prunable(
    connection: &mut MySqlConnection,
    group: &str,
    keep: Duration,
) -> Result<bool, sqlx::Error> {
    let keep_us = u64::try_from(keep.min(LONGEST_KEPT).as_micros()).expect("a thousand years fit");
    let prunable: i64 = sqlx::query_scalar(PRUNABLE).bind(keep_us).bind(group).fetch_one(connection).await?;
    Ok(prunable != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failure_halves_the_step_and_doubles_the_pause_within_their_bounds() {
        let (pruning, metrics) = (Pruning::default(), Metrics::new("test"));
        let failure = RelayError::OutOfTime { operation: "prune", limit: LIMIT };
        let mut seen = Vec::new();
        for _ in 0..11 {
            pruning.failed(&failure, &metrics);
            let state = pruning.state();
            let pause = state.at.duration_since(Instant::now()).as_secs_f64().round();
            seen.push((state.rows, pause));
        }
        let (rows, pauses): (Vec<_>, Vec<_>) = seen.into_iter().unzip();

        assert_eq!(rows, [250, 125, 62, 31, 15, 7, 3, 1, 1, 1, 1]);
        assert_eq!(pauses[..5], [5.0, 10.0, 20.0, 40.0, 60.0]);
        assert!(pauses[5..].iter().all(|pause| *pause == 60.0), "{pauses:?}");
    }
}
