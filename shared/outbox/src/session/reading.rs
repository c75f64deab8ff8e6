//! Reading pages, and how often: each millisecond while events come, more rarely where they pour or stay away.

use super::{Connection, Happened, Session, in_time, keep};
use crate::{
    error::RelayError,
    flow::ROW_INVALID,
    log::{self, Page},
    publisher::Publisher,
};
use futures_util::future::BoxFuture;
use std::time::{Duration, Instant};

/// Time between two reads while events come, and the longest while they don't. The timer rounds up to its next
/// millisecond, so the shortest is about one.
pub(super) const POLL_SHORTEST: Duration = Duration::from_micros(500);
const POLL_LONGEST: Duration = Duration::from_millis(50);
/// Where events come faster than this many a millisecond, reads are rarer and bring more each: the broker's and the
/// database's work for a batch is what writers would pay for. Measured with 16 writers at 9,300 rows/s (docs/benchmarks.md).
const EVENTS_A_MILLISECOND: u32 = 4;
const POLL_BUSY: Duration = Duration::from_millis(50);
/// Reads that find nothing before the pauses grow: chance alone leaves a few empty under load.
const EMPTY_POLLS: u32 = 10;

impl<'a, P: Publisher> Session<'a, P> {
    pub(super) fn read(&self, mut connection: Connection, page: (usize, usize)) -> BoxFuture<'a, Happened> {
        let (position, ranges) = (self.flow.cursor(), log::ranges(self.flow.open_gaps()));
        let metrics = self.means.metrics;
        // A task of its own: where the runtime has a thread for it, rows come in while the records of the page before are
        // made. It also ends well if nobody waits for it any more, and gives its connection back as it should be.
        let reading = tokio::spawn(async move {
            let began_at = Instant::now();
            let read = log::read_page(&mut connection, position, &ranges, page);
            let page = in_time("read a page", read).await;
            (keep(connection, page.is_ok()), page, began_at, began_at.elapsed())
        });
        Box::pin(async move {
            let (connection, page, began_at, took) =
                reading.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
            metrics.read(took);
            Happened::Read(connection, page, began_at)
        })
    }

    pub(super) fn on_page(&mut self, page: Result<Page, RelayError>, began_at: Instant) {
        let page = match page {
            Ok(page) => page,
            Err(error) => return self.fail(error),
        };
        let more = page.more;
        let taken = self.flow.take_page(page, self.clock.now(), self.means.settings.max_gaps);
        self.at_bound = taken.at_bound;
        self.done.dead_lettered += taken.invalid;
        (0..taken.invalid).for_each(|_| self.means.metrics.dead(ROW_INVALID));
        if taken.events > 0 {
            self.found_at = Instant::now();
            let events = u32::try_from(taken.events).unwrap_or(u32::MAX);
            let pause = Duration::from_millis(1).saturating_mul(events) / EVENTS_A_MILLISECOND;
            (self.poll_pause, self.empty_polls) = (pause.clamp(POLL_SHORTEST, POLL_BUSY), 0);
        } else {
            self.empty_polls += 1;
            if self.empty_polls > EMPTY_POLLS {
                self.poll_pause = (self.poll_pause * 2).min(POLL_LONGEST);
            }
        }
        let go_on = more && taken.events > 0;
        self.poll_at = if go_on { began_at } else { began_at + self.poll_pause };
        self.idled = !go_on && self.found_at.elapsed() >= self.idle;
        self.check_parked();
    }
}
