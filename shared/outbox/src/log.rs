//! The SQL of the log: where a group stands, pages, moving the position. No decision is taken here.

use crate::{
    error::RelayError,
    event::OutboxEvent,
    failover::newest_note_does_not_fit,
    failures::{self, FailureChanges},
    gaps::{Gap, GapChanges, Gaps, IdStep, StepWatch},
    lease::Lease,
};
use futures_util::TryStreamExt;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use sqlx::{AssertSqlSafe, Connection, MySql, MySqlConnection, QueryBuilder, Row, mysql::MySqlRow};
use std::{
    fmt::{self, Write},
    time::{Duration, Instant},
};
use time::PrimitiveDateTime;

/// The highest bound of open gaps that may be set. A row that appears within a gap leaves two, so there can be more.
pub(crate) const MOST_RANGES: usize = 16_000;
/// Ranges that one page asks for. MySQL's optimizer takes about 230 bytes for each id or range that it is told of, of the
/// 64 MiB that the relay's sessions have, and the statement up to 60, of `max_allowed_packet`.
pub(crate) const MOST_ASKED: usize = 100_000;
/// Ranges in a statement that MySQL keeps prepared.
const MOST_PREPARED: usize = 256;
/// Ranges up to this many ids are told id by id. MySQL looks for 10,000 single ids in 25 ms, and for as many ranges of one
/// id in 50; it finds a row's id in a list by halves, but holds it against one range after the other.
const IDS_ONE_BY_ONE: u64 = 2;
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
    /// The newest note of the position tells of another event than this server's log has there.
    pub(crate) is_doubtful: bool,
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
            && !self.is_doubtful
    }
}

/// A read by a primary key or two for each thing that it tells; none of them grows with the table, and heads are counted up
/// to a bound. The group, six times.
pub(crate) const STANDING: &str = concat!(
    "SELECT UTC_TIMESTAMP(6) AS now, p.position, o.last_id,
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
     @@server_uuid AS server_uuid, p.server_uuid AS known_server_uuid, ",
    newest_note_does_not_fit!(),
    " AS is_doubtful,
     @@transaction_isolation AS isolation,
     @@global.read_only OR @@global.super_read_only AS read_only,
     @@global.auto_increment_increment AS id_increment, @@global.auto_increment_offset AS id_offset
 FROM (SELECT MAX(id) AS last_id FROM outbox) o
 LEFT JOIN outbox_position p ON p.relay_group = ?"
);

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
        is_doubtful: flag("is_doubtful")?,
        isolation: row.try_get("isolation")?,
        read_only: flag("read_only")?,
        id_increment: row.try_get_unchecked("id_increment")?,
        id_offset: row.try_get_unchecked("id_offset")?,
    })
}

/// What the newest rows up to the position say about the server's step.
pub(crate) async fn step_watch(
    connection: &mut MySqlConnection,
    position: u64,
    standing: &Standing,
) -> Result<StepWatch, RelayError> {
    let step = IdStep::new(standing.id_increment, standing.id_offset);
    if step.gives_all() {
        return Ok(StepWatch::new(step, (0, 0)));
    }
    let (rows, lowest, off): (i64, Option<u64>, Option<u64>) = sqlx::query_as(
        "SELECT COUNT(*), MIN(id), MAX(IF(id % ? = ?, NULL, id))
         FROM (SELECT id FROM outbox WHERE id <= ? ORDER BY id DESC LIMIT ?) newest",
    )
    .bind(step.increment)
    .bind(step.offset % step.increment)
    .bind(position)
    .bind(StepWatch::ENOUGH)
    .fetch_one(connection)
    .await
    .map_err(|source| RelayError::Read { position, source })?;
    let seen = match off {
        Some(off) => (off, 0),
        None => (lowest.map_or(position, |lowest| lowest - 1), rows.unsigned_abs()),
    };
    Ok(StepWatch::new(step, seen))
}

/// Rows in id order, and whether there may be more behind them.
#[derive(Debug, Default)]
pub(crate) struct Page {
    pub(crate) rows: Vec<Fetched>,
    pub(crate) more: bool,
    /// MySQL has more rows on their way than were taken: the connection brings them before it answers anything else.
    pub(crate) cut: bool,
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
///
/// With more than [`MOST_ASKED`] gaps only the lowest are asked for, and nothing behind them: an answer may end anywhere,
/// as long as everything below is in it.
pub(crate) async fn read_page(
    connection: &mut MySqlConnection,
    position: u64,
    gaps: &[(u64, u64)],
    (rows, bytes): (usize, usize),
) -> Result<Page, RelayError> {
    let failed = |source| RelayError::Read { position, source };
    let mut stream = if gaps.len() <= MOST_PREPARED {
        let mut query = sqlx::query(AssertSqlSafe(prepared_page(gaps.len()))).bind(position);
        for (first, last) in padded(gaps) {
            query = query.bind(first).bind(last);
        }
        query.bind(rows as u64).fetch(connection)
    } else {
        sqlx::raw_sql(AssertSqlSafe(plain_page(position, gaps, rows))).fetch(connection)
    };
    let mut page = Page { rows: Vec::with_capacity(rows.min(1_024)), ..Page::default() };
    let mut read = 0;
    while let Some(row) = stream.try_next().await.map_err(failed)? {
        let fetched = fetched(&row).map_err(failed)?;
        read += fetched.event.bytes();
        page.rows.push(fetched);
        page.cut = read >= bytes && page.rows.len() < rows;
        if page.cut || page.rows.len() >= rows {
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
        _ => MOST_PREPARED,
    }
}

fn padded(gaps: &[(u64, u64)]) -> impl Iterator<Item = (u64, u64)> + '_ {
    let last = gaps.last().copied();
    let missing = padded_len(gaps.len()) - gaps.len();
    gaps.iter().copied().chain(std::iter::repeat_n(last, missing).flatten())
}

const PAGE: &str = "SELECT id, event_id, aggregate_id, aggregate_type, event_type, aggregate_version, payload, headers, \
                    created_at FROM outbox WHERE ";

/// The statement of a page: position, then first and last id of each range, then the number of rows.
fn prepared_page(ranges: usize) -> String {
    let ranges = " OR id BETWEEN ? AND ?".repeat(padded_len(ranges));
    format!("{PAGE}id > ?{ranges} ORDER BY id LIMIT ?")
}

/// The same for as many ranges as there are, with the numbers in its text.
fn plain_page(position: u64, gaps: &[(u64, u64)], rows: usize) -> String {
    // Behind what is not asked for nothing may be read.
    let behind = if gaps.len() > MOST_ASKED { "FALSE".to_owned() } else { format!("id > {position}") };
    let (short, long): (Vec<_>, Vec<_>) =
        gaps.iter().take(MOST_ASKED).partition(|(first, last)| last - first < IDS_ONE_BY_ONE);
    let mut sql = format!("{PAGE}{behind}");
    for (n, id) in short.iter().flat_map(|(first, last)| *first..=*last).enumerate() {
        let before = if n == 0 { " OR id IN (" } else { ", " };
        write!(sql, "{before}{id}").expect("a string takes all");
    }
    if !short.is_empty() {
        sql.push(')');
    }
    for (first, last) in long {
        write!(sql, " OR id BETWEEN {first} AND {last}").expect("a string takes all");
    }
    write!(sql, " ORDER BY id LIMIT {rows}").expect("a string takes all");
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
    serde_json::from_str(json).map(|Pairs(pairs)| pairs)
}

/// An object of texts as it stands there. MySQL's JSON knows no key twice.
struct Pairs(Vec<(String, String)>);

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OfTexts;
        impl<'de> Visitor<'de> for OfTexts {
            type Value = Pairs;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of texts")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Pairs, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = object.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(OfTexts)
    }
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

    /// Ranges of one, two and three ids in turn.
    fn spread(ranges: usize) -> Vec<(u64, u64)> {
        (0..ranges as u64).map(|n| (n * 10 + 1, n * 10 + 1 + n % 3)).collect()
    }

    #[test]
    fn a_page_asks_for_as_many_ranges_as_its_statement_has() {
        for ranges in [0, 1, 4, 5, 33, MOST_PREPARED] {
            let gaps = spread(ranges);
            let placeholders = prepared_page(ranges).matches('?').count();
            assert_eq!(placeholders, 2 + 2 * padded(&gaps).count());
            assert!(padded(&gaps).skip(ranges).all(|range| Some(&range) == gaps.last()));
        }
    }

    #[test]
    fn many_ranges_stand_in_the_text_each_once_and_so_does_what_lies_behind_them() {
        for ranges in [MOST_PREPARED + 1, MOST_RANGES, MOST_RANGES + 1, 40_000, MOST_ASKED] {
            let sql = plain_page(7_000_000, &spread(ranges), 500);

            let one_by_one = sql.split_once(" OR id IN (").and_then(|(_, rest)| rest.split_once(')'));
            let (ids, rest) = one_by_one.expect("a list of ids");
            assert_eq!(ids.split(", ").count(), ranges.div_ceil(3) + 2 * (ranges + 1).div_euclid(3));
            assert_eq!(rest.matches(" OR id BETWEEN ").count(), ranges / 3);
            assert!(sql.contains("WHERE id > 7000000 OR id IN (1, 11, 12, 31, "));
            assert!(
                rest.starts_with(" OR id BETWEEN 21 AND 23 OR ") && rest.ends_with(" ORDER BY id LIMIT 500")
            );
        }
    }

    #[test]
    fn a_text_without_short_ranges_or_without_long_ones_is_whole() {
        let sql = |gaps: &[(u64, u64)]| plain_page(9, gaps, 5).replace(PAGE, "");
        assert_eq!(
            sql(&[(1, 3), (5, 8)]),
            "id > 9 OR id BETWEEN 1 AND 3 OR id BETWEEN 5 AND 8 ORDER BY id LIMIT 5"
        );
        assert_eq!(sql(&[(1, 2), (5, 5)]), "id > 9 OR id IN (1, 2, 5) ORDER BY id LIMIT 5");
    }

    #[test]
    fn beyond_what_one_page_asks_for_it_asks_for_the_lowest_ranges_and_nothing_behind_them() {
        let gaps: Vec<(u64, u64)> = (0..=MOST_ASKED as u64).map(|n| (n * 10, n * 10 + 5)).collect();
        let sql = plain_page(7_000_000, &gaps, 500);

        assert_eq!(sql.matches(" OR id BETWEEN ").count(), MOST_ASKED);
        assert!(sql.contains("WHERE FALSE OR id BETWEEN 0 AND 5 "));
        assert!(!sql.contains("id >") && !sql.contains(&format!("BETWEEN {} ", MOST_ASKED * 10)));
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
