//! Reads topics from any place on, and goes on with what arrives. Commits nothing, joins no group: nobody who reads the
//! same topics is disturbed.
//!
//! Must not: know what a record means.

use crate::letters::{
    LetterError,
    log::{Log, Start, is_unknown},
};
use rdkafka::{
    Message, Offset, TopicPartitionList,
    consumer::{Consumer, StreamConsumer},
    error::KafkaError,
    message::Headers,
};

/// A record that was read. A header without a value has an empty one, as AWS hands it to a function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrived {
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
    /// Milliseconds since 1970-01-01 UTC.
    pub timestamp_ms: i64,
    pub key: Option<Vec<u8>>,
    /// None is a tombstone.
    pub value: Option<Vec<u8>>,
    pub headers: Vec<(String, Vec<u8>)>,
}

impl Arrived {
    /// Its bytes, out of the client's memory.
    pub fn of(message: &impl Message) -> Self {
        let headers = message.headers().into_iter().flat_map(Headers::iter);
        Self {
            topic: message.topic().to_owned(),
            partition: message.partition(),
            offset: message.offset(),
            timestamp_ms: message.timestamp().to_millis().unwrap_or_default(),
            key: message.key().map(<[u8]>::to_vec),
            value: message.payload().map(<[u8]>::to_vec),
            headers: headers
                .map(|header| (header.key.to_owned(), header.value.unwrap_or_default().to_vec()))
                .collect(),
        }
    }

    /// Bytes of key, value and headers.
    pub fn len(&self) -> usize {
        let bytes = |bytes: &Option<Vec<u8>>| bytes.as_ref().map_or(0, Vec::len);
        let headers: usize = self.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        bytes(&self.key) + bytes(&self.value) + headers
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Topics that are being read, each partition in its order.
pub struct Tail {
    /// Names, for people.
    topics: String,
    consumer: StreamConsumer,
}

impl std::fmt::Debug for Tail {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tail").field("topics", &self.topics).finish_non_exhaustive()
    }
}

impl Tail {
    /// Takes the place of each partition as it is now.
    ///
    /// # Errors
    /// Where there is no such topic, and where Kafka does not answer.
    pub async fn open(log: &Log, topics: &[String], start: Start) -> Result<Self, LetterError> {
        let mut places = TopicPartitionList::new();
        for topic in topics {
            let missing = || LetterError::NoTopic { topic: topic.clone() };
            let read = |source| LetterError::Read { topic: topic.clone(), source };
            for (partition, (first, _)) in log.bounds_from(topic, start).await?.ok_or_else(missing)? {
                places.add_partition_offset(topic, partition, Offset::Offset(first)).map_err(read)?;
            }
        }
        let consumer: StreamConsumer = log.client()?;
        let topics = topics.join(", ");
        if let Err(source) = consumer.assign(&places) {
            return Err(LetterError::Read { topic: topics, source });
        }
        Ok(Self { topics, consumer })
    }

    /// The next record, as soon as there is one; may be given up at any time without losing any.
    ///
    /// # Errors
    /// Where a topic is gone. While Kafka is away it waits.
    pub async fn next(&self) -> Result<Arrived, LetterError> {
        loop {
            match self.consumer.recv().await {
                Ok(message) => return Ok(Arrived::of(&message)),
                Err(KafkaError::PartitionEOF(_)) => {}
                Err(source) if is_unknown(&source) => {
                    return Err(LetterError::Read { topic: self.topics.clone(), source });
                }
                // The client finds its way back by itself.
                Err(error) => tracing::warn!(%error, "kafka is away, reading goes on once it is back"),
            }
        }
    }
}
