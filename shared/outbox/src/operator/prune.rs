//! Deleting what is delivered, in steps that wait for nobody and that nobody waits for.
//!
//! Below every group's position and every group's oldest gap each id is either delivered or dead, so no writer holds
//! anything there. A step locks the lowest rows by their keys without waiting, deletes those that are old enough, and
//! notes the last of them as a checkpoint: the next step begins behind it, and not at rows which MySQL has still to clear
//! away (it keeps them as long as a backup's snapshot is open), and a position that has to go back never goes further.

use crate::burial::mysql_code;
use sqlx::{Connection, Executor, MySql, MySqlConnection, QueryBuilder};
use std::time::Duration;

/// Rows that a step looks at, and so the most that it deletes. A step is one transaction: with events of 100 kB and a
/// binary log that keeps whole rows, this makes 50 MB of it, so take fewer there.
pub const PRUNE_ROWS: usize = 500;
/// MySQL's answer to `NOWAIT` on a row that another transaction holds.
const LOCK_NOT_AVAILABLE: u16 = 3572;

/// What one step did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PruneStep {
    /// Rows deleted from `outbox`.
    pub deleted: u64,
    /// Rows deleted from `outbox_checkpoints`.
    pub checkpoints: u64,
    /// There may be more that can go: as many rows went as a step takes.
    pub more: bool,
}

/// Deletes the lowest delivered rows that are older than `keep`, at most `rows` of them.
///
/// Judged by the lowest ids first: behind the first row that is too young none is looked at, though its clock may have
/// been ahead. Where the group has no position, where one group's position comes from another server, and where somebody
/// else holds one of the rows, nothing is deleted. The row at a position stays.
///
/// # Errors
/// Where MySQL fails; then nothing has changed. The connection must not be in a transaction.
pub async fn prune_step(
    connection: &mut MySqlConnection,
    group: &str,
    keep: Duration,
    rows: usize,
) -> Result<PruneStep, sqlx::Error> {
    let Some(bounds) = bounds(connection, group).await? else { return Ok(PruneStep::default()) };
    let lowest = lowest(connection, bounds, keep, rows).await?;
    let Some((last, last_event)) = lowest.last() else { return Ok(PruneStep::default()) };
    let groups: Vec<String> =
        sqlx::query_scalar("SELECT relay_group FROM outbox_position").fetch_all(&mut *connection).await?;
    // At REPEATABLE READ the gaps between the rows would be locked as well.
    connection.execute("SET TRANSACTION ISOLATION LEVEL READ COMMITTED").await?;
    let mut transaction = connection.begin().await?;
    let step = async {
        if !lock(&mut transaction, &lowest).await? {
            return Ok(PruneStep::default());
        }
        let mut step = PruneStep { more: lowest.len() >= rows, ..PruneStep::default() };
        step.deleted = delete(&mut transaction, &lowest).await?;
        for group in &groups {
            step.checkpoints += note(&mut transaction, group, (*last, last_event), rows).await?;
        }
        Ok(step)
    };
    // Either end is waited for: dropped, a transaction rolls back in the background, where Lambda may freeze it with its
    // locks.
    match step.await {
        Ok(step) => transaction.commit().await.map(|()| step),
        Err(error) => {
            let _ = transaction.rollback().await;
            Err(error)
        }
    }
}

/// Between which ids there is nothing but delivered rows: both excluded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    pub(super) after: u64,
    pub(super) below: u64,
}

/// None where nothing may go. One statement, and so one moment; no part of it grows with a table but with the number of
/// groups.
pub(super) async fn bounds(
    connection: &mut MySqlConnection,
    group: &str,
) -> Result<Option<Bounds>, sqlx::Error> {
    // Another server may have lost what it is said to have delivered, until a relay has looked.
    let bounds: Option<(u64, u64)> = sqlx::query_as(
        "SELECT
             CAST(COALESCE((SELECT IF(o.id IS NULL, c.position, 0)
                 FROM outbox_checkpoints c LEFT JOIN outbox o ON o.id = c.position
                 WHERE c.relay_group = ? ORDER BY c.position LIMIT 1), 0) AS UNSIGNED),
             CAST(MIN(IF(p.server_uuid <> @@server_uuid, 0, LEAST(p.position, COALESCE(
                 (SELECT g.first_id FROM outbox_gaps g WHERE g.relay_group = p.relay_group ORDER BY g.first_id LIMIT 1),
                 p.position)))) AS UNSIGNED)
         FROM outbox_position p HAVING SUM(p.relay_group = ?) = 1",
    )
    .bind(group)
    .bind(group)
    .fetch_optional(connection)
    .await?;
    Ok(bounds.map(|(after, below)| Bounds { after, below }).filter(|bounds| bounds.after + 1 < bounds.below))
}

/// The lowest rows, up to the first that is too young: ids and event ids. Locks nothing.
async fn lowest(
    connection: &mut MySqlConnection,
    bounds: Bounds,
    keep: Duration,
    rows: usize,
) -> Result<Vec<(u64, String)>, sqlx::Error> {
    let found: Vec<(u64, String, bool)> = sqlx::query_as(
        "SELECT id, event_id, created_at <= CURRENT_TIMESTAMP(6) - INTERVAL ? MICROSECOND
         FROM outbox WHERE id > ? AND id < ? ORDER BY id LIMIT ?",
    )
    .bind(micros(keep))
    .bind(bounds.after)
    .bind(bounds.below)
    .bind(rows as u64)
    .fetch_all(connection)
    .await?;
    Ok(found.into_iter().take_while(|(_, _, old)| *old).map(|(id, event_id, _)| (id, event_id)).collect())
}

/// False where somebody else holds one of the rows: they are left for the next time.
async fn lock(transaction: &mut MySqlConnection, lowest: &[(u64, String)]) -> Result<bool, sqlx::Error> {
    let mut lock = these("SELECT id FROM outbox", lowest);
    match lock.push(" FOR UPDATE NOWAIT").build().persistent(false).fetch_all(transaction).await {
        Ok(_) => Ok(true),
        Err(error) if mysql_code(&error) == Some(LOCK_NOT_AVAILABLE) => Ok(false),
        Err(error) => Err(error),
    }
}

async fn delete(transaction: &mut MySqlConnection, lowest: &[(u64, String)]) -> Result<u64, sqlx::Error> {
    let deleted = these("DELETE FROM outbox", lowest).build().persistent(false).execute(transaction).await?;
    Ok(deleted.rows_affected())
}

/// These rows alone. In the order of the key and no more than they are: a plan that reads the table ends with the last of
/// them as well, before it comes to rows that writers hold.
fn these(statement: &str, lowest: &[(u64, String)]) -> QueryBuilder<MySql> {
    let mut these = QueryBuilder::new(statement);
    these.push(" WHERE id IN ").push_tuples(lowest, |mut tuple, (id, _)| {
        tuple.push_bind(*id);
    });
    these.push(" ORDER BY id LIMIT ").push_bind(lowest.len() as u64);
    these
}

/// Notes the last row that is gone, and forgets what was noted before it, which stands before every row there is.
async fn note(
    transaction: &mut MySqlConnection,
    group: &str,
    (last, last_event): (u64, &str),
    rows: usize,
) -> Result<u64, sqlx::Error> {
    sqlx::query(
        "INSERT INTO outbox_checkpoints (relay_group, position, event_id, moved_at)
         SELECT ?, ?, ?, COALESCE(MIN(moved_at), UTC_TIMESTAMP(6)) FROM (
             SELECT moved_at FROM outbox_checkpoints WHERE relay_group = ? AND position >= ? ORDER BY position LIMIT 1
         ) delivered
         ON DUPLICATE KEY UPDATE moved_at = outbox_checkpoints.moved_at",
    )
    .bind(group)
    .bind(last)
    .bind(last_event)
    .bind(group)
    .bind(last)
    .execute(&mut *transaction)
    .await?;
    let forgotten = sqlx::query(
        "DELETE FROM outbox_checkpoints WHERE relay_group = ? AND position < ? ORDER BY position LIMIT ?",
    )
    .bind(group)
    .bind(last)
    .bind(rows as u64)
    .execute(transaction)
    .await?;
    Ok(forgotten.rows_affected())
}

/// At most a thousand years: MySQL takes more than it can count for a time to come, and would delete everything.
fn micros(keep: Duration) -> u64 {
    const THOUSAND_YEARS: Duration = Duration::from_secs(1_000 * 366 * 24 * 3_600);
    u64::try_from(keep.min(THOUSAND_YEARS).as_micros()).expect("a thousand years fit")
}
