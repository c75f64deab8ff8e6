//! Stopping a group and letting it go on. A relay looks about once a second.

use super::{Operator, OperatorError, Signature, change};
use serde::Serialize;
use sqlx::{MySqlConnection, Row, mysql::MySqlRow};
use time::{OffsetDateTime, serde::rfc3339};

/// While it is there, nothing of the group is published; writers go on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Pause {
    #[serde(with = "rfc3339")]
    pub at: OffsetDateTime,
    pub by: String,
    pub reason: String,
}

impl Pause {
    pub(super) fn of_row(row: &MySqlRow) -> Result<Option<Self>, sqlx::Error> {
        let at: Option<OffsetDateTime> = row.try_get("paused_at")?;
        let text = |name: &str| row.try_get::<Option<String>, _>(name).map(Option::unwrap_or_default);
        at.map(|at| Ok(Self { at, by: text("paused_by")?, reason: text("paused_reason")? })).transpose()
    }
}

/// What became of the wish.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PauseChange {
    pub group: String,
    /// Nothing was changed: `changed` tells what would be.
    pub dry_run: bool,
    /// False where it was so before; then nothing has changed, not even the reason.
    pub changed: bool,
    /// As it is now, or as it was until now.
    pub pause: Option<Pause>,
}

impl Operator {
    /// Stops the group: a relay at work ends within about a second, what it has on its way still arrives.
    ///
    /// A group without a position is made where it is the first one, or with `new_group`: its position holds back what
    /// all groups prune, so a mistaken name must not become one.
    ///
    /// # Errors
    /// Where there is no such group, and where MySQL fails.
    pub async fn pause(&self, signature: &Signature, new_group: bool) -> Result<PauseChange, OperatorError> {
        let failed = OperatorError::database("pause the group");
        if new_group || Self::groups(&self.pool).await?.is_empty() {
            // By itself: where the row is there, it would be locked as shared and kept from its relay.
            sqlx::query("INSERT IGNORE INTO outbox_position (relay_group) VALUES (?)")
                .bind(&self.group)
                .execute(&self.pool)
                .await
                .map_err(&failed)?;
        }
        let mut change = self.change("pause the group").await?;
        let paused = self.set_pause(&mut change, signature).await.map_err(failed);
        let (changed, pause) = change.end(paused).await?;
        Ok(PauseChange { group: self.group.clone(), dry_run: false, changed, pause })
    }

    /// What [`Operator::pause`] would do now.
    ///
    /// # Errors
    /// As there.
    pub async fn would_pause(&self, new_group: bool) -> Result<PauseChange, OperatorError> {
        let pause = match self.look_for_pause().await? {
            Some(pause) => pause,
            None if new_group || Self::groups(&self.pool).await?.is_empty() => None,
            None => return Err(self.unknown_group().await),
        };
        Ok(PauseChange { group: self.group.clone(), dry_run: true, changed: pause.is_none(), pause })
    }

    async fn set_pause(
        &self,
        connection: &mut MySqlConnection,
        signature: &Signature,
    ) -> Result<(bool, Option<Pause>), sqlx::Error> {
        let before = self.read_pause(connection).await?;
        if before.is_some() {
            return Ok((false, before));
        }
        sqlx::query(
            "UPDATE outbox_position SET paused_at = UTC_TIMESTAMP(6), paused_by = ?, paused_reason = ?
             WHERE relay_group = ?",
        )
        .bind(signature.by())
        .bind(signature.why())
        .bind(&self.group)
        .execute(&mut *connection)
        .await?;
        change::audit_group(connection, &self.group, "pause", signature, None).await?;
        Ok((true, self.read_pause(connection).await?))
    }

    /// Lets the group go on.
    ///
    /// # Errors
    /// As [`Operator::pause`].
    pub async fn resume(&self, signature: &Signature) -> Result<PauseChange, OperatorError> {
        let mut change = self.change("resume the group").await?;
        let resumed = self.end_pause(&mut change, signature).await;
        let pause = change.end(resumed.map_err(OperatorError::database("resume the group"))).await?;
        Ok(PauseChange { group: self.group.clone(), dry_run: false, changed: pause.is_some(), pause })
    }

    /// What [`Operator::resume`] would do now.
    ///
    /// # Errors
    /// As there.
    pub async fn would_resume(&self) -> Result<PauseChange, OperatorError> {
        let Some(pause) = self.look_for_pause().await? else { return Err(self.unknown_group().await) };
        Ok(PauseChange { group: self.group.clone(), dry_run: true, changed: pause.is_some(), pause })
    }

    /// Returns what it ended.
    async fn end_pause(
        &self,
        connection: &mut MySqlConnection,
        signature: &Signature,
    ) -> Result<Option<Pause>, sqlx::Error> {
        let before = self.read_pause(connection).await?;
        if before.is_some() {
            sqlx::query(
                "UPDATE outbox_position SET paused_at = NULL, paused_by = NULL, paused_reason = NULL
                 WHERE relay_group = ?",
            )
            .bind(&self.group)
            .execute(&mut *connection)
            .await?;
            change::audit_group(connection, &self.group, "resume", signature, None).await?;
        }
        Ok(before)
    }

    /// Under the group's lock.
    async fn read_pause(&self, connection: &mut MySqlConnection) -> Result<Option<Pause>, sqlx::Error> {
        self.find_pause(connection).await?.ok_or(sqlx::Error::RowNotFound)
    }

    /// The outer None where there is no such group.
    async fn look_for_pause(&self) -> Result<Option<Option<Pause>>, OperatorError> {
        let failed = OperatorError::database("tell whether the group is paused");
        let mut connection = self.pool.acquire().await.map_err(&failed)?;
        self.find_pause(&mut connection).await.map_err(failed)
    }

    async fn find_pause(
        &self,
        connection: &mut MySqlConnection,
    ) -> Result<Option<Option<Pause>>, sqlx::Error> {
        let row = sqlx::query(
            "SELECT paused_at, paused_by, paused_reason FROM outbox_position WHERE relay_group = ?",
        )
        .bind(&self.group)
        .fetch_optional(connection)
        .await?;
        row.as_ref().map(Pause::of_row).transpose()
    }
}
