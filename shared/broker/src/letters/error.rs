//! Why dead letters can't be read, or nothing can be done about them.

use crate::BrokerError;
use outflow_telemetry::ErrorKind;
use rdkafka::error::KafkaError;

#[derive(Debug, thiserror::Error)]
pub enum LetterError {
    #[error("kafka client could not be set up for brokers {brokers}")]
    Connect { brokers: String, source: KafkaError },
    #[error("kafka did not answer the request to {operation}: is the broker running?")]
    Request { operation: String, source: KafkaError },
    #[error("the audit could not be set up")]
    Audit(#[from] BrokerError),
    #[error("topic {topic} is missing, by which dead letters are sent back: run `outflow init`")]
    NoRetries { topic: String },
    #[error("there is no topic {topic}: `outflow init` makes those of Outflow")]
    NoTopic { topic: String },
    #[error("topic {topic} was not read to its end")]
    Read { topic: String, source: KafkaError },
    #[error("nothing more of topic {topic} came within {seconds} s: is the broker running?")]
    Silent { topic: String, seconds: u64 },
    #[error(
        "somebody else has begun to redrive or discard dead letters of {topic}: what is left is theirs to do"
    )]
    Fenced { topic: String },
    #[error("the transaction for {topic} was not confirmed: run the same again, it begins by finding out")]
    Unknown { topic: String, source: KafkaError },
    #[error("nothing was written for {topic}")]
    Write { topic: String, source: KafkaError },
}

impl LetterError {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Connect { .. } | Self::NoRetries { .. } | Self::NoTopic { .. } => ErrorKind::Bug,
            Self::Audit(error) => error.kind(),
            Self::Request { .. }
            | Self::Read { .. }
            | Self::Silent { .. }
            | Self::Fenced { .. }
            | Self::Unknown { .. }
            | Self::Write { .. } => ErrorKind::Retriable,
        }
    }
}
