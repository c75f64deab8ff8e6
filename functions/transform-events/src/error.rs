//! What one invocation answers when nothing of its batch could be done.

use lambda_runtime::Diagnostic;
use outflow_kafka_batch::BatchError;
use outflow_telemetry::{ErrorKind, chain};
use outflow_transform::ActiveError;

#[derive(Debug, thiserror::Error)]
pub(crate) enum TransformError {
    #[error("the batch can't be read")]
    Batch(#[from] BatchError),
    #[error("there is no transform to run")]
    Active(#[from] ActiveError),
    #[error("the host of the transform panicked")]
    Host(#[from] tokio::task::JoinError),
}

impl TransformError {
    /// Nothing was produced, so all of the batch comes again, and nothing is lost.
    pub(crate) fn kind(&self) -> ErrorKind {
        match self {
            Self::Active(_) => ErrorKind::Retriable,
            Self::Batch(_) | Self::Host(_) => ErrorKind::Bug,
        }
    }
}

impl From<TransformError> for Diagnostic {
    fn from(error: TransformError) -> Self {
        let error_message = chain(&error);
        tracing::error!(error = error_message, "batch not transformed, all of it comes again");
        Self { error_type: format!("{:?}", error.kind()), error_message }
    }
}
