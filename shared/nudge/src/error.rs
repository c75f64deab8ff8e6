//! What can be wrong with the address of a nudge, and with one nudge.

use http::StatusCode;

/// Nudges cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum NudgeError {
    #[error(
        "{0:?} is no address of an Invoke API: want http(s)://host/2015-03-31/functions/<name>/invocations"
    )]
    Url(String),
    #[error(
        "nudges over https are signed: AWS_REGION, AWS_ACCESS_KEY_ID or AWS_SECRET_ACCESS_KEY is missing (Lambda sets them)"
    )]
    Credentials(#[source] envy::Error),
    #[error("no root certificates to trust Lambda by: install the system's ca-certificates")]
    RootCertificates(#[source] std::io::Error),
    #[error("TLS cannot be set up")]
    Tls(#[source] rustls::Error),
}

/// One nudge was lost.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Lost {
    #[error("nudge could not be signed")]
    Sign(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("nudge was not answered")]
    Send(#[source] hyper_util::client::legacy::Error),
    #[error("nudge was answered {status}: {answer}")]
    Refused { status: StatusCode, answer: String },
}
