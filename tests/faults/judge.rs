//! The judge: what MySQL has committed against what a reader of Kafka finds.

use crate::field::Field;
use outflow_outbox::{ORDER_VIOLATED, write_without_lock};
use outflow_tests::event;
use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    message::Headers,
};
use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

const READ: Duration = Duration::from_secs(60);

/// One record, as far as order and identity go.
#[derive(Clone, Debug)]
pub(crate) struct Read {
    pub(crate) event_id: String,
    pub(crate) aggregate: String,
    pub(crate) version: u32,
}

/// What was found besides that all is well.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Verdict {
    pub(crate) events: usize,
    /// Records beyond the first one of their event.
    pub(crate) duplicates: usize,
    /// Events that are in Kafka and not in MySQL: each a lost or a rolled back transaction's.
    pub(crate) strangers: usize,
}

impl Field {
    /// Waits until the relay has carried everything: nothing behind the position, no row in a gap, nothing parked.
    pub(crate) async fn settle(&self) {
        self.until("everything is carried", async || {
            self.number(
                "SELECT (SELECT COALESCE(MAX(id), 0) FROM outbox) <= (SELECT COALESCE(MAX(position), 0) FROM outbox_position)
                     AND NOT EXISTS (SELECT 1 FROM outbox_gaps g JOIN outbox o ON o.id BETWEEN g.first_id AND g.last_id)
                     AND NOT EXISTS (SELECT 1 FROM outbox_failures)",
            )
            .await
                == 1
        })
        .await;
    }

    /// After [`Self::settle`]: nothing lost, nothing out of order, nothing that was never committed.
    pub(crate) async fn judge(&self) -> Verdict {
        let verdict = self.judge_with_strangers().await;
        assert_eq!(verdict.strangers, 0, "events are in Kafka that were never committed");
        verdict
    }

    /// As [`Self::judge`], where a server has lost transactions whose events were carried before.
    pub(crate) async fn judge_with_strangers(&self) -> Verdict {
        let rows: Vec<(String, String, u32)> =
            sqlx::query_as("SELECT event_id, aggregate_id, aggregate_version FROM outbox ORDER BY id")
                .fetch_all(&self.pool)
                .await
                .unwrap();
        let records = self.read_all().await;
        let committed: HashMap<&str, (&str, u32)> =
            rows.iter().map(|(id, aggregate, version)| (&**id, (&**aggregate, *version))).collect();
        let (mut seen, mut strangers) = (HashSet::new(), HashSet::new());
        let mut newest: HashMap<&str, u32> = HashMap::new();
        let mut faults = Vec::new();
        for Read { event_id, aggregate, version } in &records {
            let Some(place) = committed.get(&**event_id) else {
                strangers.insert(event_id);
                continue;
            };
            assert_eq!(*place, (&**aggregate, *version), "event {event_id} has another place in Kafka");
            if seen.insert(&**event_id) {
                let newest = newest.entry(aggregate).or_default();
                if *version != *newest + 1 {
                    faults.push(format!("{aggregate}: version {version} appeared after {newest}"));
                }
                *newest = *version;
            }
        }
        let lost = rows.iter().filter(|(id, ..)| !seen.contains(&**id));
        faults.extend(lost.map(|(_, aggregate, version)| format!("{aggregate}: version {version} is lost")));
        assert!(
            faults.is_empty(),
            "{} faults, such as {:#?}\n{}",
            faults.len(),
            &faults[..faults.len().min(10)],
            self.tell().await
        );
        for entry in std::fs::read_dir(self.logs.path()).unwrap() {
            let log = std::fs::read_to_string(entry.unwrap().path()).unwrap();
            assert!(!log.contains(ORDER_VIOLATED), "a relay saw the order broken: {log}");
            assert!(!log.contains("panicked"), "a relay panicked: {log}");
        }
        let verdict = Verdict {
            events: rows.len(),
            duplicates: records.len()
                - seen.len()
                - records.iter().filter(|read| strangers.contains(&read.event_id)).count(),
            strangers: strangers.len(),
        };
        let Verdict { events, duplicates, strangers } = verdict;
        eprintln!("{events} events committed, {duplicates} records repeat one, {strangers} strangers");
        verdict
    }

    /// The whole topic; each partition, and so each aggregate, in its order.
    pub(crate) async fn read_all(&self) -> Vec<Read> {
        let (brokers, topic) = (self.shop.endpoints.kafka.brokers.clone(), self.topic.clone());
        tokio::task::spawn_blocking(move || read_topic(&brokers, &topic)).await.unwrap()
    }
}

fn read_topic(brokers: &str, topic: &str) -> Vec<Read> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", "judge")
        .set("enable.auto.commit", "false")
        .create()
        .unwrap();
    let deadline = Instant::now() + READ;
    let metadata = consumer.fetch_metadata(Some(topic), READ).unwrap();
    let mut assignment = TopicPartitionList::new();
    let mut missing: HashMap<i32, i64> = HashMap::new();
    for partition in metadata.topics()[0].partitions() {
        let (low, high) = consumer.fetch_watermarks(topic, partition.id(), READ).unwrap();
        assignment.add_partition_offset(topic, partition.id(), Offset::Offset(low)).unwrap();
        missing.insert(partition.id(), high - low);
    }
    consumer.assign(&assignment).unwrap();
    let mut records = Vec::new();
    while missing.values().any(|missing| *missing > 0) {
        assert!(Instant::now() < deadline, "the topic could not be read: {missing:?} records are missing");
        let Some(record) = consumer.poll(Duration::from_millis(100)) else { continue };
        let record = record.unwrap();
        *missing.get_mut(&record.partition()).unwrap() -= 1;
        let headers = record.headers().unwrap();
        let header = |name: &str| {
            let header = headers.iter().find(|header| header.key == name);
            let header = header.unwrap_or_else(|| panic!("{name} is missing"));
            std::str::from_utf8(header.value.unwrap()).unwrap().to_owned()
        };
        records.push(Read {
            event_id: header("ce_id"),
            aggregate: std::str::from_utf8(record.key().unwrap()).unwrap().to_owned(),
            version: header("aggregateVersion").parse().unwrap(),
        });
    }
    records
}

/// What the judge looks for in the logs is what a relay says.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_sees_the_order_broken_says_so_in_the_judges_words() {
    let field = Field::shared().await;
    let relay = field.relay();
    for version in [2, 1] {
        let mut connection = field.pool.acquire().await.unwrap();
        write_without_lock(&mut connection, &[event(field.aggregate_type, "a", version)]).await.unwrap();
    }
    field.until("the relay says so", async || relay.log().contains(ORDER_VIOLATED)).await;
    relay.stop().await;
}
