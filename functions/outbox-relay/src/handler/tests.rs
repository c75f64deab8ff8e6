//! What the function sends of its metrics, and when. No service runs here: every drain fails.

use super::*;
use axum::{Router, body::Bytes, extract::State, routing::post};
use outflow_outbox::metrics::{ORDER_VIOLATIONS, PRUNE_FAILURES, PUBLISHED, RETRIED, SET_BACK, TAKEOVERS};
use std::sync::{Arc, Mutex};
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

/// A MySQL that hangs up on everybody.
async fn broken_mysql() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("its address");
    tokio::spawn(async move {
        loop {
            drop(listener.accept().await);
        }
    });
    format!("mysql://user:password@{address}/shop")
}

async fn context(mysql: &str, otlp_endpoint: &str) -> anyhow::Result<Context> {
    // Nobody listens at port 1, and nothing is published here.
    let vars = [
        ("OUTFLOW_DATABASE_URL", mysql),
        ("OUTFLOW_KAFKA_BROKERS", "127.0.0.1:1"),
        ("OUTFLOW_OTLP_ENDPOINT", otlp_endpoint),
    ];
    let vars = vars.map(|(name, value)| (name.to_owned(), value.to_owned()));
    Context::new(outflow_telemetry::config::from_vars(vars)?).await
}

/// The one test here that may set the process's provider of meters.
#[tokio::test]
async fn metrics_are_sent_at_the_start_and_after_each_drain_though_it_fails() {
    let (endpoint, requests) = receiver().await;
    let sent = || requests.lock().expect("no test panics while it holds this").len();
    let context = context(&broken_mysql().await, &endpoint).await.expect("settings that fit");
    assert_eq!(sent(), 1, "zeros, before the first drain");
    let first = requests.lock().expect("no test panics while it holds this")[0].clone();
    for counter in [PUBLISHED, RETRIED, TAKEOVERS, ORDER_VIOLATIONS, SET_BACK, PRUNE_FAILURES] {
        let name = counter.as_bytes();
        assert!(first.windows(name.len()).any(|bytes| bytes == name), "{counter} is not among them");
    }
    let call = |tick| handle(&context, LambdaEvent::new(tick, lambda_runtime::Context::default()));

    call(Tick::default()).await.expect_err("there is no mysql");
    assert_eq!(sent(), 2, "one drain");

    // Two drains fit in even where the first takes two seconds.
    call(Tick { every_s: 1, for_s: 3 }).await.expect_err("there is no mysql");
    assert!(sent() >= 4, "only {} in all after several drains", sent());
}

#[tokio::test]
async fn an_endpoint_that_cannot_be_one_is_refused_by_its_name() {
    let refused = context("mysql://user:password@127.0.0.1:1/shop", "https://prometheus:9090").await;

    let error = format!("{:#}", refused.expect_err("functions send without TLS"));
    assert_eq!(error, "OUTFLOW_OTLP_ENDPOINT: must begin with http://");
}

/// The minute's last drain begins before its end, and has all the time that it may need.
#[tokio::test]
async fn a_drain_that_takes_all_its_time_ends_before_the_functions_deadline() {
    let context = context("mysql://user:password@127.0.0.1:1/shop", "").await.expect("settings that fit");
    let template = include_str!("../../../../template.yaml");
    let (_, relay) = template.split_once("  OutboxRelay:\n").expect("the function's name");
    let number = |name: &str| -> u64 {
        let (_, value) = relay.split_once(name).expect("it is there");
        let digits: String = value.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().expect("a number")
    };
    let (timeout, for_s) = (number("      Timeout: "), number("\"for_s\": "));

    let spare = Duration::from_secs(timeout).checked_sub(reserve(&context) + Duration::from_secs(for_s));
    assert!(spare.is_some(), "{for_s} s and {:?} do not fit in {timeout} s", reserve(&context));
}
