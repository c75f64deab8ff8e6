//! What operators did.

use super::{Operator, OperatorError, Page};
use serde::Serialize;
use serde_json::Value;
use sqlx::{FromRow, MySql, QueryBuilder};
use time::{OffsetDateTime, serde::rfc3339};

/// Which entries are meant: those that fit everything given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditFilter {
    /// `retry`, `discard`, `prune`, `pause` or `resume`.
    pub action: Option<String>,
    /// What was done to this row of the outbox.
    pub outbox_id: Option<u64>,
    pub from: Option<OffsetDateTime>,
    /// Before this time.
    pub to: Option<OffsetDateTime>,
}

/// Something that somebody did.
#[derive(Clone, Debug, Serialize, FromRow)]
pub struct AuditEntry {
    pub id: u64,
    #[serde(with = "rfc3339")]
    pub at: OffsetDateTime,
    pub by: String,
    pub action: String,
    pub reason: String,
    /// None where it was done to the whole group.
    pub outbox_id: Option<u64>,
    pub event_id: Option<String>,
    /// A discarded event, whole; for `prune`, how long rows were kept and how many went.
    pub event: Option<Value>,
}

impl Operator {
    /// What was done to the group, the newest first; `page.after` goes on behind the entry of this id.
    ///
    /// # Errors
    /// Where something asked for is out of its bounds, and where MySQL fails.
    pub async fn audit(&self, filter: &AuditFilter, page: Page) -> Result<Vec<AuditEntry>, OperatorError> {
        page.check()?;
        let mut query = QueryBuilder::<MySql>::new(
            "SELECT id, done_at AS at, done_by AS `by`, action, reason, outbox_id, event_id, event
             FROM outbox_audit WHERE relay_group = ",
        );
        query.push_bind(&self.group);
        if let Some(action) = &filter.action {
            query.push(" AND action = ").push_bind(action);
        }
        if let Some(id) = filter.outbox_id {
            query.push(" AND outbox_id = ").push_bind(id);
        }
        for (condition, at) in [(" AND done_at >= ", filter.from), (" AND done_at < ", filter.to)] {
            if let Some(at) = at {
                query.push(condition).push_bind(at);
            }
        }
        if page.after > 0 {
            query.push(" AND id < ").push_bind(page.after);
        }
        query.push(" ORDER BY id DESC LIMIT ").push_bind(page.limit);
        query
            .build_query_as()
            .persistent(false)
            .fetch_all(&self.pool)
            .await
            .map_err(OperatorError::database("list what was done"))
    }
}
