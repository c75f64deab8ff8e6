//! The SQL of parked events: an event that a broker refused, copied whole, and what waits behind it.
//!
//! Of each aggregate the lowest id is the head: it is tried again, or dead. Everything else of it waits. Whoever changes
//! these rows has locked the group's row in `outbox_position` before: a relay by showing its token, an operator by
//! `FOR UPDATE`. So a head that goes is followed by the next one, whoever takes it away.

use crate::{
    dispatch::Key,
    error::RelayError,
    log::{Fetched, fetched},
};
use futures_util::TryStreamExt;
use sqlx::{MySql, MySqlConnection, QueryBuilder, Row};
use std::{collections::BTreeMap, time::Duration};

/// Characters of an error that are kept.
const ERROR_CHARS: usize = 1_000;

/// An event's place: the outbox row and its aggregate.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) id: u64,
    pub(crate) key: Key,
    pub(crate) aggregate_type: String,
    pub(crate) aggregate_id: String,
}

/// An attempt that the record itself is to blame for.
#[derive(Clone, Debug)]
pub(crate) struct Attempt {
    pub(crate) cause: &'static str,
    pub(crate) error: String,
    /// The pause until the next one; None: dead.
    pub(crate) pause: Option<Duration>,
}

impl Attempt {
    fn state(&self) -> &'static str {
        if self.pause.is_some() { "retry" } else { "dead" }
    }

    fn pause_micros(&self) -> Option<u64> {
        self.pause.map(|pause| u64::try_from(pause.as_micros()).unwrap_or(u64::MAX))
    }

    fn text(&self) -> String {
        self.error.chars().take(ERROR_CHARS).collect()
    }
}

/// What to write about parked events in the next move.
#[derive(Debug, Default)]
pub(crate) struct FailureChanges {
    /// Refused for the first time.
    pub(crate) refused: Vec<(Place, Attempt)>,
    /// Later events of an aggregate that is parked.
    pub(crate) waiting: Vec<Place>,
    /// Heads that are through.
    pub(crate) delivered: Vec<Place>,
    /// Heads that were refused again.
    pub(crate) refused_again: Vec<(Place, Attempt)>,
}

impl FailureChanges {
    pub(crate) fn is_empty(&self) -> bool {
        self.refused.is_empty()
            && self.waiting.is_empty()
            && self.delivered.is_empty()
            && self.refused_again.is_empty()
    }

    pub(crate) fn append(&mut self, mut other: Self) {
        self.refused.append(&mut other.refused);
        self.waiting.append(&mut other.waiting);
        self.delivered.append(&mut other.delivered);
        self.refused_again.append(&mut other.refused_again);
    }

    /// The aggregates whose head may have changed.
    fn touched(&self) -> BTreeMap<Key, &Place> {
        self.waiting.iter().chain(&self.delivered).map(|place| (place.key, place)).collect()
    }
}

/// What holds after the write.
#[derive(Debug, Default)]
pub(crate) struct Written {
    /// Aggregates of which nothing is parked any more.
    pub(crate) free: Vec<Key>,
}

/// Inside the transaction that moves the position.
pub(crate) async fn write(
    connection: &mut MySqlConnection,
    group: &str,
    changes: &FailureChanges,
) -> Result<Written, sqlx::Error> {
    for (place, attempt) in &changes.refused {
        sqlx::query(
            "INSERT INTO outbox_failures (relay_group, id, event_id, aggregate_id, aggregate_type, event_type,
                 aggregate_version, payload, headers, created_at, state, attempts, cause, last_error,
                 next_attempt_at, parked_at, history)
             SELECT ?, id, event_id, aggregate_id, aggregate_type, event_type, aggregate_version, payload, headers,
                 created_at, ?, 1, ?, ?, UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND, UTC_TIMESTAMP(6),
                 JSON_ARRAY(JSON_OBJECT('at', DATE_FORMAT(UTC_TIMESTAMP(6), '%Y-%m-%dT%H:%i:%s.%fZ'),
                     'cause', ?, 'error', ?))
             FROM outbox WHERE id = ?
             ON DUPLICATE KEY UPDATE relay_group = VALUES(relay_group)",
        )
        .bind(group)
        .bind(attempt.state())
        .bind(attempt.cause)
        .bind(attempt.text())
        .bind(attempt.pause_micros())
        .bind(attempt.cause)
        .bind(attempt.text())
        .bind(place.id)
        .execute(&mut *connection)
        .await?;
    }
    for chunk in changes.waiting.chunks(1_000) {
        let mut insert = QueryBuilder::<MySql>::new(
            "INSERT INTO outbox_failures (relay_group, id, event_id, aggregate_id, aggregate_type, event_type,
                 aggregate_version, payload, headers, created_at, state, parked_at, history) SELECT ",
        );
        insert.push_bind(group).push(
            ", id, event_id, aggregate_id, aggregate_type, event_type, aggregate_version, payload, headers,
                 created_at, 'waiting', UTC_TIMESTAMP(6), JSON_ARRAY() FROM outbox WHERE id IN ",
        );
        insert.push_tuples(chunk, |mut tuple, place| {
            tuple.push_bind(place.id);
        });
        insert.push(" ON DUPLICATE KEY UPDATE relay_group = VALUES(relay_group)");
        insert.build().persistent(false).execute(&mut *connection).await?;
    }
    for place in &changes.delivered {
        sqlx::query("DELETE FROM outbox_failures WHERE relay_group = ? AND id = ?")
            .bind(group)
            .bind(place.id)
            .execute(&mut *connection)
            .await?;
    }
    for (place, attempt) in &changes.refused_again {
        sqlx::query(
            "UPDATE outbox_failures SET attempts = attempts + 1, state = ?, cause = ?, last_error = ?,
                 next_attempt_at = UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND,
                 history = JSON_ARRAY_APPEND(history, '$', JSON_OBJECT(
                     'at', DATE_FORMAT(UTC_TIMESTAMP(6), '%Y-%m-%dT%H:%i:%s.%fZ'), 'cause', ?, 'error', ?))
             WHERE relay_group = ? AND id = ?",
        )
        .bind(attempt.state())
        .bind(attempt.cause)
        .bind(attempt.text())
        .bind(attempt.pause_micros())
        .bind(attempt.cause)
        .bind(attempt.text())
        .bind(group)
        .bind(place.id)
        .execute(&mut *connection)
        .await?;
    }
    let mut free = Vec::new();
    for place in changes.touched().values() {
        if !promote(connection, group, place).await? {
            free.push(place.key);
        }
    }
    Ok(Written { free })
}

/// Makes the lowest id of the aggregate its head; false where nothing of it is parked.
async fn promote(connection: &mut MySqlConnection, group: &str, place: &Place) -> Result<bool, sqlx::Error> {
    let head: Option<(u64, String)> = sqlx::query_as(
        "SELECT id, state FROM outbox_failures
         WHERE relay_group = ? AND aggregate_type = ? AND aggregate_id = ? ORDER BY id LIMIT 1",
    )
    .bind(group)
    .bind(&place.aggregate_type)
    .bind(&place.aggregate_id)
    .fetch_optional(&mut *connection)
    .await?;
    let Some((id, state)) = head else { return Ok(false) };
    if state == "waiting" {
        sqlx::query(
            "UPDATE outbox_failures SET state = 'retry', next_attempt_at = UTC_TIMESTAMP(6)
             WHERE relay_group = ? AND id = ?",
        )
        .bind(group)
        .bind(id)
        .execute(connection)
        .await?;
    }
    Ok(true)
}

/// A head that is due, and how often it was tried.
#[derive(Debug)]
pub(crate) struct Due {
    pub(crate) fetched: Fetched,
    pub(crate) attempts: u32,
}

/// The heads that are due, longest due first, at most so many and so many bytes.
pub(crate) async fn due(
    connection: &mut MySqlConnection,
    group: &str,
    (rows, bytes): (usize, usize),
) -> Result<Vec<Due>, RelayError> {
    let failed = |source| RelayError::Parked { group: group.to_owned(), source };
    let mut stream = sqlx::query(
        "SELECT id, event_id, aggregate_id, aggregate_type, event_type, aggregate_version, payload, headers, created_at,
             attempts
         FROM outbox_failures WHERE relay_group = ? AND state = 'retry' AND next_attempt_at <= UTC_TIMESTAMP(6)
         ORDER BY next_attempt_at LIMIT ?",
    )
    .bind(group)
    .bind(rows as u64)
    .fetch(connection);
    let (mut due, mut read) = (Vec::new(), 0);
    while read < bytes
        && let Some(row) = stream.try_next().await.map_err(failed)?
    {
        let fetched = fetched(&row).map_err(failed)?;
        read += fetched.event.bytes();
        due.push(Due { fetched, attempts: row.try_get(9).map_err(failed)? });
    }
    Ok(due)
}

/// Aggregates that have something parked, all of them: the next event of one that is left out would overtake.
pub(crate) async fn aggregates(
    connection: &mut MySqlConnection,
    group: &str,
) -> Result<Vec<(String, String)>, RelayError> {
    sqlx::query_as("SELECT DISTINCT aggregate_type, aggregate_id FROM outbox_failures WHERE relay_group = ?")
        .bind(group)
        .fetch_all(connection)
        .await
        .map_err(|source| RelayError::Parked { group: group.to_owned(), source })
}
