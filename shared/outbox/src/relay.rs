//! The relay: reads behind the position, looks into the gaps again, publishes, and only then moves on.

use crate::{
    error::RelayError,
    event::OutboxEvent,
    gaps::Gaps,
    lease::Lease,
    log,
    publisher::{PublishError, Publisher},
};
use serde::Serialize;
use sqlx::{
    Executor, MySqlPool,
    mysql::{MySqlConnectOptions, MySqlPoolOptions},
};
use std::{
    str::FromStr,
    time::{Duration, Instant},
};
use uuid::Uuid;

/// How a relay works. The defaults suit one shop on one server.
#[derive(Clone, Debug)]
pub struct RelaySettings {
    /// Whose position it is; `outbox_status` shows that of "default".
    pub group: String,
    /// Rows read and published at once: 1 to 10,000.
    pub batch_rows: usize,
    /// Longer than the publisher's timeout, else a slow broker loses us the lease; a crash costs at most this much.
    pub lease: Duration,
    /// How long an id may be missing before it can be declared dead: longer than `innodb_lock_wait_timeout` (50 s).
    pub gap_grace: Duration,
    /// Open gaps, in ranges, at which the position stops until one of them closes.
    pub max_gaps: usize,
}

impl Default for RelaySettings {
    fn default() -> Self {
        Self {
            group: "default".to_owned(),
            batch_rows: 1_000,
            lease: Duration::from_secs(15),
            gap_grace: Duration::from_secs(60),
            max_gaps: 10_000,
        }
    }
}

/// What one drain did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Events confirmed by the publisher.
    pub published: u64,
    /// Ids behind the position: an estimate, rolled back inserts count.
    pub backlog: u64,
    /// Milliseconds since the first undelivered row was written; 0 where there is none.
    pub oldest_age_ms: u64,
    /// Open gaps, in ranges.
    pub gaps: u64,
    /// Another relay holds the lease, so nothing was done here.
    pub lease_held_elsewhere: bool,
}

/// Time between two checkpoints while the relay is busy.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(1);
/// A relay reads, publishes and moves one after the other, and looks at gaps beside.
const CONNECTIONS: u32 = 2;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Carries events from the outbox to a publisher. Clones share connections.
#[derive(Clone, Debug)]
pub struct Relay<P> {
    pool: MySqlPool,
    publisher: P,
    settings: RelaySettings,
    owner: String,
}

impl<P: Publisher> Relay<P> {
    /// A relay on this database. Connects at the first drain, so that a server that is down fails that drain alone.
    ///
    /// # Errors
    /// Where the URL cannot be read, or the lease could end while a batch is still on its way.
    pub fn new(database_url: &str, publisher: P, settings: RelaySettings) -> Result<Self, RelayError> {
        if settings.lease <= publisher.timeout() {
            return Err(RelayError::LeaseTooShort { lease: settings.lease, publisher: publisher.timeout() });
        }
        let options = MySqlConnectOptions::from_str(database_url).map_err(RelayError::Connect)?;
        let pool = MySqlPoolOptions::new()
            .max_connections(CONNECTIONS)
            .acquire_timeout(CONNECT_TIMEOUT)
            .after_connect(|connection, _| {
                // At REPEATABLE READ the look into a gap would lock it, and every writer would wait.
                Box::pin(async move {
                    connection.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED").await?;
                    Ok(())
                })
            })
            .connect_lazy_with(options);
        Ok(Self { pool, publisher, settings, owner: Uuid::now_v7().to_string() })
    }

    /// Publishes what waits, until nothing does or `until` has come, and gives the lease back.
    ///
    /// # Errors
    /// The first thing that failed. What was not confirmed is published again by the next drain.
    pub async fn drain(&self, until: Instant) -> Result<Report, RelayError> {
        self.check_isolation().await?;
        let RelaySettings { group, lease, .. } = &self.settings;
        let Some(mut lease) = Lease::take(&self.pool, group, &self.owner, *lease).await? else {
            return Ok(Report { lease_held_elsewhere: true, ..Report::default() });
        };
        let drained = self.drain_with(&mut lease, until).await;
        let given_back = lease.give_back(&self.pool).await;
        let report = drained?;
        given_back?;
        Ok(report)
    }

    async fn drain_with(&self, lease: &mut Lease, until: Instant) -> Result<Report, RelayError> {
        let mut gaps = log::load_gaps(&self.pool, &lease.group).await?;
        let mut published = 0;
        let mut last_checkpoint: Option<Instant> = None;
        let mut at_bound = false;
        while Instant::now() < until {
            let mut page = log::read_page(&self.pool, lease.position, self.settings.batch_rows).await?;
            // Asked after the page was read: whatever holds an id that is missing in it began before this moment.
            let seen_at = log::now(&self.pool)
                .await
                .map_err(|source| RelayError::Read { position: lease.position, source })?;
            let page_is_full = page.len() >= self.settings.batch_rows;
            let room = self.settings.max_gaps.saturating_sub(gaps.len());
            let passable = Gaps::passable(lease.position, page.iter().map(|event| event.id), room);
            at_bound = passable < page.len();
            page.truncate(passable);
            let mut open = gaps.clone();
            open.extend(&Gaps::of_page(lease.position, page.iter().map(|event| event.id), seen_at));
            let appeared =
                log::read_gaps(&self.pool, &open, lease.position, self.settings.batch_rows).await?;
            let Some(step) = Step::choose(lease.position, page, open, appeared, &gaps) else { continue };
            if step.events.is_empty() && step.position == lease.position {
                break;
            }
            self.publish(lease, &step.events).await?;
            let due = !page_is_full || last_checkpoint.is_none_or(|last| last.elapsed() >= CHECKPOINT_EVERY);
            let checkpoint = step.last_event_id.as_deref().filter(|_| due);
            log::commit_progress(&self.pool, lease, step.position, (&gaps, &step.gaps), checkpoint).await?;
            if checkpoint.is_some() {
                last_checkpoint = Some(Instant::now());
            }
            published += step.events.len() as u64;
            lease.position = step.position;
            gaps = step.gaps;
            if !page_is_full && !at_bound && step.complete {
                break;
            }
        }
        self.bury_dead_gaps(lease, &mut gaps).await?;
        // Told only now: what has appeared or died meanwhile made room, and a relay that gave up before it looked
        // would never find any.
        if at_bound && gaps.len() >= self.settings.max_gaps {
            return Err(RelayError::TooManyGaps {
                group: lease.group.clone(),
                gaps: gaps.len(),
                limit: self.settings.max_gaps,
            });
        }
        let (backlog, oldest_age) = log::backlog(&self.pool, lease.position).await?;
        Ok(Report {
            published,
            backlog,
            oldest_age_ms: u64::try_from(oldest_age.as_millis()).unwrap_or(u64::MAX),
            gaps: gaps.len() as u64,
            lease_held_elsewhere: false,
        })
    }

    async fn publish(&self, lease: &Lease, events: &[OutboxEvent]) -> Result<(), RelayError> {
        // From here on the publisher may take its full time, and the lease must outlast it.
        let mut connection = self
            .pool
            .acquire()
            .await
            .map_err(|source| RelayError::Lease { group: lease.group.clone(), source })?;
        lease.renew(&mut connection, None).await?;
        drop(connection);
        let results = self.publisher.publish(events).await;
        let failures =
            results.into_iter().zip(events).filter_map(|(result, event)| Some((result.err()?, event)));
        let mut failures: Vec<(PublishError, &OutboxEvent)> = failures.collect();
        if failures.is_empty() {
            return Ok(());
        }
        let failed = failures.len();
        let (source, event) = failures.swap_remove(0);
        Err(RelayError::Publish {
            failed,
            events: events.len(),
            position: lease.position,
            event_id: event.event_id.clone(),
            source,
        })
    }

    async fn bury_dead_gaps(&self, lease: &Lease, gaps: &mut Gaps) -> Result<(), RelayError> {
        let dead = log::dead_gaps(&self.pool, &lease.group, gaps, self.settings.gap_grace).await?;
        if dead.is_empty() {
            return Ok(());
        }
        let before = gaps.clone();
        for gap in dead {
            tracing::info!(first_id = gap.first, last_id = gap.last, "gap closed, its ids were rolled back");
            gaps.remove(gap);
        }
        log::commit_progress(&self.pool, lease, lease.position, (&before, gaps), None).await
    }

    async fn check_isolation(&self) -> Result<(), RelayError> {
        let found: String = sqlx::query_scalar("SELECT @@transaction_isolation")
            .fetch_one(&self.pool)
            .await
            .map_err(RelayError::Connect)?;
        if found == "READ-COMMITTED" { Ok(()) } else { Err(RelayError::Isolation { found }) }
    }
}

/// What to publish next, and what holds once it is confirmed.
struct Step {
    /// In id order, which is version order within an aggregate.
    events: Vec<OutboxEvent>,
    position: u64,
    gaps: Gaps,
    /// The event at the new position; None where the position stays.
    last_event_id: Option<String>,
    /// Every gap was read to its end.
    complete: bool,
}

impl Step {
    /// None: read again, too much has appeared at once for the page to be trusted.
    fn choose(
        position: u64,
        page: Vec<OutboxEvent>,
        mut open: Gaps,
        appeared: log::Appeared,
        known: &Gaps,
    ) -> Option<Self> {
        if appeared.complete {
            let end = page.last().map(|event| (event.id, event.event_id.clone()));
            let mut events = appeared.events;
            events.iter().for_each(|event| open.fill(event.id));
            events.extend(page);
            // Not gaps first, page behind: a version 3 in one of the page's own gaps follows a version 2 in the page.
            events.sort_by_key(|event| event.id);
            let (position, last_event_id) =
                end.map_or((position, None), |(id, event_id)| (id, Some(event_id)));
            return Some(Self { events, position, gaps: open, last_event_id, complete: true });
        }
        // The lowest ids come first, so those below the position are all that precede what is left.
        let events: Vec<_> = appeared.events.into_iter().filter(|event| event.id <= position).collect();
        if events.is_empty() {
            return None;
        }
        let mut gaps = known.clone();
        events.iter().for_each(|event| gaps.fill(event.id));
        Some(Self { events, position, gaps, last_event_id: None, complete: false })
    }
}
