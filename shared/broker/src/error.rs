//! What can go wrong between us and the broker.

use crate::client::Failure;
use outflow_telemetry::ErrorKind;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use std::time::Duration;

#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    #[error("kafka client could not be set up for brokers {brokers}")]
    Connect { brokers: String, source: KafkaError },
    #[error("kafka at {brokers} did not answer the request to {operation}: is the broker running?")]
    Admin { brokers: String, operation: &'static str, source: KafkaError },
    #[error("topic {topic} could not be created: {code}")]
    CreateTopic { topic: String, code: RDKafkaErrorCode },
}

impl BrokerError {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Connect { .. } => ErrorKind::Bug,
            Self::Admin { .. } | Self::CreateTopic { .. } => ErrorKind::Retriable,
        }
    }
}

/// One record was not confirmed. It may be in the topic all the same: only a confirmation is certain.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DeliveryError {
    #[error("record for topic {topic} was refused by the producer")]
    Refused { topic: String, source: KafkaError },
    #[error("record for topic {topic} was not confirmed by kafka")]
    Unconfirmed { topic: String, source: KafkaError },
    #[error("record for topic {topic} was not confirmed by kafka within {limit:?}: is the broker running?")]
    TimedOut { topic: String, limit: Duration },
    #[error("record for topic {topic} was not sent: an earlier one was refused or the producer was emptied")]
    Abandoned { topic: String },
}

impl DeliveryError {
    /// `limit` is the time that the call had.
    pub(crate) fn new(topic: String, failure: Failure, limit: Duration) -> Self {
        match failure {
            Failure::Refused(source) => Self::Refused { topic, source },
            Failure::Unconfirmed(code) => {
                Self::Unconfirmed { topic, source: KafkaError::MessageProduction(code) }
            }
            Failure::TakenBack { .. } => Self::TimedOut { topic, limit },
            Failure::Abandoned => Self::Abandoned { topic },
        }
    }

    /// Poison only where Kafka blames this record alone (it was sent by itself); everything else may pass later.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Refused { source, .. } if too_large(source) => ErrorKind::Poison,
            Self::Refused { .. }
            | Self::Unconfirmed { .. }
            | Self::TimedOut { .. }
            | Self::Abandoned { .. } => ErrorKind::Retriable,
        }
    }
}

fn too_large(error: &KafkaError) -> bool {
    error.rdkafka_error_code() == Some(RDKafkaErrorCode::MessageSizeTooLarge)
}
