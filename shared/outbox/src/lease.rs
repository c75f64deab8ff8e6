//! One relay of a group at a time: a lease on the database's clock, with a fencing token that rises at every owner.

use crate::error::RelayError;
use sqlx::{Connection, MySqlConnection};
use std::time::{Duration, Instant};

/// Held by one relay. Whoever moves the position shows its token in the same transaction.
#[derive(Clone, Debug)]
pub(crate) struct Lease {
    pub(crate) group: String,
    pub(crate) token: u64,
    duration: Duration,
    /// On this process's clock, and never later than the database's.
    valid_until: Instant,
}

impl Lease {
    /// Takes the lease where it is free or over, and with it the position; None while another relay holds it.
    pub(crate) async fn take(
        connection: &mut MySqlConnection,
        group: &str,
        owner: &str,
        duration: Duration,
    ) -> Result<Option<(Self, u64)>, RelayError> {
        let failed = |source| RelayError::Lease { group: group.to_owned(), source };
        let asked_at = Instant::now();
        let mut transaction = connection.begin().await.map_err(failed)?;
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
        let (token, position) =
            sqlx::query_as("SELECT fencing_token, position FROM outbox_position WHERE relay_group = ?")
                .bind(group)
                .fetch_one(&mut *transaction)
                .await
                .map_err(failed)?;
        transaction.commit().await.map_err(failed)?;
        let lease = Self { group: group.to_owned(), token, duration, valid_until: asked_at + duration };
        Ok(Some((lease, position)))
    }

    /// Whether it outlasts something that begins now and takes up to `duration`.
    pub(crate) fn outlasts(&self, duration: Duration) -> bool {
        Instant::now() + duration < self.valid_until
    }

    /// Shows the token and starts the lease's time again; with `position`, moves there in the same statement.
    /// Returns when the lease will be over: see [`Lease::renewed`].
    pub(crate) async fn renew(
        &self,
        connection: &mut MySqlConnection,
        position: Option<u64>,
    ) -> Result<Instant, RelayError> {
        let asked_at = Instant::now();
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
        Ok(asked_at + self.duration)
    }

    /// Notes what a renewal has brought.
    pub(crate) fn renewed(&mut self, valid_until: Instant) {
        self.valid_until = self.valid_until.max(valid_until);
    }

    /// Gives the lease back, so that the next relay need not wait until it is over.
    pub(crate) async fn give_back(&self, connection: &mut MySqlConnection) -> Result<(), RelayError> {
        sqlx::query(
            "UPDATE outbox_position SET lease_owner = NULL, lease_until = NULL
             WHERE relay_group = ? AND fencing_token = ?",
        )
        .bind(&self.group)
        .bind(self.token)
        .execute(connection)
        .await
        .map_err(|source| RelayError::Lease { group: self.group.clone(), source })?;
        Ok(())
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
