//! Which records go into the next invocation, and what follows from its outcome: pure arithmetic, no I/O, no clock.
//!
//! A partition is a queue whose head is the next record to deliver; no record passes a failing one before it. Each
//! partition stands for itself: while one waits for its retry, the others go on.
//!
//! Must not: touch Kafka, or know of HTTP.

mod partition;
mod response;

pub(crate) use partition::Condition;

use crate::{
    event::{KafkaEvent, Message},
    invoke::{FunctionError, Outcome},
    template::Mapping,
};
use partition::{Partition, Verdict};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// How long to wait before a retry. Real Lambda waits longer; a developer waits for the screen.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    pub first: Duration,
    pub most: Duration,
}

impl Backoff {
    /// Doubles with each failure in a row, up to the most; the second half of it is chance, so that neighbours spread.
    pub(crate) fn wait(&self, in_row: u32, chance: u32) -> Duration {
        let full = self.first.saturating_mul(1 << in_row.saturating_sub(1).min(16)).min(self.most);
        let half = full / 2;
        // chance / 2^32 of the half.
        let nanos = half.as_nanos().saturating_mul(u128::from(chance)) >> 32;
        half + Duration::from_nanos(u64::try_from(nanos).unwrap_or_default())
    }
}

/// What to do next with one mapping.
#[derive(Debug)]
pub(crate) enum Work {
    Invoke(Batch),
    Discard(Discard),
    /// Nothing until then, or until something arrives.
    Wait(Option<Instant>),
}

/// Records on their way to the function.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) payload: String,
    pub(crate) records: usize,
    slices: BTreeMap<i32, Slice>,
}

/// The head of one partition's queue.
#[derive(Debug)]
pub(crate) struct Slice {
    /// Of the assignment that the records were read under.
    epoch: u64,
    pub(crate) offsets: Vec<i64>,
}

/// Records that go to the on-failure destination.
#[derive(Debug)]
pub(crate) struct Discard {
    pub(crate) partition: i32,
    epoch: u64,
    pub(crate) condition: Condition,
    pub(crate) messages: Vec<Message>,
    pub(crate) invocations: u32,
    pub(crate) error: Option<FunctionError>,
}

/// What an outcome came to, for the log.
#[derive(Debug, Default)]
pub(crate) struct Settled {
    /// Partition and next offset: delivered, to be committed.
    pub(crate) progress: BTreeMap<i32, i64>,
    /// Partitions that will be tried again, with their first offset and the failures in a row.
    pub(crate) retried: Vec<(i32, i64, u32)>,
    pub(crate) error: Option<FunctionError>,
    pub(crate) unavailable: Option<String>,
}

/// The queues of one mapping.
#[derive(Debug)]
pub(crate) struct Queues {
    mapping: Mapping,
    brokers: String,
    backoff: Backoff,
    partitions: BTreeMap<i32, Partition>,
    epoch: u64,
    /// Troubled partitions and the healthy rest take turns.
    troubled_last: bool,
    unavailable_in_row: u32,
    not_before: Option<Instant>,
}

impl Queues {
    pub(crate) fn new(mapping: Mapping, brokers: &str, backoff: Backoff) -> Self {
        Self {
            mapping,
            brokers: brokers.to_owned(),
            backoff,
            partitions: BTreeMap::new(),
            epoch: 0,
            troubled_last: false,
            unavailable_in_row: 0,
            not_before: None,
        }
    }

    pub(crate) fn assign(&mut self, partitions: &[i32]) {
        self.epoch += 1;
        for partition in partitions {
            self.partitions.insert(*partition, Partition::new(self.epoch));
        }
    }

    pub(crate) fn revoke(&mut self, partitions: &[i32]) {
        for partition in partitions {
            self.partitions.remove(partition);
        }
    }

    pub(crate) fn owns(&self, partition: i32) -> bool {
        self.partitions.contains_key(&partition)
    }

    /// Takes a record in; true if its partition should read no further for now.
    pub(crate) fn push(&mut self, message: Message, now: Instant) -> bool {
        let epoch = self.epoch;
        let partition = self.partitions.entry(message.partition).or_insert_with(|| Partition::new(epoch));
        partition.push(message, now);
        partition.is_full()
    }

    /// True once a partition that was full has room again.
    pub(crate) fn has_room(&self, partition: i32) -> bool {
        self.partitions.get(&partition).is_none_or(|queue| queue.has_room())
    }

    /// The next work at this time; call it only while no work of this mapping is under way.
    ///
    /// `now_ms` is the wall clock, milliseconds since the epoch.
    pub(crate) fn next(&mut self, now: Instant, now_ms: i64) -> Work {
        if let Some(until) = self.not_before.filter(|until| *until > now) {
            return Work::Wait(Some(until));
        }
        let due = |queue: &Partition| queue.is_due(now);
        for (partition, queue) in self.partitions.iter_mut().filter(|(_, queue)| due(queue)) {
            if let Some((condition, count)) = queue.doomed(self.mapping.max_age, now_ms) {
                return Work::Discard(queue.discard(*partition, condition, count));
            }
        }
        let alone: Vec<i32> = self.chosen(|queue| due(queue) && queue.is_alone());
        let together: Vec<i32> = self.chosen(|queue| due(queue) && !queue.is_alone());
        let group = match (alone.first(), self.is_ready(&together, now)) {
            (Some(partition), ready) if !(ready && self.troubled_last) => {
                self.troubled_last = true;
                vec![*partition]
            }
            (_, true) => {
                self.troubled_last = false;
                together
            }
            (_, false) => return Work::Wait(self.wake(now)),
        };
        self.compose(group)
    }

    fn chosen(&self, fits: impl Fn(&Partition) -> bool) -> Vec<i32> {
        let mut all: Vec<(&i32, &Partition)> = self.partitions.iter().filter(|(_, q)| fits(q)).collect();
        // Who has waited longest goes first.
        all.sort_by_key(|(_, queue)| queue.arrived());
        all.into_iter().map(|(partition, _)| *partition).collect()
    }

    /// A batch starts when it is full, when its oldest record has waited for the window, or for a retry that is due.
    fn is_ready(&self, group: &[i32], now: Instant) -> bool {
        let queues = || group.iter().filter_map(|partition| self.partitions.get(partition));
        let records: usize = queues().map(Partition::len).sum();
        let bytes: usize = queues().map(Partition::bytes).sum();
        records >= self.mapping.batch_size
            || bytes >= crate::event::MAX_PAYLOAD
            || queues().any(|queue| queue.is_retry())
            || queues().filter_map(Partition::arrived).any(|arrived| arrived + self.mapping.window <= now)
    }

    fn wake(&self, now: Instant) -> Option<Instant> {
        let wakes = self.partitions.values().filter_map(|queue| queue.wake(self.mapping.window));
        wakes.min().map(|at| at.max(now))
    }

    fn compose(&mut self, mut group: Vec<i32>) -> Work {
        group.truncate(self.mapping.batch_size);
        let mut event = KafkaEvent::new(&self.mapping, &self.brokers);
        let mut slices: BTreeMap<i32, Slice> = BTreeMap::new();
        let shares = self.shares(&group);
        // In the group's order, so that the one that has waited longest always gets in.
        for partition in group {
            let share = shares.get(&partition).copied().unwrap_or_default();
            let Some(queue) = self.partitions.get_mut(&partition) else { continue };
            let mut offsets = Vec::new();
            let mut full = false;
            for message in queue.head(share) {
                if !event.push(message) {
                    full = true;
                    break;
                }
                offsets.push(message.offset);
            }
            match (offsets.is_empty(), slices.is_empty() && full) {
                // Alone in the event and still too large: it never will be delivered.
                (true, true) => {
                    return Work::Discard(queue.discard(partition, Condition::PayloadTooLarge, 1));
                }
                (true, false) => {}
                (false, _) => {
                    slices.insert(partition, Slice { epoch: queue.epoch, offsets });
                }
            }
            if full {
                break;
            }
        }
        let records = slices.values().map(|slice| slice.offsets.len()).sum();
        Work::Invoke(Batch { payload: event.into_json(), records, slices })
    }

    /// How many records each partition gives: what small ones leave of their share goes to the larger ones.
    fn shares(&self, group: &[i32]) -> BTreeMap<i32, usize> {
        let mut available: Vec<(usize, i32)> = group
            .iter()
            .filter_map(|partition| self.partitions.get(partition).map(|queue| (queue, *partition)))
            .map(|(queue, partition)| (queue.len().min(queue.limit()), partition))
            .collect();
        available.sort_unstable();
        let mut room = self.mapping.batch_size;
        let mut left = available.len();
        let mut shares = BTreeMap::new();
        for (records, partition) in available {
            let share = records.min(room.div_ceil(left));
            room -= share;
            left -= 1;
            shares.insert(partition, share);
        }
        shares
    }

    /// Draws the consequences of an invocation. `chance` is a random number for the back-off.
    pub(crate) fn settle(
        &mut self,
        batch: &Batch,
        outcome: Outcome,
        now: Instant,
        mut chance: impl FnMut() -> u32,
    ) -> Settled {
        let mut settled = Settled::default();
        let (failures, error) = match outcome {
            Outcome::Unavailable(why) => {
                self.unavailable_in_row += 1;
                self.not_before = Some(now + self.backoff.wait(self.unavailable_in_row, chance()));
                settled.unavailable = Some(why);
                return settled;
            }
            Outcome::Failed(error) => (None, Some(error)),
            Outcome::Answer(_) if !self.mapping.partial => (Some(BTreeMap::new()), None),
            Outcome::Answer(body) => match response::failures(&body, &self.mapping.topic, &batch.slices) {
                Ok(failures) => (Some(failures), None),
                Err(why) => (None, Some(FunctionError::new("BatchItemFailures", why))),
            },
        };
        self.unavailable_in_row = 0;
        self.not_before = None;
        let shared = batch.slices.len() > 1;
        for (partition, slice) in &batch.slices {
            // Taken away meanwhile: its new owner reads it again from the committed offset.
            let Some(queue) = self.partitions.get_mut(partition).filter(|q| q.epoch == slice.epoch) else {
                continue;
            };
            let verdict = match &failures {
                None => Verdict::Error { shared, error: error.clone() },
                Some(failures) => match failures.get(partition) {
                    None => Verdict::Delivered,
                    Some(first) => Verdict::FailedFrom(*first),
                },
            };
            let next = queue.settle(slice.offsets.len(), verdict, &self.mapping);
            if let Some(in_row) = queue.delay(now, &self.backoff, &mut chance) {
                settled.retried.push((*partition, queue.head_offset().unwrap_or_default(), in_row));
            }
            if let Some(next) = next {
                settled.progress.insert(*partition, next);
            }
        }
        settled.error = error;
        settled
    }

    /// The on-failure destination has confirmed these records, or (`kept` false) could not take them yet.
    pub(crate) fn settle_discard(
        &mut self,
        discard: &Discard,
        kept: bool,
        now: Instant,
        chance: u32,
    ) -> Settled {
        let mut settled = Settled::default();
        let queue = self.partitions.get_mut(&discard.partition).filter(|q| q.epoch == discard.epoch);
        let Some(queue) = queue else { return settled };
        if kept {
            if let Some(next) = queue.drop_head(discard.messages.len()) {
                settled.progress.insert(discard.partition, next);
            }
        } else {
            queue.keep_doomed(discard.condition, discard.messages.len(), now, &self.backoff, chance);
        }
        settled
    }
}

#[cfg(test)]
mod tests;
