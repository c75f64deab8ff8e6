//! Schedules and asynchronous invocations.

mod support;

use outflow_event_sources::{EventSources, Running};
use serde_json::{Value, json};
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use support::{Functions, Reply, options, sources, until};

/// Nobody listens there: these tests have no Kafka.
const NO_KAFKA: &str = "127.0.0.1:1";

fn relay(extra: &str) -> EventSources {
    sources(&format!(
        "
Resources:
  Relay:
    Type: AWS::Serverless::Function
    Metadata: {{ EventSources: {{ CoalesceAsyncInvocations: true }} }}
    Properties: {{ CodeUri: functions/relay, Timeout: 20, ReservedConcurrentExecutions: 1 {extra} }}
  Mail: {{ Type: AWS::Serverless::Function, Properties: {{ CodeUri: functions/mail, Timeout: 20 }} }}
"
    ))
}

async fn start(sources: EventSources, functions: &Functions) -> (Running, String) {
    let mut options = options(&functions.url, NO_KAFKA);
    // A function that is slow here must not be taken for one that died.
    options.first_timeout = Duration::from_secs(30);
    options.listen = Some("127.0.0.1:0".parse().expect("it is an address"));
    let running = sources.start(options).await.expect("it starts");
    let base = format!("http://{}/2015-03-31/functions", running.address().expect("it listens"));
    (running, base)
}

async fn post(base: &str, name: &str, kind: &str, body: &str) -> (u16, String) {
    let request = reqwest::Client::new()
        .post(format!("{base}/{name}/invocations"))
        .header("X-Amz-Invocation-Type", kind)
        .body(body.to_owned());
    let response = request.send().await.expect("it answers");
    (response.status().as_u16(), response.text().await.expect("it has a body"))
}

#[tokio::test]
async fn a_minutes_schedule_is_played_as_short_ticks_that_never_overlap() {
    const TAKES: Duration = Duration::from_millis(1_500);
    let starts = Arc::new(Mutex::new(Vec::new()));
    let started = Arc::clone(&starts);
    let functions = Functions::start(move |_, _| {
        started.lock().expect("no handler panics").push(Instant::now());
        Reply::After(TAKES, Value::Null)
    })
    .await;
    let sources = relay(
        r#", Events: { Tick: { Type: Schedule, Properties: { Schedule: rate(1 minute), Input: '{"every_s": 1, "for_s": 60}' } } }"#,
    );
    let (running, _) = start(sources, &functions).await;
    until("there were three ticks", async || (functions.calls().len() >= 3).then_some(())).await;
    running.stop().await;
    let calls = functions.calls();
    assert_eq!(calls[0], ("relay".to_owned(), json!({ "every_s": 1, "for_s": 0 })));
    let starts = starts.lock().expect("no handler panics").clone();
    assert!(starts.windows(2).all(|pair| pair[1] - pair[0] >= TAKES), "two ran at once: {starts:?}");
}

#[tokio::test]
async fn an_asynchronous_invocation_is_accepted_at_once_and_tried_again() {
    let turn = Arc::new(AtomicUsize::new(0));
    let functions = Functions::start(move |_, _| match turn.fetch_add(1, Ordering::SeqCst) {
        0 => Reply::Status(502),
        1 => Reply::Error("not yet"),
        _ => Reply::Answer(Value::Null),
    })
    .await;
    let (running, base) = start(relay(""), &functions).await;
    assert_eq!(post(&base, "mail", "Event", r#"{"to":"a"}"#).await.0, 202);
    until("it was tried three times", async || (functions.calls().len() == 3).then_some(())).await;
    running.stop().await;
    assert!(functions.calls().iter().all(|call| *call == ("mail".to_owned(), json!({ "to": "a" }))));
}

#[tokio::test]
async fn an_event_is_given_up_after_two_retries_and_the_next_one_goes_on() {
    let functions = Functions::start(|_, event| match event["bad"] == true {
        true => Reply::Error("no"),
        false => Reply::Answer(Value::Null),
    })
    .await;
    let (running, base) = start(relay(""), &functions).await;
    post(&base, "mail", "Event", r#"{"bad":true}"#).await;
    post(&base, "mail", "Event", r#"{"bad":false}"#).await;
    until("both are done", async || (functions.calls().len() == 4).then_some(())).await;
    running.stop().await;
    let bad: Vec<bool> = functions.calls().iter().map(|(_, event)| event["bad"] == true).collect();
    assert_eq!(bad, [true, true, true, false]);
}

#[tokio::test]
async fn nudges_are_coalesced_where_the_template_says_so_and_nowhere_else() {
    let functions = Functions::start(|_, _| Reply::After(Duration::from_millis(500), Value::Null)).await;
    let (running, base) = start(relay(""), &functions).await;
    for number in 0..20 {
        assert_eq!(post(&base, "relay", "Event", "{}").await.0, 202);
        if number < 3 {
            assert_eq!(post(&base, "mail", "Event", "{}").await.0, 202);
        }
    }
    let count = |name: &str| functions.calls().iter().filter(|(called, _)| called == name).count();
    until("the mails are out", async || (count("mail") == 3).then_some(())).await;
    running.stop().await;
    // One at work, and one for all that came meanwhile.
    assert!((1..=3).contains(&count("relay")), "{}", count("relay"));
}

#[tokio::test]
async fn a_synchronous_invocation_is_passed_through() {
    let functions = Functions::start(|name, event| match name {
        "mail" => Reply::Answer(json!({ "sent": event["to"] })),
        _ => Reply::Error("lease lost"),
    })
    .await;
    let (running, base) = start(relay(""), &functions).await;
    assert_eq!(
        post(&base, "mail", "RequestResponse", r#"{"to":"a"}"#).await,
        (200, r#"{"sent":"a"}"#.to_owned())
    );
    let failed = reqwest::Client::new().post(format!("{base}/relay/invocations")).send().await;
    let failed = failed.expect("it answers");
    assert_eq!(failed.status(), 200);
    assert_eq!(failed.headers()["x-amz-function-error"], "Unhandled");
    running.stop().await;
}

#[tokio::test]
async fn what_is_wrong_with_a_request_is_told_as_lambda_tells_it() {
    let functions = Functions::start(|_, _| Reply::Silence).await;
    let (running, base) = start(relay(""), &functions).await;
    assert_eq!(post(&base, "nobody", "Event", "{}").await.0, 404);
    assert_eq!(post(&base, "mail", "Event", "{").await.0, 400);
    assert_eq!(post(&base, "mail", "Sometime", "{}").await.0, 400);
    assert_eq!(post(&base, "mail", "DryRun", "{}").await.0, 204);
    let large = format!(r#""{}""#, "x".repeat(1024 * 1024));
    assert_eq!(post(&base, "mail", "Event", &large).await.0, 413);
    // One is at work; a thousand may wait.
    let client = reqwest::Client::new();
    let mut refused = None;
    for _ in 0..1_100 {
        let request =
            client.post(format!("{base}/mail/invocations")).header("X-Amz-Invocation-Type", "Event");
        let response = request.body("{}").send().await.expect("it answers");
        if response.status() != 202 {
            refused = Some((response.status().as_u16(), response.text().await.expect("it has a body")));
            break;
        }
    }
    let (status, body) = refused.expect("the queue is bounded");
    assert_eq!(status, 429);
    assert!(body.contains("1000 events wait for mail"), "{body}");
    drop(running);
}
