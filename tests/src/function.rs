//! A function's own binary, called as Lambda calls it: this side plays Lambda's Runtime API, one invocation at a time.

use anyhow::Context;
use axum::{
    Json, Router,
    body::Bytes,
    extract::{Path, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode},
    routing::{get, post},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use outflow_broker::Record;
use outflow_stack::{target_dir, workspace_root};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::{
    process::{Child, Command},
    sync::{Mutex, mpsc, oneshot},
    task::JoinHandle,
};

/// The functions' timeout in template.yaml.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Its process. Ended when dropped.
#[derive(Debug)]
pub struct Function {
    process: Child,
    api: JoinHandle<()>,
    calls: mpsc::Sender<Call>,
}

/// An event, and where its answer goes.
#[derive(Debug)]
struct Call {
    event: Value,
    answer: oneshot::Sender<Result<Value, Value>>,
}

#[derive(Debug)]
struct Api {
    calls: Mutex<mpsc::Receiver<Call>>,
    /// Of the invocation that runs.
    answer: Mutex<Option<oneshot::Sender<Result<Value, Value>>>>,
}

impl Function {
    /// Compiles it, with optimisation where whoever calls has it, and starts it.
    ///
    /// # Errors
    /// What the compiler said.
    pub async fn start(package: &str, env: &[(&str, &str)]) -> anyhow::Result<Self> {
        Self::build(package, "").await?;
        Self::run(package, env).await
    }

    /// As [`Function::start`], with the features that `cargo lambda build` gives it.
    ///
    /// # Errors
    /// As there.
    pub async fn deployed(package: &str, env: &[(&str, &str)]) -> anyhow::Result<Self> {
        Self::build(package, &deployed_features(package).await?).await?;
        Self::run(package, env).await
    }

    async fn build(package: &str, features: &str) -> anyhow::Result<()> {
        let mut build = cargo();
        build.args(["build", "--quiet", "--package", package, "--features", features]);
        if !cfg!(debug_assertions) {
            build.arg("--release");
        }
        output(build).await.map(drop)
    }

    async fn run(package: &str, env: &[(&str, &str)]) -> anyhow::Result<Self> {
        let (calls, receiver) = mpsc::channel(1);
        let api = Arc::new(Api { calls: Mutex::new(receiver), answer: Mutex::new(None) });
        let router = Router::new()
            .route("/2018-06-01/runtime/invocation/next", get(next))
            .route("/2018-06-01/runtime/invocation/{id}/{outcome}", post(end))
            .with_state(api);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?.to_string();
        let api = tokio::spawn(async move {
            axum::serve(listener, router).await.expect("a loopback listener serves");
        });
        let process = Command::new(target_dir().join(package))
            .envs(env.iter().copied())
            .env("RUST_LOG", "error")
            .env("AWS_LAMBDA_RUNTIME_API", address)
            .env("AWS_LAMBDA_FUNCTION_NAME", package)
            .env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "256")
            .env("AWS_LAMBDA_FUNCTION_VERSION", "1")
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("{package} could not be started"))?;
        Ok(Self { process, api, calls })
    }

    /// Its process id; none where it has ended.
    pub fn pid(&self) -> Option<u32> {
        self.process.id()
    }

    /// Its answer, or the error that it reports.
    ///
    /// # Panics
    /// Where it doesn't answer before Lambda would stop it.
    ///
    /// # Errors
    /// What the function says.
    pub async fn invoke(&self, event: Value) -> Result<Value, Value> {
        let (answer, answered) = oneshot::channel();
        self.calls.send(Call { event, answer }).await.expect("the API takes calls as long as this lives");
        let answered = tokio::time::timeout(TIMEOUT, answered).await;
        answered.expect("the function answers in time").expect("each invocation is answered")
    }
}

impl Drop for Function {
    fn drop(&mut self) {
        self.api.abort();
    }
}

fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(workspace_root()).kill_on_drop(true);
    cargo
}

async fn output(mut command: Command) -> anyhow::Result<Vec<u8>> {
    let output = command.output().await.context("cargo could not be run")?;
    anyhow::ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(output.stdout)
}

/// What `[package.metadata.lambda.build]` of the package says, comma separated.
async fn deployed_features(package: &str) -> anyhow::Result<String> {
    let mut metadata = cargo();
    metadata.args(["metadata", "--no-deps", "--format-version", "1"]);
    let metadata: Value = serde_json::from_slice(&output(metadata).await?).context("cargo prints JSON")?;
    let mut packages = metadata["packages"].as_array().into_iter().flatten();
    let found = packages.find(|found| found["name"] == package);
    let found = found.with_context(|| format!("the workspace has no package {package}"))?;
    let features = found["metadata"]["lambda"]["build"]["features"].as_array().into_iter().flatten();
    Ok(features.filter_map(Value::as_str).collect::<Vec<_>>().join(","))
}

async fn next(State(api): State<Arc<Api>>) -> (HeaderMap, Json<Value>) {
    let Some(call) = api.calls.lock().await.recv().await else {
        // The test is over: its process is about to end.
        return std::future::pending().await;
    };
    *api.answer.lock().await = Some(call.answer);
    let deadline = SystemTime::now() + TIMEOUT;
    let deadline = deadline.duration_since(SystemTime::UNIX_EPOCH).expect("now is after 1970").as_millis();
    let header = |name, value: &str| {
        (HeaderName::from_static(name), HeaderValue::from_str(value).expect("digits and letters"))
    };
    let headers = [
        header("lambda-runtime-aws-request-id", "1"),
        header("lambda-runtime-deadline-ms", &deadline.to_string()),
        header("lambda-runtime-invoked-function-arn", "arn:aws:lambda:eu-west-1:000000000000:function:f"),
    ];
    (HeaderMap::from_iter(headers), Json(call.event))
}

async fn end(
    State(api): State<Arc<Api>>,
    Path((_id, outcome)): Path<(String, String)>,
    body: Bytes,
) -> StatusCode {
    // The runtime doesn't say that it is JSON.
    let body = serde_json::from_slice(&body).unwrap_or_else(|_| String::from_utf8_lossy(&body).into());
    if let Some(answer) = api.answer.lock().await.take() {
        let answered = answer.send(if outcome == "response" { Ok(body) } else { Err(body) });
        // A test that gave up waiting has said so itself.
        drop(answered);
    }
    StatusCode::ACCEPTED
}

/// A Kafka batch as Lambda's event: each topic's records, in partition 0, from offset 0 on.
pub fn kafka_event(records: impl IntoIterator<Item = Record>) -> Value {
    let base64 = |bytes: Option<Vec<u8>>| bytes.map(|bytes| BASE64_STANDARD.encode(bytes));
    let mut partitions: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for Record { topic, key, payload, headers } in records {
        let headers: Vec<Value> = headers.into_iter().map(|(name, value)| json!({(name): value})).collect();
        let partition = partitions.entry(format!("{topic}-0")).or_default();
        partition.push(json!({
            "topic": topic, "partition": 0, "offset": partition.len(), "timestamp": 0, "timestampType": "CREATE_TIME",
            "key": base64(key), "value": base64(payload), "headers": headers,
        }));
    }
    json!({"eventSource": "SelfManagedKafka", "bootstrapServers": "127.0.0.1:9092", "records": partitions})
}
