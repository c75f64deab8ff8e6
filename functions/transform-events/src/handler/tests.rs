//! What the function sends of its metrics, and when. No service runs here, and the registry is empty.

use super::*;
use axum::{Router, body::Bytes, extract::State, routing::post};
use outflow_transform::{SigningKey, metrics::REFUSED_POINTERS};
use std::sync::{Arc, Mutex};
use tempfile::TempDir;
use tokio::net::TcpListener;

type Requests = Arc<Mutex<Vec<Bytes>>>;

/// What takes metrics: its endpoint, and what it was sent.
async fn receiver() -> (String, Requests) {
    let requests = Requests::default();
    let take = async |State(requests): State<Requests>, body: Bytes| {
        requests.lock().expect("no test panics while it holds this").push(body);
    };
    let app = Router::new().route("/api/v1/otlp/v1/metrics", post(take)).with_state(requests.clone());
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("its address");
    tokio::spawn(async move { axum::serve(listener, app).await });
    (format!("http://{address}/api/v1/otlp"), requests)
}

async fn context(registry: &TempDir, otlp_endpoint: &str) -> anyhow::Result<Context> {
    let (folder, trusted) = (registry.path().display(), SigningKey::from_seed([7; 32]).public());
    // Nobody listens at port 1, and nothing is produced here.
    let vars = [
        ("OUTFLOW_KAFKA_BROKERS", "127.0.0.1:1".to_owned()),
        ("OUTFLOW_TRANSFORM_REGISTRY", format!("file://{folder}")),
        ("OUTFLOW_TRANSFORM_TRUSTED_KEYS", trusted.to_string()),
        ("OUTFLOW_OTLP_ENDPOINT", otlp_endpoint.to_owned()),
    ];
    let vars = vars.map(|(name, value)| (name.to_owned(), value));
    Context::new(outflow_telemetry::config::from_vars(vars)?).await
}

/// The one test here that may set the process's provider of meters.
#[tokio::test]
async fn metrics_are_sent_at_the_start_and_after_each_batch_though_it_fails() {
    let (registry, (endpoint, requests)) = (TempDir::new().expect("a folder"), receiver().await);
    let sent = || requests.lock().expect("no test panics while it holds this").clone();
    let context = context(&registry, &endpoint).await.expect("settings that fit");
    let tells = |body: &Bytes| body.windows(REFUSED_POINTERS.len()).any(|b| b == REFUSED_POINTERS.as_bytes());
    assert_eq!(sent().iter().map(tells).collect::<Vec<_>>(), [true], "zeros, before the first batch");

    let batch = || serde_json::from_str(include_str!("../../events/order-created.json")).expect("a batch");
    for done in 1..=2 {
        let event = LambdaEvent::new(batch(), lambda_runtime::Context::default());
        let error = handle(&context, event).await.expect_err("no transform is active");
        assert!(matches!(error, TransformError::Active(_)), "{error}");
        assert_eq!(sent().len(), 1 + done);
    }
}

#[tokio::test]
async fn an_endpoint_that_cannot_be_one_is_refused_by_its_name() {
    let registry = TempDir::new().expect("a folder");
    let refused = context(&registry, "https://prometheus:9090").await;

    let error = format!("{:#}", refused.expect_err("functions send without TLS"));
    assert_eq!(error, "OUTFLOW_OTLP_ENDPOINT: must begin with http://");
}
