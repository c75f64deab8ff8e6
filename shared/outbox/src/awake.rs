//! Whether a relay is at work: what a writer asks after its commit, so that it nudges one only where none is.
//!
//! A relay that holds the lease needs no nudge: it polls, and after it has given the lease back it looks once more, and
//! takes the lease again for what it finds. So a row committed before this question is seen by the holder or answered for by
//! a nudge, but for one case: when a call's time is over the last session is short, and what is committed after its last
//! read, and asks before the lease is given back, is left to the next commit's nudge or to the schedule.
//!
//! Must not: lock or change anything.

use sqlx::MySqlConnection;

/// The group's newest fencing token where no relay is at work, so that a nudge is of use; None while one holds the lease,
/// and while the group is paused. Reads one row by its primary key. Ask after the commit, outside of a transaction.
///
/// The token rises with every relay that takes the lease. One nudge for a token is enough: whoever comes for it sees
/// everything committed before it came. A group that never had a relay answers 0.
///
/// # Errors
/// As MySQL answers. The rows are committed and the schedule delivers them: no reason to fail a caller.
pub async fn sleeping_relay(
    connection: &mut MySqlConnection,
    group: &str,
) -> Result<Option<u64>, sqlx::Error> {
    let token: Option<Option<u64>> = sqlx::query_scalar(
        "SELECT IF(paused_at IS NULL AND (lease_until IS NULL OR lease_until <= UTC_TIMESTAMP(6)), fencing_token, NULL)
         FROM outbox_position WHERE relay_group = ?",
    )
    .bind(group)
    .fetch_optional(connection)
    .await?;
    Ok(token.unwrap_or(Some(0)))
}
