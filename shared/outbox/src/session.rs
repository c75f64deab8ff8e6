//! One lease's work: reading, delivering and moving the position side by side.
//!
//! Decisions are `flow`'s; here is what is waited for, when it begins, and when all of it ends. What each part does stands
//! in a file of its own below `session/`.

mod delivery;
mod lane;
mod moving;
mod order;
mod pace;
mod prune;
mod reading;
mod side;

use crate::{
    error::RelayError,
    failures::Due,
    flow::Flow,
    lease::Lease,
    log::{Moved, Page, Progress},
    metrics::{Metrics, OpenGaps},
    publisher::Publisher,
    settings::RelaySettings,
};
use delivery::{Delivery, FIRST_HOLD};
use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use lane::LanePass;
pub use order::ORDER_VIOLATED;
pub(crate) use order::Order;
use pace::Pace;
pub(crate) use prune::Pruning;
use side::Side;
use sqlx::{MySql, MySqlPool, pool::PoolConnection};
use std::{
    future::pending,
    mem,
    sync::{Mutex, MutexGuard},
    time::{Duration, Instant},
};
use time::PrimitiveDateTime;

/// Time for any one answer of MySQL; a server that hangs fails the drain instead of holding it.
pub(crate) const STATEMENT_LIMIT: Duration = Duration::from_secs(5);
/// The position moves at most this often: a crash repeats what was delivered since.
const MOVE_EVERY: Duration = Duration::from_millis(50);
/// Time between two looks at the lease, a pause, gaps that may be dead, parked events that may be due.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// After the end of its time a session begins no new delivery but what an aggregate's next event takes.
const GRACE: Duration = Duration::from_millis(500);

/// The longest that a session goes on after its time: a last call to the publisher begins, which may take all of its own
/// time, then a move may have to wait for the one before it.
pub(crate) fn overtime(publisher: Duration) -> Duration {
    GRACE + publisher + STATEMENT_LIMIT * 2
}

type Connection = PoolConnection<MySql>;

/// The database's time, told by our own clock from one reading on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    read: PrimitiveDateTime,
    at: Instant,
}

impl Clock {
    /// `asked_at` is from before the question: so this clock is never behind, and a gap never counts as older than it is.
    pub(crate) fn new(read: PrimitiveDateTime, asked_at: Instant) -> Self {
        Self { read, at: asked_at }
    }

    fn now(&self) -> PrimitiveDateTime {
        self.read + self.at.elapsed()
    }
}

/// What a session needs of its relay.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Means<'a, P> {
    pub(crate) pool: &'a MySqlPool,
    pub(crate) publisher: &'a P,
    pub(crate) settings: &'a RelaySettings,
    pub(crate) metrics: &'a Metrics,
    pub(crate) pruning: &'a Pruning,
    pub(crate) order: &'a Mutex<Order>,
}

/// What a session did.
#[derive(Debug, Default)]
pub(crate) struct Done {
    pub(crate) published: u64,
    pub(crate) retried: u64,
    pub(crate) dead_lettered: u64,
    pub(crate) paused: bool,
    /// None where it ended before it had read them.
    pub(crate) gaps: Option<OpenGaps>,
    pub(crate) failure: Option<RelayError>,
}

enum Happened {
    Read(Option<Connection>, Result<Page, RelayError>, Instant),
    Delivered(Delivery),
    Moved(Option<Connection>, Box<Progress>, Result<Moved, RelayError>, Duration),
    LaneRead(Result<Vec<Due>, RelayError>),
    LaneDone(LanePass),
    SideDone(Result<Side, RelayError>),
    Time,
}

pub(crate) struct Session<'a, P> {
    means: Means<'a, P>,
    lease: Lease,
    clock: Clock,
    pub(crate) flow: Flow,
    until: Instant,
    idle: Duration,
    done: Done,
    unconfirmed: usize,
    at_bound: bool,
    /// Nothing more came for as long as the caller wanted to wait.
    idled: bool,
    poll_at: Instant,
    pace: Pace,
    found_at: Instant,
    moved_at: Instant,
    checkpoint_at: Instant,
    look_at: Instant,
    bury_at: Instant,
    prune_at: Option<Instant>,
    lane_at: Option<Instant>,
    /// Parked events that were read and wait for the lease to be renewed.
    lane_due: Option<Vec<Due>>,
    hold: Duration,
    hold_until: Instant,
}

impl<'a, P: Publisher> Session<'a, P> {
    pub(crate) fn new(
        means: Means<'a, P>,
        lease: Lease,
        clock: Clock,
        flow: Flow,
        (until, idle): (Instant, Duration),
    ) -> Self {
        let now = Instant::now();
        let lane_at = (flow.parked() > 0).then_some(now);
        let prune_at = means.pruning.due_at(means.settings);
        Self {
            means,
            lease,
            clock,
            flow,
            until,
            idle,
            done: Done::default(),
            unconfirmed: 0,
            at_bound: false,
            idled: false,
            poll_at: now,
            pace: Pace::default(),
            found_at: now,
            moved_at: now,
            checkpoint_at: now,
            look_at: now + LOOK_EVERY,
            bury_at: now,
            prune_at,
            lane_at,
            lane_due: None,
            hold: FIRST_HOLD,
            hold_until: now,
        }
    }

    /// Works until nothing is left to do, the time is over, or something fails. What was confirmed is moved over in any
    /// case, and nothing is on its way when it returns. The lease is still held.
    pub(crate) async fn work(mut self, reader: Connection, mover: Connection) -> (Lease, Done) {
        let (mut reader, mut mover) = (Some(reader), Some(mover));
        let mut reading: Option<BoxFuture<'a, Happened>> = None;
        let mut moving: Option<BoxFuture<'a, Happened>> = None;
        let mut lane: Option<BoxFuture<'a, Happened>> = None;
        let mut side: Option<BoxFuture<'a, Happened>> = None;
        let mut deliveries: FuturesUnordered<BoxFuture<'a, Happened>> = FuturesUnordered::new();
        // A pass over parked events whose outcome is not written yet: another one would read them again.
        let mut lane_unwritten = false;
        loop {
            let now = Instant::now();
            // While a publisher takes its time with one event, fresh ones are read all the same.
            let busy = !deliveries.is_empty() || lane.is_some();
            let reads = self.may_read(now) && (busy || !self.idled);
            // The connection last: taken while enough is in memory, it would be gone for the rest of the session.
            if reading.is_none()
                && reads
                && now >= self.poll_at
                && let Some(page) = self.flow.next_page(self.means.settings)
                && let Some(connection) = reader.take()
            {
                reading = Some(self.read(connection, page));
            }
            if self.may_send(now) && self.flow.dispatch.has_ready() && now >= self.hold_until {
                if self.lease.outlasts(self.means.publisher.timeout()) {
                    deliveries.push(self.deliver());
                } else {
                    self.look_at = now;
                }
            }
            if lane.is_none()
                && let Some(due) = self.lane_due.take()
                && self.may_send(now)
            {
                if self.lease.outlasts(self.means.publisher.timeout()) {
                    lane = Some(self.send_lane(due));
                } else {
                    (self.lane_due, self.look_at) = (Some(due), now);
                }
            }
            if lane.is_none() && self.lane_due.is_none() && !lane_unwritten && self.lane_wanted(now) {
                self.lane_at = None;
                lane = Some(self.read_lane());
            }
            let resting = reading.is_none()
                && deliveries.is_empty()
                && lane.is_none()
                && self.lane_due.is_none()
                && !reads
                && !(self.may_send(now) && self.flow.dispatch.has_ready());
            let progress = self.flow.advance();
            let checkpoint = self.flow.wants_checkpoint() && (resting || now >= self.checkpoint_at);
            // Where nothing is to be moved, once in a while all the same: MySQL closes a connection that is silent.
            let silent = !resting && now >= self.moved_at + LOOK_EVERY;
            if (progress || checkpoint || silent)
                && (resting || now >= self.moved_at + MOVE_EVERY)
                && self.may_move(now)
                && let Some(connection) = mover.take()
            {
                moving = Some(self.move_on(connection, checkpoint, now));
            }
            if side.is_none() {
                side = self.next_side_task(now, resting);
            }
            let lane_again = !lane_unwritten && self.lane_wanted(now);
            if resting && moving.is_none() && side.is_none() && !lane_again {
                break;
            }
            let wake_at = self.wake_at(now);
            // In this order, so that MySQL works at the next page while the records of this one are made.
            let happened = tokio::select! {
                biased;
                happened = maybe(&mut reading) => happened,
                happened = maybe(&mut moving) => happened,
                Some(happened) = deliveries.next(), if !deliveries.is_empty() => happened,
                happened = maybe(&mut lane) => happened,
                happened = maybe(&mut side) => happened,
                () = tokio::time::sleep_until(wake_at.into()) => Happened::Time,
            };
            match happened {
                Happened::Time => {}
                Happened::Read(connection, page, began_at) => {
                    reader = connection;
                    self.on_page(page, began_at);
                }
                Happened::Delivered(delivery) => self.on_delivery(delivery),
                Happened::Moved(connection, progress, moved, took) => {
                    mover = connection;
                    lane_unwritten &= !progress.failures.has_tried();
                    self.on_move(&progress, moved, took);
                }
                Happened::LaneRead(due) => self.on_lane_read(due),
                Happened::LaneDone(pass) => lane_unwritten = self.on_lane(pass),
                Happened::SideDone(outcome) => self.on_side(outcome),
            }
        }
        self.finish()
    }

    fn may_read(&self, now: Instant) -> bool {
        !self.done.paused && self.done.failure.is_none() && now < self.until
    }

    fn may_send(&self, now: Instant) -> bool {
        !self.done.paused && self.done.failure.is_none() && now < self.until + GRACE
    }

    fn lane_wanted(&self, now: Instant) -> bool {
        self.may_send(now) && self.lane_at.is_some_and(|at| now >= at)
    }

    /// The last move begins early enough to end within [`overtime`]. What it does not take with it is published again.
    fn may_move(&self, now: Instant) -> bool {
        let fenced = matches!(self.done.failure, Some(RelayError::Fenced { .. }));
        !fenced && now + STATEMENT_LIMIT < self.until + overtime(self.means.publisher.timeout())
    }

    fn wake_at(&self, now: Instant) -> Instant {
        let mut wake_at = self.look_at.min(now + LOOK_EVERY);
        let mut consider = |at: Instant| {
            if at > now {
                wake_at = wake_at.min(at);
            }
        };
        consider(self.poll_at);
        consider(self.hold_until);
        consider(self.moved_at + MOVE_EVERY);
        consider(self.until);
        consider(self.until + GRACE);
        [self.lane_at, self.prune_at].into_iter().flatten().for_each(&mut consider);
        wake_at.max(now + Duration::from_millis(1))
    }

    fn order(&self) -> MutexGuard<'a, Order> {
        self.means.order.lock().expect("no holder of this lock panics")
    }

    /// Told once for each time they appear.
    fn tell_violations(&self, violations: u64) {
        if violations > 0 {
            self.means.metrics.count(&self.means.metrics.order_violations, violations);
            tracing::error!(violations, "{ORDER_VIOLATED}");
        }
    }

    fn check_parked(&mut self) {
        let limit = self.means.settings.retry.max_parked;
        if self.flow.parked() >= limit {
            self.fail(RelayError::TooManyParked { group: self.lease.group.clone(), limit });
        }
    }

    fn fail(&mut self, error: RelayError) {
        // The first failure is told; being fenced is more than that, and most of all by a token that is newer.
        let rank = |error: &RelayError| match error {
            RelayError::Fenced { .. } => 2,
            RelayError::FencedByPublisher { .. } => 1,
            _ => 0,
        };
        if self.done.failure.as_ref().is_none_or(|first| rank(&error) > rank(first)) {
            self.done.failure = Some(error);
        }
    }

    fn finish(mut self) -> (Lease, Done) {
        if let Some(RelayError::Publish { failed, .. }) = &mut self.done.failure {
            *failed = self.unconfirmed;
        }
        let moved_all = self.done.failure.is_none() && self.flow.is_all_moved();
        self.order().ends(moved_all);
        let gaps = self.flow.confirmed_gaps();
        let (limit, group) = (self.means.settings.max_gaps, self.lease.group.clone());
        let open = gaps.len();
        let oldest = gaps.iter().map(|gap| gap.first_seen_at).min();
        let oldest_age = oldest
            .and_then(|seen_at| Duration::try_from(self.clock.now() - seen_at).ok())
            .unwrap_or(Duration::ZERO);
        self.done.gaps = Some(OpenGaps { ranges: open as u64, oldest_age });
        // Told only now: what has appeared or died meanwhile made room, and a relay that gave up before it looked would
        // never find any.
        if self.at_bound && open >= limit {
            self.fail(RelayError::TooManyGaps { group, gaps: open, limit });
        }
        let done = mem::take(&mut self.done);
        (self.lease, done)
    }
}

/// What the future brings, once; never, where there is none.
async fn maybe<T>(future: &mut Option<BoxFuture<'_, T>>) -> T {
    match future {
        Some(running) => {
            let value = running.await;
            *future = None;
            value
        }
        None => pending().await,
    }
}

/// A connection is kept only where its last statement has ended well: after anything else its state is unknown.
fn keep(connection: Connection, intact: bool) -> Option<Connection> {
    if intact {
        return Some(connection);
    }
    drop(connection.detach());
    None
}

pub(crate) async fn acquire(pool: &MySqlPool) -> Result<Connection, RelayError> {
    pool.acquire().await.map_err(RelayError::Connect)
}

pub(crate) async fn in_time<T>(
    operation: &'static str,
    work: impl Future<Output = Result<T, RelayError>>,
) -> Result<T, RelayError> {
    let limit = STATEMENT_LIMIT;
    tokio::time::timeout(limit, work).await.unwrap_or(Err(RelayError::OutOfTime { operation, limit }))
}

/// Between a half and the whole of the pause, so that many who wait don't come back at once.
fn shortened(pause: Duration) -> Duration {
    pause.mul_f64(rand::random_range(0.5..1.0))
}

/// The error and its causes in one line, outermost first.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
