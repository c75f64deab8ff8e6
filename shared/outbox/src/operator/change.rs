//! What every change has in common: the group's lock, who signs for it, which events it may touch, the audit.

use super::{
    Operator, OperatorError,
    failures::{self, BEHIND, EventRef, FailureState, Filter},
    followers::Followers,
};
use serde::Serialize;
use serde_json::Value;
use sqlx::{FromRow, MySql, MySqlConnection, QueryBuilder, Transaction};
use std::{
    collections::HashSet,
    ops::{Deref, DerefMut},
};

/// Heads that one call changes at most.
pub const MAX_CHANGED: u64 = 10_000;
/// Events changed in one transaction: for so long a relay cannot move its position.
pub(super) const CHUNK: usize = 100;

/// Who changes something, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    by: String,
    why: String,
}

impl Signature {
    /// # Errors
    /// Where one of them is empty or too long.
    pub fn new(by: impl Into<String>, why: impl Into<String>) -> Result<Self, OperatorError> {
        let fits = |text: &str, most: usize| (1..=most).contains(&text.chars().count());
        let (by, why) = (by.into().trim().to_owned(), why.into().trim().to_owned());
        if !fits(&by, 128) {
            return Err(OperatorError::Field { field: "by", wants: "1 to 128 characters" });
        }
        if !fits(&why, 500) {
            return Err(OperatorError::Field { field: "why", wants: "1 to 500 characters" });
        }
        Ok(Self { by, why })
    }

    pub fn by(&self) -> &str {
        &self.by
    }

    pub fn why(&self) -> &str {
        &self.why
    }
}

/// An event that was named, or that fits, and was not touched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Skipped {
    /// As it was named; else the number of its row.
    pub event: String,
    #[serde(flatten)]
    pub because: SkippedBecause,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "because")]
pub enum SkippedBecause {
    /// It is delivered, or unknown: `show` tells.
    NotParked,
    /// It is none of those that are meant as well.
    DoesNotFit,
    /// It waits for the first of its aggregate, and for that alone something can be done.
    Waits { head_id: u64 },
    /// Later events of its aggregate have been written since this was planned, and would follow without it.
    BreaksOrder { followed_by: u64 },
    /// It was delivered, or discarded by somebody else, while what waited behind it was being discarded from the end: so
    /// many are gone, and those before them follow it.
    HeadGone { with_it: u64 },
}

/// The group's row is held: neither a relay nor another operator changes anything meanwhile.
pub(super) struct Change {
    transaction: Transaction<'static, MySql>,
    operation: &'static str,
    /// Where it stays as long as the row is held.
    pub(super) position: u64,
}

impl Change {
    /// Commits what went well, takes back what did not, and waits for either.
    pub(super) async fn end<T>(self, outcome: Result<T, OperatorError>) -> Result<T, OperatorError> {
        let failed = OperatorError::database(self.operation);
        match outcome {
            Ok(done) => self.transaction.commit().await.map(|()| done).map_err(failed),
            Err(error) => {
                let _ = self.transaction.rollback().await;
                Err(error)
            }
        }
    }
}

impl Deref for Change {
    type Target = MySqlConnection;

    fn deref(&self) -> &MySqlConnection {
        &self.transaction
    }
}

impl DerefMut for Change {
    fn deref_mut(&mut self) -> &mut MySqlConnection {
        &mut self.transaction
    }
}

/// A head to be changed.
#[derive(Clone, Debug, FromRow)]
pub(super) struct Head {
    pub(super) id: u64,
    pub(super) event_id: String,
    pub(super) aggregate_type: String,
    pub(super) aggregate_id: String,
    pub(super) aggregate_version: u32,
    pub(super) event_type: String,
    #[sqlx(try_from = "String")]
    pub(super) state: FailureState,
    pub(super) attempts: u32,
    pub(super) cause: Option<String>,
    pub(super) behind: u64,
    /// Later events of its aggregate that are written and not parked yet; 0 until they were counted.
    #[sqlx(skip)]
    pub(super) unreached: u64,
}

impl Head {
    fn names(&self) -> impl Iterator<Item = EventRef> {
        [Ok(EventRef::Id(self.id)), self.event_id.parse().map(EventRef::EventId)].into_iter().flatten()
    }

    /// As the operator has named it; else its row's number.
    pub(super) fn named(&self, filter: &Filter) -> String {
        let name = self.names().find(|name| filter.events.contains(name));
        name.unwrap_or(EventRef::Id(self.id)).to_string()
    }
}

/// Named events that were heads when it was planned, and had gone when their turn came.
pub(super) fn gone(filter: &Filter, planned: &[Head], handled: &HashSet<u64>) -> Vec<Skipped> {
    let is_named = |head: &&Head| head.names().any(|name| filter.events.contains(&name));
    let gone = planned.iter().filter(|head| !handled.contains(&head.id)).filter(is_named);
    gone.map(|head| Skipped { event: head.named(filter), because: SkippedBecause::NotParked }).collect()
}

/// What a change is about to touch.
pub(super) struct Plan {
    pub(super) heads: Vec<Head>,
    pub(super) skipped: Vec<Skipped>,
    /// More fit than one call changes.
    pub(super) more: bool,
    /// None, where they were not wanted.
    pub(super) followers: Followers,
}

impl Operator {
    pub(super) async fn change(&self, operation: &'static str) -> Result<Change, OperatorError> {
        let failed = OperatorError::database(operation);
        // At REPEATABLE READ a change of parked events would lock the gaps between them against the relay.
        let mut transaction =
            self.begin("SET TRANSACTION ISOLATION LEVEL READ COMMITTED").await.map_err(&failed)?;
        let held: Option<u64> =
            sqlx::query_scalar("SELECT position FROM outbox_position WHERE relay_group = ? FOR UPDATE")
                .bind(&self.group)
                .fetch_optional(&mut *transaction)
                .await
                .map_err(&failed)?;
        if let Some(position) = held {
            return Ok(Change { transaction, operation, position });
        }
        transaction.rollback().await.map_err(&failed)?;
        Err(self.unknown_group().await)
    }

    /// Which heads a change is about to touch, all of it at one moment; where they are wanted, with what follows them in
    /// the outbox.
    pub(super) async fn plan(
        &self,
        filter: &Filter,
        all: bool,
        with_followers: bool,
    ) -> Result<Plan, OperatorError> {
        filter.check()?;
        if filter.is_empty() && !all {
            return Err(OperatorError::NothingSelected);
        }
        if filter.state == Some(FailureState::Waiting) {
            let wants = "retry or dead, for those that wait are changed through the first of their aggregate";
            return Err(OperatorError::Field { field: "state", wants });
        }
        if !Self::groups(&self.pool).await?.contains(&self.group) {
            return Err(self.unknown_group().await);
        }
        let failed = OperatorError::database("look for parked events");
        let mut snapshot = self.snapshot().await.map_err(&failed)?;
        let planned = self.read_plan(&mut snapshot, filter, with_followers).await;
        snapshot.rollback().await.map_err(&failed)?;
        planned.map_err(failed)
    }

    /// The heads that fit, lowest ids first, and what of the named events is none of them.
    async fn read_plan(
        &self,
        connection: &mut MySqlConnection,
        filter: &Filter,
        with_followers: bool,
    ) -> Result<Plan, sqlx::Error> {
        let mut heads = self.heads(connection, filter, None, MAX_CHANGED + 1).await?;
        let more = heads.len() as u64 > MAX_CHANGED;
        heads.truncate(usize::try_from(MAX_CHANGED).unwrap_or(usize::MAX));
        let planned: HashSet<EventRef> = heads.iter().flat_map(Head::names).collect();
        let mut skipped = Vec::new();
        for event in filter.events.iter().filter(|event| !planned.contains(event)) {
            let because = self.why_skipped(connection, *event).await?;
            skipped.push(Skipped { event: event.to_string(), because });
        }
        let mut followers = Followers::default();
        if with_followers {
            followers = Followers::look(connection, &self.group, &mut heads).await?;
        }
        Ok(Plan { heads, skipped, more, followers })
    }

    /// Heads that fit now, of these alone where some are given. Under the group's lock they stay as they are.
    pub(super) async fn heads(
        &self,
        connection: &mut MySqlConnection,
        filter: &Filter,
        of: Option<&[Head]>,
        limit: u64,
    ) -> Result<Vec<Head>, sqlx::Error> {
        let mut query = QueryBuilder::new(
            "SELECT f.id, f.event_id, f.aggregate_type, f.aggregate_id, f.aggregate_version, f.event_type, f.state,
                 f.attempts, f.cause, ",
        );
        query.push(BEHIND).push(" AS behind FROM outbox_failures f");
        filter.push(&mut query, &self.group);
        query.push(" AND f.state IN ('retry', 'dead')");
        if let Some(heads) = of {
            push_ids(query.push(" AND f.id IN "), heads.iter().map(|head| head.id));
        }
        query.push(" ORDER BY f.id LIMIT ").push_bind(limit);
        query.build_query_as().persistent(false).fetch_all(connection).await
    }

    async fn why_skipped(
        &self,
        connection: &mut MySqlConnection,
        event: EventRef,
    ) -> Result<SkippedBecause, sqlx::Error> {
        let named = Filter { events: vec![event], ..Filter::default() };
        let mut query = failures::select_failures();
        named.push(&mut query, &self.group);
        let found: Option<super::Failure> = query.build_query_as().fetch_optional(connection).await?;
        Ok(match found {
            None => SkippedBecause::NotParked,
            Some(failure) if failure.state == FailureState::Waiting => {
                SkippedBecause::Waits { head_id: failure.head_id }
            }
            Some(_) => SkippedBecause::DoesNotFit,
        })
    }
}

/// `(1, 2, 3)`; never empty.
pub(super) fn push_ids(query: &mut QueryBuilder<MySql>, ids: impl Iterator<Item = u64>) {
    query.push("(0");
    for id in ids {
        query.push(", ").push_bind(id);
    }
    query.push(")");
}

/// Notes what is about to be done to these events, with the whole of each where it is the last that is left of it.
pub(super) async fn audit_events(
    connection: &mut MySqlConnection,
    group: &str,
    (action, whole): (&'static str, bool),
    signature: &Signature,
    ids: &[u64],
) -> Result<(), sqlx::Error> {
    const WHOLE: &str = "JSON_OBJECT('id', id, 'event_id', event_id, 'aggregate_type', aggregate_type,
        'aggregate_id', aggregate_id, 'aggregate_version', aggregate_version, 'event_type', event_type,
        'payload', payload, 'headers', headers,
        'created_at', DATE_FORMAT(CONVERT_TZ(created_at, @@session.time_zone, '+00:00'), '%Y-%m-%dT%H:%i:%s.%fZ'),
        'state', state, 'attempts', attempts, 'cause', cause, 'last_error', last_error, 'history', history)";
    let mut insert = QueryBuilder::<MySql>::new(
        "INSERT INTO outbox_audit (relay_group, done_at, done_by, action, reason, outbox_id, event_id, event)
         SELECT relay_group, UTC_TIMESTAMP(6), ",
    );
    insert.push_bind(signature.by()).push(", ").push_bind(action).push(", ").push_bind(signature.why());
    insert.push(", id, event_id, ").push(if whole { WHOLE } else { "NULL" });
    insert.push(" FROM outbox_failures WHERE relay_group = ").push_bind(group).push(" AND id IN ");
    push_ids(&mut insert, ids.iter().copied());
    insert.push(" ORDER BY id").build().persistent(false).execute(connection).await?;
    Ok(())
}

/// Notes what is done to the group as such. Returns the note's id.
pub(super) async fn audit_group(
    connection: &mut MySqlConnection,
    group: &str,
    action: &'static str,
    signature: &Signature,
    details: Option<&Value>,
) -> Result<u64, sqlx::Error> {
    let noted = sqlx::query(
        "INSERT INTO outbox_audit (relay_group, done_at, done_by, action, reason, event)
         VALUES (?, UTC_TIMESTAMP(6), ?, ?, ?, ?)",
    )
    .bind(group)
    .bind(signature.by())
    .bind(action)
    .bind(signature.why())
    .bind(details)
    .execute(connection)
    .await?;
    Ok(noted.last_insert_id())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_signs_without_a_name_and_a_reason() {
        let refused = |by: &str, why: &str| Signature::new(by, why).map_err(|error| error.to_string());
        assert_eq!(refused("me", " "), Err("why is refused: wants 1 to 500 characters".to_owned()));
        assert_eq!(refused("", "because"), Err("by is refused: wants 1 to 128 characters".to_owned()));
        assert!(refused("me", &"é".repeat(501)).is_err());
        let signature = refused("me@host", &"é".repeat(500)).expect("500 characters, whatever their bytes");
        assert_eq!(signature.by(), "me@host");
    }
}
