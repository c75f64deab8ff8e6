//! One event: the whole of it, and what became of it.

mod search;

use super::{AuditEntry, AuditFilter, EventRef, FailureState, Operator, OperatorError, Page, prune};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::{AssertSqlSafe, FromRow, MySqlConnection};
use time::{OffsetDateTime, serde::rfc3339};

/// Neighbours in an aggregate that are told of.
const NEIGHBOURS: u64 = 20;

/// What has become of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    Delivered,
    /// It could not be delivered, or waits behind one that could not.
    Parked,
    /// Its row has appeared below the position; a relay's next page takes it.
    InGap,
    /// Behind the position; a relay's next pages take it.
    Undelivered,
    /// An operator has given it up.
    Discarded,
    /// No row: it was delivered and its row deleted, or it was never committed.
    Pruned,
    /// No row, and an open transaction may still show it.
    NotVisible,
    /// No row, and there never will be: it was rolled back.
    RolledBack,
    /// The id is not given yet.
    Unknown,
}

#[derive(Clone, Debug, Serialize)]
pub struct Shown {
    pub group: String,
    /// The outbox row's.
    pub id: u64,
    pub fate: Fate,
    /// The row is there, delivered or not.
    pub in_outbox: bool,
    /// When the position had passed it at the latest; None where it is not delivered.
    #[serde(with = "rfc3339::option")]
    pub delivered_at: Option<OffsetDateTime>,
    /// None where neither its row nor a copy is left.
    #[serde(flatten)]
    pub event: Option<Event>,
    pub parked: Option<Parked>,
    /// What was done to it, the newest first.
    pub audit: Vec<AuditEntry>,
}

/// The event as it was written.
#[derive(Clone, Debug, Serialize, Deserialize, FromRow)]
pub struct Event {
    pub event_id: String,
    pub aggregate_type: String,
    pub aggregate_id: String,
    pub aggregate_version: u32,
    pub event_type: String,
    #[serde(with = "rfc3339")]
    pub created_at: OffsetDateTime,
    pub headers: Value,
    pub payload: Value,
}

/// Why it is parked, and its neighbours that are.
#[derive(Clone, Debug, Serialize)]
pub struct Parked {
    #[serde(flatten)]
    pub standing: Standing,
    /// Parked events of its aggregate before it: the first of them holds it up.
    pub ahead: Vec<Neighbour>,
    /// The first 20 of those that wait behind it.
    pub behind: Vec<Neighbour>,
    /// All of those.
    pub behind_count: u64,
}

#[derive(Clone, Debug, Serialize, FromRow)]
pub struct Standing {
    #[sqlx(try_from = "String")]
    pub state: FailureState,
    pub attempts: u32,
    pub cause: Option<String>,
    pub last_error: Option<String>,
    #[serde(with = "rfc3339::option")]
    pub next_attempt_at: Option<OffsetDateTime>,
    #[serde(with = "rfc3339")]
    pub parked_at: OffsetDateTime,
    /// `[{"at", "cause", "error"}]`, one entry an attempt, oldest first.
    pub history: Value,
}

#[derive(Clone, Debug, Serialize, FromRow)]
pub struct Neighbour {
    pub id: u64,
    pub event_id: String,
    pub aggregate_version: u32,
    pub event_type: String,
    #[sqlx(try_from = "String")]
    pub state: FailureState,
}

/// Where the group stands towards an id.
#[derive(Clone, Copy, Debug, FromRow)]
struct Place {
    position: u64,
    last_id: u64,
    in_gap: bool,
}

const EVENT: &str =
    "event_id, aggregate_type, aggregate_id, aggregate_version, event_type, created_at, headers, payload";

impl Operator {
    /// Everything that is known of an event. None where no event of this id is found: an event id is looked for among
    /// parked events, in the audit, and among the rows written within ten minutes of the time in it.
    ///
    /// # Errors
    /// Where there is no such group, where the id is no UUIDv7, which holds a time, and where MySQL fails.
    pub async fn show(&self, event: EventRef) -> Result<Option<Shown>, OperatorError> {
        let failed = OperatorError::database("show the event");
        let mut snapshot = self.snapshot().await.map_err(&failed)?;
        let found = match event {
            EventRef::Id(id) => Ok(Some(id)),
            EventRef::EventId(event_id) => self.find(&mut snapshot, event_id).await,
        };
        let shown = match found {
            Ok(Some(id)) => self.read(&mut snapshot, id).await.map_err(&failed).map(Some),
            Ok(None) => Ok(None),
            Err(error) => Err(error),
        };
        snapshot.rollback().await.map_err(&failed)?;
        let Some(shown) = shown? else { return Ok(None) };
        let Some(mut shown) = shown else { return Err(self.unknown_group().await) };
        let done = AuditFilter { outbox_id: Some(shown.id), ..AuditFilter::default() };
        shown.audit = self.audit(&done, Page::default()).await?;
        let discarded = shown.audit.iter().find(|entry| entry.action == "discard");
        if let Some(entry) = discarded.filter(|_| shown.fate != Fate::Parked) {
            shown.fate = Fate::Discarded;
            shown.delivered_at = None;
            let copy = entry.event.clone().and_then(|copy| serde_json::from_value(copy).ok());
            shown.event = shown.event.or(copy);
        }
        Ok(Some(shown))
    }

    async fn read(&self, connection: &mut MySqlConnection, id: u64) -> Result<Option<Shown>, sqlx::Error> {
        let place: Option<Place> = sqlx::query_as(
            "SELECT position, (SELECT CAST(COALESCE(MAX(id), 0) AS UNSIGNED) FROM outbox) AS last_id,
                 COALESCE((SELECT last_id >= ? FROM outbox_gaps WHERE relay_group = ? AND first_id <= ?
                     ORDER BY first_id DESC LIMIT 1), FALSE) AS in_gap
             FROM outbox_position WHERE relay_group = ?",
        )
        .bind(id)
        .bind(&self.group)
        .bind(id)
        .bind(&self.group)
        .fetch_optional(&mut *connection)
        .await?;
        let Some(place) = place else { return Ok(None) };
        let row = format!("SELECT {EVENT} FROM outbox WHERE id = ?");
        let row: Option<Event> =
            sqlx::query_as(AssertSqlSafe(row)).bind(id).fetch_optional(&mut *connection).await?;
        let in_outbox = row.is_some();
        let copy = self.parked(connection, id).await?;
        let (event, parked) = match copy {
            Some((event, parked)) => (Some(event), Some(parked)),
            None => (row, None),
        };
        let pruned_to = prune::pruned_to(connection, &self.group).await?;
        let fate = if parked.is_some() { Fate::Parked } else { place.fate(id, in_outbox, pruned_to) };
        let delivered_at = match fate {
            Fate::Delivered => self.passed_at(connection, id).await?,
            _ => None,
        };
        Ok(Some(Shown {
            group: self.group.clone(),
            id,
            fate,
            in_outbox,
            delivered_at,
            event,
            parked,
            audit: Vec::new(),
        }))
    }

    async fn parked(
        &self,
        connection: &mut MySqlConnection,
        id: u64,
    ) -> Result<Option<(Event, Parked)>, sqlx::Error> {
        let sql = format!(
            "SELECT {EVENT}, state, attempts, cause, last_error, next_attempt_at, parked_at, history
             FROM outbox_failures WHERE relay_group = ? AND id = ?"
        );
        let row = sqlx::query(AssertSqlSafe(sql)).bind(&self.group).bind(id);
        let Some(row) = row.fetch_optional(&mut *connection).await? else { return Ok(None) };
        let (event, standing) = (Event::from_row(&row)?, Standing::from_row(&row)?);
        let of_aggregate = "FROM outbox_failures FORCE INDEX (outbox_failures_aggregate)
            WHERE relay_group = ? AND aggregate_type = ? AND aggregate_id = ?";
        let columns = "id, event_id, aggregate_version, event_type, state";
        let neighbours = |side: &str| {
            AssertSqlSafe(format!(
                "SELECT {columns} {of_aggregate} AND id {side} ? ORDER BY id LIMIT {NEIGHBOURS}"
            ))
        };
        let mut sides = Vec::with_capacity(2);
        for side in ["<", ">"] {
            let query = sqlx::query_as(neighbours(side))
                .bind(&self.group)
                .bind(&event.aggregate_type)
                .bind(&event.aggregate_id)
                .bind(id);
            sides.push(query.fetch_all(&mut *connection).await?);
        }
        let behind = sides.pop().unwrap_or_default();
        let ahead = sides.pop().unwrap_or_default();
        let behind_count = sqlx::query_scalar(AssertSqlSafe(format!(
            "SELECT CAST(COUNT(*) AS UNSIGNED) {of_aggregate} AND id > ?"
        )))
        .bind(&self.group)
        .bind(&event.aggregate_type)
        .bind(&event.aggregate_id)
        .bind(id)
        .fetch_one(connection)
        .await?;
        Ok(Some((event, Parked { standing, ahead, behind, behind_count })))
    }

    /// When the position was seen at or behind it for the first time.
    async fn passed_at(
        &self,
        connection: &mut MySqlConnection,
        id: u64,
    ) -> Result<Option<OffsetDateTime>, sqlx::Error> {
        sqlx::query_scalar(
            "SELECT moved_at FROM outbox_checkpoints WHERE relay_group = ? AND position >= ? ORDER BY position LIMIT 1",
        )
        .bind(&self.group)
        .bind(id)
        .fetch_optional(connection)
        .await
    }
}

impl Place {
    /// Of an event that is not parked.
    fn fate(self, id: u64, in_outbox: bool, pruned_to: u64) -> Fate {
        match (in_outbox, id <= self.position) {
            (true, false) => Fate::Undelivered,
            (true, true) if self.in_gap => Fate::InGap,
            (true, true) => Fate::Delivered,
            (false, _) if id <= pruned_to => Fate::Pruned,
            (false, _) if self.in_gap => Fate::NotVisible,
            (false, true) => Fate::RolledBack,
            (false, false) if id <= self.last_id => Fate::NotVisible,
            (false, false) => Fate::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_and_its_place_tell_an_events_fate() {
        let fate = |id, in_outbox, in_gap| Place { position: 10, last_id: 20, in_gap }.fate(id, in_outbox, 3);
        assert_eq!(fate(3, false, false), Fate::Pruned);
        assert_eq!(fate(5, true, false), Fate::Delivered);
        assert_eq!(fate(5, true, true), Fate::InGap);
        assert_eq!(fate(5, false, true), Fate::NotVisible);
        assert_eq!(fate(5, false, false), Fate::RolledBack);
        assert_eq!(fate(11, true, false), Fate::Undelivered);
        assert_eq!(fate(11, false, false), Fate::NotVisible);
        assert_eq!(fate(21, false, false), Fate::Unknown);
    }
}
