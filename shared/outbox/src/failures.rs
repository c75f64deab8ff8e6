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
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, MySql, MySqlConnection, QueryBuilder, Row};
use std::{collections::BTreeMap, time::Duration};

/// Characters of an error that are kept.
const ERROR_CHARS: usize = 1_000;
/// Rows written by one statement.
const ROWS_A_STATEMENT: usize = 1_000;

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
        self.pause.map(micros)
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
    /// Heads that met a broker at fault, by their ids: not due for so long.
    pub(crate) put_off: Vec<(u64, Duration)>,
    /// About how much is copied: of the first two.
    pub(crate) bytes: usize,
}

impl FailureChanges {
    pub(crate) fn is_empty(&self) -> bool {
        self.refused.is_empty() && self.waiting.is_empty() && !self.has_tried()
    }

    /// Something of it is the outcome of a pass over parked events.
    pub(crate) fn has_tried(&self) -> bool {
        !(self.delivered.is_empty() && self.refused_again.is_empty() && self.put_off.is_empty())
    }

    pub(crate) fn append(&mut self, mut other: Self) {
        self.refused.append(&mut other.refused);
        self.waiting.append(&mut other.waiting);
        self.delivered.append(&mut other.delivered);
        self.refused_again.append(&mut other.refused_again);
        self.put_off.append(&mut other.put_off);
        self.bytes += other.bytes;
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

/// Inside the transaction that moves the position. As many statements as there are thousands of rows, whatever a broker
/// refuses: one statement an event would overrun the time that a move has, and the drain would fail and repeat it all.
pub(crate) async fn write(
    connection: &mut MySqlConnection,
    group: &str,
    changes: &FailureChanges,
) -> Result<Written, sqlx::Error> {
    for refused in changes.refused.chunks(ROWS_A_STATEMENT) {
        sqlx::query(AssertSqlSafe(format!(
            "INSERT INTO outbox_failures (relay_group, id, event_id, aggregate_id, aggregate_type, event_type,
                 aggregate_version, payload, headers, created_at, state, attempts, cause, last_error,
                 next_attempt_at, parked_at, history)
             SELECT ?, o.id, o.event_id, o.aggregate_id, o.aggregate_type, o.event_type, o.aggregate_version, o.payload,
                 o.headers, o.created_at, a.state, 1, a.cause, a.error,
                 UTC_TIMESTAMP(6) + INTERVAL a.pause_us MICROSECOND, UTC_TIMESTAMP(6), JSON_ARRAY({ATTEMPT})
             FROM {ATTEMPTS} STRAIGHT_JOIN outbox o ON o.id = a.id
             ON DUPLICATE KEY UPDATE relay_group = VALUES(relay_group)"
        )))
        .bind(group)
        .bind(attempts(refused))
        .execute(&mut *connection)
        .await?;
    }
    for waiting in changes.waiting.chunks(ROWS_A_STATEMENT) {
        let mut insert = QueryBuilder::<MySql>::new(
            "INSERT INTO outbox_failures (relay_group, id, event_id, aggregate_id, aggregate_type, event_type,
                 aggregate_version, payload, headers, created_at, state, parked_at, history) SELECT ",
        );
        insert.push_bind(group).push(
            ", id, event_id, aggregate_id, aggregate_type, event_type, aggregate_version, payload, headers,
                 created_at, 'waiting', UTC_TIMESTAMP(6), JSON_ARRAY() FROM outbox WHERE id IN ",
        );
        push_ids(&mut insert, waiting.iter().map(|place| place.id));
        insert.push(" ON DUPLICATE KEY UPDATE relay_group = VALUES(relay_group)");
        insert.build().persistent(false).execute(&mut *connection).await?;
    }
    for delivered in changes.delivered.chunks(ROWS_A_STATEMENT) {
        let mut delete = QueryBuilder::<MySql>::new("DELETE FROM outbox_failures WHERE relay_group = ");
        delete.push_bind(group).push(" AND id IN ");
        push_ids(&mut delete, delivered.iter().map(|place| place.id));
        delete.build().persistent(false).execute(&mut *connection).await?;
    }
    for refused in changes.refused_again.chunks(ROWS_A_STATEMENT) {
        sqlx::query(AssertSqlSafe(format!(
            "UPDATE {ATTEMPTS} STRAIGHT_JOIN outbox_failures f ON f.relay_group = ? AND f.id = a.id
             SET f.attempts = f.attempts + 1, f.state = a.state, f.cause = a.cause, f.last_error = a.error,
                 f.next_attempt_at = UTC_TIMESTAMP(6) + INTERVAL a.pause_us MICROSECOND,
                 f.history = JSON_ARRAY_APPEND(f.history, '$', {ATTEMPT})"
        )))
        .bind(attempts(refused))
        .bind(group)
        .execute(&mut *connection)
        .await?;
    }
    for put_off in changes.put_off.chunks(ROWS_A_STATEMENT) {
        let pauses = put_off.iter().map(|(id, pause)| json!([id, micros(*pause)])).collect();
        sqlx::query(
            "UPDATE JSON_TABLE(?, '$[*]' COLUMNS (
                 id BIGINT UNSIGNED PATH '$[0]', pause_us BIGINT UNSIGNED PATH '$[1]')) p
             STRAIGHT_JOIN outbox_failures f ON f.relay_group = ? AND f.id = p.id
             SET f.next_attempt_at = UTC_TIMESTAMP(6) + INTERVAL p.pause_us MICROSECOND WHERE f.state = 'retry'",
        )
        .bind(Value::Array(pauses).to_string())
        .bind(group)
        .execute(&mut *connection)
        .await?;
    }
    let touched: Vec<&Place> = changes.touched().into_values().collect();
    let mut free = Vec::new();
    for aggregates in touched.chunks(ROWS_A_STATEMENT) {
        free.append(&mut promote(connection, group, aggregates).await?);
    }
    Ok(Written { free })
}

/// A table of attempts, from one parameter: see [`attempts`].
const ATTEMPTS: &str = "JSON_TABLE(?, '$[*]' COLUMNS (
                 id BIGINT UNSIGNED PATH '$.id', state VARCHAR(8) CHARACTER SET ascii PATH '$.state',
                 cause VARCHAR(64) CHARACTER SET ascii PATH '$.cause',
                 error VARCHAR(1000) CHARACTER SET utf8mb4 PATH '$.error',
                 pause_us BIGINT UNSIGNED PATH '$.pause_us')) a";

/// One of them as its event's history tells it.
const ATTEMPT: &str = "JSON_OBJECT('at', DATE_FORMAT(UTC_TIMESTAMP(6), '%Y-%m-%dT%H:%i:%s.%fZ'),
                     'cause', a.cause, 'error', a.error)";

fn micros(pause: Duration) -> u64 {
    u64::try_from(pause.as_micros()).unwrap_or(u64::MAX)
}

fn attempts(refused: &[(Place, Attempt)]) -> String {
    let row = |(place, attempt): &(Place, Attempt)| {
        json!({
            "id": place.id,
            "state": attempt.state(),
            "cause": attempt.cause,
            "error": attempt.text(),
            "pause_us": attempt.pause_micros(),
        })
    };
    Value::Array(refused.iter().map(row).collect()).to_string()
}

fn push_ids(statement: &mut QueryBuilder<MySql>, ids: impl Iterator<Item = u64>) {
    statement.push_tuples(ids, |mut tuple, id| {
        tuple.push_bind(id);
    });
}

/// Makes the lowest id of each aggregate its head, and tells of which nothing is parked.
async fn promote(
    connection: &mut MySqlConnection,
    group: &str,
    aggregates: &[&Place],
) -> Result<Vec<Key>, sqlx::Error> {
    let asked = aggregates.iter().enumerate();
    let asked = asked.map(|(n, place)| json!([n, place.aggregate_type, place.aggregate_id])).collect();
    let heads: Vec<(u32, Option<u64>)> = sqlx::query_as(
        "SELECT t.n, (SELECT f.id FROM outbox_failures f FORCE INDEX (outbox_failures_aggregate)
                      WHERE f.relay_group = ? AND f.aggregate_type = t.aggregate_type COLLATE ascii_bin
                          AND f.aggregate_id = t.aggregate_id COLLATE ascii_bin
                      ORDER BY f.id LIMIT 1) AS head
         FROM JSON_TABLE(?, '$[*]' COLUMNS (
             n INT UNSIGNED PATH '$[0]', aggregate_type VARCHAR(64) CHARACTER SET ascii PATH '$[1]',
             aggregate_id VARCHAR(64) CHARACTER SET ascii PATH '$[2]')) t",
    )
    .bind(group)
    .bind(Value::Array(asked).to_string())
    .fetch_all(&mut *connection)
    .await?;
    let parked: Vec<u64> = heads.iter().filter_map(|(_, head)| *head).collect();
    if !parked.is_empty() {
        let mut update = QueryBuilder::<MySql>::new(
            "UPDATE outbox_failures SET state = 'retry', next_attempt_at = UTC_TIMESTAMP(6) WHERE relay_group = ",
        );
        update.push_bind(group).push(" AND state = 'waiting' AND id IN ");
        push_ids(&mut update, parked.into_iter());
        update.build().persistent(false).execute(connection).await?;
    }
    let free = heads.into_iter().filter(|(_, head)| head.is_none());
    Ok(free.map(|(n, _)| aggregates[n as usize].key).collect())
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
