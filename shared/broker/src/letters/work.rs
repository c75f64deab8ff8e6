//! Finds the letters that an operator means, and carries out what is to be done with them, in the order of their topic.

use super::{
    LetterError,
    audit::{Action, History},
    desk::{Desk, Failed},
    letter::{Head, Letter, LetterId},
    log::{Bounds, Log},
    plan::{Filter, Item, Planner, Policy, Stay, Verdict},
};
use crate::topics;
use outflow_outbox::operator::Signature;
use std::{
    collections::HashMap,
    num::NonZeroU32,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};
use tokio::time::{Interval, MissedTickBehavior};

/// Letters, and bytes of them, in one transaction.
const CHUNK: u32 = 500;
const CHUNK_BYTES: usize = 4 << 20;

/// The letters of a topic that an operator means, and the part of the topic that was looked at.
///
/// # Errors
/// Where Kafka does not answer, or where letters are to be redriven and nobody could get them.
pub async fn select(
    log: &Log,
    letters: &str,
    action: Action,
    filter: &Filter,
    policy: Policy,
    within: Option<Bounds>,
) -> Result<(Vec<Item>, Bounds), LetterError> {
    let bounds = match within {
        Some(bounds) => Some(bounds),
        None => log.bounds(letters).await?,
    };
    let retries = topics::retries(topics::source(letters));
    if action == Action::Redrive && bounds.is_some() && log.bounds(&retries).await?.is_none() {
        return Err(LetterError::NoRetries { topic: retries });
    }
    let bounds = bounds.unwrap_or_default();
    // Before the letters: one that is closed meanwhile is found open, which taking the desk puts right.
    let history = History::read(log, letters).await?;
    let mut planner = Planner::new(letters, action, filter, policy);
    if let Some(mut reader) = log.read(letters, Some(bounds.clone())).await? {
        while let Some(message) = reader.next().await? {
            let head = Head::read(&message);
            let closed = history.of(&head);
            planner.see(head, closed);
        }
    }
    Ok((planner.finish(), bounds))
}

/// How many letters go at once, and how often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    chunk: u32,
    every: Duration,
}

impl Pace {
    pub const UNLIMITED: Self = Self { chunk: CHUNK, every: Duration::ZERO };

    /// At most so many a second, about ten times a second.
    pub fn per_second(letters: NonZeroU32) -> Self {
        let chunk = letters.get().div_ceil(10).min(CHUNK);
        // Rounded up: never faster than asked for.
        let nanos = (u64::from(chunk) * 1_000_000_000).div_ceil(u64::from(letters.get()));
        Self { chunk, every: Duration::from_nanos(nanos) }
    }

    fn ticks(self) -> Option<Interval> {
        if self.every.is_zero() {
            return None;
        }
        let mut ticks = tokio::time::interval(self.every);
        // What was late is not caught up with: that would be faster than asked for.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Some(ticks)
    }
}

/// What is to be done, by whom and how fast.
#[derive(Debug)]
pub struct Order<'a> {
    pub action: Action,
    pub policy: Policy,
    pub by: &'a Signature,
    pub pace: Pace,
    /// Ends the work before its next transaction.
    pub stop: &'a AtomicBool,
}

/// Carries out what is planned; each item is told what became of it. Calls `done` with the number of letters after each
/// transaction. An error is why it ended early.
///
/// # Errors
/// Where Kafka is away, or somebody else has taken the desk; what was done by then is told by the items.
pub async fn carry_out(
    log: &Log,
    desk: &Desk,
    items: &mut [Item],
    order: &Order<'_>,
    done: impl FnMut(u64),
) -> Result<(), LetterError> {
    let planned = items.iter().enumerate().filter(|(_, item)| item.verdict == Verdict::Planned);
    let planned: HashMap<LetterId, usize> = planned.map(|(index, item)| (item.id.clone(), index)).collect();
    let ticks = order.pace.ticks();
    let mut run = Run { desk, order, items, done, ticks, stay: Stay::default(), chunk: Vec::new(), bytes: 0 };
    let ended = match order.action {
        Action::Redrive => run.redrive(log, &planned).await,
        Action::Discard => run.discard().await,
    };
    let left = match &ended {
        // Read to the end, and not met: it is not there any more.
        Ok(Ended::Through) => Verdict::Unknown,
        Ok(Ended::Stopped) | Err(_) => Verdict::NotReached,
    };
    for item in items.iter_mut().filter(|item| item.verdict == Verdict::Planned) {
        item.verdict = left.clone();
    }
    ended.map(drop)
}

enum Ended {
    Through,
    /// Somebody wanted it to.
    Stopped,
}

struct Run<'a, F> {
    desk: &'a Desk,
    order: &'a Order<'a>,
    items: &'a mut [Item],
    done: F,
    ticks: Option<Interval>,
    /// What Kafka did not take holds back what is behind it.
    stay: Stay,
    chunk: Vec<(usize, Letter)>,
    bytes: usize,
}

impl<F: FnMut(u64)> Run<'_, F> {
    async fn redrive(&mut self, log: &Log, planned: &HashMap<LetterId, usize>) -> Result<Ended, LetterError> {
        let mut bounds = Bounds::new();
        for LetterId { partition, offset, .. } in planned.keys() {
            let (first, end) = bounds.entry(*partition).or_insert((*offset, offset + 1));
            (*first, *end) = ((*first).min(*offset), (*end).max(offset + 1));
        }
        let letters = topics::dead_letters(self.desk.topic());
        let Some(mut reader) = log.read(&letters, Some(bounds)).await? else { return Ok(Ended::Through) };
        while let Some(message) = reader.next().await? {
            let letter = Letter::read(&message);
            let Some(&index) = planned.get(&letter.head.id) else { continue };
            if let Ended::Stopped = self.add(index, letter).await? {
                return Ok(Ended::Stopped);
            }
        }
        self.flush().await
    }

    async fn discard(&mut self) -> Result<Ended, LetterError> {
        for index in 0..self.items.len() {
            let item = &self.items[index];
            let Some(head) = item.head.clone().filter(|_| item.verdict == Verdict::Planned) else { continue };
            let letter = Letter { head, value: None, headers: Vec::new() };
            if let Ended::Stopped = self.add(index, letter).await? {
                return Ok(Ended::Stopped);
            }
        }
        self.flush().await
    }

    async fn add(&mut self, index: usize, letter: Letter) -> Result<Ended, LetterError> {
        self.bytes += letter.value.as_ref().map_or(0, Vec::len);
        self.chunk.push((index, letter));
        if self.chunk.len() >= self.order.pace.chunk as usize || self.bytes >= CHUNK_BYTES {
            return self.flush().await;
        }
        Ok(Ended::Through)
    }

    /// Writes what was gathered: in one transaction, or one by one where Kafka does not take one of them.
    async fn flush(&mut self) -> Result<Ended, LetterError> {
        self.bytes = 0;
        let chunk = std::mem::take(&mut self.chunk);
        if chunk.is_empty() {
            return Ok(Ended::Through);
        }
        if let Some(ticks) = &mut self.ticks {
            ticks.tick().await;
        }
        if self.order.stop.load(Ordering::Relaxed) {
            return Ok(Ended::Stopped);
        }
        let (indexes, letters): (Vec<_>, Vec<_>) = chunk.into_iter().unzip();
        let (indexes, letters) = self.without_held(indexes, letters);
        match self.write(&indexes, &letters).await? {
            None => {}
            Some(error) if letters.len() == 1 => self.refused(indexes[0], &letters[0], &error),
            Some(_) => {
                for (index, letter) in indexes.into_iter().zip(letters) {
                    let (index, letter) = self.without_held(vec![index], vec![letter]);
                    if let Some(error) = self.write(&index, &letter).await? {
                        self.refused(index[0], &letter[0], &error);
                    }
                }
            }
        }
        Ok(Ended::Through)
    }

    /// Leaves out what would overtake one of its key that Kafka did not take.
    fn without_held(&mut self, indexes: Vec<usize>, letters: Vec<Letter>) -> (Vec<usize>, Vec<Letter>) {
        let orderly = self.order.action == Action::Redrive && !self.order.policy.out_of_order;
        indexes
            .into_iter()
            .zip(letters)
            .filter(|(index, letter)| match self.stay.before(&letter.head).filter(|_| orderly) {
                Some(earlier) => {
                    self.items[*index].verdict = Verdict::HeldByEarlier { earlier };
                    false
                }
                None => true,
            })
            .unzip()
    }

    fn refused(&mut self, index: usize, letter: &Letter, error: &rdkafka::error::KafkaError) {
        self.items[index].verdict = Verdict::Refused { reason: error.to_string() };
        self.stay.add(&letter.head);
    }

    /// Some error is one record's own: nothing was written, and others may pass.
    async fn write(
        &mut self,
        indexes: &[usize],
        letters: &[Letter],
    ) -> Result<Option<rdkafka::error::KafkaError>, LetterError> {
        if letters.is_empty() {
            return Ok(None);
        }
        let by = self.order.by;
        let written = match self.order.action {
            Action::Redrive => self.desk.redrive(letters, by).await,
            Action::Discard => self.desk.discard(letters, by).await,
        };
        match written {
            Ok(results) => {
                for (index, to) in indexes.iter().zip(results) {
                    self.items[*index].verdict = match self.order.action {
                        Action::Redrive => Verdict::Redriven { to },
                        Action::Discard => Verdict::Discarded,
                    };
                }
                (self.done)(letters.len() as u64);
                Ok(None)
            }
            Err(Failed::Refused(error)) => Ok(Some(error)),
            Err(Failed::Stopped(error)) => Err(error),
            Err(Failed::Uncertain(error)) => {
                indexes.iter().for_each(|index| self.items[*index].verdict = Verdict::Uncertain);
                Err(error)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_pace_is_faster_than_asked_for() {
        for letters in [1, 2, 3, 7, 10, 11, 99, 1_000, 4_999, 5_001, 1_000_000] {
            let pace = Pace::per_second(NonZeroU32::new(letters).expect("more than none"));
            // Within any second: those of the chunks that fit into it, and of one more.
            let chunks = 1_000_000_000 / pace.every.as_nanos();
            assert!(chunks * u128::from(pace.chunk) <= u128::from(letters), "{letters}: {pace:?}");
            assert!(pace.chunk <= letters.div_ceil(10).min(CHUNK) && pace.every <= Duration::from_secs(1));
        }
    }
}
