//! How many dead letters there are, by what went wrong.

use super::{
    LetterError,
    audit::{Action, Entry, History},
    letter::{Cause, Head, LetterId},
    log::Log,
    plan::Filter,
};
use serde::Serialize;
use std::collections::BTreeMap;
use time::OffsetDateTime;

/// How a letter stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Open,
    Redriven,
    Discarded,
}

impl State {
    pub fn of(closed: Option<&Entry>) -> Self {
        match closed.map(|entry| entry.action) {
            None => Self::Open,
            Some(Action::Redrive) => Self::Redriven,
            Some(Action::Discard) => Self::Discarded,
        }
    }
}

/// The letters of one cause.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Group {
    #[serde(flatten)]
    pub cause: Cause,
    pub letters: u64,
    #[serde(with = "time::serde::rfc3339")]
    pub first_seen: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    pub last_seen: OffsetDateTime,
    pub max_attempts: u32,
    /// The newest of them, and its reason.
    pub example: LetterId,
    pub example_reason: String,
}

/// All that fit, however they stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    pub open: u64,
    pub redriven: u64,
    pub discarded: u64,
}

#[derive(Clone, Debug, Default)]
pub struct Census {
    groups: BTreeMap<Cause, Group>,
    pub counts: Counts,
}

impl Census {
    /// Adds the letters of one topic that fit; those in this state are grouped.
    ///
    /// # Errors
    /// Where Kafka does not answer.
    pub async fn take(
        &mut self,
        log: &Log,
        letters: &str,
        filter: &Filter,
        state: Option<State>,
    ) -> Result<(), LetterError> {
        let taken = self.take_there(log, letters, filter, state).await;
        match taken {
            // Somebody has deleted it meanwhile.
            Err(LetterError::Read { .. }) if log.bounds(letters).await?.is_none() => Ok(()),
            taken => taken,
        }
    }

    async fn take_there(
        &mut self,
        log: &Log,
        letters: &str,
        filter: &Filter,
        state: Option<State>,
    ) -> Result<(), LetterError> {
        // Letters that are put aside while this reads are left to the next one.
        let Some(bounds) = log.bounds(letters).await? else { return Ok(()) };
        let history = History::read(log, letters).await?;
        let Some(mut reader) = log.read(letters, Some(bounds)).await? else { return Ok(()) };
        while let Some(message) = reader.next().await? {
            let head = Head::read(&message);
            if filter.fits(&head) {
                let stands = State::of(history.of(&head));
                self.add(head, stands, state);
            }
        }
        Ok(())
    }

    fn add(&mut self, head: Head, stands: State, wanted: Option<State>) {
        let counts = &mut self.counts;
        let count = match stands {
            State::Open => &mut counts.open,
            State::Redriven => &mut counts.redriven,
            State::Discarded => &mut counts.discarded,
        };
        *count += 1;
        if wanted.is_some_and(|wanted| wanted != stands) {
            return;
        }
        let Head { id, at, cause, reason, attempts, .. } = head;
        match self.groups.get_mut(&cause) {
            Some(group) => {
                group.letters += 1;
                group.first_seen = group.first_seen.min(at);
                group.max_attempts = group.max_attempts.max(attempts);
                if at >= group.last_seen {
                    (group.last_seen, group.example, group.example_reason) = (at, id, reason);
                }
            }
            None => {
                let group = Group {
                    cause: cause.clone(),
                    letters: 1,
                    first_seen: at,
                    last_seen: at,
                    max_attempts: attempts,
                    example: id,
                    example_reason: reason,
                };
                self.groups.insert(cause, group);
            }
        }
    }

    /// By topic, the most letters first.
    pub fn groups(self) -> Vec<Group> {
        let mut groups: Vec<Group> = self.groups.into_values().collect();
        groups.sort_by(|a, b| a.cause.topic.cmp(&b.cause.topic).then(b.letters.cmp(&a.letters)));
        groups
    }
}
