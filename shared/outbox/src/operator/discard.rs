//! Giving parked events up: they are never delivered. Each is kept, whole, in the audit.

use super::{
    Filter, Operator, OperatorError, Signature, Skipped,
    change::{self, CHUNK, Head, Plan},
};
use serde::Serialize;
use sqlx::{MySql, MySqlConnection, QueryBuilder};

const OPERATION: &str = "discard events";

/// What to give up, and what is accepted with it.
#[derive(Clone, Debug, Default)]
pub struct Discard {
    pub filter: Filter,
    /// Says that an empty filter is meant.
    pub all: bool,
    /// With a head, everything that waits behind it.
    pub whole_aggregate: bool,
    /// Aggregates may be left out of order: see [`OrderBreak`].
    pub breaks_order: bool,
    pub dry_run: bool,
}

/// What a discarded event does to its aggregate's order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OrderBreak {
    /// Later events of the aggregate wait and are delivered without it.
    LaterFollow,
    /// Readers know earlier versions of the aggregate and never get this one.
    VersionMissing,
}

impl OrderBreak {
    /// None where readers never hear of the aggregate: version 1 goes, and nothing waits behind it.
    fn of(head: &Head, whole_aggregate: bool) -> Option<Self> {
        if head.behind > 0 && !whole_aggregate {
            Some(Self::LaterFollow)
        } else if head.aggregate_version > 1 {
            Some(Self::VersionMissing)
        } else {
            None
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DiscardedEvent {
    pub id: u64,
    pub event_id: String,
    pub aggregate_type: String,
    pub aggregate_id: String,
    pub aggregate_version: u32,
    pub event_type: String,
    pub attempts: u32,
    pub cause: Option<String>,
    /// Events that waited behind it and were discarded with it.
    pub with_it: u64,
    /// Events that waited behind it and are delivered now.
    pub followed_by: u64,
    pub breaks_order: Option<OrderBreak>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Discarded {
    pub group: String,
    /// Nothing was changed.
    pub dry_run: bool,
    pub events: Vec<DiscardedEvent>,
    /// Heads, and what was discarded with them.
    pub discarded: u64,
    /// Heads whose aggregate is left out of order.
    pub broken: u64,
    pub skipped: Vec<Skipped>,
    /// More fit than one call changes: call again.
    pub more: bool,
}

impl Operator {
    /// Discards heads that fit, at most [`MAX_CHANGED`](super::MAX_CHANGED), and with `whole_aggregate` what waits behind
    /// them. What is left of an aggregate is due at once. One that a relay has on its way at this moment may still arrive.
    ///
    /// # Errors
    /// [`OperatorError::BreaksOrder`] where an aggregate would be left out of order and that is not accepted; where
    /// something asked for is out of its bounds, and where MySQL fails.
    pub async fn discard(
        &self,
        discard: &Discard,
        signature: &Signature,
    ) -> Result<Discarded, OperatorError> {
        let Plan { heads, skipped, more } = self.plan(&discard.filter, discard.all).await?;
        discard.check_order(&heads)?;
        let mut events = Vec::with_capacity(heads.len());
        if discard.dry_run {
            events.extend(heads.into_iter().map(|head| discard.outcome(head)));
        } else if discard.whole_aggregate {
            for head in &heads {
                events.extend(self.discard_aggregate(discard, head, signature).await?);
            }
        } else {
            for chunk in heads.chunks(CHUNK) {
                events.extend(self.discard_heads(discard, chunk, signature).await?);
            }
        }
        Ok(Discarded {
            group: self.group.clone(),
            dry_run: discard.dry_run,
            discarded: events.iter().map(|event| 1 + event.with_it).sum(),
            broken: events.iter().filter(|event| event.breaks_order.is_some()).count() as u64,
            events,
            skipped,
            more,
        })
    }

    async fn discard_heads(
        &self,
        discard: &Discard,
        chunk: &[Head],
        signature: &Signature,
    ) -> Result<Vec<DiscardedEvent>, OperatorError> {
        let failed = OperatorError::database(OPERATION);
        let mut change = self.change(OPERATION).await?;
        let discarded = async {
            let heads = self.heads(&mut change, &discard.filter, Some(chunk), CHUNK as u64).await;
            let heads = heads.map_err(&failed)?;
            discard.check_order(&heads)?;
            let ids: Vec<u64> = heads.iter().map(|head| head.id).collect();
            self.remove(&mut change, &ids, signature).await.map_err(&failed)?;
            self.promote(&mut change, &heads).await.map_err(&failed)?;
            Ok(heads.into_iter().map(|head| discard.outcome(head)).collect())
        };
        let discarded = discarded.await;
        change.end(discarded).await
    }

    /// From its end, the head last: as long as something is left to discard, nothing of it is delivered. None where the
    /// head has gone meanwhile.
    async fn discard_aggregate(
        &self,
        discard: &Discard,
        planned: &Head,
        signature: &Signature,
    ) -> Result<Option<DiscardedEvent>, OperatorError> {
        let failed = OperatorError::database(OPERATION);
        let mut with_it = 0;
        loop {
            let mut change = self.change(OPERATION).await?;
            let step = async {
                let planned = std::slice::from_ref(planned);
                let found = self.heads(&mut change, &discard.filter, Some(planned), 1).await;
                let Some(head) = found.map_err(&failed)?.pop() else { return Ok(None) };
                discard.check_order(std::slice::from_ref(&head))?;
                let mut ids = self.last_waiting(&mut change, &head).await.map_err(&failed)?;
                let (waiting, is_all) = (ids.len() as u64, ids.len() < CHUNK);
                if is_all {
                    ids.push(head.id);
                }
                self.remove(&mut change, &ids, signature).await.map_err(&failed)?;
                Ok(Some((head, waiting, is_all)))
            };
            let step = step.await;
            let Some((head, waiting, is_all)) = change.end(step).await? else { return Ok(None) };
            with_it += waiting;
            if is_all {
                return Ok(Some(discard.outcome(Head { behind: with_it, ..head })));
            }
        }
    }

    /// The highest ids that wait behind the head.
    async fn last_waiting(
        &self,
        connection: &mut MySqlConnection,
        head: &Head,
    ) -> Result<Vec<u64>, sqlx::Error> {
        sqlx::query_scalar(
            "SELECT id FROM outbox_failures FORCE INDEX (outbox_failures_aggregate)
             WHERE relay_group = ? AND aggregate_type = ? AND aggregate_id = ? AND id > ? ORDER BY id DESC LIMIT ?",
        )
        .bind(&self.group)
        .bind(&head.aggregate_type)
        .bind(&head.aggregate_id)
        .bind(head.id)
        .bind(CHUNK as u64)
        .fetch_all(connection)
        .await
    }

    async fn remove(
        &self,
        connection: &mut MySqlConnection,
        ids: &[u64],
        signature: &Signature,
    ) -> Result<(), sqlx::Error> {
        change::audit_events(connection, &self.group, ("discard", true), signature, ids).await?;
        let mut delete = QueryBuilder::<MySql>::new("DELETE FROM outbox_failures WHERE relay_group = ");
        delete.push_bind(&self.group).push(" AND id IN ");
        change::push_ids(&mut delete, ids.iter().copied());
        delete.build().persistent(false).execute(connection).await?;
        Ok(())
    }

    /// Whatever waited behind these heads, which are gone: its first is the new head, and due at once.
    async fn promote(&self, connection: &mut MySqlConnection, gone: &[Head]) -> Result<(), sqlx::Error> {
        for head in gone.iter().filter(|head| head.behind > 0) {
            let first: Option<u64> = sqlx::query_scalar(
                "SELECT id FROM outbox_failures FORCE INDEX (outbox_failures_aggregate)
                 WHERE relay_group = ? AND aggregate_type = ? AND aggregate_id = ? ORDER BY id LIMIT 1",
            )
            .bind(&self.group)
            .bind(&head.aggregate_type)
            .bind(&head.aggregate_id)
            .fetch_optional(&mut *connection)
            .await?;
            sqlx::query(
                "UPDATE outbox_failures SET state = 'retry', next_attempt_at = UTC_TIMESTAMP(6)
                 WHERE relay_group = ? AND id = ? AND state = 'waiting'",
            )
            .bind(&self.group)
            .bind(first)
            .execute(&mut *connection)
            .await?;
        }
        Ok(())
    }
}

impl Discard {
    fn outcome(&self, head: Head) -> DiscardedEvent {
        let breaks_order = OrderBreak::of(&head, self.whole_aggregate);
        let (with_it, followed_by) = if self.whole_aggregate { (head.behind, 0) } else { (0, head.behind) };
        DiscardedEvent {
            id: head.id,
            event_id: head.event_id,
            aggregate_type: head.aggregate_type,
            aggregate_id: head.aggregate_id,
            aggregate_version: head.aggregate_version,
            event_type: head.event_type,
            attempts: head.attempts,
            cause: head.cause,
            with_it,
            followed_by,
            breaks_order,
        }
    }

    fn check_order(&self, heads: &[Head]) -> Result<(), OperatorError> {
        let breaks = |head: &&Head| OrderBreak::of(head, self.whole_aggregate).is_some();
        let Some(first) = heads.iter().find(breaks).filter(|_| !self.breaks_order && !self.dry_run) else {
            return Ok(());
        };
        Err(OperatorError::BreaksOrder {
            events: heads.iter().filter(breaks).count(),
            event_id: first.event_id.clone(),
            aggregate_type: first.aggregate_type.clone(),
            aggregate_id: first.aggregate_id.clone(),
            version: first.aggregate_version,
        })
    }
}
