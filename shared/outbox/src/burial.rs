//! Which gaps are dead: no row can appear in them any more.
//!
//! A gap is dead when
//! 1. it was first seen longer ago than the grace,
//! 2. no transaction that writes is open any more that began before, or up to half the grace after, that sighting, and
//! 3. MySQL finds neither a row nor a lock in it.
//!
//! An id is given before its row is locked, and a transaction may be listed a moment after it took one: that moment is
//! what the grace is for. A statement that waits for a lock, or that inserts for minutes, is covered by the second
//! condition, however long it takes. A transaction that has only read, such as a backup's, holds no id.

use crate::{error::RelayError, gaps::Gap};
use sqlx::{AssertSqlSafe, Connection, MySqlConnection};
use std::time::{Duration, Instant};
use time::PrimitiveDateTime;
use uuid::Uuid;

/// MySQL's answer to `NOWAIT` on a row that another transaction holds.
const LOCK_NOT_AVAILABLE: u16 = 3572;
/// MySQL's answer to a look at open transactions while one of them runs a statement with a character beyond UTF-8's
/// three bytes, such as an emoji: the whole list cannot be read then.
const CANNOT_CONVERT: u16 = 3854;
/// Time for the probes of one go; gaps that are left wait for the next.
const PROBE_TIME: Duration = Duration::from_secs(1);

/// Those of the gaps that are dead.
pub(crate) async fn dead_gaps(
    connection: &mut MySqlConnection,
    group: &str,
    gaps: Vec<Gap>,
    now: PrimitiveDateTime,
    grace: Duration,
) -> Result<Vec<Gap>, RelayError> {
    let failed = |source| RelayError::CheckGaps { group: group.to_owned(), source };
    let ripe: Vec<Gap> = gaps.into_iter().filter(|gap| is_ripe(gap, now, grace)).collect();
    if ripe.is_empty() {
        return Ok(Vec::new());
    }
    let Some(oldest_open) = oldest_writing_transaction(connection).await.map_err(failed)? else {
        return Ok(Vec::new());
    };
    let free = |gap: &Gap| oldest_open.is_none_or(|started| started > gap.first_seen_at + grace / 2);
    let mut dead = Vec::new();
    let enough_at = Instant::now() + PROBE_TIME;
    for gap in ripe.into_iter().filter(free).take_while(|_| Instant::now() < enough_at) {
        if is_empty(connection, gap).await.map_err(failed)? {
            dead.push(gap);
        }
    }
    Ok(dead)
}

pub(crate) fn is_ripe(gap: &Gap, now: PrimitiveDateTime, grace: Duration) -> bool {
    now - gap.first_seen_at > grace
}

/// When the oldest transaction began that is open now and has an id of its own, as every one that writes has: UTC, to
/// the second. The outer None where MySQL does not say.
///
/// `innodb_trx` shows a copy that MySQL renews only when nobody has read it for 100 ms, so among eager readers it can be
/// minutes old and lack the very transaction that matters. It is believed only where it shows the query that reads it.
async fn oldest_writing_transaction(
    connection: &mut MySqlConnection,
) -> Result<Option<Option<PrimitiveDateTime>>, sqlx::Error> {
    const TRIES: u32 = 3;
    for _ in 0..TRIES {
        // Never the same twice: relays that look at one server in the same rhythm would keep it from renewing for all.
        tokio::time::sleep(Duration::from_millis(rand::random_range(120..300))).await;
        let mark = Uuid::now_v7();
        let mut transaction = connection.begin().await?;
        // A transaction is told of once it has touched a table; it waits for no lock, whoever holds one.
        sqlx::query("SELECT COUNT(*) FROM outbox_position").fetch_one(&mut *transaction).await?;
        // The server tells a transaction's start in its own zone. One that has no id of its own is shown with a number
        // above 2^48. The mark has to stand in the statement's text.
        let list = format!(
            "SELECT MIN(IF(trx_mysql_thread_id = CONNECTION_ID() OR CAST(trx_id AS UNSIGNED) >= 1 << 48, NULL,
                 CONVERT_TZ(trx_started, 'SYSTEM', '+00:00'))),
                 CAST(SUM(trx_query LIKE '%{mark}%') AS SIGNED) FROM information_schema.innodb_trx"
        );
        let listed = sqlx::query_as(AssertSqlSafe(list)).persistent(false).fetch_one(&mut *transaction).await;
        transaction.rollback().await?;
        let (oldest, ours): (Option<PrimitiveDateTime>, Option<i64>) = match listed {
            Ok(listed) => listed,
            Err(error) if mysql_code(&error) == Some(CANNOT_CONVERT) => continue,
            Err(error) => return Err(error),
        };
        if ours.unwrap_or(0) > 0 {
            return Ok(Some(oldest));
        }
    }
    tracing::warn!(
        "mysql's list of transactions is stale or cannot be read, no gap can be closed now: does something read it all \
         the time, or run long statements with characters of four bytes?"
    );
    Ok(None)
}

/// No row in the range, and none that an open transaction is about to show.
async fn is_empty(connection: &mut MySqlConnection, gap: Gap) -> Result<bool, sqlx::Error> {
    let found = sqlx::query("SELECT id FROM outbox WHERE id BETWEEN ? AND ? LIMIT 1 FOR SHARE NOWAIT")
        .bind(gap.first)
        .bind(gap.last)
        .fetch_optional(connection)
        .await;
    match found {
        Ok(row) => Ok(row.is_none()),
        Err(error) if mysql_code(&error) == Some(LOCK_NOT_AVAILABLE) => Ok(false),
        Err(error) => Err(error),
    }
}

/// The server's own number for what went wrong.
pub(crate) fn mysql_code(error: &sqlx::Error) -> Option<u16> {
    let error = error.as_database_error()?;
    error.try_downcast_ref::<sqlx::mysql::MySqlDatabaseError>().map(sqlx::mysql::MySqlDatabaseError::number)
}
