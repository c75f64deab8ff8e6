//! The on-failure destination: a Kafka topic on the same cluster.
//!
//! A record keeps its key, value and headers, so that it can be sent back as it was; what happened to it stands in
//! further headers, each UTF-8 text, named `lambda-…`.

use crate::{
    batch::{Condition, Discard},
    event::Message,
    template::Mapping,
};
use futures_util::future::join_all;
use rdkafka::{
    ClientConfig,
    error::KafkaError,
    message::{Header, OwnedHeaders},
    producer::{FutureProducer, FutureRecord},
    util::Timeout,
};
use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// A record that the broker has not confirmed by then is sent again later, with the whole batch.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(10);

/// An error's text may be a whole backtrace; a header need not.
const MAX_ERROR_CHARS: usize = 2_000;

#[derive(Clone)]
pub(super) struct Destination {
    function: String,
    source: String,
    target: Option<String>,
    brokers: String,
    /// Made when it is first needed: most mappings never fail.
    producer: Arc<OnceLock<FutureProducer>>,
}

impl Destination {
    pub(super) fn new(mapping: &Mapping, brokers: &str) -> Self {
        Self {
            function: mapping.function.clone(),
            source: mapping.topic.clone(),
            target: mapping.on_failure.clone(),
            brokers: brokers.to_owned(),
            producer: Arc::default(),
        }
    }

    /// Ok once the broker has confirmed each record, or if there is no destination.
    pub(super) async fn keep(&self, discard: &Discard) -> Result<(), String> {
        let Some(target) = &self.target else { return Ok(()) };
        let producer = self.producer().map_err(|error| error.to_string())?;
        let sent = discard.messages.iter().map(|message| {
            let headers = self.headers(discard, message);
            async move {
                let mut record: FutureRecord<'_, [u8], [u8]> = FutureRecord::to(target).headers(headers);
                record.key = message.key.as_deref();
                record.payload = message.value.as_deref();
                producer.send(record, Timeout::After(CONFIRM_TIMEOUT)).await
            }
        });
        match join_all(sent).await.into_iter().find_map(Result::err) {
            Some((error, _)) => Err(format!("{target}: {error}")),
            None => Ok(()),
        }
    }

    fn producer(&self) -> Result<&FutureProducer, KafkaError> {
        if let Some(producer) = self.producer.get() {
            return Ok(producer);
        }
        let producer: FutureProducer = ClientConfig::new()
            .set("bootstrap.servers", &self.brokers)
            .set("client.id", "event-sources")
            .set("acks", "all")
            .set("enable.idempotence", "true")
            .set("message.timeout.ms", CONFIRM_TIMEOUT.as_millis().to_string())
            // What happened to a record comes on top of its size; the topic's own limit is the broker's to tell.
            .set("message.max.bytes", "10000000")
            .create()?;
        Ok(self.producer.get_or_init(|| producer))
    }

    fn headers(&self, discard: &Discard, message: &Message) -> OwnedHeaders {
        let original = message.headers.iter().fold(OwnedHeaders::new(), |headers, (key, value)| {
            headers.insert(Header { key, value: Some(value) })
        });
        let now = OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default();
        let error = match (&discard.error, discard.condition) {
            (Some(error), _) => Some((error.error_type.as_str(), error.error_message.as_str())),
            (None, Condition::PayloadTooLarge) => {
                Some(("PayloadTooLarge", "the record does not fit into an invocation of 6 MB"))
            }
            (None, _) => None,
        };
        let mut told = vec![
            ("lambda-condition", discard.condition.as_str().to_owned()),
            ("lambda-function", self.function.clone()),
            ("lambda-invoke-count", discard.invocations.to_string()),
            ("lambda-failed-at", now),
            ("lambda-source-topic", self.source.clone()),
            ("lambda-source-partition", message.partition.to_string()),
            ("lambda-source-offset", message.offset.to_string()),
            ("lambda-source-timestamp", message.timestamp_ms.to_string()),
        ];
        if let Some((kind, text)) = error {
            told.push(("lambda-error-type", kind.to_owned()));
            told.push(("lambda-error-message", text.chars().take(MAX_ERROR_CHARS).collect()));
        }
        told.into_iter().fold(original, |headers, (key, value)| {
            headers.insert(Header { key, value: Some(value.as_bytes()) })
        })
    }
}
