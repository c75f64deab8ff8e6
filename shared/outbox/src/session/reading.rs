//! Reading pages, at the pace that `pace` sets, and taking in what they bring.

use super::{Connection, Happened, Session, in_time, keep};
use crate::{
    error::RelayError,
    flow::ROW_INVALID,
    log::{self, Page},
    publisher::Publisher,
};
use futures_util::future::BoxFuture;
use std::time::Instant;

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
        }
        let pause = self.pace.read(taken.events);
        let go_on = more && taken.events > 0;
        self.poll_at = if go_on { began_at } else { began_at + pause };
        self.idled = !go_on && self.found_at.elapsed() >= self.idle;
        self.check_parked();
    }
}
