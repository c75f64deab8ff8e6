//! Moving the position, with all that has to be written together with it.

use super::{Connection, Happened, Session, in_time, keep};
use crate::{
    error::RelayError,
    log::{self, Moved, Progress},
    publisher::Publisher,
};
use futures_util::future::BoxFuture;
use std::time::{Duration, Instant};

/// Time between two checkpoints while the relay is busy.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(1);

impl<'a, P: Publisher> Session<'a, P> {
    pub(super) fn move_on(
        &mut self,
        mut connection: Connection,
        checkpoint: bool,
        now: Instant,
    ) -> BoxFuture<'a, Happened> {
        let progress = Box::new(self.flow.take_progress(checkpoint));
        self.moved_at = now;
        if checkpoint {
            self.checkpoint_at = now + CHECKPOINT_EVERY;
        }
        let lease = self.lease.clone();
        Box::pin(async move {
            let began_at = Instant::now();
            let moved =
                in_time("move the position", log::move_position(&mut connection, &lease, &progress)).await;
            let connection = keep(connection, moved.is_ok());
            Happened::Moved(connection, progress, moved, began_at.elapsed())
        })
    }

    pub(super) fn on_move(&mut self, progress: &Progress, moved: Result<Moved, RelayError>, took: Duration) {
        self.means.metrics.moved(took);
        match moved {
            Ok(moved) => {
                self.lease.renewed(moved.lease_until);
                self.order().moved(progress.position);
                self.flow.written(&progress.failures, &moved.failures.free);
                if self.flow.parked() > 0 && self.lane_at.is_none() {
                    self.lane_at = Some(Instant::now());
                }
            }
            Err(error) => self.fail(error),
        }
    }
}
