//! Giving parked events up: they are never delivered. Each is kept, whole, in the audit.

use super::{
    Filter, Operator, OperatorError, Signature, Skipped, SkippedBecause,
    change::{self, CHUNK, Head},
    followers::Followers,
};
use serde::Serialize;
use sqlx::{MySql, MySqlConnection, QueryBuilder};
use std::collections::HashSet;

const OPERATION: &str = "discard events";

/// What to give up, and what is accepted with it.
#[derive(Clone, Debug, Default)]
pub struct Discard {
    pub filter: Filter,
    /// Says that an empty filter is meant.
    pub all: bool,
    /// With a head, everything that waits behind it.
    pub whole_aggregate: bool,
    /// Aggregates may be left out of order, now or by their next event: see [`OrderBreak`].
    pub breaks_order: bool,
    pub dry_run: bool,
}

/// What a discarded event does to its aggregate's order. Whatever it is: what is written later follows without the event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OrderBreak {
    /// Later events of the aggregate are written, and are delivered without it.
    LaterFollow,
    /// Readers know earlier versions of the aggregate and never get this one.
    VersionMissing,
    /// It is version 1 and nothing is written behind it yet, but the aggregate may go on.
    LaterMayFollow,
}

impl OrderBreak {
    /// None where a whole aggregate is meant and readers have nothing of it: version 1 goes, with everything that is
    /// written behind it.
    fn of(head: &Head, whole_aggregate: bool) -> Option<Self> {
        if head.unreached > 0 || (head.behind > 0 && !whole_aggregate) {
            Some(Self::LaterFollow)
        } else if head.aggregate_version > 1 {
            Some(Self::VersionMissing)
        } else if whole_aggregate {
            None
        } else {
            Some(Self::LaterMayFollow)
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
    /// Later events of its aggregate that are written and are delivered without it: those that waited behind it and
    /// stay, and those in the outbox that no relay has reached yet.
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
    /// Aggregates whose order is broken, or will be by their next event.
    pub broken: u64,
    pub skipped: Vec<Skipped>,
    /// More fit than one call changes: call again.
    pub more: bool,
}

/// What has become of an aggregate that was to be discarded as a whole.
enum Whole {
    Discarded(DiscardedEvent),
    /// Its head had gone.
    Gone,
    Left(SkippedBecause),
}

/// One transaction's part in it.
enum Step {
    Removed { waiting: u64, head: Option<Head> },
    HeadGone,
    Refused { followed_by: u64 },
}

impl Operator {
    /// Discards heads that fit, at most [`MAX_CHANGED`](super::MAX_CHANGED), and with `whole_aggregate` what waits behind
    /// them. What is left of an aggregate is due at once. One that a relay has on its way at this moment may still arrive.
    ///
    /// Where it shows only when an aggregate's turn comes that it would be left out of order, and that is not accepted, it
    /// is left as it is and told among the skipped.
    ///
    /// # Errors
    /// [`OperatorError::BreaksOrder`] where an aggregate would be left out of order and that is not accepted; where
    /// something asked for is out of its bounds, and where MySQL fails.
    pub async fn discard(
        &self,
        discard: &Discard,
        signature: &Signature,
    ) -> Result<Discarded, OperatorError> {
        let plan = self.plan(&discard.filter, discard.all, true).await?;
        discard.check_order(&plan.heads)?;
        let mut done = Discarded {
            group: self.group.clone(),
            dry_run: discard.dry_run,
            events: Vec::with_capacity(plan.heads.len()),
            discarded: 0,
            broken: 0,
            skipped: Vec::new(),
            more: plan.more,
        };
        let mut handled = HashSet::new();
        if discard.dry_run {
            done.events.extend(plan.heads.into_iter().map(|head| discard.outcome(head)));
        } else if discard.whole_aggregate {
            for head in &plan.heads {
                match self.discard_aggregate(discard, head, &plan.followers, signature).await? {
                    Whole::Gone => continue,
                    Whole::Discarded(event) => done.events.push(event),
                    Whole::Left(because) => {
                        done.skipped.push(Skipped { event: head.named(&discard.filter), because });
                    }
                }
                handled.insert(head.id);
            }
            done.skipped.extend(change::gone(&discard.filter, &plan.heads, &handled));
        } else {
            for chunk in plan.heads.chunks(CHUNK) {
                done.events.extend(self.discard_heads(discard, chunk, &plan.followers, signature).await?);
            }
            handled.extend(done.events.iter().map(|event| event.id));
            done.skipped.extend(change::gone(&discard.filter, &plan.heads, &handled));
        }
        done.skipped.extend(plan.skipped);
        done.count();
        Ok(done)
    }

    /// Whatever follows them was accepted, for without `whole_aggregate` it has to be.
    async fn discard_heads(
        &self,
        discard: &Discard,
        chunk: &[Head],
        followers: &Followers,
        signature: &Signature,
    ) -> Result<Vec<DiscardedEvent>, OperatorError> {
        let failed = OperatorError::database(OPERATION);
        let mut change = self.change(OPERATION).await?;
        let position = change.position;
        let discarded = async {
            let mut heads = self.heads(&mut change, &discard.filter, Some(chunk), CHUNK as u64).await?;
            followers.count(&mut change, &self.group, position, &mut heads).await?;
            let ids: Vec<u64> = heads.iter().map(|head| head.id).collect();
            self.remove(&mut change, &ids, signature).await?;
            self.promote(&mut change, &heads).await?;
            Ok(heads.into_iter().map(|head| discard.outcome(head)).collect())
        };
        let discarded: Result<_, sqlx::Error> = discarded.await;
        change.end(discarded.map_err(failed)).await
    }

    /// From its end, the head last: as long as something is left to discard, nothing of it is delivered.
    async fn discard_aggregate(
        &self,
        discard: &Discard,
        planned: &Head,
        followers: &Followers,
        signature: &Signature,
    ) -> Result<Whole, OperatorError> {
        let failed = OperatorError::database(OPERATION);
        let mut with_it = 0;
        loop {
            let mut change = self.change(OPERATION).await?;
            let position = change.position;
            let step = async {
                let planned = std::slice::from_ref(planned);
                let mut found = self.heads(&mut change, &discard.filter, Some(planned), 1).await?;
                followers.count(&mut change, &self.group, position, &mut found).await?;
                let Some(head) = found.pop() else { return Ok(Step::HeadGone) };
                // Once begun it is finished: half of it would be worse than what is written meanwhile.
                if with_it == 0 && !discard.breaks_order && OrderBreak::of(&head, true).is_some() {
                    return Ok(Step::Refused { followed_by: head.unreached });
                }
                let mut ids = self.last_waiting(&mut change, &head).await?;
                let waiting = ids.len() as u64;
                let is_last = ids.len() < CHUNK;
                if is_last {
                    ids.push(head.id);
                }
                self.remove(&mut change, &ids, signature).await?;
                Ok(Step::Removed { waiting, head: is_last.then_some(head) })
            };
            let step: Result<_, sqlx::Error> = step.await;
            match change.end(step.map_err(&failed)).await? {
                Step::HeadGone if with_it == 0 => return Ok(Whole::Gone),
                Step::HeadGone => return Ok(Whole::Left(SkippedBecause::HeadGone { with_it })),
                Step::Refused { followed_by } => {
                    return Ok(Whole::Left(SkippedBecause::BreaksOrder { followed_by }));
                }
                Step::Removed { waiting, head } => {
                    with_it += waiting;
                    if let Some(head) = head {
                        return Ok(Whole::Discarded(discard.outcome(Head { behind: with_it, ..head })));
                    }
                }
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
        let (with_it, waiting) = if self.whole_aggregate { (head.behind, 0) } else { (0, head.behind) };
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
            followed_by: waiting + head.unreached,
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

impl Discarded {
    fn count(&mut self) {
        let of_event = |event: &DiscardedEvent| (1 + event.with_it, event.breaks_order.is_some());
        let of_skipped = |skipped: &Skipped| match skipped.because {
            SkippedBecause::HeadGone { with_it } => Some((with_it, true)),
            _ => None,
        };
        let all = self.events.iter().map(of_event).chain(self.skipped.iter().filter_map(of_skipped));
        (self.discarded, self.broken) = all.fold((0, 0), |(discarded, broken), (events, breaks)| {
            (discarded + events, broken + u64::from(breaks))
        });
    }
}
