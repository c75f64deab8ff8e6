//! CloudEvents over HTTP: the outbox's way to whoever takes events by POST, one a request or in batches.
//!
//! The envelope is made here and not by `cloudevents-sdk` (0.9): that brings chrono and a second reqwest, and owns a
//! parsed copy of each event where ours is text that goes through as it is.
//!
//! For `https` turn on a TLS feature of reqwest in the binary that uses this.

mod envelope;
mod failure;

use crate::outbox::SOURCE;
use failure::Failure;
use futures_util::{StreamExt, stream::FuturesUnordered};
use outflow_outbox::{OutboxEvent, PublishError, Publisher};
use reqwest::{Client, Response, Url, header, redirect};
use secrecy::{ExposeSecret, SecretString};
use std::{
    ops::Range,
    str::FromStr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{sync::Semaphore, time::Instant};

/// Ending what is under way takes no time worth telling; a busy machine may.
const MARGIN: Duration = Duration::from_secs(1);
/// What is read of an answer, and shown where it is a refusal.
const ANSWER_BYTES: usize = 1_024;

/// How events lie in a request's body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ContentMode {
    /// One event a request: `application/cloudevents+json`.
    #[default]
    Structured,
    /// An array of events: `application/cloudevents-batch+json`. The receiver takes or refuses it as a whole.
    Batched,
}

/// Where events go, and how. [`HttpSettings::new`] has defaults for all but the address.
#[derive(Clone, Debug)]
pub struct HttpSettings {
    /// Takes a POST.
    pub url: String,
    pub mode: ContentMode,
    /// The attribute `source`.
    pub source: String,
    /// The header `Authorization`.
    pub authorization: Option<SecretString>,
    /// What a call may take as a whole.
    pub timeout: Duration,
    pub connect_timeout: Duration,
    /// Requests under way at once, of all calls together.
    pub requests: usize,
    /// Events of a batch, at most.
    pub batch_events: usize,
    /// Bytes of a batch's body, at most; a larger event goes by itself. Times `requests` it bounds what bodies take.
    pub batch_bytes: usize,
}

impl HttpSettings {
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            mode: ContentMode::default(),
            source: SOURCE.to_owned(),
            authorization: None,
            timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(2),
            requests: 16,
            batch_events: 500,
            batch_bytes: 1_000_000,
        }
    }
}

/// The settings cannot be worked with.
#[derive(Debug, thiserror::Error)]
pub enum HttpSettingsError {
    #[error("events cannot be sent to {url}")]
    Url {
        url: String,
        #[source]
        source: <Url as FromStr>::Err,
    },
    #[error("the authorization is no value of a header")]
    Authorization(#[source] header::InvalidHeaderValue),
    #[error("http client could not be set up")]
    Client(#[source] reqwest::Error),
}

/// Publishes outbox events as CloudEvents 1.0. Clones share connections, and what they learn.
///
/// What an answer means: 2xx is a confirmation. 400, 413 and 422 are the event's own fault, for good; in a batch the
/// halves are sent again until it is alone. 429, and 503 that names a time, ask for a pause. Everything else is not the
/// event's fault: there is one address for all, so 401, 403 and 404 tell of the settings, and no event is parked for them.
#[derive(Clone, Debug)]
pub struct HttpPublisher(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    client: Client,
    url: Url,
    settings: HttpSettings,
    requests: Semaphore,
    /// Less than in the settings once a batch was too large; a receiver that takes more again is noticed by the next process.
    batch_bytes: AtomicUsize,
}

impl HttpPublisher {
    /// Does not connect: a receiver that is down is told by `publish`.
    ///
    /// # Errors
    /// Where the settings cannot be worked with.
    pub fn new(settings: HttpSettings) -> Result<Self, HttpSettingsError> {
        let url = Url::parse(&settings.url)
            .map_err(|source| HttpSettingsError::Url { url: settings.url.clone(), source })?;
        let mut headers = header::HeaderMap::new();
        if let Some(authorization) = &settings.authorization {
            let mut value = header::HeaderValue::from_str(authorization.expose_secret())
                .map_err(HttpSettingsError::Authorization)?;
            value.set_sensitive(true);
            headers.insert(header::AUTHORIZATION, value);
        }
        let client = Client::builder()
            .connect_timeout(settings.connect_timeout)
            .default_headers(headers)
            // A redirected POST may become a GET without its body.
            .redirect(redirect::Policy::none())
            .build()
            .map_err(HttpSettingsError::Client)?;
        let requests = Semaphore::new(settings.requests.max(1));
        let batch_bytes = AtomicUsize::new(settings.batch_bytes);
        Ok(Self(Arc::new(Inner { client, url, settings, requests, batch_bytes })))
    }
}

impl Publisher for HttpPublisher {
    async fn publish(&self, events: &[OutboxEvent]) -> Vec<Result<(), PublishError>> {
        let inner = &*self.0;
        let limit = inner.settings.timeout;
        let deadline = Instant::now() + limit;
        let mut results: Vec<Option<Result<(), Failure>>> = vec![None; events.len()];
        let trouble = OnceLock::new();
        let send = |part: Range<usize>| async {
            let outcome = inner.send(&events[part.clone()], &trouble).await;
            (part, outcome)
        };
        let mut under_way: FuturesUnordered<_> = inner.parts(events).into_iter().map(send).collect();
        // At the deadline what is under way is dropped, and its connections with it.
        while let Ok(Some((part, outcome))) = tokio::time::timeout_at(deadline, under_way.next()).await {
            match outcome {
                Err(failure) if failure.blames_events() && part.len() > 1 => {
                    let middle = part.start + part.len() / 2;
                    under_way.push(send(part.start..middle));
                    under_way.push(send(middle..part.end));
                }
                outcome => results[part].fill(Some(outcome)),
            }
        }
        let result = |result: Option<Result<(), Failure>>| {
            result.unwrap_or_else(|| Err(Failure::timed_out(limit))).map_err(PublishError::from)
        };
        results.into_iter().map(result).collect()
    }

    fn timeout(&self) -> Duration {
        self.0.settings.timeout + MARGIN
    }
}

impl Inner {
    /// Which events travel together.
    fn parts(&self, events: &[OutboxEvent]) -> Vec<Range<usize>> {
        if self.settings.mode == ContentMode::Structured {
            return (0..events.len()).map(|index| index..index + 1).collect();
        }
        let batch_bytes = self.batch_bytes.load(Ordering::Relaxed);
        let mut parts: Vec<Range<usize>> = Vec::new();
        let mut bytes = 0;
        for (index, event) in events.iter().enumerate() {
            // About what it takes with its envelope.
            bytes += event.bytes();
            match parts.last_mut() {
                Some(part) if part.len() < self.settings.batch_events && bytes <= batch_bytes => {
                    part.end = index + 1;
                }
                _ => {
                    parts.push(index..index + 1);
                    bytes = event.bytes();
                }
            }
        }
        parts
    }

    /// Sends these events in one request. Once the receiver is in trouble, what has not been sent stays here.
    async fn send(&self, events: &[OutboxEvent], trouble: &OnceLock<Failure>) -> Result<(), Failure> {
        let _permit = self.requests.acquire().await.expect("it is never closed");
        if let Some(failure) = trouble.get() {
            return Err(failure.clone());
        }
        let body = self.body(events).map_err(Failure::payload)?;
        let bytes = body.len();
        let sent = self.post(body).await;
        if let Err(failure) = &sent {
            if !failure.blames_events() {
                trouble.get_or_init(|| failure.clone());
            } else if failure.is_too_large() && events.len() > 1 {
                self.batch_bytes.fetch_min(bytes / 2, Ordering::Relaxed);
            }
        }
        sent
    }

    fn body(&self, events: &[OutboxEvent]) -> Result<Vec<u8>, serde_json::Error> {
        let batched = self.settings.mode == ContentMode::Batched;
        let mut body = Vec::new();
        for (index, event) in events.iter().enumerate() {
            if batched {
                body.push(if index == 0 { b'[' } else { b',' });
            }
            envelope::write_json(&mut body, event, &self.settings.source)?;
        }
        if batched {
            body.push(b']');
        }
        Ok(body)
    }

    async fn post(&self, body: Vec<u8>) -> Result<(), Failure> {
        let content_type = match self.settings.mode {
            ContentMode::Structured => "application/cloudevents+json; charset=utf-8",
            ContentMode::Batched => "application/cloudevents-batch+json; charset=utf-8",
        };
        let request =
            self.client.post(self.url.clone()).header(header::CONTENT_TYPE, content_type).body(body);
        let answer = request.send().await.map_err(Failure::no_answer)?;
        let status = answer.status();
        let names_a_time = answer.headers().contains_key(header::RETRY_AFTER);
        // Read even where it is of no interest: else the connection could not be used again.
        let text = beginning(answer).await;
        if status.is_success() { Ok(()) } else { Err(Failure::answer(status, names_a_time, text)) }
    }
}

/// The first [`ANSWER_BYTES`] of an answer's body.
async fn beginning(mut answer: Response) -> String {
    let mut text = Vec::new();
    while text.len() < ANSWER_BYTES
        && let Ok(Some(chunk)) = answer.chunk().await
    {
        text.extend_from_slice(&chunk);
    }
    text.truncate(ANSWER_BYTES);
    String::from_utf8_lossy(&text).into_owned()
}
