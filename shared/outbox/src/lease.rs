//! One relay of a group at a time: a lease on the database's clock, with a fencing token that rises at every owner.

use crate::error::RelayError;
use sqlx::{MySqlConnection, MySqlPool, Row};
use std::time::Duration;

/// Held by one relay. Whoever moves the position shows its token in the same transaction.
#[derive(Clone, Debug)]
pub(crate) struct Lease {
    pub(crate) group: String,
    pub(crate) token: u64,
    pub(crate) position: u64,
    duration: Duration,
}

impl Lease {
    /// Takes the lease where it is free or over; None while another relay holds it.
    pub(crate) async fn take(
        pool: &MySqlPool,
        group: &str,
        owner: &str,
        duration: Duration,
    ) -> Result<Option<Self>, RelayError> {
        let failed = |source| RelayError::Lease { group: group.to_owned(), source };
        // By itself: where the row is there it is locked as shared, and of two relays that both hold it so, neither could
        // go on to change it.
        sqlx::query("INSERT IGNORE INTO outbox_position (relay_group) VALUES (?)")
            .bind(group)
            .execute(pool)
            .await
            .map_err(failed)?;
        let mut transaction = pool.begin().await.map_err(failed)?;
        let taken = sqlx::query(
            "UPDATE outbox_position SET lease_owner = ?, fencing_token = fencing_token + 1,
                 lease_until = UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND
             WHERE relay_group = ? AND (lease_until IS NULL OR lease_until <= UTC_TIMESTAMP(6))",
        )
        .bind(owner)
        .bind(micros(duration))
        .bind(group)
        .execute(&mut *transaction)
        .await
        .map_err(failed)?;
        if taken.rows_affected() == 0 {
            // Waited for: dropped, it rolls back in the background, where Lambda may freeze it with its locks.
            transaction.rollback().await.map_err(failed)?;
            return Ok(None);
        }
        let row = sqlx::query("SELECT fencing_token, position FROM outbox_position WHERE relay_group = ?")
            .bind(group)
            .fetch_one(&mut *transaction)
            .await
            .map_err(failed)?;
        let (token, position) =
            (row.try_get("fencing_token").map_err(failed)?, row.try_get("position").map_err(failed)?);
        transaction.commit().await.map_err(failed)?;
        Ok(Some(Self { group: group.to_owned(), token, position, duration }))
    }

    /// Shows the token and starts the lease's time again; with `position`, moves there in the same statement.
    pub(crate) async fn renew(
        &self,
        connection: &mut MySqlConnection,
        position: Option<u64>,
    ) -> Result<(), RelayError> {
        let renewed = sqlx::query(
            "UPDATE outbox_position SET lease_until = UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND,
                 position = COALESCE(?, position)
             WHERE relay_group = ? AND fencing_token = ?",
        )
        .bind(micros(self.duration))
        .bind(position)
        .bind(&self.group)
        .bind(self.token)
        .execute(connection)
        .await
        .map_err(|source| RelayError::Lease { group: self.group.clone(), source })?;
        if renewed.rows_affected() == 0 {
            return Err(RelayError::Fenced { group: self.group.clone(), token: self.token });
        }
        Ok(())
    }

    /// Gives the lease back, so that the next relay need not wait until it is over.
    pub(crate) async fn give_back(&self, pool: &MySqlPool) -> Result<(), RelayError> {
        sqlx::query(
            "UPDATE outbox_position SET lease_owner = NULL, lease_until = NULL
             WHERE relay_group = ? AND fencing_token = ?",
        )
        .bind(&self.group)
        .bind(self.token)
        .execute(pool)
        .await
        .map_err(|source| RelayError::Lease { group: self.group.clone(), source })?;
        Ok(())
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
