//! A producer that sends a list of records, waits for every delivery report, and leaves nothing behind.
//!
//! Lambda freezes a process between invocations. A record that still waits in the producer then is published after
//! the thaw, behind newer ones. So no call returns with a record in the producer: it is confirmed, or purged.

use crate::error::{BrokerError, DeliveryError};
use futures_util::future::join_all;
use rdkafka::{
    ClientConfig,
    error::{KafkaError, RDKafkaErrorCode},
    message::{Header, OwnedHeaders},
    producer::{DeliveryFuture, FutureProducer, FutureRecord, Producer as _, PurgeConfig},
};
use std::{
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::time::Instant;

/// How long an emptied producer may take to hand back its last reports.
const PURGE_TIMEOUT: Duration = Duration::from_secs(2);

/// What goes into a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub topic: String,
    /// Decides the partition, and with it the order; None spreads.
    pub key: Option<Vec<u8>>,
    pub payload: Vec<u8>,
    pub headers: Vec<(String, Vec<u8>)>,
}

/// Idempotent, `acks=all`, lz4. Clones share one client.
#[derive(Clone)]
pub struct Producer(Arc<Inner>);

struct Inner {
    config: ClientConfig,
    delivery_timeout: Duration,
    /// Replaced after a failure: an idempotent client that was purged may refuse to go on.
    client: Mutex<FutureProducer>,
}

impl std::fmt::Debug for Producer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Producer").field("delivery_timeout", &self.0.delivery_timeout).finish_non_exhaustive()
    }
}

impl Producer {
    /// A client for these brokers (`host:port`, comma separated). Does not wait for them: an outage is told by `send_all`.
    ///
    /// # Errors
    /// Where the client library refuses the settings.
    pub fn connect(brokers: &str, delivery_timeout: Duration) -> Result<Self, BrokerError> {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", brokers)
            .set("client.id", "outflow")
            .set("acks", "all")
            .set("enable.idempotence", "true")
            .set("compression.type", "lz4")
            // A call hands over whole batches, so waiting longer for more only costs latency.
            .set("linger.ms", "2")
            // Longer than `send_all` waits. Left to themselves records expire one by one, and where the broker comes back
            // in between, one is delivered whose predecessor has just expired.
            .set("message.timeout.ms", (delivery_timeout * 2).as_millis().to_string())
            // A broker that comes back is found quickly; the defaults wait up to 10 s.
            .set("reconnect.backoff.max.ms", "1000")
            // The client takes up to what a Kafka topic may allow; the topic's own limit is the broker's to tell.
            .set("message.max.bytes", "10000000")
            .set("partitioner", "murmur2_random");
        let client =
            create(&config).map_err(|source| BrokerError::Connect { brokers: brokers.to_owned(), source })?;
        Ok(Self(Arc::new(Inner { config, delivery_timeout, client: Mutex::new(client) })))
    }

    /// Sends all and waits for every delivery report; result i belongs to record i. Records of one key keep their order.
    ///
    /// Whatever is not confirmed within the delivery time-out of the whole call is taken back at once.
    ///
    /// After any failure the producer is emptied and replaced, so that nothing of this call can appear after it returns
    /// except what the broker already had in hand.
    pub async fn send_all(&self, records: Vec<Record>) -> Vec<Result<(), DeliveryError>> {
        let client = self.client();
        let limit = self.0.delivery_timeout;
        let deadline = Instant::now() + limit;
        let mut results: Vec<Option<Result<(), DeliveryError>>> = vec![None; records.len()];
        let mut waiting: Vec<(usize, String, DeliveryFuture)> = Vec::with_capacity(records.len());
        let mut refused = false;
        for (index, record) in records.into_iter().enumerate() {
            // Whatever follows a refused record waits: it may be a later version of the same aggregate.
            if refused {
                results[index] = Some(Err(DeliveryError::Abandoned { topic: record.topic }));
                continue;
            }
            match enqueue(&client, &record, deadline).await {
                Ok(report) => waiting.push((index, record.topic, report)),
                Err(source) => {
                    refused = true;
                    results[index] = Some(Err(DeliveryError::Refused { topic: record.topic, source }));
                }
            }
        }
        let reports = join_all(waiting.into_iter().map(|(index, topic, report)| async move {
            let result = match report.await {
                Ok(Ok(_delivery)) => Ok(()),
                Ok(Err((source, _message))) if is_taken_back(&source) => {
                    Err(DeliveryError::TimedOut { topic, limit })
                }
                Ok(Err((source, _message))) => Err(DeliveryError::Unconfirmed { topic, source }),
                Err(_client_gone) => Err(DeliveryError::Abandoned { topic }),
            };
            (index, result)
        }));
        let mut reports = std::pin::pin!(reports);
        let reports = match tokio::time::timeout_at(deadline, reports.as_mut()).await {
            Ok(reports) => reports,
            Err(_elapsed) => {
                empty(client.clone()).await;
                reports.await
            }
        };
        for (index, result) in reports {
            results[index] = Some(result);
        }
        let results: Vec<_> =
            results.into_iter().map(|result| result.expect("every record has one report")).collect();
        if results.iter().any(Result::is_err) {
            self.empty_and_replace(client).await;
        }
        results
    }

    fn client(&self) -> FutureProducer {
        self.0.client.lock().expect("no holder of this lock panics").clone()
    }

    async fn empty_and_replace(&self, old: FutureProducer) {
        match create(&self.0.config) {
            Ok(fresh) => *self.0.client.lock().expect("no holder of this lock panics") = fresh,
            // The settings were good once, so this is the machine's trouble; the old client goes on.
            Err(error) => tracing::error!(%error, "kafka client could not be replaced after a failure"),
        }
        empty(old).await;
    }
}

/// Takes back what waits or is on its way, and waits for the reports that say so.
async fn empty(client: FutureProducer) {
    // Both block the thread they run on.
    let emptied = tokio::task::spawn_blocking(move || {
        client.purge(PurgeConfig::default().queue().inflight());
        client.flush(PURGE_TIMEOUT)
    })
    .await;
    if !matches!(emptied, Ok(Ok(()))) {
        tracing::warn!("kafka client did not hand back all reports after it was emptied");
    }
}

fn is_taken_back(error: &KafkaError) -> bool {
    matches!(error.rdkafka_error_code(), Some(RDKafkaErrorCode::PurgeQueue | RDKafkaErrorCode::PurgeInflight))
}

fn create(config: &ClientConfig) -> Result<FutureProducer, KafkaError> {
    config.create()
}

/// Puts one record into the client's queue; where that is full, waits until it has room or the time is over.
async fn enqueue(
    client: &FutureProducer,
    record: &Record,
    deadline: Instant,
) -> Result<DeliveryFuture, KafkaError> {
    /// Short against a delivery, long against a spin.
    const FULL_QUEUE_PAUSE: Duration = Duration::from_millis(5);
    loop {
        let mut headers = OwnedHeaders::new_with_capacity(record.headers.len());
        for (key, value) in &record.headers {
            headers = headers.insert(Header { key, value: Some(value) });
        }
        let mut message =
            FutureRecord::<[u8], [u8]>::to(&record.topic).payload(&record.payload).headers(headers);
        if let Some(key) = &record.key {
            message = message.key(key);
        }
        match client.send_result(message) {
            Ok(report) => return Ok(report),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _))
                if Instant::now() < deadline =>
            {
                tokio::time::sleep(FULL_QUEUE_PAUSE).await;
            }
            Err((error, _)) => return Err(error),
        }
    }
}
