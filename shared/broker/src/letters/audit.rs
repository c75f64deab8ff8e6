//! What was done with dead letters, kept in Kafka beside them: in `<topic>.dlq.audit`, compacted, by the letter's id.
//!
//! A topic of its own for each topic of dead letters: one producer at a time writes to it (see `desk`), so that whatever
//! an unfinished transaction hides in it is that transaction's own.

use super::{
    LetterError,
    letter::{Head, LetterId},
    log::Log,
};
use crate::topics;
use rdkafka::Message;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use time::OffsetDateTime;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    Redrive,
    Discard,
}

/// One entry, as its JSON. Fields are only ever added, with a default.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub action: Action,
    pub who: String,
    pub why: String,
    #[serde(with = "time::serde::rfc3339")]
    pub when: OffsetDateTime,
    /// Where a redriven record went, `topic/partition/offset`; `discarded` otherwise.
    pub result: String,
    /// When the letter was put aside: a topic that was made anew gives its offsets to other letters.
    #[serde(with = "time::serde::rfc3339")]
    pub letter_at: OffsetDateTime,
}

/// The entries of one topic of dead letters.
#[derive(Clone, Debug, Default)]
pub struct History(HashMap<LetterId, Entry>);

impl History {
    /// Everything that is committed by now. `letters` is the topic of dead letters; one that nobody did anything about
    /// has no audit.
    ///
    /// # Errors
    /// Where Kafka does not answer.
    pub async fn read(log: &Log, letters: &str) -> Result<Self, LetterError> {
        let topic = topics::audit(topics::source(letters));
        let mut history = Self::default();
        let Some(mut reader) = log.read(&topic, None).await? else { return Ok(history) };
        while let Some(message) = reader.next().await? {
            let id = message.key().and_then(|key| std::str::from_utf8(key).ok()?.parse::<LetterId>().ok());
            let Some(id) = id else { continue };
            match message.payload().map(serde_json::from_slice) {
                Some(Ok(entry)) => {
                    history.0.insert(id, entry);
                }
                Some(Err(error)) => {
                    tracing::warn!(topic, offset = message.offset(), %error, "entry of the audit is unreadable");
                }
                None => {
                    history.0.remove(&id);
                }
            }
        }
        Ok(history)
    }

    /// What closed this letter; None while it is open.
    pub fn of(&self, head: &Head) -> Option<&Entry> {
        self.0.get(&head.id).filter(|entry| entry.letter_at == head.at)
    }
}
