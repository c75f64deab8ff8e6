//! An event's row by its event id. No index has event ids, which keeps writers fast; but a UUIDv7 holds the time it was
//! made at, and rows lie about in the order of their times.

use crate::operator::{Operator, OperatorError, prune};
use sqlx::MySqlConnection;
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

/// How far a writer's clock may be off, and how long its transaction may take from the id to the row.
const TOLERANCE: Duration = Duration::minutes(10);

impl Operator {
    pub(super) async fn find(
        &self,
        connection: &mut MySqlConnection,
        event_id: Uuid,
    ) -> Result<Option<u64>, OperatorError> {
        let failed = OperatorError::database("look for the event");
        let text = event_id.to_string();
        for known in [
            "SELECT id FROM outbox_failures WHERE relay_group = ? AND event_id = ? LIMIT 1",
            "SELECT outbox_id FROM outbox_audit WHERE relay_group = ? AND event_id = ? LIMIT 1",
        ] {
            let found: Option<u64> = sqlx::query_scalar(known)
                .bind(&self.group)
                .bind(&text)
                .fetch_optional(&mut *connection)
                .await
                .map_err(&failed)?;
            if found.is_some() {
                return Ok(found);
            }
        }
        let Some(made_at) = made_at(event_id) else {
            let wants = "a UUIDv7, which holds a time to look at, or the number of the outbox row";
            return Err(OperatorError::Field { field: "event", wants });
        };
        let after = prune::pruned_to(connection, &self.group).await.map_err(&failed)?;
        let first =
            first_since(connection, after, made_at.saturating_sub(TOLERANCE)).await.map_err(&failed)?;
        let end = first_since(connection, after, made_at.saturating_add(TOLERANCE)).await.map_err(&failed)?;
        sqlx::query_scalar("SELECT id FROM outbox WHERE id >= ? AND id < ? AND event_id = ? LIMIT 1")
            .bind(first)
            .bind(end)
            .bind(text)
            .fetch_optional(connection)
            .await
            .map_err(failed)
    }
}

/// None where the id is of another kind.
fn made_at(event_id: Uuid) -> Option<OffsetDateTime> {
    let (seconds, nanos) = event_id.get_timestamp().filter(|_| event_id.get_version_num() == 7)?.to_unix();
    let at = OffsetDateTime::from_unix_timestamp(i64::try_from(seconds).ok()?).ok()?;
    at.checked_add(Duration::nanoseconds(i64::from(nanos)))
}

/// The lowest id behind `after` that was written at this time or later; one beyond the last where there is none.
async fn first_since(
    connection: &mut MySqlConnection,
    after: u64,
    since: OffsetDateTime,
) -> Result<u64, sqlx::Error> {
    let last: u64 = sqlx::query_scalar("SELECT CAST(COALESCE(MAX(id), 0) AS UNSIGNED) FROM outbox")
        .fetch_one(&mut *connection)
        .await?;
    let (mut low, mut high) = (after + 1, last + 1);
    while low < high {
        let middle = low + (high - low) / 2;
        let row: Option<(u64, OffsetDateTime)> =
            sqlx::query_as("SELECT id, created_at FROM outbox WHERE id >= ? AND id < ? ORDER BY id LIMIT 1")
                .bind(middle)
                .bind(high)
                .fetch_optional(&mut *connection)
                .await?;
        match row {
            Some((id, written_at)) if written_at < since => low = id + 1,
            Some(_) | None => high = middle,
        }
    }
    Ok(low)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_uuid_of_version_7_tells_its_time() {
        let now = OffsetDateTime::now_utc();
        let made_at = super::made_at(Uuid::now_v7()).expect("it holds a time");
        assert!((made_at - now).abs() < Duration::seconds(2), "{made_at} {now}");
        assert_eq!(super::made_at(Uuid::new_v4()), None);
    }
}
