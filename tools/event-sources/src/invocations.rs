//! Lambda's Invoke API for callers that do not want to wait: 202, a queue, retries.
//!
//! `cargo lambda watch` ignores `X-Amz-Invocation-Type`, so every caller waits for it. Callers come here instead; what
//! is not asynchronous is passed through.
//!
//! The queues live in memory: what waits when the process ends is told and gone.

use crate::{
    batch::Backoff,
    invoke::{Invoker, Outcome, Patience},
    kafka::Reminder,
    stop::Stop,
    template::Function,
};
use axum::{
    Router,
    body::to_bytes,
    extract::{Path, Request, State},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::post,
};
use bytes::Bytes;
use serde_json::json;
use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::sync::Notify;
use tracing::{debug, error, warn};
use uuid::Uuid;

/// Events waiting for one function; Lambda's queue is far longer, a laptop's function far behind is a mistake.
const MAX_QUEUED: usize = 1_000;

/// Lambda's limit for the payload of an asynchronous invocation, bytes.
const MAX_ASYNC_PAYLOAD: usize = 1024 * 1024;

/// Lambda's limit for the payload of a synchronous invocation, bytes.
const MAX_SYNC_PAYLOAD: usize = crate::event::MAX_PAYLOAD;

/// So much of a payload is logged when its event is given up.
const LOGGED_CHARS: usize = 2_000;

/// An accepted event.
struct Event {
    id: String,
    payload: Bytes,
}

/// One function's queue.
struct Queue {
    function: Function,
    patience: Patience,
    waiting: Mutex<VecDeque<Event>>,
    arrived: Notify,
}

impl Queue {
    fn waiting(&self) -> std::sync::MutexGuard<'_, VecDeque<Event>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// None if the queue is full; else whether the event was merged into one that waits.
    fn accept(&self, event: Event) -> Option<bool> {
        let mut waiting = self.waiting();
        if self.function.coalesce && !waiting.is_empty() {
            return Some(true);
        }
        if waiting.len() >= MAX_QUEUED {
            return None;
        }
        waiting.push_back(event);
        drop(waiting);
        self.arrived.notify_one();
        Some(false)
    }
}

/// The API and its queues.
#[derive(Clone)]
pub(crate) struct Invocations {
    queues: Arc<BTreeMap<String, Arc<Queue>>>,
    invoker: Invoker,
    backoff: Backoff,
    /// Lambda waits one minute, then two.
    retry_delay: Duration,
    grace: Duration,
}

impl Invocations {
    pub(crate) fn new(
        functions: &[Function],
        invoker: Invoker,
        first_timeout: Duration,
        backoff: Backoff,
        retry_delay: Duration,
        grace: Duration,
    ) -> Self {
        let queues = functions.iter().map(|function| {
            let queue = Queue {
                function: function.clone(),
                patience: Patience::new(first_timeout, function),
                waiting: Mutex::default(),
                arrived: Notify::new(),
            };
            (function.name.clone(), Arc::new(queue))
        });
        Self { queues: Arc::new(queues.collect()), invoker, backoff, retry_delay, grace }
    }

    pub(crate) fn router(&self) -> Router {
        Router::new().route("/2015-03-31/functions/{name}/invocations", post(invoke)).with_state(self.clone())
    }

    /// Works off every queue until `stop`.
    pub(crate) async fn work(self, stop: Stop) {
        let workers = self.queues.values().map(|queue| self.work_off(queue, stop.clone()));
        futures_util::future::join_all(workers).await;
    }

    async fn work_off(&self, queue: &Queue, mut stop: Stop) {
        loop {
            let next = queue.waiting().pop_front();
            let Some(event) = next else {
                tokio::select! {
                    () = queue.arrived.notified() => continue,
                    () = stop.asked() => return,
                }
            };
            let delivery = self.deliver(queue, event);
            tokio::pin!(delivery);
            tokio::select! {
                () = &mut delivery => {}
                () = stop.asked() => {
                    let ended = tokio::time::timeout(self.grace, delivery).await.is_ok();
                    let lost = queue.waiting().len() + usize::from(!ended);
                    if lost > 0 {
                        warn!(function = queue.function.name, lost, "stopping, asynchronous events are gone");
                    }
                    return;
                }
            }
        }
    }

    /// Until the function has taken it, or has failed on it once more than the template allows.
    async fn deliver(&self, queue: &Queue, event: Event) {
        let function = queue.function.name.as_str();
        let mut patience = queue.patience.clone();
        let mut trouble = Reminder::default();
        let (mut failures, mut out_of_reach) = (0, 0);
        loop {
            match self.invoker.invoke(function, event.payload.clone(), &mut patience).await {
                Outcome::Answer(_) => {
                    debug!(function, id = event.id, "asynchronous event delivered");
                    return;
                }
                Outcome::Unavailable(why) => {
                    out_of_reach += 1;
                    if trouble.is_new(&why) {
                        warn!(function, id = event.id, why, "function out of reach, trying again");
                    }
                    tokio::time::sleep(self.backoff.wait(out_of_reach, rand::random())).await;
                }
                Outcome::Failed(failure) => {
                    failures += 1;
                    let (kind, message) = (failure.error_type, failure.error_message);
                    if failures > queue.function.async_retries {
                        let payload: String =
                            String::from_utf8_lossy(&event.payload).chars().take(LOGGED_CHARS).collect();
                        error!(
                            function,
                            id = event.id,
                            failures,
                            kind,
                            message,
                            payload,
                            "asynchronous event given up"
                        );
                        return;
                    }
                    warn!(function, id = event.id, failures, kind, message, "asynchronous event failed");
                    tokio::time::sleep(self.retry_delay * failures).await;
                }
            }
        }
    }
}

async fn invoke(State(api): State<Invocations>, Path(name): Path<String>, request: Request) -> Response {
    // A name, a partial or a full ARN.
    let name = name.rsplit("function:").next().unwrap_or(&name).split(':').next().unwrap_or_default();
    let Some(queue) = api.queues.get(name) else {
        let message = format!("Function not found: {name}; the template has {:?}", api.queues.keys());
        return refuse(StatusCode::NOT_FOUND, "ResourceNotFoundException", &message);
    };
    let kind = request.headers().get("x-amz-invocation-type").and_then(|kind| kind.to_str().ok());
    let kind = kind.unwrap_or("RequestResponse").to_owned();
    let limit = if kind == "Event" { MAX_ASYNC_PAYLOAD } else { MAX_SYNC_PAYLOAD };
    let Ok(payload) = to_bytes(request.into_body(), limit).await else {
        let message = format!("the payload of {kind} invocations is limited to {limit} bytes");
        return refuse(StatusCode::PAYLOAD_TOO_LARGE, "RequestTooLargeException", &message);
    };
    let payload = if payload.is_empty() { Bytes::from_static(b"{}") } else { payload };
    if let Err(error) = serde_json::from_slice::<serde::de::IgnoredAny>(&payload) {
        let message = format!("the payload is not JSON: {error}");
        return refuse(StatusCode::BAD_REQUEST, "InvalidRequestContentException", &message);
    }
    match kind.as_str() {
        "Event" => accept(queue, payload),
        "DryRun" => StatusCode::NO_CONTENT.into_response(),
        "RequestResponse" => pass_through(&api, queue, payload).await,
        other => {
            let message = format!("X-Amz-Invocation-Type {other}: Event, RequestResponse or DryRun");
            refuse(StatusCode::BAD_REQUEST, "InvalidParameterValueException", &message)
        }
    }
}

fn accept(queue: &Queue, payload: Bytes) -> Response {
    let id = Uuid::now_v7().to_string();
    match queue.accept(Event { id: id.clone(), payload }) {
        Some(merged) => {
            debug!(function = queue.function.name, id, merged, "asynchronous event accepted");
            with_header(StatusCode::ACCEPTED.into_response(), "x-amzn-requestid", &id)
        }
        None => {
            let message = format!("{MAX_QUEUED} events wait for {}: try again later", queue.function.name);
            let refusal = refuse(StatusCode::TOO_MANY_REQUESTS, "TooManyRequestsException", &message);
            with_header(refusal, header::RETRY_AFTER.as_str(), "1")
        }
    }
}

async fn pass_through(api: &Invocations, queue: &Queue, payload: Bytes) -> Response {
    let mut patience = queue.patience.clone().whole();
    match api.invoker.invoke(&queue.function.name, payload, &mut patience).await {
        Outcome::Answer(answer) => answer.into_response(),
        Outcome::Failed(error) => {
            let body = json!({ "errorType": error.error_type, "errorMessage": error.error_message });
            with_header(body.to_string().into_response(), "x-amz-function-error", "Unhandled")
        }
        Outcome::Unavailable(why) => refuse(StatusCode::BAD_GATEWAY, "ServiceException", &why),
    }
}

fn refuse(status: StatusCode, kind: &str, message: &str) -> Response {
    let body =
        json!({ "Type": if status.is_server_error() { "Service" } else { "User" }, "Message": message });
    with_header((status, body.to_string()).into_response(), "x-amzn-errortype", kind)
}

fn with_header(mut response: Response, name: &'static str, value: &str) -> Response {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
    response
}
