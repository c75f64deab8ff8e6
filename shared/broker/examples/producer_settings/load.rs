//! What is sent, and what it cost this process.

use crate::Args;
use anyhow::Context;
use outflow_broker::topics::{self, TopicSpec};
use outflow_outbox::OutboxEvent;
use rand::Rng;
use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions},
    client::DefaultClientContext,
    message::{Header, OwnedHeaders},
};
use std::time::Duration;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use uuid::Uuid;

/// Records a second of the steady load.
pub(crate) const RATE: u32 = 600;
/// What the relay reads at once.
pub(crate) const CALL: usize = 1_000;
pub(crate) const TIMEOUT: Duration = Duration::from_secs(30);

const PARTITIONS: i32 = 4;
const PAYLOAD_BYTES: usize = 420;

/// An aggregate type whose topic is new, and that topic.
pub(crate) async fn fresh_topic(brokers: &str) -> anyhow::Result<(String, String)> {
    let aggregate_type = format!("M{}", Uuid::now_v7().simple());
    let name = format!("{}.events", aggregate_type.to_lowercase());
    topics::ensure(brokers, &[TopicSpec { name: name.clone(), partitions: PARTITIONS }]).await?;
    Ok((aggregate_type, name))
}

/// The broker's disk is not ours to fill.
pub(crate) async fn remove_topic(brokers: &str, topic: &str) -> anyhow::Result<()> {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", brokers).create()?;
    admin.delete_topics(&[topic], &AdminOptions::new()).await?;
    Ok(())
}

/// An order as a shop writes it: ids and prices differ, names repeat.
pub(crate) fn event(aggregate_type: &str, id: u64) -> OutboxEvent {
    let mut rng = rand::rng();
    let order = Uuid::now_v7();
    let mut payload = format!(
        r#"{{"orderId":"{order}","customerId":"{}","status":"CREATED","currency":"EUR","items":["#,
        Uuid::from_u128(rng.random())
    );
    while payload.len() < PAYLOAD_BYTES - 120 {
        let (product, quantity, price) =
            (rng.random_range(1..500), rng.random_range(1..9), rng.random_range(1..99_999));
        payload +=
            &format!(r#"{{"productId":"product-{product}","quantity":{quantity},"price":"{price}.99"}},"#);
    }
    payload.pop();
    payload += r#"],"note":""#;
    while payload.len() < PAYLOAD_BYTES - 2 {
        payload.push(char::from(rng.random_range(b'a'..=b'z')));
    }
    payload += r#""}"#;
    OutboxEvent {
        id,
        event_id: Uuid::now_v7().to_string(),
        aggregate_type: aggregate_type.to_owned(),
        aggregate_id: order.to_string(),
        aggregate_version: 1,
        event_type: "OrderCreated".to_owned(),
        payload,
        headers: vec![
            ("requestId".to_owned(), Uuid::from_u128(rng.random()).to_string()),
            (
                "traceparent".to_owned(),
                format!("00-{:032x}-{:016x}-01", rng.random::<u128>(), rng.random::<u64>()),
            ),
        ],
        created_at: OffsetDateTime::now_utc(),
    }
}

/// A record's ten headers, as the relay's publisher makes them.
pub(crate) fn headers(event: &OutboxEvent) -> anyhow::Result<OwnedHeaders> {
    let (time, version) = (event.created_at.format(&Rfc3339)?, event.aggregate_version.to_string());
    let own = [
        ("eventType", event.event_type.as_str()),
        ("aggregateType", &event.aggregate_type),
        ("aggregateVersion", &version),
        ("ce_id", &event.event_id),
        ("ce_type", &event.event_type),
        ("ce_source", "outflow/outbox"),
        ("ce_time", &time),
        ("ce_specversion", "1.0"),
    ];
    let further = event.headers.iter().map(|(key, value)| (key.as_str(), value.as_str()));
    let mut headers = OwnedHeaders::new_with_capacity(own.len() + event.headers.len());
    for (key, value) in own.into_iter().chain(further) {
        headers = headers.insert(Header { key, value: Some(value) });
    }
    Ok(headers)
}

/// CPU time that a process has used, in seconds, to a hundredth; "self" is this one.
fn cpu_seconds(process: &str) -> anyhow::Result<f64> {
    /// The kernel's unit in /proc, on every Linux.
    const TICKS_A_SECOND: f64 = 100.0;
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    // The second field is the program's name in brackets, and may hold blanks.
    let (_, fields) = stat.rsplit_once(')').context("a process has its name in its stat")?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let ticks = |index: usize| fields[index].parse::<f64>();
    Ok((ticks(11)? + ticks(12)?) / TICKS_A_SECOND)
}

/// CPU time of this process, and of the broker where its process is known.
pub(crate) struct Cpu {
    broker: Option<String>,
    before: Vec<f64>,
}

impl Cpu {
    pub(crate) fn start(args: &Args) -> anyhow::Result<Self> {
        let broker = args.broker_pid.map(|pid| pid.to_string());
        let mut cpu = Self { broker, before: Vec::new() };
        cpu.before = cpu.now()?;
        Ok(cpu)
    }

    fn now(&self) -> anyhow::Result<Vec<f64>> {
        std::iter::once("self").chain(self.broker.as_deref()).map(cpu_seconds).collect()
    }

    /// Microseconds a record since the start, under these names.
    pub(crate) fn a_record(
        &self,
        names: [&'static str; 2],
        records: usize,
    ) -> anyhow::Result<Vec<(&'static str, f64)>> {
        let used = self.now()?.into_iter().zip(&self.before).map(|(now, before)| now - before);
        Ok(names.into_iter().zip(used.map(|seconds| seconds * 1e6 / records as f64)).collect())
    }
}

/// Milliseconds at which `share` of the samples are done.
pub(crate) fn percentile(samples: &mut [Duration], share: f64) -> f64 {
    samples.sort();
    let index = (samples.len() as f64 * share) as usize;
    samples[index.min(samples.len() - 1)].as_secs_f64() * 1_000.0
}
