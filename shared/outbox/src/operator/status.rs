//! How a group stands. Nothing here grows with the outbox; what is told of parked events grows with those.

use super::{
    Operator, OperatorError, Pause,
    failures::{self, Cause, Filter},
    prune,
};
use crate::RelaySettings;
use serde::Serialize;
use sqlx::{FromRow, MySqlConnection, Row};
use std::{fmt, time::Duration};
use time::{OffsetDateTime, serde::rfc3339};

/// Causes that a status tells of: those with the most events.
const CAUSES: u64 = 20;

#[derive(Clone, Debug, Serialize)]
pub struct GroupStatus {
    pub group: String,
    /// Every row up to here is delivered, but for open gaps and parked events.
    pub position: u64,
    /// The highest id in the outbox; None where it is empty.
    pub last_id: Option<u64>,
    /// Ids behind the position: an estimate, rolled back inserts count.
    pub backlog: u64,
    /// Since the first event behind the position was written; None where there is none.
    pub oldest_age_ms: Option<u64>,
    /// False where the position was last moved on another server: no relay has looked at this one yet.
    pub on_this_server: bool,
    pub gaps: GapStatus,
    pub lease: LeaseStatus,
    pub paused: Option<Pause>,
    pub parked: ParkedStatus,
    /// The newest note of a relay.
    pub checkpoint: Option<Checkpoint>,
    /// Delivered ids that are not pruned yet: an estimate, as the backlog.
    pub kept: u64,
}

/// Ids below the position whose rows have not appeared.
#[derive(Clone, Debug, Serialize, FromRow)]
pub struct GapStatus {
    pub ranges: u64,
    pub ids: u64,
    /// The lowest of them: nothing from here on is pruned.
    pub first_id: Option<u64>,
    #[serde(with = "rfc3339::option")]
    pub oldest_seen_at: Option<OffsetDateTime>,
    pub oldest_age_ms: Option<u64>,
}

#[derive(Clone, Debug, Serialize)]
pub struct LeaseStatus {
    /// Who has it or had it and did not give it back; None between two ticks.
    pub owner: Option<String>,
    /// None where nobody holds it.
    pub remaining_ms: Option<u64>,
    /// How many owners there were.
    pub fencing_token: u64,
}

#[derive(Clone, Debug, Serialize)]
pub struct ParkedStatus {
    /// Aggregates that stand still: each has one event in `retry` or `dead`.
    pub aggregates: u64,
    pub retry: u64,
    pub waiting: u64,
    pub dead: u64,
    /// Of those in `retry`, the ones whose time has come.
    pub due: u64,
    #[serde(with = "rfc3339::option")]
    pub next_attempt_at: Option<OffsetDateTime>,
    /// The 20 with the most events.
    pub causes: Vec<Cause>,
}

#[derive(Clone, Debug, Serialize, FromRow)]
pub struct Checkpoint {
    pub position: u64,
    pub event_id: String,
    #[serde(with = "rfc3339")]
    pub at: OffsetDateTime,
    pub age_ms: u64,
}

/// From where on something is wrong.
#[derive(Clone, Debug)]
pub struct Bounds {
    /// The relay's own: [`RelaySettings::max_gaps`].
    pub max_gaps: u64,
    /// The relay's own: `RetrySettings::max_parked`.
    pub max_parked: u64,
    /// Of the oldest event behind the position.
    pub max_age: Duration,
}

impl Default for Bounds {
    /// A relay's defaults; and a minute, which is twelve times the pause between two ticks.
    fn default() -> Self {
        let settings = RelaySettings::default();
        Self {
            max_gaps: settings.max_gaps as u64,
            max_parked: settings.retry.max_parked as u64,
            max_age: Duration::from_secs(60),
        }
    }
}

/// What somebody has to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Problem {
    /// Events that are not tried any more.
    DeadLetters,
    /// The position stands still at the bound of open gaps.
    TooManyGaps,
    /// The position stands still at the bound of parked aggregates.
    TooManyParked,
    /// Events wait longer than they should, and nobody has paused the group.
    Behind,
    /// The position is another server's.
    AnotherServer,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::DeadLetters => "dead letters wait for somebody: see `outflow outbox list --by-cause`, then retry or discard them",
            Self::TooManyGaps => "the position stands still at the bound of open gaps: end the oldest open transaction on mysql",
            Self::TooManyParked => "the position stands still at the bound of parked aggregates: see `outflow outbox list --by-cause`",
            Self::Behind => "events wait too long: does a relay run, and does the broker answer?",
            Self::AnotherServer => "the position was moved on another server: a relay's next run sets it right",
        })
    }
}

impl GroupStatus {
    /// What is wrong by these bounds; nothing where all is well. A pause is what somebody wanted.
    pub fn problems(&self, bounds: &Bounds) -> Vec<Problem> {
        let late = self.oldest_age_ms.is_some_and(|age| u128::from(age) > bounds.max_age.as_millis());
        [
            (Problem::DeadLetters, self.parked.dead > 0),
            (Problem::TooManyGaps, self.gaps.ranges >= bounds.max_gaps),
            (Problem::TooManyParked, self.parked.aggregates >= bounds.max_parked),
            (Problem::Behind, late && self.paused.is_none()),
            (Problem::AnotherServer, !self.on_this_server),
        ]
        .into_iter()
        .filter_map(|(problem, there)| there.then_some(problem))
        .collect()
    }
}

impl Operator {
    /// How the group stands, all of it at one moment.
    ///
    /// # Errors
    /// Where there is no such group, and where MySQL fails.
    pub async fn status(&self) -> Result<GroupStatus, OperatorError> {
        let failed = OperatorError::database("tell how the outbox stands");
        let mut snapshot = self.snapshot().await.map_err(&failed)?;
        let status = read(&mut snapshot, &self.group).await;
        snapshot.rollback().await.map_err(&failed)?;
        match status.map_err(failed)? {
            Some(status) => Ok(status),
            None => Err(self.unknown_group().await),
        }
    }
}

async fn read(connection: &mut MySqlConnection, group: &str) -> Result<Option<GroupStatus>, sqlx::Error> {
    let row = sqlx::query(
        "SELECT p.position, p.lease_owner, p.fencing_token, p.paused_at, p.paused_by, p.paused_reason,
             COALESCE(p.server_uuid = @@server_uuid, TRUE) AS on_this_server,
             IF(p.lease_until > UTC_TIMESTAMP(6),
                CAST(TIMESTAMPDIFF(MICROSECOND, UTC_TIMESTAMP(6), p.lease_until) DIV 1000 AS UNSIGNED), NULL) AS remaining_ms,
             (SELECT MAX(id) FROM outbox) AS last_id,
             (SELECT CAST(GREATEST(TIMESTAMPDIFF(MICROSECOND, created_at, CURRENT_TIMESTAMP(6)), 0) DIV 1000 AS UNSIGNED) FROM outbox
              WHERE id > (SELECT position FROM outbox_position WHERE relay_group = ?) ORDER BY id LIMIT 1) AS oldest_age_ms
         FROM outbox_position p WHERE p.relay_group = ?",
    )
    .bind(group)
    .bind(group)
    .fetch_optional(&mut *connection)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let position: u64 = row.try_get("position")?;
    let last_id: Option<u64> = row.try_get("last_id")?;
    Ok(Some(GroupStatus {
        group: group.to_owned(),
        position,
        last_id,
        backlog: last_id.unwrap_or(0).saturating_sub(position),
        oldest_age_ms: row.try_get("oldest_age_ms")?,
        on_this_server: row.try_get("on_this_server")?,
        gaps: gaps(connection, group).await?,
        lease: LeaseStatus {
            owner: row.try_get("lease_owner")?,
            remaining_ms: row.try_get("remaining_ms")?,
            fencing_token: row.try_get("fencing_token")?,
        },
        paused: Pause::of_row(&row)?,
        parked: parked(connection, group).await?,
        checkpoint: checkpoint(connection, group).await?,
        kept: kept(connection, group, position).await?,
    }))
}

async fn gaps(connection: &mut MySqlConnection, group: &str) -> Result<GapStatus, sqlx::Error> {
    sqlx::query_as(
        "SELECT CAST(COUNT(*) AS UNSIGNED) AS ranges, CAST(COALESCE(SUM(last_id - first_id + 1), 0) AS UNSIGNED) AS ids,
             MIN(first_id) AS first_id, MIN(first_seen_at) AS oldest_seen_at,
             CAST(GREATEST(TIMESTAMPDIFF(MICROSECOND, MIN(first_seen_at), UTC_TIMESTAMP(6)), 0) DIV 1000 AS UNSIGNED) AS oldest_age_ms
         FROM outbox_gaps WHERE relay_group = ?",
    )
    .bind(group)
    .fetch_one(connection)
    .await
}

async fn parked(connection: &mut MySqlConnection, group: &str) -> Result<ParkedStatus, sqlx::Error> {
    let row = sqlx::query(
        "SELECT CAST(COALESCE(SUM(state = 'retry'), 0) AS UNSIGNED) AS retry,
             CAST(COALESCE(SUM(state = 'waiting'), 0) AS UNSIGNED) AS waiting,
             CAST(COALESCE(SUM(state = 'dead'), 0) AS UNSIGNED) AS dead,
             CAST(COALESCE(SUM(state = 'retry' AND next_attempt_at <= UTC_TIMESTAMP(6)), 0) AS UNSIGNED) AS due,
             MIN(IF(state = 'retry', next_attempt_at, NULL)) AS next_attempt_at
         FROM outbox_failures WHERE relay_group = ?",
    )
    .bind(group)
    .fetch_one(&mut *connection)
    .await?;
    let (retry, dead): (u64, u64) = (row.try_get("retry")?, row.try_get("dead")?);
    Ok(ParkedStatus {
        aggregates: retry + dead,
        retry,
        waiting: row.try_get("waiting")?,
        dead,
        due: row.try_get("due")?,
        next_attempt_at: row.try_get("next_attempt_at")?,
        causes: failures::causes(connection, group, &Filter::default(), CAUSES).await?,
    })
}

async fn checkpoint(
    connection: &mut MySqlConnection,
    group: &str,
) -> Result<Option<Checkpoint>, sqlx::Error> {
    sqlx::query_as(
        "SELECT position, event_id, moved_at AS at,
             CAST(GREATEST(TIMESTAMPDIFF(MICROSECOND, moved_at, UTC_TIMESTAMP(6)), 0) DIV 1000 AS UNSIGNED) AS age_ms
         FROM outbox_checkpoints WHERE relay_group = ? ORDER BY position DESC LIMIT 1",
    )
    .bind(group)
    .fetch_optional(connection)
    .await
}

/// From behind what is pruned, so that rows which MySQL has still to clear away are not passed once more.
async fn kept(connection: &mut MySqlConnection, group: &str, position: u64) -> Result<u64, sqlx::Error> {
    let pruned_to = prune::pruned_to(connection, group).await?;
    let lowest: Option<u64> = sqlx::query_scalar("SELECT id FROM outbox WHERE id > ? ORDER BY id LIMIT 1")
        .bind(pruned_to)
        .fetch_optional(connection)
        .await?;
    Ok(lowest.map_or(0, |lowest| (position + 1).saturating_sub(lowest)))
}
