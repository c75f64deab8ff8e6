//! Where dead letters of one topic are dealt with, by one at a time: what is sent back and the audit of it are one
//! transaction of Kafka.
//!
//! Whoever takes the desk fences the one before, whose transaction ends at that moment, one way or the other. So whoever
//! reads the audit after that sees all that was ever done, and a crash leaves nothing half done.

use super::{
    LetterError,
    audit::{Action, Entry},
    letter::{Letter, Place},
    log::{Log, blocking},
};
use crate::topics;
use futures_util::future::join_all;
use outflow_outbox::operator::Signature;
use rdkafka::{
    ClientConfig, ClientContext,
    error::{KafkaError, RDKafkaErrorCode},
    message::{Header, OwnedHeaders},
    producer::{FutureProducer, FutureRecord, Producer},
};
use std::time::Duration;
use time::OffsetDateTime;

/// What a crash leaves open is aborted by the broker after this, or by the next one at the desk, whichever is sooner.
const TRANSACTION_LIMIT: Duration = Duration::from_secs(20);
/// A record that is not confirmed by then fails its transaction.
const DELIVERY_LIMIT: Duration = Duration::from_secs(10);
/// Taking the desk waits until what was under way there is ended.
const TAKE_LIMIT: Duration = Duration::from_secs(30);
/// How often a transaction is begun that came to nothing for no fault of its records, and a commit is asked for whose answer
/// did not come in time.
const TRIES: u32 = 3;

/// The right to deal with one topic's dead letters, until somebody else takes it.
pub struct Desk {
    producer: FutureProducer<Quiet>,
    topic: String,
}

impl std::fmt::Debug for Desk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Desk").field("topic", &self.topic).finish_non_exhaustive()
    }
}

/// Why a transaction came to nothing.
#[derive(Debug)]
pub(super) enum Failed {
    /// Kafka does not take one of the records: others may pass.
    Refused(KafkaError),
    /// Nothing was written, and nothing more can be.
    Stopped(LetterError),
    /// Whether it was written is not known.
    Uncertain(LetterError),
}

impl Desk {
    /// For the dead letters of this source topic. Makes their audit where there is none yet.
    ///
    /// # Errors
    /// Where Kafka does not answer.
    pub async fn take(log: &Log, topic: &str) -> Result<Self, LetterError> {
        let audit = topics::TopicSpec { name: topics::audit(topic), partitions: 1 };
        topics::ensure(log.brokers(), &[audit]).await?;
        let producer: FutureProducer<Quiet> = ClientConfig::new()
            .set("bootstrap.servers", log.brokers())
            .set("client.id", "outflow")
            .set("transactional.id", topics::dead_letters(topic))
            .set("transaction.timeout.ms", TRANSACTION_LIMIT.as_millis().to_string())
            .set("message.timeout.ms", DELIVERY_LIMIT.as_millis().to_string())
            .set("compression.type", "lz4")
            .set("linger.ms", "0")
            .set("message.max.bytes", "10000000")
            .set("reconnect.backoff.max.ms", "1000")
            .set("partitioner", "murmur2_random")
            .set_log_level(rdkafka::config::RDKafkaLogLevel::Critical)
            .create_with_context(Quiet)
            .map_err(|source| LetterError::Connect { brokers: log.brokers().to_owned(), source })?;
        let desk = Self { producer, topic: topic.to_owned() };
        let taking = desk.producer.clone();
        blocking(move || taking.init_transactions(TAKE_LIMIT)).await.map_err(|source| {
            LetterError::Request {
                operation: format!("let us deal with the dead letters of {topic}"),
                source,
            }
        })?;
        Ok(desk)
    }

    /// The source topic.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// Sends the letters back and writes that down, all of it or nothing. Says what was written, letter by letter.
    pub(super) async fn redrive(&self, letters: &[Letter], by: &Signature) -> Result<Vec<String>, Failed> {
        let retries = topics::retries(&self.topic);
        self.transaction(async || {
            let sent = letters.iter().map(|letter| {
                let added = letter.redriven_headers();
                let own = letter.headers.iter().map(|(key, value)| (key.as_str(), value.as_deref()));
                let added = added.iter().map(|(key, value)| (key.as_str(), Some(value.as_slice())));
                let headers = own
                    .chain(added)
                    .fold(OwnedHeaders::new(), |headers, (key, value)| headers.insert(Header { key, value }));
                let mut record: FutureRecord<'_, [u8], [u8]> = FutureRecord::to(&retries).headers(headers);
                record.key = letter.head.key.as_deref();
                record.payload = letter.value.as_deref();
                self.send(record)
            });
            let places = all(join_all(sent.collect::<Vec<_>>()).await)?;
            let results: Vec<_> = places.iter().map(ToString::to_string).collect();
            self.note(Action::Redrive, letters.iter().zip(&results), by).await?;
            Ok(results)
        })
        .await
    }

    /// Writes down that the letters are given up, all of it or nothing.
    pub(super) async fn discard(&self, letters: &[Letter], by: &Signature) -> Result<Vec<String>, Failed> {
        self.transaction(async || {
            let results = vec!["discarded".to_owned(); letters.len()];
            self.note(Action::Discard, letters.iter().zip(&results), by).await?;
            Ok(results)
        })
        .await
    }

    /// An entry of the audit for each letter.
    async fn note(
        &self,
        action: Action,
        done: impl Iterator<Item = (&Letter, &String)>,
        by: &Signature,
    ) -> Result<(), KafkaError> {
        let (audit, when) = (topics::audit(&self.topic), OffsetDateTime::now_utc());
        let entries = done.map(|(letter, result)| {
            let entry = Entry {
                action,
                who: by.by().to_owned(),
                why: by.why().to_owned(),
                when,
                result: result.clone(),
                letter_at: letter.head.at,
            };
            let entry = serde_json::to_vec(&entry).expect("an entry is plain data");
            let id = letter.head.id.to_string();
            self.send(FutureRecord::to(&audit).key(id.as_bytes()).payload(entry.as_slice()))
        });
        all(join_all(entries.collect::<Vec<_>>()).await).map(drop)
    }

    /// Hands a record to the client at once, so that records keep the order in which this is called.
    fn send(
        &self,
        record: FutureRecord<'_, [u8], [u8]>,
    ) -> impl Future<Output = Result<Place, KafkaError>> + use<> {
        let topic = record.topic.to_owned();
        let report = self.producer.send_result(record).map_err(|(error, _)| error);
        async move {
            let delivered = report?.await.map_err(|_| KafkaError::Canceled)?;
            let delivery = delivered.map_err(|(error, _)| error)?;
            Ok(Place { topic, partition: delivery.partition, offset: delivery.offset })
        }
    }

    async fn transaction<T>(&self, write: impl AsyncFn() -> Result<T, KafkaError>) -> Result<T, Failed> {
        let nothing = |source| {
            Failed::Stopped(self.explain(source, |topic, source| LetterError::Write { topic, source }))
        };
        let mut tries_left = TRIES;
        let written = loop {
            let producer = self.producer.clone();
            blocking(move || producer.begin_transaction()).await.map_err(nothing)?;
            let error = match write().await {
                Ok(written) => break written,
                Err(error) => error,
            };
            tries_left -= 1;
            let producer = self.producer.clone();
            let aborted = blocking(move || producer.abort_transaction(DELIVERY_LIMIT)).await;
            match aborted {
                Ok(()) if is_records_own(&error) => return Err(Failed::Refused(error)),
                // After a record that Kafka did not take the client counts wrongly; ending that transaction mends it.
                Ok(()) if is_taken_back(&error) && tries_left > 0 => {}
                _ => return Err(nothing(error)),
            }
        };
        for tries_left in (0..TRIES).rev() {
            let producer = self.producer.clone();
            match blocking(move || producer.commit_transaction(DELIVERY_LIMIT)).await {
                Ok(()) => return Ok(written),
                Err(KafkaError::Transaction(error)) if error.is_retriable() && tries_left > 0 => {}
                Err(source) => {
                    let uncertain = |topic, source| LetterError::Unknown { topic, source };
                    return Err(Failed::Uncertain(self.explain(source, uncertain)));
                }
            }
        }
        unreachable!("the last try returns")
    }

    /// A client that was fenced says so once, and answers anything with it from then on.
    fn explain(
        &self,
        source: KafkaError,
        otherwise: impl FnOnce(String, KafkaError) -> LetterError,
    ) -> LetterError {
        let fenced = [
            RDKafkaErrorCode::Fenced,
            RDKafkaErrorCode::ProducerFenced,
            RDKafkaErrorCode::InvalidProducerEpoch,
        ];
        let told = source.rdkafka_error_code().is_some_and(|code| fenced.contains(&code));
        let fatal = self.producer.client().fatal_error();
        let topic = topics::dead_letters(&self.topic);
        if told || fatal.is_some_and(|(code, _)| fenced.contains(&code)) {
            return LetterError::Fenced { topic };
        }
        otherwise(topic, source)
    }
}

/// Where one record fails, its transaction does, and the client takes the others back: the error that tells why.
fn all<T>(results: Vec<Result<T, KafkaError>>) -> Result<Vec<T>, KafkaError> {
    let errors = || results.iter().filter_map(|result| result.as_ref().err());
    let telling =
        errors().find(|error| is_records_own(error)).or_else(|| errors().find(|error| !is_taken_back(error)));
    match telling.or_else(|| errors().next()).cloned() {
        Some(error) => Err(error),
        None => results.into_iter().collect(),
    }
}

/// Kafka does not take a record of this kind, whatever else is sent.
fn is_records_own(error: &KafkaError) -> bool {
    let code = error.rdkafka_error_code();
    matches!(code, Some(RDKafkaErrorCode::MessageSizeTooLarge | RDKafkaErrorCode::InvalidRecord))
}

/// The client gave it up because of something else.
fn is_taken_back(error: &KafkaError) -> bool {
    let code = error.rdkafka_error_code();
    matches!(code, Some(RDKafkaErrorCode::PurgeQueue | RDKafkaErrorCode::PurgeInflight))
}

/// What the client says on its own goes to the log: whoever waits for it is told by its answers.
struct Quiet;

impl ClientContext for Quiet {
    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "kafka client is in trouble");
    }
}
