//! What `outflow transform`, and the function, do with real events and tables: each test has a topic and a registry of its
//! own.

mod activate;
mod judgement;
mod record;
mod shadow;

use outflow_broker::{
    Producer, Record,
    topics::{self, TopicSpec},
};
use outflow_tests::services;
use serde_json::{Value, json};
use std::{path::PathBuf, time::Duration};
use tempfile::TempDir;
use uuid::Uuid;
use xtask::{
    pipe::{Called, Outflow},
    progress::Terminal,
};

const TIMEOUT: Duration = Duration::from_secs(30);

/// A topic of events, a registry, and the operator in front of both.
struct Workbench {
    brokers: String,
    topic: String,
    folder: TempDir,
    outflow: Outflow,
    producer: Producer,
}

impl Workbench {
    async fn start() -> Self {
        Self::beside(&[]).await
    }

    /// With more variables for the operator.
    async fn beside(more: &[(&str, &str)]) -> Self {
        let brokers = services().kafka.brokers;
        let topic = format!("t{}.events", Uuid::now_v7().simple());
        topics::ensure(&brokers, &[TopicSpec { name: topic.clone(), partitions: 1 }]).await.unwrap();
        let folder = TempDir::new().unwrap();
        let key = folder.path().join("transform.key");
        let mut env = vec![
            ("OUTFLOW_KAFKA_BROKERS".to_owned(), brokers.clone()),
            ("OUTFLOW_TRANSFORM_REGISTRY".to_owned(), folder.path().join("registry").display().to_string()),
            ("OUTFLOW_TRANSFORM_SIGNING_KEY".to_owned(), key.display().to_string()),
        ];
        env.extend(more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let outflow = build(env.clone()).await;
        let made = outflow.run(&["transform", "key", "--new", &key.display().to_string()]).await.unwrap();
        env.push(("OUTFLOW_TRANSFORM_TRUSTED_KEYS".to_owned(), made.trim().to_owned()));
        let producer = Producer::connect(&brokers, TIMEOUT).unwrap();
        Self { brokers, topic, folder, outflow: build(env).await, producer }
    }

    fn registry(&self, path: &str) -> PathBuf {
        self.folder.path().join("registry").join(path)
    }

    async fn activate(&self, guest: &str) -> String {
        let digest = self.outflow.publish(guest).await.unwrap();
        self.outflow.run(&["transform", "activate", &digest, "--unchecked"]).await.unwrap();
        digest
    }

    async fn send(&self, records: impl IntoIterator<Item = Record>) {
        let records = records.into_iter().map(|record| Record { topic: self.topic.clone(), ..record });
        for result in self.producer.send_all(records.collect()).await {
            result.unwrap();
        }
    }

    /// Exit code and output of `outflow transform …`.
    async fn call(&self, arguments: &[&str]) -> Called {
        self.outflow.call(&[&["transform"], arguments].concat()).await.unwrap()
    }

    /// The JSON of a command that must exit with `code`.
    async fn json(&self, code: i32, arguments: &[&str]) -> Value {
        let called = self.call(&[arguments, &["--json", "-"]].concat()).await;
        assert_eq!(called.code, code, "{arguments:?}: {called:?}");
        serde_json::from_str(&called.stdout).expect("it prints JSON alone")
    }

    /// What a command says that cannot run, which exits with 2.
    async fn refused(&self, arguments: &[&str]) -> String {
        let called = self.call(arguments).await;
        assert_eq!(called.code, 2, "{arguments:?}: {called:?}");
        called.stderr
    }
}

async fn build(env: Vec<(String, String)>) -> Outflow {
    Outflow::build(env, &Terminal::new()).await.expect("the operator's command compiles")
}

/// An event of this type, as the relay sends it.
fn event(event_type: &str, key: &str, payload: &Value) -> Record {
    let id = Uuid::now_v7().to_string();
    let headers = [
        ("eventType", event_type),
        ("aggregateType", "Order"),
        ("aggregateVersion", "1"),
        ("ce_id", &id),
        ("ce_time", "2026-11-23T07:11:32.123Z"),
    ];
    Record {
        topic: String::new(),
        key: Some(key.as_bytes().to_vec()),
        payload: Some(payload.to_string().into_bytes()),
        headers: headers.map(|(name, value)| (name.to_owned(), value.as_bytes().to_vec())).to_vec(),
    }
}

/// A new order of two cups.
fn order(user: &str) -> Record {
    let id = Uuid::now_v7().to_string();
    let item = json!({
        "productId": "p-001", "name": "Espresso cup", "quantity": 2, "unitPrice": "19.99", "lineTotal": "39.98",
    });
    let payload = json!({
        "orderId": id, "userId": user, "status": "PENDING", "totalAmount": "39.98", "itemCount": 1, "quantity": 2,
        "items": [item], "createdAt": "2026-11-23T07:11:32.123Z",
    });
    event("OrderCreated", &id, &payload)
}

/// The names of an object's fields.
fn keys(object: &Value) -> Vec<&str> {
    object.as_object().expect("an object").keys().map(String::as_str).collect()
}
