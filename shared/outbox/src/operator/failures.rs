//! Parked events: which there are, and what they have in common.

use super::{Operator, OperatorError};
use serde::Serialize;
use sqlx::{FromRow, MySql, MySqlConnection, QueryBuilder};
use std::{fmt, str::FromStr};
use time::{OffsetDateTime, serde::rfc3339};
use uuid::Uuid;

/// Parked events in one answer, where no other number is asked for.
pub const DEFAULT_LISTED: u64 = 50;
/// The most that one answer holds.
pub const MAX_LISTED: u64 = 1_000;
/// Causes in one answer; publishers know few.
const MAX_CAUSES: u64 = 100;
/// As the relay keeps them.
const MAX_WORD: usize = 64;
/// Events that can be named at once.
const MAX_NAMED: usize = 1_000;

/// How a parked event stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureState {
    /// The first of its aggregate, tried again when its time has come.
    Retry,
    /// Behind the first of its aggregate.
    Waiting,
    /// The first of its aggregate, not tried any more.
    Dead,
}

impl FailureState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Waiting => "waiting",
            Self::Dead => "dead",
        }
    }
}

impl FromStr for FailureState {
    type Err = OperatorError;

    fn from_str(text: &str) -> Result<Self, OperatorError> {
        [Self::Retry, Self::Waiting, Self::Dead]
            .into_iter()
            .find(|state| state.as_str() == text)
            .ok_or(OperatorError::Field { field: "state", wants: "retry, waiting or dead" })
    }
}

impl TryFrom<String> for FailureState {
    type Error = OperatorError;

    fn try_from(text: String) -> Result<Self, OperatorError> {
        text.parse()
    }
}

/// How a person names an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventRef {
    /// Its row in the outbox.
    Id(u64),
    EventId(Uuid),
}

impl FromStr for EventRef {
    type Err = OperatorError;

    fn from_str(text: &str) -> Result<Self, OperatorError> {
        let id = text.parse().map(Self::Id);
        id.or_else(|_| text.parse().map(Self::EventId)).map_err(|_| OperatorError::Field {
            field: "event",
            wants: "the number of an outbox row, or an event id (a UUID)",
        })
    }
}

impl fmt::Display for EventRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => write!(f, "{id}"),
            Self::EventId(id) => write!(f, "{id}"),
        }
    }
}

/// Which parked events are meant: those that fit everything given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Any of these; at most 1,000. Empty: not asked.
    pub events: Vec<EventRef>,
    pub state: Option<FailureState>,
    /// Such as `message_too_large`.
    pub cause: Option<String>,
    pub aggregate_type: Option<String>,
    pub aggregate_id: Option<String>,
    pub event_type: Option<String>,
    /// Parked at this time or later.
    pub parked_from: Option<OffsetDateTime>,
    /// Parked before this time.
    pub parked_to: Option<OffsetDateTime>,
}

impl Filter {
    /// Everything that is parked fits.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// # Errors
    /// Names what can fit nothing.
    pub(super) fn check(&self) -> Result<(), OperatorError> {
        let words = [
            ("cause", &self.cause),
            ("aggregate_type", &self.aggregate_type),
            ("aggregate_id", &self.aggregate_id),
            ("event_type", &self.event_type),
        ];
        let fits = |word: &str| {
            (1..=MAX_WORD).contains(&word.len()) && word.bytes().all(|byte| byte.is_ascii_graphic())
        };
        if let Some((field, _)) =
            words.into_iter().find(|(_, word)| word.as_deref().is_some_and(|w| !fits(w)))
        {
            return Err(OperatorError::Field { field, wants: "1 to 64 visible ASCII characters" });
        }
        if self.events.len() > MAX_NAMED {
            return Err(OperatorError::Field { field: "events", wants: "at most 1,000" });
        }
        if self.parked_from.zip(self.parked_to).is_some_and(|(from, to)| from >= to) {
            return Err(OperatorError::Field { field: "parked_from", wants: "a time before parked_to" });
        }
        Ok(())
    }

    /// ` WHERE …` over `outbox_failures f`.
    pub(super) fn push(&self, query: &mut QueryBuilder<MySql>, group: &str) {
        query.push(" WHERE f.relay_group = ").push_bind(group.to_owned());
        let words = [
            (" AND f.cause = ", &self.cause),
            (" AND f.aggregate_type = ", &self.aggregate_type),
            (" AND f.aggregate_id = ", &self.aggregate_id),
            (" AND f.event_type = ", &self.event_type),
        ];
        for (condition, word) in words {
            if let Some(word) = word {
                query.push(condition).push_bind(word.clone());
            }
        }
        if let Some(state) = self.state {
            query.push(" AND f.state = ").push_bind(state.as_str());
        }
        for (condition, at) in
            [(" AND f.parked_at >= ", self.parked_from), (" AND f.parked_at < ", self.parked_to)]
        {
            if let Some(at) = at {
                query.push(condition).push_bind(at);
            }
        }
        if self.events.is_empty() {
            return;
        }
        // An id is 0 nowhere, and an event id is never empty: so neither list is.
        query.push(" AND (f.id IN (0");
        for event in &self.events {
            if let EventRef::Id(id) = event {
                query.push(", ").push_bind(*id);
            }
        }
        query.push(") OR f.event_id IN (''");
        for event in &self.events {
            if let EventRef::EventId(id) = event {
                query.push(", ").push_bind(id.to_string());
            }
        }
        query.push("))");
    }
}

/// A part of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    /// At most so many: 1 to [`MAX_LISTED`].
    pub limit: u64,
    /// Where the part before ended: its `next_after`, or 0.
    pub after: u64,
}

impl Default for Page {
    fn default() -> Self {
        Self { limit: DEFAULT_LISTED, after: 0 }
    }
}

impl Page {
    /// # Errors
    /// Where the limit is out of its bounds.
    pub(super) fn check(&self) -> Result<(), OperatorError> {
        if (1..=MAX_LISTED).contains(&self.limit) {
            return Ok(());
        }
        Err(OperatorError::Field { field: "limit", wants: "1 to 1,000" })
    }
}

/// A parked event, without its content.
#[derive(Clone, Debug, Serialize, FromRow)]
pub struct Failure {
    /// The outbox row's.
    pub id: u64,
    pub event_id: String,
    pub aggregate_type: String,
    pub aggregate_id: String,
    pub aggregate_version: u32,
    pub event_type: String,
    #[sqlx(try_from = "String")]
    pub state: FailureState,
    /// Since it was parked, or since an operator had it tried again.
    pub attempts: u32,
    /// None where it was not tried yet.
    pub cause: Option<String>,
    pub last_error: Option<String>,
    #[serde(with = "rfc3339::option")]
    pub next_attempt_at: Option<OffsetDateTime>,
    #[serde(with = "rfc3339")]
    pub parked_at: OffsetDateTime,
    #[serde(with = "rfc3339")]
    pub created_at: OffsetDateTime,
    /// The first of its aggregate, which may be itself.
    pub head_id: u64,
    /// Later events of its aggregate, which wait for it; None where it waits itself.
    pub behind: Option<u64>,
}

/// A part of what is parked, lowest ids first.
#[derive(Clone, Debug, Serialize)]
pub struct Failures {
    pub group: String,
    pub failures: Vec<Failure>,
    /// Where the next part begins; None at the end.
    pub next_after: Option<u64>,
}

/// Heads with the same cause.
#[derive(Clone, Debug, Serialize, FromRow)]
pub struct Cause {
    /// None: not tried yet, since what was before them is through.
    pub cause: Option<String>,
    /// Heads: `retry` and `dead` together, one an aggregate.
    pub events: u64,
    pub retry: u64,
    pub dead: u64,
    /// Events that wait behind them.
    pub waiting: u64,
    /// When the first of them was parked.
    #[serde(with = "rfc3339")]
    pub first_seen_at: OffsetDateTime,
    /// The last attempt at one of them; where none was tried, when the last was parked.
    #[serde(with = "rfc3339")]
    pub last_seen_at: OffsetDateTime,
    pub min_attempts: u32,
    pub max_attempts: u32,
    /// The one with the lowest id.
    pub example_id: u64,
    pub example_event_id: String,
    pub example_error: Option<String>,
}

/// How many events wait behind `f`, a head. The index is named wherever an aggregate is looked for: for one with many
/// events MySQL would sort all of them, or walk the primary key until it meets the first.
pub(super) const BEHIND: &str = "(SELECT CAST(COUNT(*) AS UNSIGNED) \
     FROM outbox_failures b FORCE INDEX (outbox_failures_aggregate) WHERE b.relay_group = f.relay_group \
     AND b.aggregate_type = f.aggregate_type AND b.aggregate_id = f.aggregate_id AND b.id > f.id)";

/// Failures `f`, for their conditions to follow.
pub(super) fn select_failures() -> QueryBuilder<MySql> {
    let mut query = QueryBuilder::new(
        "SELECT f.id, f.event_id, f.aggregate_type, f.aggregate_id, f.aggregate_version, f.event_type, f.state,
             f.attempts, f.cause, f.last_error, f.next_attempt_at, f.parked_at, f.created_at,
             (SELECT h.id FROM outbox_failures h FORCE INDEX (outbox_failures_aggregate)
              WHERE h.relay_group = f.relay_group AND h.aggregate_type = f.aggregate_type
              AND h.aggregate_id = f.aggregate_id
              ORDER BY h.relay_group, h.aggregate_type, h.aggregate_id, h.id LIMIT 1) AS head_id,
             IF(f.state = 'waiting', NULL, ",
    );
    query.push(BEHIND).push(") AS behind FROM outbox_failures f");
    query
}

impl Operator {
    /// Parked events that fit, lowest ids first.
    ///
    /// # Errors
    /// Where something asked for is out of its bounds, and where MySQL fails.
    pub async fn list(&self, filter: &Filter, page: Page) -> Result<Failures, OperatorError> {
        filter.check()?;
        page.check()?;
        let mut query = select_failures();
        filter.push(&mut query, &self.group);
        query.push(" AND f.id > ").push_bind(page.after);
        query.push(" ORDER BY f.id LIMIT ").push_bind(page.limit + 1);
        let mut failures: Vec<Failure> = query
            .build_query_as()
            .persistent(false)
            .fetch_all(&self.pool)
            .await
            .map_err(OperatorError::database("list parked events"))?;
        let more = failures.len() as u64 > page.limit;
        failures.truncate(usize::try_from(page.limit).unwrap_or(usize::MAX));
        let next_after = failures.last().filter(|_| more).map(|last| last.id);
        Ok(Failures { group: self.group.clone(), failures, next_after })
    }

    /// Why the heads that fit are parked, most events first; at most 100 causes.
    ///
    /// # Errors
    /// As [`Operator::list`]; `waiting` events have no cause of their own.
    pub async fn causes(&self, filter: &Filter) -> Result<Vec<Cause>, OperatorError> {
        filter.check()?;
        if filter.state == Some(FailureState::Waiting) {
            return Err(OperatorError::Field {
                field: "state",
                wants: "retry or dead, for those that wait have no cause",
            });
        }
        let failed = OperatorError::database("group parked events by their cause");
        let mut connection = self.pool.acquire().await.map_err(&failed)?;
        causes(&mut connection, &self.group, filter, MAX_CAUSES).await.map_err(failed)
    }
}

pub(super) async fn causes(
    connection: &mut MySqlConnection,
    group: &str,
    filter: &Filter,
    limit: u64,
) -> Result<Vec<Cause>, sqlx::Error> {
    // The time of the last attempt is text in the history, of one form: so the greatest text is the latest time.
    let mut query = QueryBuilder::new(
        "SELECT g.*, e.event_id AS example_event_id, e.last_error AS example_error FROM (
             SELECT f.cause, CAST(COUNT(*) AS UNSIGNED) AS events, CAST(SUM(f.state = 'retry') AS UNSIGNED) AS retry,
                 CAST(SUM(f.state = 'dead') AS UNSIGNED) AS dead,
                 CAST(SUM(",
    );
    query.push(BEHIND).push(
        ") AS UNSIGNED) AS waiting,
                 MIN(f.parked_at) AS first_seen_at,
                 CAST(COALESCE(
                     REPLACE(REPLACE(MAX(JSON_UNQUOTE(JSON_EXTRACT(f.history, '$[last].at'))), 'T', ' '), 'Z', ''),
                     MAX(f.parked_at)) AS DATETIME(6)) AS last_seen_at,
                 MIN(f.attempts) AS min_attempts, MAX(f.attempts) AS max_attempts, MIN(f.id) AS example_id
             FROM outbox_failures f",
    );
    filter.push(&mut query, group);
    query
        .push(" AND f.state IN ('retry', 'dead') GROUP BY f.cause ORDER BY events DESC, f.cause LIMIT ")
        .push_bind(limit)
        .push(") g JOIN outbox_failures e ON e.relay_group = ")
        .push_bind(group.to_owned())
        .push(" AND e.id = g.example_id ORDER BY g.events DESC, g.cause");
    query.build_query_as().persistent(false).fetch_all(connection).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_named_by_its_row_or_by_its_id() {
        assert_eq!("42".parse::<EventRef>().expect("a number"), EventRef::Id(42));
        let id = Uuid::now_v7();
        assert_eq!(id.to_string().parse::<EventRef>().expect("a UUID"), EventRef::EventId(id));
        let error = "forty".parse::<EventRef>().unwrap_err();
        assert!(error.to_string().contains("event is refused: wants the number"), "{error}");
    }

    #[test]
    fn what_can_fit_nothing_is_named() {
        let check = |filter: Filter| filter.check().map_err(|error| error.to_string());
        assert_eq!(check(Filter::default()), Ok(()));
        let cause = Filter { cause: Some("x".repeat(65)), ..Filter::default() };
        assert_eq!(check(cause), Err("cause is refused: wants 1 to 64 visible ASCII characters".to_owned()));
        let now = OffsetDateTime::now_utc();
        let nothing = Filter { parked_from: Some(now), parked_to: Some(now), ..Filter::default() };
        assert_eq!(check(nothing), Err("parked_from is refused: wants a time before parked_to".to_owned()));
    }
}
