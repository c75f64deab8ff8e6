//! One lease's work: reading, delivering and moving the position side by side.
//!
//! Decisions are `flow`'s; here is what is waited for, when it begins, and when all of it ends.

use crate::{
    burial,
    error::RelayError,
    event::OutboxEvent,
    failures::{self, Attempt, FailureChanges},
    flow::{Flow, ROW_INVALID},
    gaps::Gap,
    lease::Lease,
    log::{self, Moved, Page, Progress},
    metrics::Metrics,
    operator,
    publisher::{FailureKind, PublishError, Publisher},
    settings::RelaySettings,
};
use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use sqlx::{MySql, MySqlPool, pool::PoolConnection};
use std::{
    future::pending,
    mem,
    time::{Duration, Instant},
};
use time::PrimitiveDateTime;

/// Time for any one answer of MySQL; a server that hangs fails the drain instead of holding it.
pub(crate) const STATEMENT_LIMIT: Duration = Duration::from_secs(5);
/// The position moves at most this often: a crash repeats what was delivered since.
const MOVE_EVERY: Duration = Duration::from_millis(50);
/// Time between two checkpoints while the relay is busy.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(1);
/// Time between two looks at the lease, a pause, gaps that may be dead, parked events that may be due.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Time between two reads while events come, and the longest while they don't. The timer rounds up to its next
/// millisecond, so the shortest is about one.
const POLL_SHORTEST: Duration = Duration::from_micros(500);
const POLL_LONGEST: Duration = Duration::from_millis(50);
/// Where events come faster than this many a millisecond, reads are rarer and bring more each: the broker's and the
/// database's work for a batch is what writers would pay for. Measured with 16 writers at 9,300 rows/s (docs/benchmarks.md).
const EVENTS_A_MILLISECOND: u32 = 4;
const POLL_BUSY: Duration = Duration::from_millis(50);
/// Reads that find nothing before the pauses grow: chance alone leaves a few empty under load.
const EMPTY_POLLS: u32 = 10;
/// After the end of its time a session begins no new delivery but what an aggregate's next event takes.
const GRACE: Duration = Duration::from_millis(500);
/// Pauses after the broker asked for one, doubling.
const FIRST_HOLD: Duration = Duration::from_millis(50);
const LONGEST_HOLD: Duration = Duration::from_secs(2);
/// After parked events met a broker that is down.
const LANE_HOLD: Duration = Duration::from_secs(5);
/// Bytes of parked events tried in one pass.
const LANE_BYTES: usize = 4 << 20;
/// Between two steps of pruning while there is something to prune, and after a step that found nothing.
const PRUNE_PAUSE: Duration = Duration::from_millis(50);
pub(crate) const PRUNE_EVERY: Duration = Duration::from_secs(60);
pub(crate) const PRUNE_ROWS: usize = 500;

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
}

/// What a session did.
#[derive(Debug, Default)]
pub(crate) struct Done {
    pub(crate) published: u64,
    pub(crate) retried: u64,
    pub(crate) dead_lettered: u64,
    pub(crate) paused: bool,
    pub(crate) gaps: usize,
    pub(crate) oldest_gap_age: Duration,
    pub(crate) pruned_all: bool,
    pub(crate) failure: Option<RelayError>,
}

struct Delivery {
    tasks: Vec<(u64, crate::dispatch::Key)>,
    events: Vec<OutboxEvent>,
    results: Vec<Result<(), PublishError>>,
    took: Duration,
}

struct LanePass {
    due: Vec<(OutboxEvent, u32)>,
    results: Vec<Result<(), PublishError>>,
}

enum Side {
    Looked { lease_until: Instant, paused: bool },
    Buried(Vec<Gap>),
    Pruned { more: bool },
}

enum Happened {
    Read(Option<Connection>, Result<Page, RelayError>, Instant),
    Delivered(Delivery),
    Moved(Option<Connection>, FailureChanges, Result<Moved, RelayError>, Duration),
    LaneDone(Result<LanePass, RelayError>),
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
    poll_pause: Duration,
    empty_polls: u32,
    found_at: Instant,
    moved_at: Instant,
    checkpoint_at: Instant,
    look_at: Instant,
    bury_at: Instant,
    prune_at: Option<Instant>,
    lane_at: Option<Instant>,
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
        prune: bool,
    ) -> Self {
        let now = Instant::now();
        let lane_at = (flow.parked() > 0).then_some(now);
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
            poll_pause: POLL_SHORTEST,
            empty_polls: 0,
            found_at: now,
            moved_at: now,
            checkpoint_at: now,
            look_at: now + LOOK_EVERY,
            bury_at: now,
            prune_at: prune.then_some(now),
            lane_at,
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
            let lane_wanted = self.may_send(now) && self.lane_at.is_some_and(|at| now >= at);
            if lane.is_none() && !lane_unwritten && lane_wanted {
                self.lane_at = None;
                lane = Some(self.pass_lane());
            }
            let resting = reading.is_none()
                && deliveries.is_empty()
                && lane.is_none()
                && !reads
                && !(self.may_send(now) && self.flow.dispatch.has_ready());
            let progress = self.flow.advance();
            let checkpoint = self.flow.wants_checkpoint() && (resting || now >= self.checkpoint_at);
            // Where nothing is to be moved, once in a while all the same: MySQL closes a connection that is silent.
            let silent = !resting && now >= self.moved_at + LOOK_EVERY;
            if (progress || checkpoint || silent)
                && (resting || now >= self.moved_at + MOVE_EVERY)
                && !self.is_fenced()
                && let Some(connection) = mover.take()
            {
                moving = Some(self.move_on(connection, checkpoint, now));
            }
            if side.is_none() {
                side = self.next_side_task(now, resting);
            }
            let lane_again =
                !lane_unwritten && self.may_send(now) && self.lane_at.is_some_and(|at| now >= at);
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
                Happened::Moved(connection, failures, moved, took) => {
                    mover = connection;
                    lane_unwritten &= failures.delivered.is_empty() && failures.refused_again.is_empty();
                    self.on_move(&failures, moved, took);
                }
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

    fn is_fenced(&self) -> bool {
        matches!(self.done.failure, Some(RelayError::Fenced { .. }))
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

    fn read(&self, mut connection: Connection, page: (usize, usize)) -> BoxFuture<'a, Happened> {
        let (position, ranges) = (self.flow.cursor(), log::ranges(self.flow.open_gaps()));
        let (metrics, pool) = (self.means.metrics, self.means.pool.clone());
        // A task of its own: where the runtime has a thread for it, rows come in while the records of the page before are
        // made. It also ends well if nobody waits for it any more, and gives its connection back as it should be.
        let reading = tokio::spawn(async move {
            let began_at = Instant::now();
            let read = log::read_page(&mut connection, position, &ranges, page);
            let page = in_time("read a page", read).await;
            let took = began_at.elapsed();
            let whole = page.as_ref().is_ok_and(|page| !page.cut);
            let (connection, page) = match (keep(connection, whole), page) {
                // The rest of a page that was cut is not waited for: MySQL sends no more once the connection is gone.
                (None, Ok(page)) => match acquire(&pool).await {
                    Ok(connection) => (Some(connection), Ok(page)),
                    Err(error) => (None, Err(error)),
                },
                kept => kept,
            };
            (connection, page, began_at, took)
        });
        Box::pin(async move {
            let (connection, page, began_at, took) =
                reading.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
            metrics.read(took);
            Happened::Read(connection, page, began_at)
        })
    }

    fn on_page(&mut self, page: Result<Page, RelayError>, began_at: Instant) {
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

    fn check_parked(&mut self) {
        let limit = self.means.settings.retry.max_parked;
        if self.flow.parked() >= limit {
            self.fail(RelayError::TooManyParked { group: self.lease.group.clone(), limit });
        }
    }

    /// Everything that is ready, in one call.
    fn deliver(&mut self) -> BoxFuture<'a, Happened> {
        let (ready, violations) = self.flow.dispatch.take_ready();
        if violations > 0 {
            self.means.metrics.count(&self.means.metrics.order_violations, violations);
            tracing::error!(
                violations,
                "versions do not rise with ids: who writes without locking the row first?"
            );
        }
        let (tasks, events) = ready.into_iter().map(|task| ((task.step, task.key), task.event)).unzip();
        let publisher = self.means.publisher;
        Box::pin(async move {
            let events: Vec<OutboxEvent> = events;
            let began_at = Instant::now();
            let results = publisher.publish(&events).await;
            Happened::Delivered(Delivery { tasks, events, results, took: began_at.elapsed() })
        })
    }

    fn on_delivery(&mut self, delivery: Delivery) {
        let Delivery { tasks, events, results, took } = delivery;
        self.means.metrics.delivered(took);
        let (mut confirmed, mut held) = (0, false);
        for (((step, key), event), result) in tasks.into_iter().zip(events).zip(results) {
            let task = crate::dispatch::Task { step, key, event };
            match result {
                Ok(()) => {
                    confirmed += 1;
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
                    FailureKind::Retriable | FailureKind::Fenced => self.fail_to_publish(&task.event, error),
                },
            }
        }
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

    /// The record's own failure, after so many attempts.
    fn attempt(&mut self, error: PublishError, permanent: bool, attempts: u32) -> Attempt {
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

    /// Tries the parked events that are due.
    fn pass_lane(&self) -> BoxFuture<'a, Happened> {
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
    fn on_lane(&mut self, pass: Result<LanePass, RelayError>) -> bool {
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

    fn move_on(
        &mut self,
        mut connection: Connection,
        checkpoint: bool,
        now: Instant,
    ) -> BoxFuture<'a, Happened> {
        let progress: Progress = self.flow.take_progress(checkpoint);
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
            Happened::Moved(connection, progress.failures, moved, began_at.elapsed())
        })
    }

    fn on_move(&mut self, failures: &FailureChanges, moved: Result<Moved, RelayError>, took: Duration) {
        self.means.metrics.moved(took);
        match moved {
            Ok(moved) => {
                self.lease.renewed(moved.lease_until);
                self.flow.written(failures, &moved.failures.free);
                if self.flow.parked() > 0 && self.lane_at.is_none() {
                    self.lane_at = Some(Instant::now());
                }
            }
            Err(error) => self.fail(error),
        }
    }

    /// The lease and a pause, gaps that may be dead, delivered rows that may go: one at a time, none in a hurry.
    fn next_side_task(&mut self, now: Instant, resting: bool) -> Option<BoxFuture<'a, Happened>> {
        if self.done.failure.is_some() {
            return None;
        }
        let Means { pool, settings, .. } = self.means;
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
        } else if now >= self.bury_at && self.flow.confirmed_gaps().iter().any(|gap| ripe(&gap)) {
            self.bury_at = now + LOOK_EVERY;
            let gaps: Vec<Gap> = self.flow.confirmed_gaps().iter().filter(ripe).copied().collect();
            Box::pin(in_time("check gaps", async move {
                let mut connection = acquire(pool).await?;
                let grace = settings.gap_grace;
                let dead =
                    burial::dead_gaps(&mut connection, &settings.group, gaps, now_there, grace).await?;
                Ok(Side::Buried(dead))
            }))
        } else if let (Some(_), Some(keep)) = (self.prune_at.filter(|at| now >= *at), settings.keep_delivered)
        {
            self.prune_at = None;
            Box::pin(in_time("prune delivered events", async move {
                let mut connection = acquire(pool).await?;
                let step = operator::prune_step(&mut connection, &settings.group, keep, PRUNE_ROWS).await;
                let step = step.map_err(RelayError::Prune)?;
                Ok(Side::Pruned { more: step.more })
            }))
        } else {
            return None;
        };
        Some(Box::pin(async move { Happened::SideDone(task.await) }))
    }

    fn on_side(&mut self, outcome: Result<Side, RelayError>) {
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
            Ok(Side::Pruned { more }) => {
                self.done.pruned_all = !more;
                self.prune_at = more.then_some(now + PRUNE_PAUSE);
            }
            Err(error) => self.fail(error),
        }
    }

    fn fail(&mut self, error: RelayError) {
        // The first failure is told; being fenced is more than that.
        if self.done.failure.is_none() || matches!(error, RelayError::Fenced { .. }) {
            self.done.failure = Some(error);
        }
    }

    fn finish(mut self) -> (Lease, Done) {
        if let Some(RelayError::Publish { failed, .. }) = &mut self.done.failure {
            *failed = self.unconfirmed;
        }
        let gaps = self.flow.confirmed_gaps();
        let (limit, group) = (self.means.settings.max_gaps, self.lease.group.clone());
        self.done.gaps = gaps.len();
        let oldest = gaps.iter().map(|gap| gap.first_seen_at).min();
        self.done.oldest_gap_age = oldest
            .and_then(|seen_at| Duration::try_from(self.clock.now() - seen_at).ok())
            .unwrap_or(Duration::ZERO);
        // Told only now: what has appeared or died meanwhile made room, and a relay that gave up before it looked would
        // never find any.
        if self.at_bound && self.done.gaps >= limit {
            self.fail(RelayError::TooManyGaps { group, gaps: self.done.gaps, limit });
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

async fn is_paused(connection: &mut Connection, group: &str) -> Result<bool, RelayError> {
    let paused: i64 =
        sqlx::query_scalar("SELECT paused_at IS NOT NULL FROM outbox_position WHERE relay_group = ?")
            .bind(group)
            .fetch_one(&mut **connection)
            .await
            .map_err(|source| RelayError::Lease { group: group.to_owned(), source })?;
    Ok(paused != 0)
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
