//! What fencing at the broker costs: a transactional producer against the idempotent one.
//!
//! Both are plain librdkafka producers, and the same reader sees both, as a reader of the topic would: with
//! `read_committed`, which waits for a transaction's end.

use crate::{
    Args, Line,
    load::{CALL, Cpu, RATE, TIMEOUT, event, fresh_topic, percentile, remove_topic},
};
use anyhow::{Context, ensure};
use outflow_outbox::OutboxEvent;
use rdkafka::{
    ClientConfig, Message,
    consumer::{BaseConsumer, Consumer},
    producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer},
};
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};
use uuid::Uuid;

/// Transactions of one record each that are timed one after the other.
const LONE_TRANSACTIONS: usize = 1_000;
const WARM_UP: usize = 20_000;
/// Records on their way at once.
const AT_ONCE: usize = 8 * CALL;

pub(crate) async fn measure(args: &Args) -> anyhow::Result<Vec<Line>> {
    let mut lines = Vec::new();
    for transactional in [false, true] {
        let (aggregate_type, topic) = fresh_topic(&args.brokers).await?;
        let (own, name) = (args.clone(), topic.clone());
        let one = move || measure_one(&own, transactional, &aggregate_type, &name);
        lines.push(tokio::task::spawn_blocking(one).await??);
        remove_topic(&args.brokers, &topic).await?;
    }
    Ok(lines)
}

fn measure_one(args: &Args, transactional: bool, aggregate_type: &str, topic: &str) -> anyhow::Result<Line> {
    let sender = Sender::connect(&args.brokers, topic, transactional)?;
    let events = |count: usize| -> Vec<OutboxEvent> {
        (0..count as u64).map(|id| event(aggregate_type, id)).collect()
    };
    for batch in events(WARM_UP).chunks(CALL) {
        sender.send(batch)?;
    }
    sender.settle()?;

    let waiting = events(args.records);
    let (started, cpu) = (Instant::now(), Cpu::start(args)?);
    for batch in waiting.chunks(CALL) {
        sender.send(batch)?;
    }
    sender.settle()?;
    let mut figures =
        BTreeMap::from([("drain: records/s", args.records as f64 / started.elapsed().as_secs_f64())]);
    figures.extend(cpu.a_record(["drain: CPU us/record", "drain: broker's"], args.records)?);
    if transactional {
        let events = events(LONE_TRANSACTIONS);
        let started = Instant::now();
        for event in events.chunks(1) {
            sender.send(event)?;
        }
        figures.insert("one by one: records/s", LONE_TRANSACTIONS as f64 / started.elapsed().as_secs_f64());
    }
    figures.extend(steady(args, &sender, &events(usize::try_from(args.seconds)? * RATE as usize))?);
    let setting = if transactional { "a transaction a batch" } else { "idempotent" };
    eprintln!("fencing {setting}: {figures:.1?}");
    Ok(Line { subject: "fencing", setting: setting.to_owned(), figures })
}

/// A steady load, from a record's due time to its reader. What is due goes together: in one transaction, where there are any.
fn steady(args: &Args, sender: &Sender, events: &[OutboxEvent]) -> anyhow::Result<Vec<(&'static str, f64)>> {
    let reader = Reader::start(&args.brokers, &sender.topic)?;
    let cpu = Cpu::start(args)?;
    let started = Instant::now();
    let due =
        |index: usize| started + Duration::from_secs(1) * u32::try_from(index).unwrap_or(u32::MAX) / RATE;
    let mut sent = 0;
    while sent < events.len() {
        std::thread::sleep(due(sent).saturating_duration_since(Instant::now()));
        let now = Instant::now();
        let ready = (sent..events.len()).take_while(|&index| due(index) <= now).count().max(1);
        sender.send(&events[sent..sent + ready])?;
        sent += ready;
    }
    sender.settle()?;
    let mut figures = cpu.a_record(["600/s: CPU us/record", "600/s: broker's"], events.len())?;
    let arrivals = reader.finish(events.len())?;
    ensure!(arrivals.len() == events.len(), "{} of {} records came", arrivals.len(), events.len());
    let mut samples: Vec<Duration> = (0..events.len())
        .map(|index| arrivals[events[index].event_id.as_str()].saturating_duration_since(due(index)))
        .collect();
    figures.push(("600/s: p50 ms", percentile(&mut samples, 0.5)));
    figures.push(("600/s: p99 ms", percentile(&mut samples, 0.99)));
    Ok(figures)
}

struct Sender {
    producer: ThreadedProducer<DefaultProducerContext>,
    topic: String,
    transactional: bool,
}

impl Sender {
    fn connect(brokers: &str, topic: &str, transactional: bool) -> anyhow::Result<Self> {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", brokers)
            .set("acks", "all")
            .set("enable.idempotence", "true")
            .set("compression.type", "lz4")
            .set("linger.ms", "0.5")
            // A transaction that begins while the last one is still being closed is tried again; the default waits 100 ms.
            .set("retry.backoff.ms", "1")
            .set("retry.backoff.max.ms", "10")
            .set("partitioner", "murmur2_random");
        if transactional {
            config.set("transactional.id", format!("measure-{}", Uuid::now_v7()));
        }
        let producer: ThreadedProducer<DefaultProducerContext> = config.create()?;
        if transactional {
            producer.init_transactions(TIMEOUT)?;
        }
        Ok(Self { producer, topic: topic.to_owned(), transactional })
    }

    /// In one transaction; where there are none, beside what was sent before.
    fn send(&self, events: &[OutboxEvent]) -> anyhow::Result<()> {
        if self.transactional {
            self.producer.begin_transaction()?;
        }
        self.wait_for(AT_ONCE - CALL)?;
        for event in events {
            let record = BaseRecord::to(&self.topic).key(&event.aggregate_id).payload(&event.payload);
            let mut headers = rdkafka::message::OwnedHeaders::new();
            for (key, value) in [
                ("ce_id", &event.event_id),
                ("ce_type", &event.event_type),
                ("aggregateType", &event.aggregate_type),
                ("traceparent", &event.headers[0].1),
            ] {
                headers = headers.insert(rdkafka::message::Header { key, value: Some(value) });
            }
            self.producer.send(record.headers(headers)).map_err(|(error, _)| error)?;
        }
        if self.transactional {
            self.settle()?;
            self.producer.commit_transaction(TIMEOUT)?;
        }
        Ok(())
    }

    /// Waits for what was sent. The client's own `flush` looks each 100 ms only, and a commit begins with one.
    fn settle(&self) -> anyhow::Result<()> {
        self.wait_for(0)
    }

    /// Until so few records are on their way.
    fn wait_for(&self, records: usize) -> anyhow::Result<()> {
        let until = Instant::now() + TIMEOUT;
        while usize::try_from(self.producer.in_flight_count())? > records {
            ensure!(Instant::now() < until, "the records are not confirmed");
            std::thread::sleep(Duration::from_micros(100));
        }
        Ok(())
    }
}

/// Notes when each record comes.
struct Reader {
    thread: JoinHandle<anyhow::Result<BTreeMap<String, Instant>>>,
    expected: mpsc::Sender<usize>,
}

impl Reader {
    /// Reads what comes from now on.
    fn start(brokers: &str, topic: &str) -> anyhow::Result<Self> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", brokers)
            .set("group.id", Uuid::now_v7().to_string())
            .set("isolation.level", "read_committed")
            .set("enable.auto.commit", "false")
            .set("fetch.wait.max.ms", "100")
            .create()?;
        let metadata = consumer.fetch_metadata(Some(topic), TIMEOUT)?;
        let mut assignment = rdkafka::TopicPartitionList::new();
        for partition in metadata.topics()[0].partitions() {
            let (_, end) = consumer.fetch_watermarks(topic, partition.id(), TIMEOUT)?;
            assignment.add_partition_offset(topic, partition.id(), rdkafka::Offset::Offset(end))?;
        }
        consumer.assign(&assignment)?;
        let ready = Arc::new(AtomicBool::new(false));
        let (expected, all) = mpsc::channel();
        let is_ready = Arc::clone(&ready);
        let thread = std::thread::spawn(move || {
            let mut arrivals = BTreeMap::new();
            let mut patience: Option<(usize, Instant)> = None;
            loop {
                let message = consumer.poll(Duration::from_millis(20));
                is_ready.store(true, Ordering::Release);
                if let Some(message) = message {
                    let message = message?;
                    let id = event_id(&message).context("a record has no ce_id")?;
                    arrivals.insert(id, Instant::now());
                }
                patience = patience.or_else(|| Some((all.try_recv().ok()?, Instant::now() + TIMEOUT)));
                if patience.is_some_and(|(count, until)| arrivals.len() >= count || Instant::now() > until) {
                    return Ok(arrivals);
                }
            }
        });
        while !ready.load(Ordering::Acquire) {
            std::thread::yield_now();
        }
        Ok(Self { thread, expected })
    }

    fn finish(self, count: usize) -> anyhow::Result<BTreeMap<String, Instant>> {
        self.expected.send(count).ok();
        self.thread.join().map_err(|_| anyhow::anyhow!("the reader panicked"))?
    }
}

fn event_id(message: &rdkafka::message::BorrowedMessage<'_>) -> Option<String> {
    use rdkafka::message::Headers;
    let headers = message.headers()?;
    let header = headers.iter().find(|header| header.key == "ce_id")?;
    String::from_utf8(header.value?.to_vec()).ok()
}
