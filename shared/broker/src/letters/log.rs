//! Reads topics of dead letters, and of what was done with them, from end to end. Commits nothing, joins no group.

use super::{
    LetterError,
    letter::{Letter, LetterId},
};
use crate::topics;
use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer, StreamConsumer},
    error::{KafkaError, RDKafkaErrorCode},
    message::BorrowedMessage,
};
use std::{collections::BTreeMap, time::Duration};
use time::OffsetDateTime;

/// The broker's time to answer a question.
const ANSWER: Duration = Duration::from_secs(10);
/// A topic that goes on for longer than this without a record, and has not ended, is not being read.
const SILENCE: Duration = Duration::from_secs(30);

/// The first and the last offset to read of each partition, the last one left out.
pub type Bounds = BTreeMap<i32, (i64, i64)>;

/// Where in a topic to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// The first record that is left.
    Beginning,
    /// Behind the last one that is there now.
    End,
    /// The first one of this time or later, by the records' own times.
    Time(OffsetDateTime),
}

/// The brokers, as a reader sees them.
#[derive(Clone, Debug)]
pub struct Log {
    brokers: String,
}

impl Log {
    /// Does not wait for the brokers.
    pub fn new(brokers: impl Into<String>) -> Self {
        Self { brokers: brokers.into() }
    }

    pub fn brokers(&self) -> &str {
        &self.brokers
    }

    /// The names of all topics.
    ///
    /// # Errors
    /// Where Kafka does not answer.
    pub async fn topics(&self) -> Result<Vec<String>, LetterError> {
        let client: BaseConsumer = self.client()?;
        let metadata = blocking(move || client.fetch_metadata(None, ANSWER)).await;
        let metadata = metadata.map_err(|source| self.unanswered("list topics", source))?;
        Ok(metadata.topics().iter().map(|topic| topic.name().to_owned()).collect())
    }

    /// From the first record that is left to behind the last one that is committed. None where there is no such topic.
    ///
    /// # Errors
    /// Where Kafka does not answer.
    pub async fn bounds(&self, topic: &str) -> Result<Option<Bounds>, LetterError> {
        let client: BaseConsumer = self.client()?;
        let name = topic.to_owned();
        let bounds = blocking(move || {
            let metadata = client.fetch_metadata(Some(&name), ANSWER)?;
            let found = metadata.topics().iter().find(|found| found.name() == name);
            let Some(found) = found.filter(|found| found.error().is_none()) else { return Ok(None) };
            let of = |partition: i32| Ok((partition, client.fetch_watermarks(&name, partition, ANSWER)?));
            found
                .partitions()
                .iter()
                .map(|partition| of(partition.id()))
                .collect::<Result<Bounds, _>>()
                .map(Some)
        });
        match bounds.await {
            Err(error) if is_unknown(&error) => Ok(None),
            other => other.map_err(|source| self.unanswered(&format!("tell the size of {topic}"), source)),
        }
    }

    /// From a place on to behind the last record that is committed. None where there is no such topic.
    ///
    /// # Errors
    /// Where Kafka does not answer.
    pub async fn bounds_from(&self, topic: &str, start: Start) -> Result<Option<Bounds>, LetterError> {
        let Some(mut bounds) = self.bounds(topic).await? else { return Ok(None) };
        let later = match start {
            Start::Beginning => return Ok(Some(bounds)),
            Start::End => BTreeMap::new(),
            Start::Time(time) => self.offsets_at(topic, &bounds, time).await?,
        };
        for (partition, (first, end)) in &mut bounds {
            *first = later.get(partition).copied().unwrap_or(*end);
        }
        Ok(Some(bounds))
    }

    /// Of each partition the first offset of a time or later; without those where all is earlier.
    async fn offsets_at(
        &self,
        topic: &str,
        bounds: &Bounds,
        time: OffsetDateTime,
    ) -> Result<BTreeMap<i32, i64>, LetterError> {
        let client: BaseConsumer = self.client()?;
        let millis = i64::try_from(time.unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX).max(0);
        let mut times = TopicPartitionList::new();
        for partition in bounds.keys() {
            let added = times.add_partition_offset(topic, *partition, Offset::Offset(millis));
            added.map_err(|source| LetterError::Read { topic: topic.to_owned(), source })?;
        }
        let found = blocking(move || client.offsets_for_times(times, ANSWER)).await;
        let found = found.map_err(|source| self.unanswered(&format!("find {time} in {topic}"), source))?;
        let offset = |found: &rdkafka::topic_partition_list::TopicPartitionListElem<'_>| match found.offset()
        {
            Offset::Offset(offset) => Some((found.partition(), offset)),
            _ => None,
        };
        Ok(found.elements().iter().filter_map(offset).collect())
    }

    /// Reads a topic within these bounds, or whole. None where there is no such topic.
    ///
    /// # Errors
    /// Where Kafka does not answer.
    pub async fn read(&self, topic: &str, bounds: Option<Bounds>) -> Result<Option<Reader>, LetterError> {
        let bounds = match bounds {
            Some(bounds) => bounds,
            None => match self.bounds(topic).await? {
                Some(bounds) => bounds,
                None => return Ok(None),
            },
        };
        let open: Bounds = bounds.into_iter().filter(|(_, (first, end))| first < end).collect();
        let consumer: StreamConsumer = self.client()?;
        let mut list = TopicPartitionList::new();
        let read = |source| LetterError::Read { topic: topic.to_owned(), source };
        for (partition, (first, _)) in &open {
            list.add_partition_offset(topic, *partition, Offset::Offset(*first)).map_err(read)?;
        }
        consumer.assign(&list).map_err(read)?;
        Ok(Some(Reader { topic: topic.to_owned(), consumer, open }))
    }

    /// One letter. None where there is none, or not any more.
    ///
    /// # Errors
    /// Where Kafka does not answer.
    pub async fn letter(&self, id: &LetterId) -> Result<Option<Letter>, LetterError> {
        let bounds = self.bounds(&id.topic).await?;
        let within = bounds.and_then(|bounds| bounds.get(&id.partition).copied());
        if !within.is_some_and(|(first, end)| (first..end).contains(&id.offset)) {
            return Ok(None);
        }
        let this = Bounds::from([(id.partition, (id.offset, id.offset + 1))]);
        let Some(mut reader) = self.read(&id.topic, Some(this)).await? else { return Ok(None) };
        let found = reader.next().await?.filter(|message| message.offset() == id.offset);
        Ok(found.map(|message| Letter::read(&message)))
    }

    /// The topics of dead letters that there are: all, or that of one source topic, by either name.
    ///
    /// # Errors
    /// Where Kafka does not answer.
    pub async fn letter_topics(&self, of: Option<&str>) -> Result<Vec<String>, LetterError> {
        let wanted = of.map(|topic| topics::dead_letters(topics::source(topic)));
        let mut found = self.topics().await?;
        found.retain(|topic| {
            topics::is_dead_letters(topic) && wanted.as_ref().is_none_or(|wanted| wanted == topic)
        });
        found.sort();
        Ok(found)
    }

    pub(crate) fn client<C: rdkafka::config::FromClientConfig>(&self) -> Result<C, LetterError> {
        ClientConfig::new()
            .set("bootstrap.servers", &self.brokers)
            .set("client.id", "outflow")
            // Asked for by the client, and never joined.
            .set("group.id", "outflow-dead-letters")
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "true")
            .set("isolation.level", "read_committed")
            // Beside what is being read from; the defaults keep 64 MB.
            .set("queued.max.messages.kbytes", "16384")
            .set("fetch.wait.max.ms", "100")
            .set("reconnect.backoff.max.ms", "1000")
            .set_log_level(rdkafka::config::RDKafkaLogLevel::Critical)
            .create()
            .map_err(|source| LetterError::Connect { brokers: self.brokers.clone(), source })
    }

    fn unanswered(&self, operation: &str, source: KafkaError) -> LetterError {
        LetterError::Request { operation: format!("{operation} at {}", self.brokers), source }
    }
}

/// A topic that is being read, each partition in its order.
pub struct Reader {
    topic: String,
    consumer: StreamConsumer,
    /// What is not read to its end.
    open: Bounds,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").field("topic", &self.topic).field("open", &self.open).finish_non_exhaustive()
    }
}

impl Reader {
    /// The next record; None behind the last one.
    ///
    /// # Errors
    /// Where Kafka is away for long.
    pub async fn next(&mut self) -> Result<Option<BorrowedMessage<'_>>, LetterError> {
        let deadline = tokio::time::Instant::now() + SILENCE;
        while !self.open.is_empty() {
            let received = tokio::time::timeout_at(deadline, self.consumer.recv()).await;
            let silent = |_| LetterError::Silent { topic: self.topic.clone(), seconds: SILENCE.as_secs() };
            match received.map_err(silent)? {
                Ok(message) => {
                    let (partition, offset) = (message.partition(), message.offset());
                    let Some(&(_, end)) = self.open.get(&partition) else { continue };
                    if offset + 1 >= end {
                        self.open.remove(&partition);
                    }
                    if offset < end {
                        return Ok(Some(message));
                    }
                }
                // The last offsets may hold the marks of transactions, which nobody is shown.
                Err(KafkaError::PartitionEOF(partition)) => {
                    self.open.remove(&partition);
                }
                Err(source) if is_unknown(&source) => {
                    return Err(LetterError::Read { topic: self.topic.clone(), source });
                }
                // The client finds its way back by itself, within the time that silence has.
                Err(error) => tracing::debug!(topic = self.topic, %error, "reading goes on"),
            }
        }
        Ok(None)
    }
}

pub(crate) fn is_unknown(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::UnknownTopicOrPartition
                | RDKafkaErrorCode::UnknownTopic
                | RDKafkaErrorCode::UnknownPartition
        )
    )
}

/// Runs what waits for the broker beside the others.
pub(super) async fn blocking<T: Send + 'static>(
    run: impl FnOnce() -> Result<T, KafkaError> + Send + 'static,
) -> Result<T, KafkaError> {
    tokio::task::spawn_blocking(run).await.unwrap_or(Err(KafkaError::Canceled))
}
