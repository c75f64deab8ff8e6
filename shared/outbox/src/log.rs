//! The SQL of the log: where a group stands, pages, moving the position. No decision is taken here.

use crate::{
    error::RelayError,
    event::OutboxEvent,
    failures::{self, FailureChanges},
    gaps::{Gap, GapChanges, Gaps},
    lease::Lease,
};
use futures_util::TryStreamExt;
use sqlx::{AssertSqlSafe, Connection, MySql, MySqlConnection, QueryBuilder, Row, mysql::MySqlRow};
use std::{
    fmt::Write,
    time::{Duration, Instant},
};
use time::PrimitiveDateTime;

/// Ranges in one statement: two placeholders each, and MySQL takes 65,535.
pub(crate) const MOST_RANGES: usize = 16_000;
/// Rows of a table changed by one statement.
const ROWS_A_STATEMENT: usize = 1_000;

/// Where a group stands, in one cheap query.
#[derive(Clone, Debug)]
pub(crate) struct Standing {
    /// UTC, the database's clock; and when it was asked, on ours.
    pub(crate) now: PrimitiveDateTime,
    pub(crate) asked_at: Instant,
    /// None where the group has no position yet.
    pub(crate) position: Option<u64>,
    /// None in an empty outbox.
    pub(crate) last_id: Option<u64>,
    /// Since the first event behind the position was written.
    pub(crate) oldest_age: Duration,
    pub(crate) lease_held: bool,
    /// The lease is over, and nobody has given it back.
    pub(crate) lease_abandoned: bool,
    pub(crate) paused: bool,
    pub(crate) has_gaps: bool,
    pub(crate) has_due: bool,
    /// Whatever the state: some wait though no head is due.
    pub(crate) has_parked: bool,
    pub(crate) parked: u64,
    pub(crate) server_uuid: String,
    /// The server the position was last moved on.
    pub(crate) known_server_uuid: Option<String>,
    pub(crate) isolation: String,
    pub(crate) read_only: bool,
    pub(crate) id_increment: u64,
    pub(crate) id_offset: u64,
}

impl Standing {
    /// Ids behind the position: an estimate of the backlog that costs nothing.
    pub(crate) fn backlog(&self) -> u64 {
        self.last_id.unwrap_or(0).saturating_sub(self.position.unwrap_or(0))
    }

    /// Nothing to publish, to ask again or to set right.
    pub(crate) fn is_idle(&self) -> bool {
        self.last_id.unwrap_or(0) == self.position.unwrap_or(0)
            && !self.has_gaps
            && !self.has_due
            && self.known_server_uuid.as_ref().is_none_or(|known| *known == self.server_uuid)
    }
}

/// One primary-key read for each thing that it tells; none of them grows with the table, and heads are counted up to a
/// bound. The group, six times.
pub(crate) const STANDING: &str = "SELECT UTC_TIMESTAMP(6) AS now, p.position, o.last_id,
     (SELECT TIMESTAMPDIFF(MICROSECOND, created_at, CURRENT_TIMESTAMP(6)) FROM outbox
      WHERE id > (SELECT COALESCE(MAX(position), 0) FROM outbox_position WHERE relay_group = ?)
      ORDER BY id LIMIT 1) AS oldest_age_us,
     COALESCE(p.lease_until > UTC_TIMESTAMP(6), FALSE) AS lease_held,
     COALESCE(p.lease_until <= UTC_TIMESTAMP(6), FALSE) AS lease_abandoned,
     p.paused_at IS NOT NULL AS paused,
     EXISTS (SELECT 1 FROM outbox_gaps WHERE relay_group = ?) AS has_gaps,
     EXISTS (SELECT 1 FROM outbox_failures WHERE relay_group = ? AND state = 'retry'
             AND next_attempt_at <= UTC_TIMESTAMP(6)) AS has_due,
     EXISTS (SELECT 1 FROM outbox_failures WHERE relay_group = ?) AS has_parked,
     (SELECT COUNT(*) FROM (SELECT 1 FROM outbox_failures WHERE relay_group = ? AND state IN ('retry', 'dead')
                            LIMIT 10000) heads) AS parked,
     @@server_uuid AS server_uuid, p.server_uuid AS known_server_uuid,
     @@transaction_isolation AS isolation,
     @@global.read_only OR @@global.super_read_only AS read_only,
     @@global.auto_increment_increment AS id_increment, @@global.auto_increment_offset AS id_offset
 FROM (SELECT MAX(id) AS last_id FROM outbox) o
 LEFT JOIN outbox_position p ON p.relay_group = ?";

pub(crate) async fn standing(connection: &mut MySqlConnection, group: &str) -> Result<Standing, sqlx::Error> {
    let asked_at = Instant::now();
    let mut query = sqlx::query(STANDING);
    for _ in 0..6 {
        query = query.bind(group);
    }
    let row = query.fetch_one(connection).await?;
    let flag = |name: &str| row.try_get::<i64, _>(name).map(|flag| flag != 0);
    let oldest_age: Option<i64> = row.try_get("oldest_age_us")?;
    Ok(Standing {
        now: row.try_get("now")?,
        asked_at,
        position: row.try_get("position")?,
        last_id: row.try_get("last_id")?,
        oldest_age: Duration::from_micros(oldest_age.and_then(|us| u64::try_from(us).ok()).unwrap_or(0)),
        lease_held: flag("lease_held")?,
        lease_abandoned: flag("lease_abandoned")?,
        paused: flag("paused")?,
        has_gaps: flag("has_gaps")?,
        has_due: flag("has_due")?,
        has_parked: flag("has_parked")?,
        parked: row.try_get::<i64, _>("parked")?.unsigned_abs(),
        server_uuid: row.try_get("server_uuid")?,
        known_server_uuid: row.try_get("known_server_uuid")?,
        isolation: row.try_get("isolation")?,
        read_only: flag("read_only")?,
        id_increment: row.try_get_unchecked("id_increment")?,
        id_offset: row.try_get_unchecked("id_offset")?,
    })
}

/// Rows in id order, and whether there may be more behind them.
#[derive(Debug, Default)]
pub(crate) struct Page {
    pub(crate) rows: Vec<Fetched>,
    pub(crate) more: bool,
}

/// A row, and what is wrong with it where it is no event that can be published.
#[derive(Debug)]
pub(crate) struct Fetched {
    pub(crate) event: OutboxEvent,
    pub(crate) fault: Option<String>,
}

/// What there is in the gaps and behind the position, lowest ids first, in one snapshot.
///
/// In one snapshot, because a version that is visible was written after the one before it was committed: where a row is
/// in the answer, so is every row of its aggregate below it, whichever gap it has appeared in.
pub(crate) async fn read_page(
    connection: &mut MySqlConnection,
    position: u64,
    gaps: &[(u64, u64)],
    (rows, bytes): (usize, usize),
) -> Result<Page, RelayError> {
    let failed = |source| RelayError::Read { position, source };
    let mut query = sqlx::query(AssertSqlSafe(page_sql(gaps.len()))).bind(position);
    for (first, last) in padded(gaps) {
        query = query.bind(first).bind(last);
    }
    let mut stream = query.bind(rows as u64).fetch(connection);
    let mut page = Page { rows: Vec::with_capacity(rows.min(1_024)), more: false };
    let mut read = 0;
    while let Some(row) = stream.try_next().await.map_err(failed)? {
        let fetched = fetched(&row).map_err(failed)?;
        read += fetched.event.bytes();
        page.rows.push(fetched);
        if page.rows.len() >= rows || read >= bytes {
            page.more = true;
            break;
        }
    }
    Ok(page)
}

/// Each number of ranges is a statement of its own, and MySQL keeps them prepared: so there are only a few numbers.
fn padded_len(ranges: usize) -> usize {
    match ranges {
        0 => 0,
        1..=4 => 4,
        5..=32 => 32,
        33..=256 => 256,
        257..=2_048 => 2_048,
        _ => MOST_RANGES,
    }
}

fn padded(gaps: &[(u64, u64)]) -> impl Iterator<Item = (u64, u64)> + '_ {
    let last = gaps.last().copied();
    let missing = padded_len(gaps.len()) - gaps.len();
    gaps.iter().copied().chain(std::iter::repeat_n(last, missing).flatten())
}

/// The statement of a page: position, then first and last id of each range, then the number of rows.
pub(crate) fn page_sql(ranges: usize) -> String {
    let mut sql = "SELECT id, event_id, aggregate_id, aggregate_type, event_type, aggregate_version, payload, headers, \
                   created_at FROM outbox WHERE id > ?"
        .to_owned();
    for _ in 0..padded_len(ranges) {
        sql.push_str(" OR id BETWEEN ? AND ?");
    }
    write!(sql, " ORDER BY id LIMIT ?").expect("a string takes all");
    sql
}

/// By column number and without asking for types: this runs for every event.
pub(crate) fn fetched(row: &MySqlRow) -> Result<Fetched, sqlx::Error> {
    let headers: &str = row.try_get_unchecked(7)?;
    let (headers, fault) = match parse_headers(headers) {
        Ok(headers) => (headers, None),
        Err(error) => (Vec::new(), Some(format!("headers are no object of texts: {error}"))),
    };
    let event = OutboxEvent {
        id: row.try_get_unchecked(0)?,
        event_id: row.try_get_unchecked(1)?,
        aggregate_id: row.try_get_unchecked(2)?,
        aggregate_type: row.try_get_unchecked(3)?,
        event_type: row.try_get_unchecked(4)?,
        aggregate_version: row.try_get_unchecked(5)?,
        payload: row.try_get_unchecked(6)?,
        headers,
        created_at: row.try_get_unchecked(8)?,
    };
    Ok(Fetched { event, fault })
}

pub(crate) fn parse_headers(json: &str) -> Result<Vec<(String, String)>, serde_json::Error> {
    if json == "{}" {
        return Ok(Vec::new());
    }
    // Keeps what is there; MySQL's JSON knows no key twice.
    let headers: std::collections::BTreeMap<String, String> = serde_json::from_str(json)?;
    Ok(headers.into_iter().collect())
}

pub(crate) async fn load_gaps(connection: &mut MySqlConnection, group: &str) -> Result<Vec<Gap>, RelayError> {
    let rows: Vec<(u64, u64, PrimitiveDateTime)> =
        sqlx::query_as("SELECT first_id, last_id, first_seen_at FROM outbox_gaps WHERE relay_group = ?")
            .bind(group)
            .fetch_all(connection)
            .await
            .map_err(|source| RelayError::CheckGaps { group: group.to_owned(), source })?;
    Ok(rows.into_iter().map(|(first, last, first_seen_at)| Gap { first, last, first_seen_at }).collect())
}

/// What has been confirmed since the last move.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    pub(crate) position: u64,
    pub(crate) gaps: GapChanges,
    pub(crate) failures: FailureChanges,
    /// The event at the position, where a checkpoint is due.
    pub(crate) checkpoint: Option<String>,
}

/// What a move brings back.
#[derive(Debug)]
pub(crate) struct Moved {
    pub(crate) lease_until: Instant,
    pub(crate) failures: failures::Written,
}

/// Moves the position and changes gaps and failures, together or not at all, if our token is still the newest.
pub(crate) async fn move_position(
    connection: &mut MySqlConnection,
    lease: &Lease,
    progress: &Progress,
) -> Result<Moved, RelayError> {
    let Progress { position, gaps, failures, checkpoint } = progress;
    if gaps.is_empty() && failures.is_empty() && checkpoint.is_none() {
        // The usual case is a single statement.
        let lease_until = lease.renew(connection, Some(*position)).await?;
        return Ok(Moved { lease_until, failures: failures::Written::default() });
    }
    let failed = |source| RelayError::Move { group: lease.group.clone(), position: *position, source };
    let mut transaction = connection.begin().await.map_err(failed)?;
    let lease_until = lease.renew(&mut transaction, Some(*position)).await?;
    write_gaps(&mut transaction, &lease.group, gaps).await.map_err(failed)?;
    let written = failures::write(&mut transaction, &lease.group, failures).await.map_err(failed)?;
    if let Some(event_id) = checkpoint {
        sqlx::query(
            "INSERT INTO outbox_checkpoints (relay_group, position, event_id, moved_at)
             VALUES (?, ?, ?, UTC_TIMESTAMP(6)) ON DUPLICATE KEY UPDATE event_id = VALUES(event_id)",
        )
        .bind(&lease.group)
        .bind(position)
        .bind(event_id)
        .execute(&mut *transaction)
        .await
        .map_err(failed)?;
    }
    transaction.commit().await.map_err(failed)?;
    Ok(Moved { lease_until, failures: written })
}

async fn write_gaps(
    connection: &mut MySqlConnection,
    group: &str,
    changes: &GapChanges,
) -> Result<(), sqlx::Error> {
    for chunk in changes.gone.chunks(ROWS_A_STATEMENT) {
        let mut delete = QueryBuilder::<MySql>::new("DELETE FROM outbox_gaps WHERE relay_group = ");
        delete.push_bind(group).push(" AND first_id IN ");
        delete.push_tuples(chunk, |mut tuple, first| {
            tuple.push_bind(first);
        });
        delete.build().persistent(false).execute(&mut *connection).await?;
    }
    for chunk in changes.changed.chunks(ROWS_A_STATEMENT) {
        let mut insert = QueryBuilder::<MySql>::new(
            "INSERT INTO outbox_gaps (relay_group, first_id, last_id, first_seen_at) ",
        );
        insert.push_values(chunk, |mut row, gap| {
            row.push_bind(group).push_bind(gap.first).push_bind(gap.last).push_bind(gap.first_seen_at);
        });
        insert.push(
            " ON DUPLICATE KEY UPDATE last_id = VALUES(last_id), first_seen_at = VALUES(first_seen_at)",
        );
        insert.build().persistent(false).execute(&mut *connection).await?;
    }
    Ok(())
}

/// The ranges of the open gaps, as a page asks for them.
pub(crate) fn ranges(gaps: &Gaps) -> Vec<(u64, u64)> {
    gaps.iter().map(|gap| (gap.first, gap.last)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_asks_for_as_many_ranges_as_its_statement_has() {
        for ranges in [0, 1, 4, 5, 300, 2_049] {
            let gaps: Vec<_> = (0..ranges as u64).map(|n| (n * 10, n * 10 + 3)).collect();
            let placeholders = page_sql(ranges).matches('?').count();
            assert_eq!(placeholders, 2 + 2 * padded(&gaps).count());
            assert!(padded(&gaps).skip(ranges).all(|range| Some(&range) == gaps.last()));
        }
    }

    #[test]
    fn headers_are_an_object_of_texts() {
        assert_eq!(parse_headers("{}").expect("nothing in it"), []);
        let headers = parse_headers(r#"{"traceparent": "00-1"}"#).expect("an object of texts");
        assert_eq!(headers, [("traceparent".to_owned(), "00-1".to_owned())]);
        assert!(parse_headers(r#"{"n": 1}"#).is_err());
        assert!(parse_headers("[]").is_err());
    }
}
