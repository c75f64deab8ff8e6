//! `outflow dlq` on the real broker: each test has topics of its own.

mod crash;
mod list;
mod order;
mod redrive;

use outflow_broker::{
    Producer, Record,
    letters::{Origin, Rejection, dead_letter, log::Log},
    topics::{self, TopicSpec},
};
use outflow_tests::services;
use rdkafka::{
    Message,
    message::{Headers, OwnedMessage},
};
use serde_json::Value;
use std::time::Duration;
use uuid::Uuid;
use xtask::{pipe::Outflow, progress::Terminal};

const TIMEOUT: Duration = Duration::from_secs(30);

/// A topic with its dead letters, and the operator in front of them.
struct Desk {
    brokers: String,
    /// The source topic.
    topic: String,
    outflow: Outflow,
    producer: Producer,
}

/// One letter to be put aside.
#[derive(Clone)]
struct New {
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(String, Vec<u8>)>,
    stage: &'static str,
    code: &'static str,
    by: Option<(&'static str, &'static str)>,
    attempts: u32,
}

fn new(key: &str) -> New {
    New {
        key: Some(key.as_bytes().to_vec()),
        value: Some(format!(r#"{{"of": "{key}"}}"#).into_bytes()),
        headers: vec![("eventType".to_owned(), b"OrderCreated".to_vec())],
        stage: "module",
        code: "no_total",
        by: Some(("orders_analytics", "ab12cd34ef56789")),
        attempts: 1,
    }
}

impl Desk {
    async fn start() -> Self {
        let brokers = services().kafka.brokers;
        let topic = format!("t{}.events", Uuid::now_v7().simple());
        let spec = |name| TopicSpec { name, partitions: 1 };
        let wanted = [topics::dead_letters(&topic), topics::retries(&topic)].map(spec);
        topics::ensure(&brokers, &wanted).await.unwrap();
        let env = vec![("OUTFLOW_KAFKA_BROKERS".to_owned(), brokers.clone())];
        let outflow = Outflow::build(env, &Terminal::new()).await.expect("the operator's command compiles");
        let producer = Producer::connect(&brokers, TIMEOUT).unwrap();
        Self { brokers, topic, outflow, producer }
    }

    /// As a function puts them aside: the first is record 100 of partition 2.
    async fn put(&self, letters: impl IntoIterator<Item = New>) {
        let letter = |(index, new): (usize, New)| {
            let (mut headers, offset) = (new.headers, 100 + i64::try_from(index).unwrap());
            let origin = Origin::take(&self.topic, 2, offset, &mut headers);
            let origin = Origin { attempts: new.attempts - 1, ..origin };
            let rejection = Rejection { stage: new.stage, code: new.code, reason: "it was so", by: new.by };
            dead_letter(&origin, new.key, new.value, headers, &rejection)
        };
        self.send(letters.into_iter().enumerate().map(letter).collect()).await;
    }

    async fn send(&self, records: Vec<Record>) {
        for result in self.producer.send_all(records).await {
            result.unwrap();
        }
    }

    fn letters(&self) -> String {
        topics::dead_letters(&self.topic)
    }

    fn id(&self, offset: i64) -> String {
        format!("{}/0/{offset}", self.letters())
    }

    /// What was sent back.
    async fn sent(&self) -> Vec<OwnedMessage> {
        read(&self.brokers, &topics::retries(&self.topic)).await
    }

    /// Key and entry of everything in the audit.
    async fn audit(&self) -> Vec<(String, Value)> {
        let entries = read(&self.brokers, &topics::audit(&self.topic)).await;
        let entry = |message: &OwnedMessage| {
            let entry = serde_json::from_slice(message.payload().unwrap()).expect("an entry is JSON");
            (text(message.key()), entry)
        };
        entries.iter().map(entry).collect()
    }

    /// The JSON of a command that must exit with `code`. `TOPIC` stands for the test's own topic.
    async fn json(&self, code: i32, arguments: &[&str]) -> Value {
        let topic = ["--topic", &self.topic];
        let named = arguments.iter().any(|argument| argument.contains(".dlq/"));
        let topic: &[&str] = if named { &[] } else { &topic };
        let arguments = [&["dlq"], arguments, topic, &["--json", "-"]].concat();
        let (found, text) = self.outflow.try_run(&arguments).await.expect("it can run");
        assert_eq!(found, code, "{arguments:?}: {text}");
        serde_json::from_str(&text).expect("it prints JSON alone")
    }

    /// What a person reads.
    async fn text(&self, code: i32, arguments: &[&str]) -> String {
        let (found, text) = self.outflow.try_run(&[&["dlq"], arguments].concat()).await.expect("it can run");
        assert_eq!(found, code, "{arguments:?}: {text}");
        text
    }

    /// What a command says that cannot run, which exits with 2.
    async fn refused(&self, arguments: &[&str]) -> String {
        let error = self.outflow.try_run(&[&["dlq"], arguments].concat()).await;
        format!("{:#}", error.expect_err("it cannot run"))
    }
}

/// Everything that is committed in a topic by now; nothing where there is no such topic.
async fn read(brokers: &str, topic: &str) -> Vec<OwnedMessage> {
    let mut found = Vec::new();
    let Some(mut reader) = Log::new(brokers).read(topic, None).await.unwrap() else { return found };
    while let Some(message) = reader.next().await.unwrap() {
        found.push(message.detach());
    }
    found
}

fn text(bytes: Option<&[u8]>) -> String {
    String::from_utf8(bytes.expect("bytes").to_vec()).expect("text")
}

fn header(message: &OwnedMessage, name: &str) -> Option<String> {
    let headers = message.headers()?;
    headers.iter().find(|header| header.key == name).map(|header| text(header.value))
}

/// The letters that redriven records were, in the order in which they were sent.
fn redriven_from(sent: &[OwnedMessage]) -> Vec<i64> {
    let from = sent.iter().map(|message| header(message, "outflow-redriven-from").expect("it says so"));
    from.map(|id| id.rsplit('/').next().unwrap().parse().unwrap()).collect()
}

/// `offset: result` of each letter that was meant.
fn results(report: &Value) -> Vec<String> {
    let result = |item: &Value| {
        let offset = item["id"].as_str().unwrap().rsplit('/').next().unwrap().to_owned();
        format!("{offset}: {}", item["result"].as_str().unwrap())
    };
    report["items"].as_array().expect("a list").iter().map(result).collect()
}

/// The names of an object's fields.
fn keys(object: &Value) -> Vec<&str> {
    object.as_object().expect("an object").keys().map(String::as_str).collect()
}
