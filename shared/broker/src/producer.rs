//! A producer that sends a list of records, waits for every delivery report, and leaves nothing behind.
//!
//! Lambda freezes a process between invocations. A record that still waits in the producer then is published after
//! the thaw, behind newer ones. So no call returns with a record in the producer: it is confirmed, or purged.

use crate::{
    client::{AfterRefusal, Clients, Failure, Outgoing},
    error::{BrokerError, DeliveryError},
};
use rdkafka::{
    ClientConfig,
    message::{Header, OwnedHeaders},
    producer::BaseRecord,
};
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;

/// Bytes of a batch before it is compressed, or one record: below the 1 MiB that a topic takes unless it was told otherwise.
pub(crate) const BATCH_BYTES: usize = 1_000_000;

/// What goes into a topic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    pub topic: String,
    /// Decides the partition, and with it the order; None spreads.
    pub key: Option<Vec<u8>>,
    /// None is a tombstone.
    pub payload: Option<Vec<u8>>,
    pub headers: Vec<(String, Vec<u8>)>,
}

/// Idempotent, `acks=all`, lz4. Clones share one client.
#[derive(Clone)]
pub struct Producer(Arc<Inner>);

struct Inner {
    clients: Clients,
    delivery_timeout: Duration,
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
        Self::connect_with(brokers, delivery_timeout, &[])
    }

    /// As [`connect`](Self::connect), with settings of librdkafka, name and value, that take the place of ours: for measuring
    /// what another one would give.
    ///
    /// # Errors
    /// Where the client library refuses the settings.
    pub fn connect_with(
        brokers: &str,
        delivery_timeout: Duration,
        settings: &[(&str, &str)],
    ) -> Result<Self, BrokerError> {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", brokers)
            .set("client.id", "outflow")
            .set("acks", "all")
            .set("enable.idempotence", "true")
            .set("compression.type", "lz4")
            // Nothing is gained by waiting for more: while five requests are under way the next batch grows by itself. Any
            // linger above 0 costs a lone record at least 1 ms (docs/adr/0005).
            .set("linger.ms", "0")
            // What a queue may hold bounds the memory; callers keep less on its way, or wait here.
            .set("queue.buffering.max.kbytes", "32768")
            // Longer than a call waits. Left to themselves records expire one by one, and where the broker comes back
            // in between, one is delivered whose predecessor has just expired.
            .set("message.timeout.ms", (delivery_timeout * 2).as_millis().to_string())
            // A broker that comes back is found quickly; the defaults wait up to 10 s.
            .set("reconnect.backoff.max.ms", "1000")
            // A topic that is not there is told after this; the default holds its records, and their call, for 30 s.
            .set("topic.metadata.propagation.max.ms", "3000")
            // And is found this much later at most once somebody has made it, or has given us the right to it.
            .set("topic.metadata.refresh.interval.ms", "10000")
            // The client takes up to what a Kafka topic may allow; the topic's own limit is the broker's to tell.
            .set("message.max.bytes", "10000000")
            .set("partitioner", "murmur2_random");
        for (name, value) in settings {
            config.set(*name, *value);
        }
        let clients = Clients::new(config);
        clients
            .get(BATCH_BYTES)
            .map_err(|source| BrokerError::Connect { brokers: brokers.to_owned(), source })?;
        Ok(Self(Arc::new(Inner { clients, delivery_timeout })))
    }

    /// Sends all and waits for every delivery report; result i belongs to record i. Records of one key keep their order.
    ///
    /// Whatever is not confirmed within the delivery time-out of the whole call is taken back at once, and the client is
    /// replaced: nothing of this call can appear after it returns except what the broker already had in hand. Other calls
    /// on their way at that moment are taken back with it.
    pub async fn send_all(&self, records: Vec<Record>) -> Vec<Result<(), DeliveryError>> {
        let limit = self.0.delivery_timeout;
        let deadline = Instant::now() + limit;
        let results = match self.0.clients.get(BATCH_BYTES) {
            Ok(client) => client.send(records.iter().map(outgoing), deadline, AfterRefusal::Abandon).await,
            Err(error) => vec![Err(Failure::Refused(error)); records.len()],
        };
        results
            .into_iter()
            .zip(&records)
            .map(|(result, record)| {
                result.map_err(|failure| DeliveryError::new(record.topic.clone(), failure, limit))
            })
            .collect()
    }

    pub(crate) fn clients(&self) -> &Clients {
        &self.0.clients
    }
}

fn outgoing(record: &Record) -> Outgoing<'_> {
    let mut headers = OwnedHeaders::new_with_capacity(record.headers.len());
    for (key, value) in &record.headers {
        headers = headers.insert(Header { key, value: Some(value) });
    }
    let mut outgoing = BaseRecord::to(&record.topic).headers(headers);
    outgoing.key = record.key.as_deref();
    outgoing.payload = record.payload.as_deref();
    outgoing
}
