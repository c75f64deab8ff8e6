//! Deleting what is delivered, in steps that wait for nobody and that nobody waits for.
//!
//! Below every group's position and every group's oldest gap each id is either delivered or dead, so no writer holds
//! anything there. A step locks the lowest rows by their keys without waiting, deletes those that are old enough, and
//! notes the last of them as a checkpoint: the next step begins behind it, and not at rows which MySQL has still to clear
//! away (it keeps them as long as a backup's snapshot is open), and a position that has to go back never goes further.

use super::{Operator, OperatorError, Signature, change};
use crate::burial::mysql_code;
use serde::Serialize;
use serde_json::json;
use sqlx::{Connection, Executor, MySql, MySqlConnection, QueryBuilder};
use std::time::Duration;

/// Rows that a step looks at, and so the most that it deletes. A step is one transaction: with events of 100 kB and a
/// binary log that keeps whole rows, this makes 50 MB of it, so take fewer there.
pub const PRUNE_ROWS: usize = 500;
/// As many as MySQL locks by their keys in one statement without a thought.
const MAX_PRUNE_ROWS: usize = 10_000;
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
/// been ahead. Where the group has no position, where one group's position comes from another server or from a log that
/// this server has lost, and where somebody else holds one of the rows, nothing is deleted. The row at a position stays.
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
    step_within(connection, bounds, keep, rows).await
}

/// As [`prune_step`], between these ids.
async fn step_within(
    connection: &mut MySqlConnection,
    bounds: Bounds,
    keep: Duration,
    rows: usize,
) -> Result<PruneStep, sqlx::Error> {
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
struct Bounds {
    after: u64,
    below: u64,
}

/// SQL about a row `p` of `outbox_position`: from which id on pruning would hurt the group. That is its position, or its
/// oldest gap; and the first id of all where the log may have lost what it is said to have delivered, until a relay has
/// looked: on another server, and where the newest note doesn't fit.
macro_rules! floor {
    () => {
        concat!(
            "IF(p.server_uuid <> @@server_uuid OR ",
            $crate::failover::newest_note_does_not_fit!(),
            ", 0, LEAST(p.position, COALESCE(
             (SELECT g.first_id FROM outbox_gaps g WHERE g.relay_group = p.relay_group ORDER BY g.first_id LIMIT 1),
             p.position)))"
        )
    };
}
pub(crate) use floor;

const FLOORS: &str = concat!(
    "SELECT p.relay_group, CAST(",
    floor!(),
    " AS UNSIGNED) AS floor FROM outbox_position p ORDER BY floor, p.relay_group"
);

/// None where nothing may go. No part of it grows with a table but with the number of groups.
async fn bounds(connection: &mut MySqlConnection, group: &str) -> Result<Option<Bounds>, sqlx::Error> {
    let after = pruned_to(connection, group).await?;
    let floors: Vec<(String, u64)> = sqlx::query_as(FLOORS).fetch_all(connection).await?;
    let is_known = floors.iter().any(|(known, _)| known == group);
    let bounds = floors.first().map(|(_, below)| Bounds { after, below: *below });
    Ok(bounds.filter(|bounds| is_known && bounds.after + 1 < bounds.below))
}

/// Up to which id everything is gone, as far as that is noted: a step leaves the last row that it deletes as the lowest
/// checkpoint.
pub(super) async fn pruned_to(connection: &mut MySqlConnection, group: &str) -> Result<u64, sqlx::Error> {
    let lowest: Option<u64> = sqlx::query_scalar(
        "SELECT CAST(IF(o.id IS NULL, c.position, 0) AS UNSIGNED)
         FROM outbox_checkpoints c LEFT JOIN outbox o ON o.id = c.position
         WHERE c.relay_group = ? ORDER BY c.position LIMIT 1",
    )
    .bind(group)
    .fetch_optional(connection)
    .await?;
    Ok(lowest.unwrap_or(0))
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

/// What pruning would delete now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Prunable {
    pub group: String,
    pub rows: u64,
    pub first_id: Option<u64>,
    pub last_id: Option<u64>,
    /// Nothing from here on is looked at.
    pub below: u64,
    /// The group whose position or oldest gap that is.
    pub held_by: Option<String>,
}

/// What pruning has deleted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Pruned {
    pub group: String,
    pub rows: u64,
    pub checkpoints: u64,
    pub steps: u64,
}

impl Operator {
    /// What [`Operator::prune`] would delete now. Counts, so its time grows with that.
    ///
    /// # Errors
    /// Where there is no such group, and where MySQL fails.
    pub async fn prunable(&self, keep: Duration) -> Result<Prunable, OperatorError> {
        const ROWS_A_PAGE: u64 = 10_000;
        let failed = OperatorError::database("count what can be pruned");
        let mut connection = self.pool.acquire().await.map_err(&failed)?;
        let floors: Vec<(String, u64)> =
            sqlx::query_as(FLOORS).fetch_all(&mut *connection).await.map_err(&failed)?;
        let Some((held_by, below)) = floors.first().filter(|_| floors.iter().any(|(g, _)| *g == self.group))
        else {
            return Err(self.unknown_group().await);
        };
        let mut prunable = Prunable {
            group: self.group.clone(),
            below: *below,
            held_by: Some(held_by.clone()),
            ..Prunable::default()
        };
        let mut after = pruned_to(&mut connection, &self.group).await.map_err(&failed)?;
        loop {
            let (rows, first, last, young): (u64, Option<u64>, Option<u64>, Option<u64>) = sqlx::query_as(
                "SELECT CAST(COUNT(*) AS UNSIGNED), MIN(id), MAX(id), MIN(IF(created_at > CURRENT_TIMESTAMP(6) - INTERVAL ? MICROSECOND,
                     id, NULL))
                 FROM (SELECT id, created_at FROM outbox WHERE id > ? AND id < ? ORDER BY id LIMIT ?) lowest",
            )
            .bind(micros(keep))
            .bind(after)
            .bind(below)
            .bind(ROWS_A_PAGE)
            .fetch_one(&mut *connection)
            .await
            .map_err(&failed)?;
            if let Some(young) = young {
                // The last page: counted once more, up to the first row that stays.
                if first == Some(young) {
                    return Ok(prunable);
                }
                let (rows, last): (u64, Option<u64>) = sqlx::query_as(
                    "SELECT CAST(COUNT(*) AS UNSIGNED), MAX(id) FROM outbox WHERE id > ? AND id < ?",
                )
                .bind(after)
                .bind(young)
                .fetch_one(&mut *connection)
                .await
                .map_err(&failed)?;
                prunable.add(rows, first, last);
                return Ok(prunable);
            }
            prunable.add(rows, first, last);
            match last.filter(|_| rows == ROWS_A_PAGE) {
                Some(last) => after = last,
                None => return Ok(prunable),
            }
        }
    }

    /// Deletes delivered rows older than `keep`, step by step, up to where all was delivered when it began: beside a busy
    /// relay it would never come to an end otherwise. A note of it is in the audit before the first row goes.
    ///
    /// # Errors
    /// Where there is no such group, where `rows` is out of its bounds, and where MySQL fails: what is gone by then is
    /// gone.
    pub async fn prune(
        &self,
        keep: Duration,
        rows: usize,
        signature: &Signature,
        mut on_step: impl FnMut(&Pruned),
    ) -> Result<Pruned, OperatorError> {
        if !(1..=MAX_PRUNE_ROWS).contains(&rows) {
            return Err(OperatorError::Field { field: "rows", wants: "1 to 10,000" });
        }
        let failed = OperatorError::database("prune delivered events");
        let details = json!({"keep_seconds": keep.as_secs()});
        let mut change = self.change("prune delivered events").await?;
        let noted = change::audit_group(&mut change, &self.group, "prune", signature, Some(&details)).await;
        let noted = change.end(noted.map_err(&failed)).await?;
        let mut connection = self.pool.acquire().await.map_err(&failed)?;
        let mut pruned = Pruned { group: self.group.clone(), ..Pruned::default() };
        let mut end = u64::MAX;
        loop {
            let step = self.step_up_to(&mut connection, &mut end, keep, rows).await.map_err(&failed)?;
            pruned.rows += step.deleted;
            pruned.checkpoints += step.checkpoints;
            pruned.steps += 1;
            on_step(&pruned);
            if !step.more {
                break;
            }
        }
        sqlx::query("UPDATE outbox_audit SET event = JSON_SET(event, '$.rows', ?) WHERE id = ?")
            .bind(pruned.rows)
            .bind(noted)
            .execute(&mut *connection)
            .await
            .map_err(failed)?;
        Ok(pruned)
    }

    /// A step that deletes nothing from `end` on, which is where the first one comes to its bound.
    async fn step_up_to(
        &self,
        connection: &mut MySqlConnection,
        end: &mut u64,
        keep: Duration,
        rows: usize,
    ) -> Result<PruneStep, sqlx::Error> {
        let Some(bounds) = bounds(connection, &self.group).await? else { return Ok(PruneStep::default()) };
        *end = bounds.below.min(*end);
        step_within(connection, Bounds { below: *end, ..bounds }, keep, rows).await
    }
}

impl Prunable {
    fn add(&mut self, rows: u64, first: Option<u64>, last: Option<u64>) {
        self.rows += rows;
        self.first_id = self.first_id.or(first);
        self.last_id = last.or(self.last_id);
    }
}

/// At most a thousand years: MySQL takes more than it can count for a time to come, and would delete everything.
fn micros(keep: Duration) -> u64 {
    const THOUSAND_YEARS: Duration = Duration::from_secs(1_000 * 366 * 24 * 3_600);
    u64::try_from(keep.min(THOUSAND_YEARS).as_micros()).expect("a thousand years fit")
}
