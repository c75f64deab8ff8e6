//! What an answer, or none, means for the events of a request.

use outflow_outbox::{FailureKind, PublishError};
use reqwest::StatusCode;
use std::{sync::Arc, time::Duration};

/// The events of a request were not confirmed.
#[derive(Debug, thiserror::Error)]
pub(super) enum HttpError {
    #[error("event is no JSON")]
    Payload(#[source] serde_json::Error),
    #[error("receiver answered {status}: {answer}")]
    Answer {
        status: StatusCode,
        /// Its beginning.
        answer: String,
    },
    #[error("receiver did not answer")]
    NoAnswer(#[source] reqwest::Error),
    #[error("receiver did not answer within {limit:?}: is it running?")]
    TimedOut { limit: Duration },
}

const OWN: FailureKind = FailureKind::Record { permanent: true };

/// One failure, shared by all events that it befell.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub(super) kind: FailureKind,
    cause: &'static str,
    source: Arc<HttpError>,
}

impl Failure {
    pub(super) fn payload(error: serde_json::Error) -> Self {
        Self { kind: OWN, cause: "invalid_record", source: Arc::new(HttpError::Payload(error)) }
    }

    /// `names_a_time`: there is a `Retry-After`.
    pub(super) fn answer(status: StatusCode, names_a_time: bool, answer: String) -> Self {
        let (kind, cause) = sort(status, names_a_time);
        Self { kind, cause, source: Arc::new(HttpError::Answer { status, answer }) }
    }

    pub(super) fn no_answer(error: reqwest::Error) -> Self {
        let cause = if error.is_timeout() { "timed_out" } else { "receiver_unreachable" };
        Self { kind: FailureKind::Retriable, cause, source: Arc::new(HttpError::NoAnswer(error)) }
    }

    pub(super) fn timed_out(limit: Duration) -> Self {
        let source = Arc::new(HttpError::TimedOut { limit });
        Self { kind: FailureKind::Retriable, cause: "timed_out", source }
    }

    /// The events themselves were refused, though maybe not each of them.
    pub(super) fn blames_events(&self) -> bool {
        matches!(self.kind, FailureKind::Record { .. })
    }

    /// The request was too large, whatever was in it.
    pub(super) fn is_too_large(&self) -> bool {
        matches!(&*self.source, HttpError::Answer { status: StatusCode::PAYLOAD_TOO_LARGE, .. })
    }
}

impl From<Failure> for PublishError {
    fn from(Failure { kind, cause, source }: Failure) -> Self {
        Self { kind, cause, source: Box::new(source) }
    }
}

/// Whose fault an answer tells of. Whatever isn't listed is the receiver's: to blame an event needs evidence.
fn sort(status: StatusCode, names_a_time: bool) -> (FailureKind, &'static str) {
    use FailureKind::{Backpressure, Retriable};
    match status {
        StatusCode::PAYLOAD_TOO_LARGE => (OWN, "message_too_large"),
        StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY => (OWN, "refused_by_receiver"),
        StatusCode::TOO_MANY_REQUESTS => (Backpressure, "throttled"),
        StatusCode::SERVICE_UNAVAILABLE if names_a_time => (Backpressure, "throttled"),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => (Retriable, "not_authorized"),
        StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED | StatusCode::GONE => {
            (Retriable, "no_such_receiver")
        }
        StatusCode::UNSUPPORTED_MEDIA_TYPE => (Retriable, "unsupported_content_mode"),
        StatusCode::REQUEST_TIMEOUT | StatusCode::GATEWAY_TIMEOUT => (Retriable, "timed_out"),
        _ if status.is_server_error() => (Retriable, "receiver_failed"),
        _ => (Retriable, "unexpected_answer"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_has_its_kind_and_its_cause() {
        let table = [
            (413, false, OWN, "message_too_large"),
            (400, false, OWN, "refused_by_receiver"),
            (422, false, OWN, "refused_by_receiver"),
            (429, false, FailureKind::Backpressure, "throttled"),
            (429, true, FailureKind::Backpressure, "throttled"),
            (503, true, FailureKind::Backpressure, "throttled"),
            (503, false, FailureKind::Retriable, "receiver_failed"),
            (401, false, FailureKind::Retriable, "not_authorized"),
            (403, false, FailureKind::Retriable, "not_authorized"),
            (404, false, FailureKind::Retriable, "no_such_receiver"),
            (405, false, FailureKind::Retriable, "no_such_receiver"),
            (410, false, FailureKind::Retriable, "no_such_receiver"),
            (415, false, FailureKind::Retriable, "unsupported_content_mode"),
            (408, false, FailureKind::Retriable, "timed_out"),
            (504, false, FailureKind::Retriable, "timed_out"),
            (500, false, FailureKind::Retriable, "receiver_failed"),
            (502, true, FailureKind::Retriable, "receiver_failed"),
            (307, false, FailureKind::Retriable, "unexpected_answer"),
            (409, false, FailureKind::Retriable, "unexpected_answer"),
        ];
        for (status, names_a_time, kind, cause) in table {
            let status = StatusCode::from_u16(status).expect("a status");
            assert_eq!(sort(status, names_a_time), (kind, cause), "{status}");
        }
    }
}
