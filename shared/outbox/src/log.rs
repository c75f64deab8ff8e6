//! The SQL of the log: pages, gaps, position, checkpoints. No decision is taken here.

use crate::{
    error::RelayError,
    event::OutboxEvent,
    gaps::{Gap, Gaps},
    lease::Lease,
};
use sqlx::{MySql, MySqlPool, QueryBuilder, Row, mysql::MySqlRow};
use std::{collections::BTreeMap, time::Duration};
use time::PrimitiveDateTime;
use uuid::Uuid;

const COLUMNS: &str = "SELECT id, event_id, aggregate_id, aggregate_type, event_type, aggregate_version,
     CAST(payload AS CHAR) AS payload, CAST(headers AS CHAR) AS headers, created_at FROM outbox";
/// Ranges asked for in one statement: far below where MySQL's range optimizer gives up and scans.
const RANGES_A_STATEMENT: usize = 500;
/// MySQL's answer to `NOWAIT` on a row that another transaction holds.
const LOCK_NOT_AVAILABLE: u16 = 3572;

/// Rows found in gaps, in id order; complete up to `complete_to`, beyond it there may be more.
pub(crate) struct Appeared {
    pub(crate) events: Vec<OutboxEvent>,
    pub(crate) complete: bool,
}

pub(crate) async fn now(pool: &MySqlPool) -> Result<PrimitiveDateTime, sqlx::Error> {
    sqlx::query_scalar("SELECT UTC_TIMESTAMP(6)").fetch_one(pool).await
}

/// The next rows behind the position, in id order.
pub(crate) async fn read_page(
    pool: &MySqlPool,
    position: u64,
    rows: usize,
) -> Result<Vec<OutboxEvent>, RelayError> {
    let failed = |source| RelayError::Read { position, source };
    QueryBuilder::<MySql>::new(COLUMNS)
        .push(" WHERE id > ")
        .push_bind(position)
        .push(" ORDER BY id LIMIT ")
        .push_bind(row_limit(rows))
        .build()
        .fetch_all(pool)
        .await
        .map_err(failed)?
        .iter()
        .map(event)
        .collect::<Result<_, _>>()
        .map_err(failed)
}

/// Reads the gaps again: rows that have appeared in them since, in id order.
///
/// Ranges are read from the highest to the lowest. Where version 2 of an aggregate is visible in a higher range, its
/// version 1 was committed before, and a later statement on a lower range sees it; the other way round it would not.
pub(crate) async fn read_gaps(
    pool: &MySqlPool,
    gaps: &Gaps,
    position: u64,
    rows: usize,
) -> Result<Appeared, RelayError> {
    let failed = |source| RelayError::Read { position, source };
    let ranges: Vec<Gap> = gaps.iter().rev().collect();
    let mut events = Vec::new();
    let mut complete_to = u64::MAX;
    for chunk in ranges.chunks(RANGES_A_STATEMENT) {
        let mut query = QueryBuilder::<MySql>::new(COLUMNS);
        query.push(" WHERE ");
        for (index, gap) in chunk.iter().enumerate() {
            query.push(if index == 0 { "" } else { " OR " });
            query.push("id BETWEEN ").push_bind(gap.first).push(" AND ").push_bind(gap.last);
        }
        query.push(" ORDER BY id LIMIT ").push_bind(row_limit(rows));
        // Each number of ranges is a statement of its own; keeping them prepared would fill the server's cache.
        let found = query.build().persistent(false).fetch_all(pool).await.map_err(failed)?;
        let found = found.iter().map(event).collect::<Result<Vec<_>, _>>().map_err(failed)?;
        if found.len() >= rows
            && let Some(last) = found.last()
        {
            complete_to = complete_to.min(last.id);
        }
        events.extend(found);
    }
    events.retain(|event| event.id <= complete_to);
    events.sort_by_key(|event| event.id);
    Ok(Appeared { events, complete: complete_to == u64::MAX })
}

pub(crate) async fn load_gaps(pool: &MySqlPool, group: &str) -> Result<Gaps, RelayError> {
    let failed = |source| RelayError::CheckGaps { group: group.to_owned(), source };
    let rows = sqlx::query("SELECT first_id, last_id, first_seen_at FROM outbox_gaps WHERE relay_group = ?")
        .bind(group)
        .fetch_all(pool)
        .await
        .map_err(failed)?;
    let mut gaps = Gaps::default();
    for row in rows {
        gaps.insert(Gap {
            first: row.try_get("first_id").map_err(failed)?,
            last: row.try_get("last_id").map_err(failed)?,
            first_seen_at: row.try_get("first_seen_at").map_err(failed)?,
        });
    }
    Ok(gaps)
}

/// Moves the position and changes the gaps, together or not at all, if our token is still the newest.
pub(crate) async fn commit_progress(
    pool: &MySqlPool,
    lease: &Lease,
    position: u64,
    (before, after): (&Gaps, &Gaps),
    checkpoint: Option<&str>,
) -> Result<(), RelayError> {
    let failed = |source| RelayError::Move { group: lease.group.clone(), position: lease.position, source };
    let mut transaction = pool.begin().await.map_err(failed)?;
    lease.renew(&mut transaction, Some(position)).await?;
    let gone: Vec<Gap> = before.iter().filter(|gap| !after.contains(gap)).collect();
    for chunk in gone.chunks(RANGES_A_STATEMENT) {
        let mut delete = QueryBuilder::<MySql>::new("DELETE FROM outbox_gaps WHERE relay_group = ");
        delete.push_bind(&lease.group).push(" AND first_id IN ");
        delete.push_tuples(chunk, |mut tuple, gap| {
            tuple.push_bind(gap.first);
        });
        delete.build().persistent(false).execute(&mut *transaction).await.map_err(failed)?;
    }
    let new: Vec<Gap> = after.iter().filter(|gap| !before.contains(gap)).collect();
    for chunk in new.chunks(RANGES_A_STATEMENT) {
        let mut insert = QueryBuilder::<MySql>::new(
            "INSERT INTO outbox_gaps (relay_group, first_id, last_id, first_seen_at) ",
        );
        insert.push_values(chunk, |mut row, gap| {
            row.push_bind(&lease.group).push_bind(gap.first).push_bind(gap.last).push_bind(gap.first_seen_at);
        });
        insert.build().persistent(false).execute(&mut *transaction).await.map_err(failed)?;
    }
    if let Some(event_id) = checkpoint {
        sqlx::query(
            "INSERT IGNORE INTO outbox_checkpoints (relay_group, position, event_id, moved_at)
             VALUES (?, ?, ?, UTC_TIMESTAMP(6))",
        )
        .bind(&lease.group)
        .bind(position)
        .bind(event_id)
        .execute(&mut *transaction)
        .await
        .map_err(failed)?;
    }
    transaction.commit().await.map_err(failed)
}

/// Those of the gaps that no row can appear in any more.
///
/// A gap is dead when it was first seen longer than `grace` ago, no transaction that is still open began before that
/// sighting, and MySQL finds neither a row nor a lock in it.
pub(crate) async fn dead_gaps(
    pool: &MySqlPool,
    group: &str,
    gaps: &Gaps,
    grace: Duration,
) -> Result<Vec<Gap>, RelayError> {
    let failed = |source| RelayError::CheckGaps { group: group.to_owned(), source };
    let now = now(pool).await.map_err(failed)?;
    let ripe: Vec<Gap> = gaps.iter().filter(|gap| now - gap.first_seen_at > grace).collect();
    if ripe.is_empty() {
        return Ok(Vec::new());
    }
    let Some(oldest_open) = oldest_open_transaction(pool).await.map_err(failed)? else {
        return Ok(Vec::new());
    };
    let mut dead = Vec::new();
    for gap in ripe {
        if oldest_open.is_none_or(|started| started > gap.first_seen_at)
            && is_empty(pool, gap).await.map_err(failed)?
        {
            dead.push(gap);
        }
    }
    Ok(dead)
}

/// When the oldest transaction began that is open now, UTC, to the second; the outer None where MySQL does not say.
///
/// `innodb_trx` shows a copy that MySQL renews only when nobody has read it for 100 ms, so among eager readers it can be
/// minutes old and lack the very transaction that matters. It is believed only where it shows the query that reads it.
async fn oldest_open_transaction(pool: &MySqlPool) -> Result<Option<Option<PrimitiveDateTime>>, sqlx::Error> {
    const TRIES: u32 = 3;
    const COPY_AGE: Duration = Duration::from_millis(150);
    for _ in 0..TRIES {
        tokio::time::sleep(COPY_AGE).await;
        let mark = Uuid::now_v7();
        let mut transaction = pool.begin().await?;
        // A transaction is told of once it has touched a table.
        sqlx::query("SELECT COUNT(*) FROM outbox_position FOR SHARE").fetch_one(&mut *transaction).await?;
        // The server tells a transaction's start in its own zone.
        let row = QueryBuilder::<MySql>::new(
            "SELECT MIN(IF(trx_mysql_thread_id = CONNECTION_ID(), NULL, CONVERT_TZ(trx_started, 'SYSTEM', '+00:00')))
                 AS oldest, CAST(SUM(trx_query LIKE '%",
        )
        .push(mark)
        .push("%') AS SIGNED) AS ours FROM information_schema.innodb_trx")
        .build()
        .persistent(false)
        .fetch_one(&mut *transaction)
        .await?;
        transaction.rollback().await?;
        if row.try_get::<Option<i64>, _>("ours")?.unwrap_or(0) > 0 {
            return Ok(Some(row.try_get("oldest")?));
        }
    }
    tracing::warn!(
        "mysql's list of transactions is stale, no gap can be closed now: does something read it all the time?"
    );
    Ok(None)
}

/// No row in the range, and none that an open transaction is about to show.
async fn is_empty(pool: &MySqlPool, gap: Gap) -> Result<bool, sqlx::Error> {
    let found = sqlx::query("SELECT id FROM outbox WHERE id BETWEEN ? AND ? LIMIT 1 FOR SHARE NOWAIT")
        .bind(gap.first)
        .bind(gap.last)
        .fetch_optional(pool)
        .await;
    match found {
        Ok(row) => Ok(row.is_none()),
        Err(sqlx::Error::Database(error)) if mysql_code(error.as_ref()) == Some(LOCK_NOT_AVAILABLE) => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

fn mysql_code(error: &dyn sqlx::error::DatabaseError) -> Option<u16> {
    error.try_downcast_ref::<sqlx::mysql::MySqlDatabaseError>().map(sqlx::mysql::MySqlDatabaseError::number)
}

/// Ids behind the position (an estimate of the backlog that costs nothing) and the age of the first of them.
pub(crate) async fn backlog(pool: &MySqlPool, position: u64) -> Result<(u64, Duration), RelayError> {
    let failed = |source| RelayError::Read { position, source };
    let row = sqlx::query(
        "SELECT (SELECT MAX(id) FROM outbox) AS last_id,
             (SELECT TIMESTAMPDIFF(MICROSECOND, created_at, CURRENT_TIMESTAMP(6)) FROM outbox
              WHERE id > ? ORDER BY id LIMIT 1) AS age_us",
    )
    .bind(position)
    .fetch_one(pool)
    .await
    .map_err(failed)?;
    let last_id: Option<u64> = row.try_get("last_id").map_err(failed)?;
    let age_us: Option<i64> = row.try_get("age_us").map_err(failed)?;
    let age = Duration::from_micros(age_us.map_or(0, |us| u64::try_from(us).unwrap_or(0)));
    Ok((last_id.unwrap_or(0).saturating_sub(position), age))
}

fn event(row: &MySqlRow) -> Result<OutboxEvent, sqlx::Error> {
    let headers: String = row.try_get("headers")?;
    let headers: BTreeMap<String, String> = serde_json::from_str(&headers).map_err(|source| {
        sqlx::Error::ColumnDecode { index: "headers".to_owned(), source: Box::new(source) }
    })?;
    Ok(OutboxEvent {
        id: row.try_get("id")?,
        event_id: row.try_get("event_id")?,
        aggregate_type: row.try_get("aggregate_type")?,
        aggregate_id: row.try_get("aggregate_id")?,
        aggregate_version: row.try_get("aggregate_version")?,
        event_type: row.try_get("event_type")?,
        payload: row.try_get("payload")?,
        headers: headers.into_iter().collect(),
        created_at: row.try_get("created_at")?,
    })
}

fn row_limit(rows: usize) -> u64 {
    u64::try_from(rows).unwrap_or(u64::MAX)
}
