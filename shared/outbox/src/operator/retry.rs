//! Having parked events tried again, now.

use super::{
    FailureState, Filter, Operator, OperatorError, Signature, Skipped,
    change::{self, CHUNK, Head, Plan},
};
use serde::Serialize;
use sqlx::{MySqlConnection, QueryBuilder};

/// A head that is due at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RetriedEvent {
    pub id: u64,
    pub event_id: String,
    pub aggregate_type: String,
    pub aggregate_id: String,
    pub aggregate_version: u32,
    pub event_type: String,
    /// As it was before.
    pub was: FailureState,
    /// As they were before: a dead one begins at 0 again, its history stays.
    pub attempts: u32,
    pub cause: Option<String>,
    /// Later events of its aggregate that follow once it is through.
    pub behind: u64,
}

#[derive(Clone, Debug, Serialize)]
pub struct Retried {
    pub group: String,
    /// Nothing was changed.
    pub dry_run: bool,
    pub events: Vec<RetriedEvent>,
    pub skipped: Vec<Skipped>,
    /// More fit than one call changes: call again.
    pub more: bool,
}

impl Operator {
    /// Makes heads that fit due at once, at most [`MAX_CHANGED`](super::MAX_CHANGED): dead ones, with their attempts back
    /// at 0, and those that pause between two attempts. What waits behind them follows by itself.
    ///
    /// `all` says that an empty filter is meant.
    ///
    /// # Errors
    /// Where something asked for is out of its bounds, and where MySQL fails.
    pub async fn retry(
        &self,
        filter: &Filter,
        all: bool,
        signature: &Signature,
        dry_run: bool,
    ) -> Result<Retried, OperatorError> {
        let Plan { heads, mut skipped, more, .. } = self.plan(filter, all, false).await?;
        let retried = if dry_run {
            heads
        } else {
            let retried = self.retry_heads(filter, &heads, signature).await?;
            let handled = retried.iter().map(|head| head.id).collect();
            skipped.extend(change::gone(filter, &heads, &handled));
            retried
        };
        let events = retried.into_iter().map(RetriedEvent::from).collect();
        Ok(Retried { group: self.group.clone(), dry_run, events, skipped, more })
    }

    async fn retry_heads(
        &self,
        filter: &Filter,
        planned: &[Head],
        signature: &Signature,
    ) -> Result<Vec<Head>, OperatorError> {
        const OPERATION: &str = "have events tried again";
        let mut retried = Vec::with_capacity(planned.len());
        for chunk in planned.chunks(CHUNK) {
            let mut change = self.change(OPERATION).await?;
            let heads = self.retry_chunk(&mut change, filter, chunk, signature).await;
            retried.extend(change.end(heads.map_err(OperatorError::database(OPERATION))).await?);
        }
        Ok(retried)
    }

    async fn retry_chunk(
        &self,
        connection: &mut MySqlConnection,
        filter: &Filter,
        chunk: &[Head],
        signature: &Signature,
    ) -> Result<Vec<Head>, sqlx::Error> {
        let heads = self.heads(connection, filter, Some(chunk), CHUNK as u64).await?;
        let ids: Vec<u64> = heads.iter().map(|head| head.id).collect();
        change::audit_events(connection, &self.group, ("retry", false), signature, &ids).await?;
        let mut update = QueryBuilder::new(
            "UPDATE outbox_failures SET attempts = IF(state = 'dead', 0, attempts), state = 'retry',
                 next_attempt_at = UTC_TIMESTAMP(6) WHERE relay_group = ",
        );
        update.push_bind(&self.group).push(" AND id IN ");
        change::push_ids(&mut update, ids.into_iter());
        update.build().persistent(false).execute(connection).await?;
        Ok(heads)
    }
}

impl From<Head> for RetriedEvent {
    fn from(head: Head) -> Self {
        Self {
            id: head.id,
            event_id: head.event_id,
            aggregate_type: head.aggregate_type,
            aggregate_id: head.aggregate_id,
            aggregate_version: head.aggregate_version,
            event_type: head.event_type,
            was: head.state,
            attempts: head.attempts,
            cause: head.cause,
            behind: head.behind,
        }
    }
}
