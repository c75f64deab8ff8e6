//! One call of a function, and what its answer means.
//!
//! The one question that matters is who failed. An error of the function counts against the records' retries; a
//! function that cannot be reached, an emulator that is compiling or a process that died in mid-call never does.

use crate::template::Function;
use bytes::Bytes;
use serde::Deserialize;
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::sync::Semaphore;

/// What came of an invocation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The function's own answer.
    Answer(Bytes),
    /// The function ran and said that it failed.
    Failed(FunctionError),
    /// Nobody knows what the function did, or whether it ran.
    Unavailable(String),
}

/// An error as the Lambda runtime reports it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct FunctionError {
    pub(crate) error_type: String,
    pub(crate) error_message: String,
}

impl FunctionError {
    pub(crate) fn new(error_type: &str, error_message: impl Into<String>) -> Self {
        Self { error_type: error_type.to_owned(), error_message: error_message.into() }
    }
}

/// How long to wait for an answer. Starts short, since `cargo lambda watch` never answers for a process that died in
/// mid-call; doubles while nothing comes, up to the function's own timeout, since a call that is merely slow is still
/// running and would only be queued again.
#[derive(Clone, Debug)]
pub(crate) struct Patience {
    first: Duration,
    next: Duration,
    most: Duration,
}

impl Patience {
    pub(crate) fn new(first: Duration, function: &Function) -> Self {
        let first = first.min(function.timeout);
        Self { first, next: first, most: function.timeout }
    }

    /// The function's whole timeout at once: for a caller who waits.
    pub(crate) fn whole(self) -> Self {
        Self { first: self.most, next: self.most, most: self.most }
    }

    fn answered(&mut self) {
        self.next = self.first;
    }

    fn timed_out(&mut self) {
        self.next = (self.next * 2).min(self.most);
    }
}

/// Calls functions through the Lambda API of `cargo lambda watch`, or of anything else that speaks it.
#[derive(Clone, Debug)]
pub(crate) struct Invoker {
    client: reqwest::Client,
    /// Without a slash at its end.
    base: String,
    /// Functions with reserved concurrency: all sources share these permits.
    permits: BTreeMap<String, Arc<Semaphore>>,
}

impl Invoker {
    pub(crate) fn new(base: &str, functions: &[Function]) -> Self {
        let permits = functions
            .iter()
            .filter_map(|function| {
                Some((function.name.clone(), Arc::new(Semaphore::new(function.concurrency?))))
            })
            .collect();
        // A proxy in the environment must not come between us and the loopback interface.
        let client = reqwest::Client::builder().no_proxy().build().unwrap_or_default();
        Self { client, base: base.trim_end_matches('/').to_owned(), permits }
    }

    /// Calls and waits for the answer; never returns early, never fails.
    pub(crate) async fn invoke(&self, function: &str, payload: Bytes, patience: &mut Patience) -> Outcome {
        let _permit = match self.permits.get(function) {
            Some(permits) => permits.acquire().await.ok(),
            None => None,
        };
        let url = format!("{}/2015-03-31/functions/{function}/invocations", self.base);
        let call = async {
            let response = self
                .client
                .post(&url)
                .header("content-type", "application/json")
                .body(payload)
                .send()
                .await?;
            let status = response.status().as_u16();
            let flagged = response.headers().contains_key("x-amz-function-error");
            Ok::<_, reqwest::Error>((status, flagged, response.bytes().await?))
        };
        match tokio::time::timeout(patience.next, call).await {
            Ok(Ok((status, flagged, body))) => {
                patience.answered();
                judge(status, flagged, body)
            }
            Ok(Err(error)) => Outcome::Unavailable(chain(&error)),
            Err(_) => {
                let waited = patience.next;
                patience.timed_out();
                Outcome::Unavailable(format!("no answer within {waited:?}"))
            }
        }
    }
}

/// Sorts an HTTP answer.
///
/// Lambda flags an error of the function with a header. `cargo lambda watch` 1.9 sends none: a handler's error is a
/// 500 whose body is the runtime's error report, a failed start the same body under 200. Its own troubles are 404 and
/// 500 with another body.
fn judge(status: u16, flagged: bool, body: Bytes) -> Outcome {
    let report = || serde_json::from_slice::<FunctionError>(&body).ok();
    let excerpt = || String::from_utf8_lossy(&body).chars().take(500).collect::<String>();
    match status {
        200..=299 if flagged => {
            Outcome::Failed(report().unwrap_or_else(|| FunctionError::new("Unhandled", excerpt())))
        }
        200..=299 => report().map_or_else(|| Outcome::Answer(body.clone()), Outcome::Failed),
        500..=599 => match report() {
            Some(error) => Outcome::Failed(error),
            None => Outcome::Unavailable(format!("HTTP {status}: {}", excerpt())),
        },
        _ => Outcome::Unavailable(format!("HTTP {status}: {}", excerpt())),
    }
}

/// The error and its causes in one line, outermost first.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |e| e.source()).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(status: u16, flagged: bool, body: &str, expected: &str) {
        let told = match judge(status, flagged, Bytes::copy_from_slice(body.as_bytes())) {
            Outcome::Answer(body) => format!("answer {}", String::from_utf8_lossy(&body)),
            Outcome::Failed(error) => format!("failed {} {}", error.error_type, error.error_message),
            Outcome::Unavailable(why) => format!("unavailable {why}"),
        };
        assert_eq!(told, expected);
    }

    #[test]
    fn the_functions_error_is_told_from_the_emulators() {
        let report = r#"{"errorType":"Retriable","errorMessage":"MySQL is away"}"#;
        check(200, false, "null", "answer null");
        check(500, false, report, "failed Retriable MySQL is away");
        check(200, false, report, "failed Retriable MySQL is away");
        check(200, true, "oops", "failed Unhandled oops");
        check(500, false, r#"{"title":"x"}"#, r#"unavailable HTTP 500: {"title":"x"}"#);
        check(404, false, "no such function", "unavailable HTTP 404: no such function");
        check(429, false, "", "unavailable HTTP 429: ");
    }

    #[test]
    fn patience_grows_to_the_functions_timeout_and_starts_over() {
        let function = Function {
            name: "f".into(),
            logical_id: "F".into(),
            timeout: Duration::from_secs(35),
            concurrency: None,
            async_retries: 2,
            coalesce: false,
        };
        let mut patience = Patience::new(Duration::from_secs(10), &function);
        patience.timed_out();
        patience.timed_out();
        assert_eq!(patience.next, Duration::from_secs(35));
        patience.answered();
        assert_eq!(patience.next, Duration::from_secs(10));
    }
}
