//! What is looked after beside the events: the lease, gaps that may be dead, delivered rows that may go.

use super::{Connection, Happened, LOOK_EVERY, Means, Session, acquire, in_time};
use crate::{burial, error::RelayError, gaps::Gap, publisher::Publisher};
use futures_util::future::BoxFuture;
use std::time::Instant;

pub(super) enum Side {
    Looked { lease_until: Instant, paused: bool },
    Buried(Vec<Gap>),
    Pruned,
}

impl<'a, P: Publisher> Session<'a, P> {
    /// The lease and a pause, gaps that may be dead, delivered rows that may go: one at a time, none in a hurry.
    pub(super) fn next_side_task(&mut self, now: Instant, resting: bool) -> Option<BoxFuture<'a, Happened>> {
        if self.done.failure.is_some() {
            return None;
        }
        let Means { pool, settings, metrics, pruning, .. } = self.means;
        let now_there = self.clock.now();
        let ripe = |gap: &&Gap| burial::is_ripe(gap, now_there, settings.gap_grace);
        let task: BoxFuture<'a, Result<Side, RelayError>> = if now >= self.look_at && !resting {
            self.look_at = now + LOOK_EVERY;
            let lease = self.lease.clone();
            Box::pin(in_time("renew the lease", async move {
                let mut connection = acquire(pool).await?;
                let lease_until = lease.renew(&mut connection, None).await?;
                let paused = is_paused(&mut connection, &lease.group).await?;
                Ok(Side::Looked { lease_until, paused })
            }))
        } else if now < self.until
            && now >= self.bury_at
            && self.flow.confirmed_gaps().iter().any(|gap| ripe(&gap))
        {
            self.bury_at = now + LOOK_EVERY;
            let gaps: Vec<Gap> = self.flow.confirmed_gaps().iter().filter(ripe).copied().collect();
            Box::pin(in_time("check gaps", async move {
                let mut connection = acquire(pool).await?;
                let grace = settings.gap_grace;
                let dead =
                    burial::dead_gaps(&mut connection, &settings.group, gaps, now_there, grace).await?;
                Ok(Side::Buried(dead))
            }))
        } else if now < self.until && self.prune_at.is_some_and(|at| now >= at) {
            self.prune_at = None;
            Box::pin(async move {
                pruning.step(pool, settings, metrics).await;
                Ok(Side::Pruned)
            })
        } else {
            return None;
        };
        Some(Box::pin(async move { Happened::SideDone(task.await) }))
    }

    pub(super) fn on_side(&mut self, outcome: Result<Side, RelayError>) {
        let now = Instant::now();
        match outcome {
            Ok(Side::Looked { lease_until, paused }) => {
                self.lease.renewed(lease_until);
                self.done.paused |= paused;
            }
            Ok(Side::Buried(dead)) => {
                let buried = self.flow.bury(&dead);
                if buried > 0 {
                    tracing::info!(gaps = buried, "gaps closed, their ids were rolled back");
                }
                // The room that it made may let the position go on.
                self.poll_at = self.poll_at.min(now);
            }
            Ok(Side::Pruned) => self.prune_at = self.means.pruning.due_at(self.means.settings),
            Err(error) => self.fail(error),
        }
    }
}

async fn is_paused(connection: &mut Connection, group: &str) -> Result<bool, RelayError> {
    let paused: i64 =
        sqlx::query_scalar("SELECT paused_at IS NOT NULL FROM outbox_position WHERE relay_group = ?")
            .bind(group)
            .fetch_one(&mut **connection)
            .await
            .map_err(|source| RelayError::Lease { group: group.to_owned(), source })?;
    Ok(paused != 0)
}
