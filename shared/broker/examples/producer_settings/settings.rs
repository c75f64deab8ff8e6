//! Compression, linger and sizes of batches, through the publisher that the relay uses.

use crate::stored::bytes_a_record;
use crate::{
    Args, Line,
    load::{CALL, Cpu, RATE, TIMEOUT, event, fresh_topic, percentile, remove_topic},
};
use anyhow::ensure;
use outflow_broker::{OutboxPublisher, Producer};
use outflow_outbox::{OutboxEvent, Publisher};
use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::task::JoinSet;

/// Calls under way while the relay drains, unless that is what is measured.
const CALLS_AT_ONCE: usize = 8;
/// Records that are sent before anything is measured: connections, metadata, the broker's just-in-time compiler.
const WARM_UP: usize = 20_000;

pub(crate) async fn compression(args: &Args) -> anyhow::Result<Vec<Line>> {
    let codecs = ["none", "lz4", "snappy", "gzip", "zstd"];
    let mut lines = Vec::new();
    for codec in codecs {
        lines.extend(measure(args, "compression", codec.to_owned(), &[("compression.type", codec)]).await?);
    }
    Ok(lines)
}

pub(crate) async fn linger(args: &Args) -> anyhow::Result<Vec<Line>> {
    let mut lines = Vec::new();
    for linger in ["0", "0.2", "0.5", "1", "2"] {
        lines.extend(measure(args, "linger", format!("{linger} ms"), &[("linger.ms", linger)]).await?);
    }
    Ok(lines)
}

pub(crate) async fn batch(args: &Args) -> anyhow::Result<Vec<Line>> {
    let mut lines = Vec::new();
    for records in ["500", "1000", "2000", "10000"] {
        let setting = [("batch.num.messages", records)];
        lines.extend(measure(args, "batch", format!("{records} records"), &setting).await?);
    }
    Ok(lines)
}

pub(crate) async fn in_flight(args: &Args) -> anyhow::Result<Vec<Line>> {
    let mut lines = Vec::new();
    for calls in [1, 2, 4, 8, 16, 24] {
        let name = format!("{calls} calls of {CALL}");
        lines.extend(measure_with(args, "in flight", name, &[], calls).await?);
    }
    Ok(lines)
}

async fn measure(
    args: &Args,
    subject: &'static str,
    name: String,
    setting: &[(&str, &str)],
) -> anyhow::Result<Option<Line>> {
    measure_with(args, subject, name, setting, CALLS_AT_ONCE).await
}

async fn measure_with(
    args: &Args,
    subject: &'static str,
    name: String,
    setting: &[(&str, &str)],
    calls_at_once: usize,
) -> anyhow::Result<Option<Line>> {
    let producer = match Producer::connect_with(&args.brokers, TIMEOUT, setting) {
        Ok(producer) => producer,
        Err(error) => {
            eprintln!("{subject} {name}: left out, {error}");
            return Ok(None);
        }
    };
    let publisher = Arc::new(OutboxPublisher::new(producer, TIMEOUT));
    let (aggregate_type, topic) = fresh_topic(&args.brokers).await?;
    let events = |count| -> Vec<Vec<OutboxEvent>> {
        let events: Vec<_> = (0..count as u64).map(|id| event(&aggregate_type, id)).collect();
        events.chunks(CALL).map(<[_]>::to_vec).collect()
    };
    drain(&publisher, events(WARM_UP), calls_at_once).await?;

    let calls = events(args.records);
    let (started, cpu) = (Instant::now(), Cpu::start(args)?);
    drain(&publisher, calls, calls_at_once).await?;
    let mut figures =
        BTreeMap::from([("drain: records/s", args.records as f64 / started.elapsed().as_secs_f64())]);
    figures.extend(cpu.a_record(["drain: CPU us/record", "drain: broker's"], args.records)?);
    let (brokers, read) = (args.brokers.clone(), topic.clone());
    let stored = tokio::task::spawn_blocking(move || bytes_a_record(&brokers, &read)).await??;
    figures.insert("drain: bytes/record", stored);
    figures.extend(steady(args, &publisher, &aggregate_type).await?);
    remove_topic(&args.brokers, &topic).await?;
    eprintln!("{subject} {name}: {figures:.1?}");
    Ok(Some(Line { subject, setting: name, figures }))
}

/// As the relay does it with a backlog: the next call starts when one of those under way is done.
async fn drain(
    publisher: &Arc<OutboxPublisher>,
    calls: Vec<Vec<OutboxEvent>>,
    at_once: usize,
) -> anyhow::Result<()> {
    let mut under_way = JoinSet::new();
    for events in calls {
        if under_way.len() == at_once
            && let Some(sent) = under_way.join_next().await
        {
            ensure!(sent?, "an event was not confirmed");
        }
        let publisher = Arc::clone(publisher);
        under_way.spawn(async move { publisher.publish(&events).await.iter().all(Result::is_ok) });
    }
    while let Some(sent) = under_way.join_next().await {
        ensure!(sent?, "an event was not confirmed");
    }
    Ok(())
}

/// Lone records at a steady rate: each in a call of its own, from the call to its confirmation.
async fn steady(
    args: &Args,
    publisher: &Arc<OutboxPublisher>,
    aggregate_type: &str,
) -> anyhow::Result<Vec<(&'static str, f64)>> {
    let records = args.seconds * u64::from(RATE);
    let events: Vec<_> = (0..records).map(|id| event(aggregate_type, id)).collect();
    let cpu = Cpu::start(args)?;
    let mut tick = tokio::time::interval(Duration::from_secs(1) / RATE);
    let mut under_way = JoinSet::new();
    for event in events {
        tick.tick().await;
        let publisher = Arc::clone(publisher);
        under_way.spawn(async move {
            let started = Instant::now();
            let confirmed = publisher.publish(&[event]).await.iter().all(Result::is_ok);
            confirmed.then(|| started.elapsed())
        });
    }
    let mut samples: Vec<Duration> = under_way.join_all().await.into_iter().flatten().collect();
    ensure!(samples.len() as u64 == records, "an event was not confirmed");
    let mut figures = cpu.a_record(["600/s: CPU us/record", "600/s: broker's"], samples.len())?;
    figures.push(("600/s: p50 ms", percentile(&mut samples, 0.5)));
    figures.push(("600/s: p99 ms", percentile(&mut samples, 0.99)));
    Ok(figures)
}
