//! What has arrived in Kafka, how often, in which order, and when the broker had it.

use super::events::{Event, Events, MARKER, number_of};
use anyhow::{Context, ensure};
use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer},
    message::{BorrowedMessage, Headers, OwnedMessage},
    types::RDKafkaErrorCode,
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// As the shop's topics have them.
const PARTITIONS: i32 = 4;
const ANSWER: Duration = Duration::from_secs(10);
/// A topic that was deleted is gone after this long, and one that was made is there.
const ADMIN_PATIENCE: Duration = Duration::from_secs(30);
/// A consumer that is told of more records than come has lost some.
const READ_PATIENCE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(50);

/// The headers in which contenders carry an event's id.
const ID_HEADERS: [&str; 2] = ["ce_id", "id"];
/// One record in so many is looked at closely.
const LOOKED_AT: u64 = 1_000;
/// The fewest headers that a record has, whoever sends it.
const HEADERS: usize = 7;

/// The two topics that a contender writes to.
#[derive(Clone)]
pub(super) struct Topics {
    brokers: String,
    names: [&'static str; 2],
    /// For questions about the topics; it never reads one.
    asking: Arc<BaseConsumer>,
}

/// All that has arrived.
#[derive(Debug)]
pub(super) struct Arrived {
    /// Broker's time of the first and of the last batch, in ms since 1970.
    pub(super) first_ms: i64,
    pub(super) last_ms: i64,
    pub(super) duplicates: u64,
    /// Events that appeared before their predecessor had.
    pub(super) violations: u64,
    pub(super) missing: u64,
    /// Kept only where they were asked for.
    pub(super) records: Vec<OwnedMessage>,
}

impl Topics {
    /// Those of the relay and of whoever publishes as it does.
    pub(super) fn of_relay(brokers: &str) -> anyhow::Result<Self> {
        Self::named(brokers, ["order.events", "inventory.events"])
    }

    /// Those of Debezium, which leaves the aggregate's type as it stands.
    pub(super) fn of_debezium(brokers: &str) -> anyhow::Result<Self> {
        Self::named(brokers, ["Order.events", "Inventory.events"])
    }

    fn named(brokers: &str, names: [&'static str; 2]) -> anyhow::Result<Self> {
        let asking = Arc::new(client(brokers).create().context("setting up a kafka client")?);
        Ok(Self { brokers: brokers.to_owned(), names, asking })
    }

    /// Empties them: what was there is deleted, and they are made anew. The broker stamps what it appends, so that all
    /// contenders are measured by one clock and nobody has to read while they run.
    pub(super) async fn fresh(&self) -> anyhow::Result<()> {
        let admin: AdminClient<DefaultClientContext> =
            client(&self.brokers).create().context("setting up a kafka client")?;
        let options = AdminOptions::new().request_timeout(Some(ANSWER)).operation_timeout(Some(ANSWER));
        for deleted in admin.delete_topics(&self.names, &options).await.context("deleting topics")? {
            match deleted {
                Ok(_) | Err((_, RDKafkaErrorCode::UnknownTopicOrPartition)) => {}
                Err((topic, code)) => anyhow::bail!("topic {topic} could not be deleted: {code}"),
            }
        }
        let deadline = Instant::now() + ADMIN_PATIENCE;
        loop {
            let topics = self.names.map(|name| {
                NewTopic::new(name, PARTITIONS, TopicReplication::Fixed(1))
                    .set("message.timestamp.type", "LogAppendTime")
            });
            let made = admin.create_topics(&topics, &options).await.context("making topics")?;
            if made
                .iter()
                .all(|topic| matches!(topic, Err((_, RDKafkaErrorCode::TopicAlreadyExists)) | Ok(_)))
                && self.are_empty().await
            {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "topics could not be made anew: {made:?}");
            tokio::time::sleep(POLL).await;
        }
    }

    async fn are_empty(&self) -> bool {
        matches!(self.count().await, Ok(0))
    }

    /// Records appended so far.
    pub(super) async fn count(&self) -> anyhow::Result<u64> {
        let (asking, names) = (Arc::clone(&self.asking), self.names);
        tokio::task::spawn_blocking(move || {
            let mut count = 0;
            for name in names {
                for partition in 0..PARTITIONS {
                    let (_, end) = asking
                        .fetch_watermarks(name, partition, ANSWER)
                        .with_context(|| format!("asking for the end of {name}"))?;
                    count += u64::try_from(end)?;
                }
            }
            Ok(count)
        })
        .await?
    }

    /// Reads what is there, and holds it against what was written: events `0..total`.
    pub(super) async fn read_all(
        &self,
        events: Events,
        total: u64,
        keep_records: bool,
    ) -> anyhow::Result<Arrived> {
        let count = self.count().await?;
        let topics = self.clone();
        tokio::task::spawn_blocking(move || {
            let consumer = topics.reader(Offset::Beginning)?;
            let mut check = Check::new(events, total);
            let mut arrived = Arrived {
                first_ms: i64::MAX,
                last_ms: i64::MIN,
                duplicates: 0,
                violations: 0,
                missing: 0,
                records: Vec::with_capacity(if keep_records { usize::try_from(total)? } else { 0 }),
            };
            for _ in 0..count {
                let message =
                    consumer.poll(READ_PATIENCE).context("kafka has fewer records than it said")??;
                let Some(number) = number(&message)? else { continue };
                let millis = message.timestamp().to_millis().context("a record without a time")?;
                arrived.first_ms = arrived.first_ms.min(millis);
                arrived.last_ms = arrived.last_ms.max(millis);
                check.take(number, &message)?;
                if keep_records {
                    arrived.records.push(message.detach());
                }
            }
            (arrived.duplicates, arrived.violations, arrived.missing) =
                (check.duplicates, check.violations, check.missing());
            Ok(arrived)
        })
        .await?
    }

    /// A consumer of all partitions.
    pub(super) fn reader(&self, from: Offset) -> anyhow::Result<BaseConsumer> {
        let consumer: BaseConsumer = client(&self.brokers)
            .set("group.id", "outflow-bench")
            .set("enable.auto.commit", "false")
            .set("auto.offset.reset", "error")
            .create()
            .context("setting up a kafka consumer")?;
        let mut partitions = TopicPartitionList::new();
        for name in self.names {
            for partition in 0..PARTITIONS {
                partitions.add_partition_offset(name, partition, from)?;
            }
        }
        consumer.assign(&partitions).context("assigning partitions")?;
        Ok(consumer)
    }
}

fn client(brokers: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers);
    config
}

/// The number of the event in a record; none for a marker.
///
/// # Errors
/// Where it is no record of a benchmark's event.
pub(super) fn number(message: &BorrowedMessage<'_>) -> anyhow::Result<Option<u64>> {
    let headers = message.headers().context("a record without headers")?;
    let id = headers.iter().find(|header| ID_HEADERS.contains(&header.key)).and_then(|header| header.value);
    let number = id.and_then(number_of).context("a record without an event's id")?;
    Ok((number != MARKER).then_some(number))
}

/// What has been seen of a run's events.
#[derive(Debug)]
pub(super) struct Check {
    events: Events,
    seen: Vec<bool>,
    distinct: u64,
    duplicates: u64,
    pub(super) violations: u64,
}

impl Check {
    pub(super) fn new(events: Events, total: u64) -> Self {
        let seen = vec![false; usize::try_from(total).unwrap_or(usize::MAX)];
        Self { events, seen, distinct: 0, duplicates: 0, violations: 0 }
    }

    /// True at an event's first appearance.
    pub(super) fn take(&mut self, number: u64, message: &BorrowedMessage<'_>) -> anyhow::Result<bool> {
        let event = self.events.get(number);
        let is_first = self.note(number, event)?;
        // Looked at once in a while: a check must not take longer than what it checks.
        if is_first && number.is_multiple_of(LOOKED_AT) {
            looks_right(event, message)?;
        }
        Ok(is_first)
    }

    fn note(&mut self, number: u64, event: Event) -> anyhow::Result<bool> {
        let index = usize::try_from(number)?;
        ensure!(index < self.seen.len(), "event {number} was never written");
        if self.seen[index] {
            self.duplicates += 1;
            return Ok(false);
        }
        self.seen[index] = true;
        self.distinct += 1;
        if let Some(predecessor) = event.predecessor
            && !self.seen[usize::try_from(predecessor)?]
        {
            self.violations += 1;
        }
        Ok(true)
    }

    pub(super) fn missing(&self) -> u64 {
        self.seen.len() as u64 - self.distinct
    }
}

fn looks_right(event: Event, message: &BorrowedMessage<'_>) -> anyhow::Result<()> {
    let key = message.key().unwrap_or_default();
    ensure!(key == event.aggregate_id().as_bytes(), "a record of {event:?} has another key");
    let topic = format!("{}.events", event.aggregate_type());
    ensure!(message.topic().eq_ignore_ascii_case(&topic), "{event:?} is in {}", message.topic());
    let headers = message.headers().map_or(0, Headers::count);
    ensure!(headers >= HEADERS, "a record of {event:?} has {headers} headers, fewer than {HEADERS}");
    let payload: serde_json::Value =
        serde_json::from_slice(message.payload().unwrap_or_default()).context("a payload is no JSON")?;
    ensure!(
        payload["orderId"] == event.aggregate_id(),
        "a record of {event:?} tells of {}",
        payload["orderId"]
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_finds_what_is_missing_doubled_or_out_of_order() {
        let events = Events::of(0);
        // The first event that has a predecessor: some order's payment.
        let paid = (0..100_000).find(|number| events.get(*number).predecessor.is_some()).unwrap();
        let mut check = Check::new(events, paid + 1);
        let mut note = |number| check.note(number, events.get(number)).unwrap();
        assert!(note(paid));
        assert!(note(0) && note(1));
        assert!(!note(1));

        assert_eq!((check.violations, check.duplicates, check.missing()), (1, 1, paid + 1 - 3));
        assert!(check.note(paid + 1, events.get(paid + 1)).is_err(), "an event that nobody wrote");
    }
}
