//! A round of one contender: a drain and a steady load, the same for each.

use crate::{
    Args, Figures,
    contender::{Contender, Sender},
    load::{Cpu, RATE, event, fresh_topic, percentile, remove_topic},
    reader::Reader,
    stored::bytes_a_record,
};
use anyhow::ensure;
use outflow_outbox::OutboxEvent;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// Records that a contender sends before its own measurement: connections, metadata, the topic's files.
const WARM_UP: usize = 20_000;
/// Transactions of one record each, one after the other.
const LONE_TRANSACTIONS: usize = 1_000;

pub(crate) async fn round(args: &Args, contender: &Contender) -> anyhow::Result<Figures> {
    let sender = contender.connect(&args.brokers)?;
    let (aggregate_type, topic) = fresh_topic(&args.brokers).await?;
    let events = |count: usize| -> Arc<Vec<OutboxEvent>> {
        Arc::new((0..count as u64).map(|id| event(&aggregate_type, id)).collect())
    };
    sender.drain(&events(WARM_UP)).await?;

    let waiting = events(args.records);
    let (mut took, cpu) = (Duration::ZERO, Cpu::start(args)?);
    for _ in 0..args.drains {
        let started = Instant::now();
        sender.drain(&waiting).await?;
        took += started.elapsed();
    }
    let sent = args.records * args.drains;
    let mut figures = Figures::from([("drain: records/s", sent as f64 / took.as_secs_f64())]);
    figures.extend(cpu.a_record(["drain: CPU us/record", "drain: broker's"], sent)?);
    drop(waiting);
    let (brokers, read) = (args.brokers.clone(), topic.clone());
    let stored = tokio::task::spawn_blocking(move || bytes_a_record(&brokers, &read)).await??;
    figures.insert("drain: bytes/record", stored);
    if let Sender::Transactions(transactions) = &sender {
        let (transactions, events) = (Arc::clone(transactions), events(LONE_TRANSACTIONS));
        let started = Instant::now();
        let alone = move || events.chunks(1).try_for_each(|event| transactions.send(event));
        tokio::task::spawn_blocking(alone).await??;
        figures.insert("one by one: records/s", LONE_TRANSACTIONS as f64 / started.elapsed().as_secs_f64());
    }
    let load = events(usize::try_from(args.seconds)? * RATE as usize);
    let (runtime, own, read) = (tokio::runtime::Handle::current(), args.clone(), topic.clone());
    // On a thread of its own, which sleeps to the microsecond; the runtime's timer goes by milliseconds.
    let steady = move || steady(&own, &sender, &load, &read, &runtime);
    figures.extend(tokio::task::spawn_blocking(steady).await??);
    remove_topic(&args.brokers, &topic).await?;
    Ok(figures)
}

/// From a record's due time to its reader. What is due goes together, and waits for nobody but a transaction that is open.
fn steady(
    args: &Args,
    sender: &Sender,
    events: &[OutboxEvent],
    topic: &str,
    runtime: &tokio::runtime::Handle,
) -> anyhow::Result<Vec<(&'static str, f64)>> {
    let reader = Reader::start(&args.brokers, topic)?;
    let cpu = Cpu::start(args)?;
    let started = Instant::now();
    let due =
        |index: usize| started + Duration::from_secs(1) * u32::try_from(index).unwrap_or(u32::MAX) / RATE;
    let (mut sent, mut under_way) = (0, Vec::new());
    while sent < events.len() {
        std::thread::sleep(due(sent).saturating_duration_since(Instant::now()));
        let now = Instant::now();
        let ready = (sent..events.len()).take_while(|&index| due(index) <= now).count().max(1);
        under_way.extend(sender.begin(events[sent..sent + ready].to_vec(), runtime)?);
        sent += ready;
    }
    for call in under_way {
        runtime.block_on(call)??;
    }
    let mut figures = cpu.a_record(["600/s: CPU us/record", "600/s: broker's"], events.len())?;
    let arrivals = reader.finish(events.len())?;
    ensure!(arrivals.len() == events.len(), "{} of {} records came", arrivals.len(), events.len());
    let mut samples: Vec<Duration> = events
        .iter()
        .enumerate()
        .map(|(index, event)| arrivals[&event.event_id].saturating_duration_since(due(index)))
        .collect();
    figures.push(("600/s: p50 ms", percentile(&mut samples, 0.5)));
    figures.push(("600/s: p99 ms", percentile(&mut samples, 0.99)));
    Ok(figures)
}
