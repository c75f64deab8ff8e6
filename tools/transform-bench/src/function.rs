//! The function that is deployed, optimised, called as Lambda calls it, with a Kafka behind it: what it weighs, and what a
//! thousand activations do to what it writes.

use crate::{
    BATCH, Entry, Scale,
    events::{self, Sent},
    record::guest,
    registry::Shelf,
};
use anyhow::{Context, ensure};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use outflow_broker::topics;
use outflow_stack::{Service, Settings, Stack, target_dir, workspace_root};
use outflow_tests::Function;
use outflow_transform::Digest;
use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
};
use serde::Deserialize;
use serde_json::{Value, json};
use std::{
    cell::Cell,
    collections::{HashMap, HashSet},
    path::Path,
    time::{Duration, Instant},
};

const PACKAGE: &str = "transform-events";
/// The topic of the rows that are looked at one by one.
const ROWS: &str = "orders_analytics";
const ANSWER: Duration = Duration::from_secs(10);

pub(crate) async fn run(scale: Scale) -> anyhow::Result<Vec<Entry>> {
    let stack = Stack::new(Settings::isolated(workspace_root().join(".outflow/bench-transform")));
    stack.reset().await?;
    let measured = measure(&stack, scale).await;
    stack.down().await?;
    stack.reset().await?;
    measured
}

async fn measure(stack: &Stack, scale: Scale) -> anyhow::Result<Vec<Entry>> {
    stack.start(Service::Kafka).await?;
    let brokers = stack.kafka()?.context("Kafka was just started")?.brokers;
    topics::ensure(&brokers, &topics::all()).await?;
    let mut entries = memory(&brokers, scale).await?;
    entries.extend(activations(&brokers, scale).await?);
    if !scale.quick {
        let program = target_dir().join(PACKAGE);
        let bytes = std::fs::metadata(&program).with_context(|| format!("no {}", program.display()))?.len();
        entries.push(Entry::alone("transform.binary_size", bytes as f64 / 1e6, "MB"));
    }
    Ok(entries)
}

async fn start(brokers: &str, shelf: &Shelf) -> anyhow::Result<Function> {
    let env = [
        ("OUTFLOW_KAFKA_BROKERS", brokers),
        ("OUTFLOW_TRANSFORM_REGISTRY", shelf.folder()),
        ("OUTFLOW_TRANSFORM_TRUSTED_KEYS", &shelf.trusted),
    ];
    Function::deployed(PACKAGE, &env).await
}

/// The most memory that it has had with three transforms active, after many full batches.
async fn memory(brokers: &str, scale: Scale) -> anyhow::Result<Vec<Entry>> {
    let guests = ["order-analytics", "order-items-analytics", "inventory-analytics"].map(guest);
    let shelf = Shelf::with(&guests.each_ref().map(Vec::as_slice)).await;
    for guest in &guests {
        shelf.activate(&Digest::of(guest)).await;
    }
    let function = start(brokers, &shelf).await?;
    let (orders, reservations) = (events::orders(), events::reservations());
    for version in 1..=scale.batches() {
        deliver(&function, &orders, version).await?;
        deliver(&function, &reservations, version).await?;
    }
    let reader = reader(brokers)?;
    for table in [ROWS, "order_items_analytics", "inventory_analytics"] {
        let rows: i64 = ends(&reader, table)?.iter().sum();
        ensure!(rows > 0, "{table} has no row: its transform did not run");
    }
    Ok(vec![Entry::alone("transform.memory", status_mib(&function, "VmHWM:")?, "MiB")])
}

/// Activations at a steady rate beside batches without a pause, and then every row that was written.
async fn activations(brokers: &str, scale: Scale) -> anyhow::Result<Vec<Entry>> {
    let guests = ["order-analytics", "order-analytics-banded"].map(guest);
    let shelf = Shelf::with(&guests.each_ref().map(Vec::as_slice)).await;
    let digests = guests.each_ref().map(|guest| Digest::of(guest));
    shelf.activate(&digests[1]).await;
    let function = start(brokers, &shelf).await?;
    let orders = events::orders();
    let before = ends(&reader(brokers)?, ROWS)?;
    let (activations, time) = scale.activations();

    let began_at = Instant::now();
    let ended = Cell::new(false);
    let activate = async {
        for number in 0..activations {
            shelf.activate(&digests[number as usize % 2]).await;
            tokio::time::sleep_until((began_at + time * (number + 1) / activations).into()).await;
        }
        ended.set(true);
        began_at.elapsed()
    };
    let load = async {
        let (mut batches, mut memory_first) = (0, None);
        while !ended.get() {
            batches += 1;
            deliver(&function, &orders, batches).await?;
            // Behind its first batches: by then each buffer has its size.
            if memory_first.is_none() && began_at.elapsed() > time / 10 {
                memory_first = Some(status_mib(&function, "VmRSS:")?);
            }
        }
        anyhow::Ok((batches, memory_first.context("the time was too short for a batch")?))
    };
    let (took, load) = tokio::join!(activate, load);
    let (batches, memory_first) = load?;
    let memory_last = status_mib(&function, "VmRSS:")?;

    let brokers = brokers.to_owned();
    let written = tokio::task::spawn_blocking(move || Written::read(&brokers, &before)).await??;
    let wrong = written.wrong(batches);
    ensure!(written.records > 0, "nothing was written");
    Ok(vec![
        Entry::alone("transform.activations", f64::from(activations) / took.as_secs_f64() * 60.0, "a minute"),
        Entry::alone("transform.activations_seen", written.generations as f64, "generations"),
        Entry::alone("transform.activations_records", written.records as f64, "records"),
        Entry::alone("transform.activations_lost", wrong.lost as f64, "records"),
        Entry::alone("transform.activations_doubled", wrong.doubled as f64, "records"),
        Entry::alone("transform.activations_out_of_order", wrong.out_of_order as f64, "records"),
        Entry::against("transform.activations_memory", memory_last, "MiB", ("first_reading", memory_first)),
    ])
}

/// A batch of one version of each aggregate, all of one topic, as an event source hands them over.
async fn deliver(function: &Function, events: &[Sent], version: u64) -> anyhow::Result<()> {
    let records: Vec<Value> =
        events.iter().enumerate().map(|(number, sent)| record(sent, number, version)).collect();
    let partition = format!("{}-0", events.first().context("a batch has events")?.topic);
    let event = json!({
        "eventSource": "SelfManagedKafka",
        "bootstrapServers": "127.0.0.1:9092",
        "records": {partition: records},
    });
    let answer =
        function.invoke(event).await.map_err(|error| anyhow::anyhow!("the function failed: {error}"))?;
    let failures = &answer["batchItemFailures"];
    ensure!(failures.as_array().is_none_or(Vec::is_empty), "records came back: {failures}");
    Ok(())
}

fn record(sent: &Sent, number: usize, version: u64) -> Value {
    let headers: Vec<Value> = sent
        .headers
        .iter()
        .map(|(name, value)| match name.as_str() {
            "aggregateVersion" => json!({name: version.to_string().as_bytes()}),
            _ => json!({name: value}),
        })
        .collect();
    json!({
        "topic": sent.topic, "partition": 0, "offset": version * BATCH as u64 + number as u64,
        "timestamp": 1_795_417_893_001_u64, "timestampType": "CREATE_TIME",
        "key": BASE64_STANDARD.encode(&sent.aggregate_id), "value": BASE64_STANDARD.encode(&sent.payload),
        "headers": headers,
    })
}

fn reader(brokers: &str) -> anyhow::Result<BaseConsumer> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers).set("group.id", "bench").set("enable.auto.commit", "false");
    config.create().context("setting up a kafka client")
}

/// The end of each partition of a topic.
fn ends(reader: &BaseConsumer, topic: &str) -> anyhow::Result<Vec<i64>> {
    let metadata = reader.fetch_metadata(Some(topic), ANSWER).context("asking for partitions")?;
    let partitions = metadata.topics().first().context("the topic is known")?.partitions();
    (0..i32::try_from(partitions.len())?)
        .map(|partition| Ok(reader.fetch_watermarks(topic, partition, ANSWER)?.1))
        .collect()
}

/// What came of each order, in the order in which it was written.
#[derive(Default)]
struct Written {
    records: u64,
    generations: usize,
    /// By order: each version once at most, how many came again, how many behind a higher one.
    orders: HashMap<String, Versions>,
}

#[derive(Default)]
struct Versions {
    seen: Vec<bool>,
    last: (u64, u64),
    doubled: u64,
    out_of_order: u64,
}

struct Wrong {
    lost: u64,
    doubled: u64,
    out_of_order: u64,
}

#[derive(Deserialize)]
struct Row<'a> {
    order_id: &'a str,
    version: u64,
}

impl Written {
    /// Reads from these offsets to the present end.
    fn read(brokers: &str, from: &[i64]) -> anyhow::Result<Self> {
        let reader = reader(brokers)?;
        let mut assigned = TopicPartitionList::new();
        for (partition, offset) in (0..).zip(from) {
            assigned.add_partition_offset(ROWS, partition, Offset::Offset(*offset))?;
        }
        reader.assign(&assigned)?;
        let mut left: u64 =
            ends(&reader, ROWS)?.iter().zip(from).map(|(end, from)| end.abs_diff(*from)).sum();
        let (mut written, mut generations) = (Self::default(), HashSet::new());
        while left > 0 {
            let record = reader.poll(ANSWER).context("rows are missing in the topic")??;
            let row: Row<'_> = serde_json::from_slice(record.payload().context("a row")?)?;
            let (version, generation) = (row.version >> 24, row.version & 0xff_ffff);
            generations.insert(generation);
            written.add(row.order_id, version, generation)?;
            left -= 1;
        }
        written.generations = generations.len();
        Ok(written)
    }

    fn add(&mut self, order: &str, version: u64, generation: u64) -> anyhow::Result<()> {
        self.records += 1;
        let versions = match self.orders.get_mut(order) {
            Some(versions) => versions,
            None => self.orders.entry(order.to_owned()).or_default(),
        };
        let at = usize::try_from(version)?;
        if versions.seen.len() <= at {
            versions.seen.resize(at + 1, false);
        }
        if std::mem::replace(&mut versions.seen[at], true) {
            versions.doubled += 1;
        } else if (version, generation) < versions.last || generation < versions.last.1 {
            versions.out_of_order += 1;
        }
        versions.last = versions.last.max((version, generation));
        Ok(())
    }

    /// Where each order was given the versions from 1 to `batches`.
    fn wrong(&self, batches: u64) -> Wrong {
        let expected = batches * BATCH as u64;
        let distinct: usize =
            self.orders.values().map(|versions| versions.seen.iter().filter(|seen| **seen).count()).sum();
        Wrong {
            lost: expected.saturating_sub(distinct as u64),
            doubled: self.orders.values().map(|versions| versions.doubled).sum(),
            out_of_order: self.orders.values().map(|versions| versions.out_of_order).sum(),
        }
    }
}

/// A size that Linux tells of the function's process, in MiB.
fn status_mib(function: &Function, name: &str) -> anyhow::Result<f64> {
    let pid = function.pid().context("the function has ended")?;
    let status = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)).context("Linux tells it")?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib / 1_024.0)
}
