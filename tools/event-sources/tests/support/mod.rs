//! A real Kafka and stand-ins for the functions: the other side of the Invoke API.
//!
//! The broker is the one at `OUTFLOW_KAFKA_BROKERS`; without it one is started for as long as a test holds it. Each
//! test has topics of its own.

#![allow(dead_code, unreachable_pub, reason = "each test file is a crate and uses its part")]

use axum::{
    Router,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::post,
};
use outflow_event_sources::{Backoff, EventSources, Options, template::Template};
use outflow_stack::{Service, Settings, Stack};
use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer},
    message::Headers,
    producer::{FutureProducer, FutureRecord},
};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, Weak},
    time::{Duration, Instant},
};
use tokio::{net::TcpListener, task::JoinHandle};

/// Long enough for a broker to start on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A broker for the tests of this process; the last one to let go stops it.
pub struct Broker {
    pub brokers: String,
    stack: Option<(Stack, tempfile::TempDir)>,
}

static SHARED: tokio::sync::Mutex<Weak<Broker>> = tokio::sync::Mutex::const_new(Weak::new());

impl Broker {
    pub async fn shared() -> Arc<Self> {
        let mut shared = SHARED.lock().await;
        if let Some(broker) = shared.upgrade() {
            return broker;
        }
        let broker = match std::env::var("OUTFLOW_KAFKA_BROKERS") {
            Ok(brokers) => Arc::new(Self { brokers, stack: None }),
            Err(_) => Arc::new(Self::own().await),
        };
        *shared = Arc::downgrade(&broker);
        broker
    }

    /// One that the test may kill.
    pub async fn own() -> Self {
        let state = tempfile::tempdir().expect("a temporary folder can be made");
        let stack = Stack::new(Settings::isolated(state.path()));
        stack.start(Service::Kafka).await.expect("Kafka starts");
        let brokers = stack.kafka().expect("its state can be read").expect("it is up").brokers;
        Self { brokers, stack: Some((stack, state)) }
    }

    /// SIGKILL, and a new start on the same data.
    pub async fn kill_and_start(&self) {
        let (stack, _) = self.stack.as_ref().expect("only an own broker may be killed");
        stack.kill(Service::Kafka).await.expect("it was running");
        stack.start(Service::Kafka).await.expect("it starts again");
        let brokers = stack.kafka().expect("its state can be read").expect("it is up").brokers;
        assert_eq!(brokers, self.brokers, "the broker has moved");
    }

    pub async fn create_topic(&self, topic: &str, partitions: i32) {
        let admin: AdminClient<DefaultClientContext> =
            self.config().create().expect("the settings are valid");
        let topic = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
        let created = admin.create_topics([&topic], &AdminOptions::new()).await.expect("the broker answers");
        created[0].as_ref().expect("the topic is new");
    }

    /// A topic of three partitions with its `.dlq`.
    pub async fn fresh_topic(&self) -> String {
        let topic = fresh_name();
        self.create_topic(&topic, 3).await;
        self.create_topic(&format!("{topic}.dlq"), 1).await;
        topic
    }

    pub async fn produce(&self, topic: &str, partition: i32, values: impl IntoIterator<Item = String>) {
        let producer: FutureProducer = self.config().create().expect("the settings are valid");
        let mut sent = Vec::new();
        for value in values {
            let record = FutureRecord::to(topic).partition(partition).key("k").payload(&value);
            sent.push(producer.send_result(record).map_err(|(error, _)| error).expect("it is queued"));
        }
        for delivery in sent {
            delivery.await.expect("the producer lives").expect("the broker confirms it");
        }
    }

    /// What the group has committed: partition to offset.
    pub async fn committed(&self, group: &str, topic: &str) -> BTreeMap<i32, i64> {
        let (mut config, topic) = (self.config(), topic.to_owned());
        let consumer: BaseConsumer = config.set("group.id", group).create().expect("the settings are valid");
        tokio::task::spawn_blocking(move || {
            let mut list = TopicPartitionList::new();
            list.add_partition_range(&topic, 0, 2);
            let deadline = Instant::now() + PATIENCE;
            // Right after a group is made, its coordinator may still be on its way.
            let list = loop {
                match consumer.committed_offsets(list.clone(), PATIENCE) {
                    Ok(list) => break list,
                    Err(error) => assert!(Instant::now() < deadline, "the broker does not answer: {error}"),
                }
            };
            let offsets = list.elements().into_iter().filter_map(|element| match element.offset() {
                Offset::Offset(offset) => Some((element.partition(), offset)),
                _ => None,
            });
            offsets.collect()
        })
        .await
        .expect("the look-up does not panic")
    }

    /// The first `count` records of a topic: value and headers.
    pub async fn read(&self, topic: &str, count: usize) -> Vec<(String, BTreeMap<String, String>)> {
        let (mut config, topic) = (self.config(), topic.to_owned());
        config.set("group.id", fresh_name()).set("auto.offset.reset", "earliest");
        let consumer: BaseConsumer = config.create().expect("the settings are valid");
        tokio::task::spawn_blocking(move || {
            consumer.subscribe(&[&topic]).expect("the name is valid");
            let (mut records, until) = (Vec::new(), Instant::now() + PATIENCE);
            while records.len() < count && Instant::now() < until {
                let Some(Ok(message)) = consumer.poll(Duration::from_millis(100)) else { continue };
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                let headers = message.headers().into_iter().flat_map(|headers| headers.iter());
                let headers =
                    headers.map(|h| (h.key.to_owned(), text(h.value.unwrap_or_default()))).collect();
                records.push((text(message.payload().unwrap_or_default()), headers));
            }
            records
        })
        .await
        .expect("reading does not panic")
    }

    /// Another member joins the group, is given a share of the topic, and leaves: everyone is assigned anew, twice.
    pub async fn join_and_leave(&self, group: &str, topic: &str) {
        let (mut config, topic) = (self.config(), topic.to_owned());
        let member: BaseConsumer = config.set("group.id", group).create().expect("the settings are valid");
        tokio::task::spawn_blocking(move || {
            member.subscribe(&[&topic]).expect("the name is valid");
            let until = Instant::now() + PATIENCE;
            while member.assignment().expect("the client lives").count() == 0 {
                assert!(Instant::now() < until, "waited {PATIENCE:?} in vain for an assignment");
                drop(member.poll(Duration::from_millis(100)));
            }
        })
        .await
        .expect("joining does not panic");
    }

    fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.brokers);
        config
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let Some((stack, _state)) = self.stack.take() else { return };
        // A drop cannot wait, and a runtime cannot start within another: a thread of its own can do both.
        let stop = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            drop(runtime.map(|runtime| runtime.block_on(stack.down())));
        };
        drop(std::thread::spawn(stop).join());
    }
}

pub fn fresh_name() -> String {
    format!("t-{}", uuid::Uuid::now_v7())
}

/// What a stand-in answers.
pub enum Reply {
    Answer(Value),
    /// As `cargo lambda watch` passes a handler's error on.
    Error(&'static str),
    Status(u16),
    /// As `cargo lambda watch` answers for a process that was killed: never.
    Silence,
    After(Duration, Value),
}

type Handler = dyn Fn(&str, &Value) -> Reply + Send + Sync;

/// Stand-ins for the functions of a template, and what they were called with.
pub struct Functions {
    pub url: String,
    calls: Arc<Mutex<Vec<(String, Value)>>>,
    server: JoinHandle<()>,
}

impl Functions {
    pub async fn start(handler: impl Fn(&str, &Value) -> Reply + Send + Sync + 'static) -> Self {
        Self::start_at("127.0.0.1:0", handler).await
    }

    pub async fn start_at(
        address: &str,
        handler: impl Fn(&str, &Value) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address).await.expect("the address is free");
        let url = format!("http://{}", listener.local_addr().expect("it is bound"));
        let calls = Arc::new(Mutex::new(Vec::new()));
        let state = (Arc::clone(&calls), Arc::new(handler) as Arc<Handler>);
        let router = Router::new()
            .route("/2015-03-31/functions/{name}/invocations", post(answer))
            .layer(axum::extract::DefaultBodyLimit::disable())
            .with_state(state);
        let server = tokio::spawn(async move { axum::serve(listener, router).await.expect("it serves") });
        Self { url, calls, server }
    }

    pub fn calls(&self) -> Vec<(String, Value)> {
        self.calls.lock().expect("no handler panics").clone()
    }

    /// Each batch's records as "partition@offset", in the order of the calls.
    pub fn batches(&self) -> Vec<Vec<(i64, i64)>> {
        self.calls().iter().map(|(_, event)| records(event)).collect()
    }
}

impl Drop for Functions {
    fn drop(&mut self) {
        self.server.abort();
    }
}

type Shared = (Arc<Mutex<Vec<(String, Value)>>>, Arc<Handler>);

async fn answer(State((calls, handler)): State<Shared>, Path(name): Path<String>, body: String) -> Response {
    let event: Value = serde_json::from_str(&body).expect("events are JSON");
    calls.lock().expect("no handler panics").push((name.clone(), event.clone()));
    match handler(&name, &event) {
        Reply::Answer(value) => value.to_string().into_response(),
        Reply::Error(message) => {
            let report = json!({ "errorType": "Retriable", "errorMessage": message });
            (StatusCode::INTERNAL_SERVER_ERROR, report.to_string()).into_response()
        }
        Reply::Status(status) => StatusCode::from_u16(status).expect("it is a status").into_response(),
        Reply::Silence => std::future::pending().await,
        Reply::After(time, value) => {
            tokio::time::sleep(time).await;
            value.to_string().into_response()
        }
    }
}

/// (partition, offset) of each record of a Kafka event.
pub fn records(event: &Value) -> Vec<(i64, i64)> {
    let partitions = event["records"].as_object().expect("a Kafka event").values();
    let records = partitions.flat_map(|records| records.as_array().expect("a list"));
    let number = |value: &Value| value.as_i64().expect("a number");
    records.map(|record| (number(&record["partition"]), number(&record["offset"]))).collect()
}

/// The answer that resumes this partition at this offset.
pub fn resume_at(topic: &str, partition: i64, offset: i64) -> Value {
    json!({ "batchItemFailures": [{ "itemIdentifier": { "partition": format!("{topic}-{partition}"), "offset": offset } }] })
}

/// A mapping of the topic to the function `load-rows`; `more` are further properties.
pub fn mapping(topic: &str, more: &str) -> EventSources {
    sources(&format!(
        "
Resources:
  Load: {{ Type: AWS::Serverless::Function, Properties: {{ CodeUri: functions/load-rows, Timeout: 20 }} }}
  Rows:
    Type: AWS::Lambda::EventSourceMapping
    Properties:
      FunctionName: !Ref Load
      Topics: [{topic}]
      SelfManagedEventSource: {{}}
      FunctionResponseTypes: [ReportBatchItemFailures]
      BisectBatchOnFunctionError: true
      DestinationConfig: {{ OnFailure: {{ Destination: kafka://{topic}.dlq }} }}
      {more}
"
    ))
}

pub fn group(topic: &str) -> String {
    format!("outflow-load-rows-{topic}")
}

pub fn sources(template: &str) -> EventSources {
    let template = Template::parse(template, "template.yaml", &BTreeMap::new());
    EventSources::new(template.expect("the test's template is right"))
}

/// Impatient, so that tests are short.
pub fn options(functions: &str, brokers: &str) -> Options {
    Options {
        backoff: Backoff { first: Duration::from_millis(20), most: Duration::from_millis(200) },
        first_timeout: Duration::from_secs(1),
        async_retry_delay: Duration::from_millis(20),
        ..Options::new(functions, brokers)
    }
}

/// Waits until a condition holds.
pub async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < end, "waited {PATIENCE:?} in vain until {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
