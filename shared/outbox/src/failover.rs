//! Whether this server still holds what the position says is delivered.
//!
//! A server that takes over may lack the newest transactions of the one before it, and then gives their ids again: below
//! the position, where nobody would look. So about once a second the relay notes the event at its position, and where
//! the server is another one, or a note does not fit, it goes back to the newest note that does. What lies behind is
//! published again, which readers bear; what would have been passed over is not. Until a relay has gone back nobody takes
//! the position for true: a look finds work to do, and nothing is pruned.

use crate::{error::RelayError, lease::Lease, log::Standing};
use sqlx::MySqlConnection;

/// Notes looked at; one a second, so that is how far a server may have fallen behind, in seconds.
const CHECKPOINTS: u64 = 3_600;

#[derive(Debug, sqlx::FromRow)]
struct Checkpoint {
    position: u64,
    event_id: String,
    found: Option<String>,
    /// Rows at and below it are delivered and may have been deleted since. Told where its own is gone.
    #[sqlx(default)]
    below_first_row: bool,
}

impl Checkpoint {
    fn fits(&self) -> bool {
        match &self.found {
            Some(found) => *found == self.event_id,
            None => self.below_first_row,
        }
    }
}

/// SQL about a row `p` of `outbox_position`: whether the newest note doesn't fit, as [`Checkpoint::fits`] tells. One read by
/// each of two primary keys, and of the lowest row where the note's own is gone.
macro_rules! newest_note_does_not_fit {
    () => {
        "COALESCE((
             SELECT COALESCE(noted.event_id <> c.event_id, c.position > (SELECT id FROM outbox ORDER BY id LIMIT 1))
             FROM outbox_checkpoints c LEFT JOIN outbox noted ON noted.id = c.position
             WHERE c.relay_group = p.relay_group AND c.position <= p.position ORDER BY c.position DESC LIMIT 1), FALSE)"
    };
}
pub(crate) use newest_note_does_not_fit;

/// The position to go on from, where it is not the one that is stored.
pub(crate) async fn last_trusted_position(
    connection: &mut MySqlConnection,
    group: &str,
    position: u64,
    standing: &Standing,
) -> Result<Option<u64>, RelayError> {
    let another_server =
        standing.known_server_uuid.as_ref().is_some_and(|known| *known != standing.server_uuid);
    let ids_are_missing = standing.last_id.is_some_and(|last_id| last_id < position);
    let newest = checkpoints(connection, group, position, 1).await?;
    if !another_server && !ids_are_missing && newest.iter().all(Checkpoint::fits) {
        return Ok(None);
    }
    let noted = checkpoints(connection, group, position, CHECKPOINTS).await?;
    let trusted = noted.iter().find(|noted| noted.fits()).map_or(0, |noted| noted.position);
    Ok((trusted < position).then_some(trusted))
}

/// The newest notes first.
async fn checkpoints(
    connection: &mut MySqlConnection,
    group: &str,
    position: u64,
    limit: u64,
) -> Result<Vec<Checkpoint>, RelayError> {
    let failed = |source| RelayError::Read { position, source };
    let mut noted: Vec<Checkpoint> = sqlx::query_as(
        "SELECT c.position, c.event_id, o.event_id AS found
         FROM outbox_checkpoints c LEFT JOIN outbox o ON o.id = c.position
         WHERE c.relay_group = ? AND c.position <= ? ORDER BY c.position DESC LIMIT ?",
    )
    .bind(group)
    .bind(position)
    .bind(limit)
    .fetch_all(&mut *connection)
    .await
    .map_err(failed)?;
    // Asked only where it matters: while a long snapshot is open MySQL passes all that was pruned since.
    if noted.iter().any(|noted| noted.found.is_none()) {
        let first: Option<u64> =
            sqlx::query_scalar("SELECT MIN(id) FROM outbox").fetch_one(connection).await.map_err(failed)?;
        for noted in &mut noted {
            noted.below_first_row = first.is_some_and(|first| noted.position < first);
        }
    }
    Ok(noted)
}

/// Forgets what was noted behind the position to go back to. Inside the caller's transaction.
pub(crate) async fn go_back(
    connection: &mut MySqlConnection,
    group: &str,
    position: u64,
) -> Result<(), sqlx::Error> {
    for statement in [
        "DELETE FROM outbox_checkpoints WHERE relay_group = ? AND position > ?",
        "DELETE FROM outbox_gaps WHERE relay_group = ? AND first_id > ?",
        // A parked event whose row is gone was lost with its transaction; its id may be another event's by now.
        "DELETE f FROM outbox_failures f LEFT JOIN outbox o ON o.id = f.id AND o.event_id = f.event_id
         WHERE f.relay_group = ? AND f.id > ? AND o.id IS NULL",
    ] {
        sqlx::query(statement).bind(group).bind(position).execute(&mut *connection).await?;
    }
    sqlx::query("UPDATE outbox_gaps SET last_id = ? WHERE relay_group = ? AND first_id <= ? AND last_id > ?")
        .bind(position)
        .bind(group)
        .bind(position)
        .bind(position)
        .execute(&mut *connection)
        .await?;
    sqlx::query("UPDATE outbox_position SET position = ? WHERE relay_group = ?")
        .bind(position)
        .bind(group)
        .execute(connection)
        .await?;
    Ok(())
}

/// Remembers the server the position is moved on from now on.
pub(crate) async fn note_server(
    connection: &mut MySqlConnection,
    lease: &Lease,
    server_uuid: &str,
) -> Result<(), RelayError> {
    sqlx::query("UPDATE outbox_position SET server_uuid = ? WHERE relay_group = ? AND fencing_token = ?")
        .bind(server_uuid)
        .bind(&lease.group)
        .bind(lease.token)
        .execute(connection)
        .await
        .map_err(|source| RelayError::Lease { group: lease.group.clone(), source })?;
    Ok(())
}
