//! The relay: takes the lease, lets a session work, gives the lease back, and looks once more.

use crate::{
    burial::mysql_code,
    error::RelayError,
    failover, failures,
    flow::Flow,
    lease::Lease,
    log::{self, Standing},
    metrics::{Metrics, OpenGaps},
    publisher::Publisher,
    safety,
    session::{self, Clock, Done, Means, Order, Pruning, Session, acquire, in_time},
    settings::{RelaySettings, Report},
};
use sqlx::{
    AssertSqlSafe, Connection, Executor, MySql, MySqlConnection, MySqlPool,
    mysql::{MySqlConnectOptions, MySqlPoolOptions},
    pool::PoolConnection,
};
use std::{
    str::FromStr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tokio::sync::OnceCell;
use uuid::Uuid;

/// A session reads on one, moves the position on another, and looks after gaps, parked events and old rows on the rest.
const CONNECTIONS: u32 = 5;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// For a page with every gap that may be open; MySQL's default of 8 MiB would give up and scan the table.
const RANGE_MEMORY: &str = "SET SESSION range_optimizer_max_mem_size = 67108864";
const UNKNOWN_VARIABLE: u16 = 1193;
/// At REPEATABLE READ the look into a gap would lock it, and every writer would wait.
const ISOLATION: &str = "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED";
/// How many gaps a group has open, and the age of the oldest: some thousands of rows at most.
const OPEN_GAPS: &str = "SELECT COUNT(*),
     COALESCE(TIMESTAMPDIFF(MICROSECOND, MIN(first_seen_at), UTC_TIMESTAMP(6)), 0)
     FROM outbox_gaps WHERE relay_group = ?";
/// Steps of pruning in one call that found nothing else to do.
const IDLE_PRUNE_STEPS: u32 = 20;

/// Carries events from the outbox to a publisher. Clones share connections.
#[derive(Debug)]
pub struct Relay<P>(Arc<Inner<P>>);

impl<P> Clone for Relay<P> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

/// Which sessions one call holds.
///
/// A writer that sees the lease held sends no nudge. What it commits while the lease is being given back shows in a look
/// after that, and is worth another session: while each one finds something, and one more after the call's time.
#[derive(Debug)]
struct Sessions {
    until: Instant,
    is_first: bool,
    goes_on: bool,
    /// In a row, that published nothing.
    fruitless: u32,
}

impl Sessions {
    /// What a session after the call's time may take, and how late it may begin.
    const LAST: Duration = Duration::from_millis(200);
    const LATEST: Duration = Duration::from_secs(2);

    fn new(until: Instant) -> Self {
        Self { until, is_first: true, goes_on: true, fruitless: 0 }
    }

    /// Until when the next session may read; None where there is none.
    fn next(&mut self, waits: bool) -> Option<Instant> {
        let now = Instant::now();
        let wanted = self.is_first || (waits && self.goes_on && now < self.until + Self::LATEST);
        if !self.is_first && now >= self.until {
            self.goes_on = false;
        }
        self.is_first = false;
        wanted.then(|| if now >= self.until { now + Self::LAST } else { self.until })
    }

    fn ended(&mut self, done: &Done) {
        self.fruitless = if done.published > 0 { 0 } else { self.fruitless + 1 };
        self.goes_on &= !done.paused && self.fruitless < 2;
    }
}

#[derive(Debug)]
struct Inner<P> {
    pool: MySqlPool,
    publisher: P,
    settings: RelaySettings,
    owner: String,
    metrics: Metrics,
    server_checked: OnceCell<()>,
    pruning: Pruning,
    order: Mutex<Order>,
}

/// MySQL lets go of a relay that stands still in the middle of a transaction, whose locks would keep every other one out,
/// and gives a lock up when the relay does. While a session works no connection is silent for that long.
fn limits(lease: Duration) -> String {
    let silence = (lease * 2).as_secs().max(1);
    let wait = session::STATEMENT_LIMIT.as_secs();
    format!("SET SESSION wait_timeout = {silence}, innodb_lock_wait_timeout = {wait}")
}

impl<P: Publisher> Relay<P> {
    /// A relay on this database. Connects at the first drain, so that a server that is down fails that drain alone.
    ///
    /// # Errors
    /// Where the URL cannot be read, or a setting is out of its bounds, such as a lease that could end while a batch is
    /// still on its way.
    pub fn new(database_url: &str, publisher: P, settings: RelaySettings) -> Result<Self, RelayError> {
        settings.check(publisher.timeout())?;
        let options = MySqlConnectOptions::from_str(database_url).map_err(RelayError::Connect)?;
        let lease = settings.lease;
        let pool = MySqlPoolOptions::new()
            .max_connections(CONNECTIONS)
            .acquire_timeout(CONNECT_TIMEOUT)
            .after_connect(move |connection, _| {
                Box::pin(async move {
                    connection.execute(ISOLATION).await?;
                    match connection.execute(RANGE_MEMORY).await {
                        // A server that lacks it is no MySQL 8, and is told so where its version is looked at.
                        Err(error) if mysql_code(&error) == Some(UNKNOWN_VARIABLE) => {}
                        answer => drop(answer?),
                    }
                    let limits = AssertSqlSafe(limits(lease));
                    sqlx::query(limits).persistent(false).execute(connection).await.map(drop)
                })
            })
            .connect_lazy_with(options);
        let metrics = Metrics::new(&settings.group);
        Ok(Self(Arc::new(Inner {
            pool,
            publisher,
            settings,
            owner: Uuid::now_v7().to_string(),
            metrics,
            server_checked: OnceCell::new(),
            pruning: Pruning::default(),
            order: Mutex::default(),
        })))
    }

    /// Publishes what waits, until nothing does or `until` has come, and gives the lease back.
    ///
    /// # Errors
    /// The first thing that failed. What was not confirmed is published again by the next drain.
    pub async fn drain(&self, until: Instant) -> Result<Report, RelayError> {
        self.run(until, Duration::ZERO).await
    }

    /// As [`Relay::drain`], but goes on looking every few milliseconds until nothing has come for `idle`.
    ///
    /// After `until` a moment more is spent on what has come meanwhile, and then nothing new is read; what is on its way
    /// takes up to the publisher's timeout, and the last move of the position a moment more: [`Relay::overtime`] in all.
    ///
    /// # Errors
    /// As [`Relay::drain`].
    pub async fn run(&self, until: Instant, idle: Duration) -> Result<Report, RelayError> {
        let metrics = &self.0.metrics;
        let mut total = Report::default();
        let mut gaps = None;
        let mut sessions = Sessions::new(until);
        loop {
            let (mut connection, standing) = self.look().await?;
            total.backlog = standing.backlog();
            total.oldest_age_ms = u64::try_from(standing.oldest_age.as_millis()).unwrap_or(u64::MAX);
            total.parked = standing.parked;
            total.paused = standing.paused;
            if standing.is_idle() && !standing.lease_held {
                self.prune_at_leisure(&mut connection, until).await;
            } else if !standing.paused
                && let Some(until) = sessions.next(total.backlog > 0)
            {
                if let Some(mut done) = self.hold_session(connection, &standing, (until, idle)).await? {
                    total.published += done.published;
                    total.retried += done.retried;
                    total.dead_lettered += done.dead_lettered;
                    gaps = done.gaps.take();
                    total.gaps = gaps.map_or(total.gaps, |gaps| gaps.ranges);
                    if let Some(failure) = done.failure.take() {
                        // When a drain fails, how the outbox stands matters most.
                        metrics.standing(&total, gaps);
                        return Err(failure);
                    }
                    sessions.ended(&done);
                    continue;
                }
                total.lease_held_elsewhere = total.published == 0;
            }
            // Told though nobody worked here: a group is paused, or another relay has the lease, and gaps stay open.
            let told = match gaps {
                None if standing.has_gaps => self.open_gaps().await?,
                told => told.unwrap_or_default(),
            };
            total.gaps = told.ranges;
            metrics.standing(&total, Some(told));
            return Ok(total);
        }
    }

    /// The longest that [`Relay::run`] goes on after its `until`, where publisher and MySQL take all the time they have:
    /// at the end the lease is given back, and the outbox looked at once more.
    pub fn overtime(&self) -> Duration {
        let session = session::overtime(self.0.publisher.timeout());
        Sessions::LATEST + Sessions::LAST + session + session::STATEMENT_LIMIT * 2
    }

    /// How the group stands on this server, which is one that a relay may work on.
    async fn look(&self) -> Result<(PoolConnection<MySql>, Standing), RelayError> {
        let Inner { pool, settings, server_checked, .. } = &*self.0;
        in_time("tell how the outbox stands", async {
            let mut connection = acquire(pool).await?;
            server_checked.get_or_try_init(|| safety::check_server(&mut connection)).await?;
            let standing = log::standing(&mut connection, &settings.group).await;
            let mut standing = standing.map_err(RelayError::Connect)?;
            safety::check_standing(&standing)?;
            if standing.position.is_none() {
                safety::make_position(&mut connection, &settings.group, settings.start_new_group).await?;
                standing.position = Some(0);
            }
            Ok((connection, standing))
        })
        .await
    }

    /// The open gaps as the table tells them.
    async fn open_gaps(&self) -> Result<OpenGaps, RelayError> {
        let Inner { pool, settings, .. } = &*self.0;
        in_time("count open gaps", async {
            let (ranges, oldest_us): (i64, i64) = sqlx::query_as(OPEN_GAPS)
                .bind(&settings.group)
                .fetch_one(&mut *acquire(pool).await?)
                .await
                .map_err(|source| RelayError::CheckGaps { group: settings.group.clone(), source })?;
            let oldest_age = Duration::from_micros(oldest_us.try_into().unwrap_or(0));
            Ok(OpenGaps { ranges: ranges.unsigned_abs(), oldest_age })
        })
        .await
    }

    /// One lease's work, and what failed in it; None where another relay holds it.
    async fn hold_session(
        &self,
        mut connection: PoolConnection<MySql>,
        standing: &Standing,
        time: (Instant, Duration),
    ) -> Result<Option<Done>, RelayError> {
        let Inner { pool, publisher, settings, owner, metrics, pruning, order, .. } = &*self.0;
        let taken =
            in_time("give the lease", Lease::take(&mut connection, &settings.group, owner, settings.lease));
        let Some((lease, position)) = taken.await? else { return Ok(None) };
        if standing.lease_abandoned {
            tracing::warn!(
                group = settings.group,
                "lease taken over from a relay that has not given it back"
            );
            metrics.count(&metrics.takeovers, 1);
        }
        let prepared = async {
            let flow = self.prepare(&mut connection, &lease, position, standing);
            in_time("tell of gaps and parked events", async { Ok((flow.await?, acquire(pool).await?)) }).await
        };
        let (lease, mut done) = match prepared.await {
            Ok((flow, mover)) => {
                let means = Means { pool, publisher, settings, metrics, pruning, order };
                let clock = Clock::new(standing.now, standing.asked_at);
                Session::new(means, lease, clock, flow, time).work(connection, mover).await
            }
            Err(failure) => (lease, Done { failure: Some(failure), ..Done::default() }),
        };
        let given_back =
            in_time("take the lease back", async { lease.give_back(&mut *acquire(pool).await?).await });
        let given_back = given_back.await;
        done.failure = done.failure.or(given_back.err());
        Ok(Some(done))
    }

    /// Reads what the group has open, after making sure that its position is this server's.
    async fn prepare(
        &self,
        connection: &mut MySqlConnection,
        lease: &Lease,
        mut position: u64,
        standing: &Standing,
    ) -> Result<Flow, RelayError> {
        let Inner { settings, metrics, .. } = &*self.0;
        let group = &settings.group;
        if let Some(trusted) = failover::last_trusted_position(connection, group, position, standing).await? {
            tracing::warn!(
                group,
                position,
                trusted,
                "this server lacks what was delivered last: going back, events are published again"
            );
            metrics.count(&metrics.set_back, 1);
            let failed = |source| RelayError::Move { group: group.clone(), position: trusted, source };
            let mut transaction = connection.begin().await.map_err(failed)?;
            lease.renew(&mut transaction, None).await?;
            failover::go_back(&mut transaction, group, trusted).await.map_err(failed)?;
            transaction.commit().await.map_err(failed)?;
            position = trusted;
        }
        if standing.known_server_uuid.as_ref() != Some(&standing.server_uuid) {
            failover::note_server(connection, lease, &standing.server_uuid).await?;
        }
        self.0.order.lock().expect("no holder of this lock panics").begins(&standing.server_uuid, position);
        let gaps = if standing.has_gaps { log::load_gaps(connection, group).await? } else { Vec::new() };
        let step = log::step_watch(connection, position, standing).await?;
        let mut flow = Flow::new(position, gaps, step);
        if standing.has_parked {
            flow.park_all(failures::aggregates(connection, group).await?);
        }
        Ok(flow)
    }

    /// An outbox without traffic is pruned as well.
    async fn prune_at_leisure(&self, connection: &mut MySqlConnection, until: Instant) {
        let Inner { pool, settings, metrics, pruning, .. } = &*self.0;
        let is_due = pruning.due_at(settings).is_some_and(|at| Instant::now() >= at);
        if is_due && pruning.look(connection, settings, metrics).await {
            for _ in 0..IDLE_PRUNE_STEPS {
                if Instant::now() >= until || !pruning.step(pool, settings, metrics).await {
                    break;
                }
            }
        }
    }
}
