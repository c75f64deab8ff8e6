//! One partition's queue, and how it behaves after a failure.

use super::{Backoff, Discard};
use crate::{event::Message, invoke::FunctionError, template::Mapping};
use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// A partition reads ahead so much, bytes: more than one payload, so that the next batch is there in time. Pausing
/// costs a round of fetching, so it had better be rare.
const READ_AHEAD_BYTES: usize = 8 * 1024 * 1024;

/// And so many records: two of the largest batches.
const READ_AHEAD_RECORDS: usize = 20_000;

/// Why records go to the on-failure destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    RetriesExhausted,
    EventAgeExceeded,
    /// Larger than an invocation's payload may be.
    PayloadTooLarge,
}

impl Condition {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::RetriesExhausted => "RetriesExhausted",
            Self::EventAgeExceeded => "EventAgeExceeded",
            Self::PayloadTooLarge => "PayloadTooLarge",
        }
    }
}

/// What an invocation came to for one partition.
#[derive(Debug)]
pub(super) enum Verdict {
    Delivered,
    /// Index of the first record that the function could not handle.
    FailedFrom(usize),
    /// The invocation failed as a whole; `shared`: with other partitions in it.
    Error {
        shared: bool,
        error: Option<FunctionError>,
    },
}

/// A failure that has not been got over yet.
#[derive(Debug, Default)]
struct Trouble {
    /// Invocations that failed in a row, which sets the pace.
    in_row: u32,
    /// Invocations that counted against the record at the head.
    attempts: u32,
    /// Records at most in the next invocation, and no other partition in it.
    limit: Option<usize>,
    /// The last offset of the batch that failed: beyond it all is well again.
    until: i64,
    not_before: Option<Instant>,
    doomed: Option<(Condition, usize)>,
    error: Option<FunctionError>,
}

#[derive(Debug)]
pub(super) struct Partition {
    pub(super) epoch: u64,
    queue: VecDeque<(Instant, Message)>,
    bytes: usize,
    trouble: Option<Trouble>,
}

impl Partition {
    pub(super) fn new(epoch: u64) -> Self {
        Self { epoch, queue: VecDeque::new(), bytes: 0, trouble: None }
    }

    pub(super) fn push(&mut self, message: Message, now: Instant) {
        // Offsets that go back: the topic was made anew, and what is queued belongs to the old one.
        if self.queue.back().is_some_and(|(_, last)| message.offset <= last.offset) {
            self.queue.clear();
            self.bytes = 0;
            self.trouble = None;
            // What is under way belongs to the old one too. Assignments count up from 1 and never get here.
            self.epoch = self.epoch.wrapping_add(1 << 32);
        }
        self.bytes += message.size();
        self.queue.push_back((now, message));
    }

    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn is_full(&self) -> bool {
        self.bytes >= READ_AHEAD_BYTES || self.queue.len() >= READ_AHEAD_RECORDS
    }

    pub(super) fn has_room(&self) -> bool {
        self.bytes < READ_AHEAD_BYTES / 2 && self.queue.len() < READ_AHEAD_RECORDS / 2
    }

    pub(super) fn arrived(&self) -> Option<Instant> {
        self.queue.front().map(|(at, _)| *at)
    }

    pub(super) fn head_offset(&self) -> Option<i64> {
        self.queue.front().map(|(_, message)| message.offset)
    }

    pub(super) fn head(&self, count: usize) -> impl Iterator<Item = &Message> {
        self.queue.iter().take(count).map(|(_, message)| message)
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        let waiting = self.trouble.as_ref().and_then(|trouble| trouble.not_before);
        !self.queue.is_empty() && waiting.is_none_or(|until| until <= now)
    }

    pub(super) fn is_alone(&self) -> bool {
        self.trouble.as_ref().is_some_and(|trouble| trouble.limit.is_some())
    }

    pub(super) fn is_retry(&self) -> bool {
        self.trouble.is_some()
    }

    pub(super) fn limit(&self) -> usize {
        self.trouble.as_ref().and_then(|trouble| trouble.limit).unwrap_or(usize::MAX)
    }

    /// When this partition has something to do if nothing more arrives.
    pub(super) fn wake(&self, window: Duration) -> Option<Instant> {
        let arrived = self.arrived()?;
        match &self.trouble {
            None => Some(arrived + window),
            Some(trouble) => Some(trouble.not_before.unwrap_or(arrived)),
        }
    }

    /// Records at the head that no invocation will see again, and why.
    pub(super) fn doomed(&self, max_age: Option<Duration>, now_ms: i64) -> Option<(Condition, usize)> {
        if let Some(doomed) = self.trouble.as_ref().and_then(|trouble| trouble.doomed) {
            return Some(doomed);
        }
        let max_age_ms = i64::try_from(max_age?.as_millis()).ok()?;
        let is_old = |message: &&Message| now_ms.saturating_sub(message.timestamp_ms) > max_age_ms;
        let count = self.head(self.queue.len()).take_while(is_old).count();
        (count > 0).then_some((Condition::EventAgeExceeded, count))
    }

    pub(super) fn discard(&self, partition: i32, condition: Condition, count: usize) -> Discard {
        Discard {
            partition,
            epoch: self.epoch,
            condition,
            messages: self.head(count).cloned().collect(),
            invocations: self.trouble.as_ref().map_or(0, |trouble| trouble.attempts),
            error: self.trouble.as_ref().and_then(|trouble| trouble.error.clone()),
        }
    }

    /// Removes records from the head; the offset to read next.
    pub(super) fn drop_head(&mut self, count: usize) -> Option<i64> {
        let mut next = None;
        for (_, message) in self.queue.drain(..count.min(self.queue.len())) {
            self.bytes -= message.size();
            next = Some(message.offset + 1);
        }
        if let (Some(next), Some(trouble)) = (next, &mut self.trouble) {
            if next > trouble.until {
                self.trouble = None;
            } else {
                trouble.attempts = 0;
                trouble.in_row = 0;
                trouble.doomed = None;
                trouble.error = None;
                trouble.not_before = None;
                trouble.limit = trouble.limit.map(|limit| limit.saturating_mul(2));
            }
        }
        next
    }

    /// The on-failure destination did not take them: they stay at the head and are sent again later.
    pub(super) fn keep_doomed(
        &mut self,
        condition: Condition,
        count: usize,
        now: Instant,
        backoff: &Backoff,
        chance: u32,
    ) {
        let until = self.queue.get(count.saturating_sub(1)).map_or(0, |(_, message)| message.offset);
        let trouble = self.trouble.get_or_insert_default();
        trouble.until = trouble.until.max(until);
        trouble.doomed = Some((condition, count));
        trouble.in_row += 1;
        trouble.not_before = Some(now + backoff.wait(trouble.in_row, chance));
    }

    /// Applies a verdict on the first `count` records; the offset to commit if some were delivered.
    pub(super) fn settle(&mut self, count: usize, verdict: Verdict, mapping: &Mapping) -> Option<i64> {
        let exhausted = |attempts: u32| mapping.max_retries.is_some_and(|retries| attempts > retries);
        let last = self.queue.get(count.checked_sub(1)?).map(|(_, message)| message.offset)?;
        match verdict {
            Verdict::Delivered => self.drop_head(count),
            Verdict::FailedFrom(index) => {
                let next = self.drop_head(index);
                let trouble = self.trouble.get_or_insert_default();
                trouble.until = trouble.until.max(last);
                trouble.in_row += 1;
                trouble.attempts += 1;
                if exhausted(trouble.attempts) {
                    // The function has named the record. Without splitting Lambda gives up the rest of the batch too.
                    let doomed = if mapping.bisect { 1 } else { count - index };
                    trouble.doomed = Some((Condition::RetriesExhausted, doomed));
                    trouble.error = Some(FunctionError::new("BatchItemFailures", "named by the function"));
                }
                next
            }
            Verdict::Error { shared, error } => {
                let trouble = self.trouble.get_or_insert_default();
                trouble.until = trouble.until.max(last);
                trouble.in_row += 1;
                trouble.error = error;
                if shared {
                    // First find out whose fault it is: each partition by itself. That is a split, it burns nothing.
                    trouble.limit = Some(count);
                } else if mapping.bisect && count > 1 {
                    trouble.limit = Some(count / 2);
                } else {
                    trouble.limit = Some(count);
                    trouble.attempts += 1;
                    if exhausted(trouble.attempts) {
                        trouble.doomed = Some((Condition::RetriesExhausted, count));
                    }
                }
                None
            }
        }
    }

    /// Sets the time of the next attempt where there was a failure; how many there were in a row. What is doomed need
    /// not wait.
    pub(super) fn delay(
        &mut self,
        now: Instant,
        backoff: &Backoff,
        mut chance: impl FnMut() -> u32,
    ) -> Option<u32> {
        let trouble = self.trouble.as_mut().filter(|trouble| trouble.in_row > 0)?;
        trouble.not_before = match trouble.doomed {
            Some(_) => None,
            None => Some(now + backoff.wait(trouble.in_row, chance())),
        };
        Some(trouble.in_row)
    }
}
