//! What one invocation answers when a drain fails.

use lambda_runtime::Diagnostic;
use outflow_outbox::RelayError;
use outflow_telemetry::{ErrorKind, chain};

#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub(crate) struct TickError(#[from] RelayError);

impl TickError {
    /// The next tick is the retry: nothing of a failed drain is lost.
    fn kind(&self) -> ErrorKind {
        if self.0.is_misconfiguration() { ErrorKind::Bug } else { ErrorKind::Retriable }
    }
}

impl From<TickError> for Diagnostic {
    fn from(error: TickError) -> Self {
        let error_message = chain(&error);
        tracing::error!(error = error_message, "outbox not drained, the next tick tries again");
        Self { error_type: format!("{:?}", error.kind()), error_message }
    }
}
