//! What sends a whole batch back to be tried again. A row's own faults are no error: it becomes a dead letter.

use lambda_runtime::Diagnostic;
use outflow_analytics::AnalyticsError;
use outflow_kafka_batch::BatchError;
use outflow_telemetry::{ErrorKind, chain};

#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    #[error("batch could not be read")]
    Batch { source: BatchError },
    #[error("table {table} could not be read")]
    Table { table: String, source: AnalyticsError },
    #[error("table {table} has changed since its rows were read")]
    TableChanged { table: String },
    #[error("rows were not loaded")]
    Insert { source: AnalyticsError },
    #[error(
        "time ran out with {rows} rows of the batch not loaded: raise the function's timeout or lower its batch size"
    )]
    OutOfTime { rows: usize },
}

impl LoadError {
    pub(crate) fn kind(&self) -> ErrorKind {
        match self {
            Self::Batch { .. } => ErrorKind::Bug,
            // Nothing that is wrong with a table is a row's fault.
            Self::Table { source, .. } => match source.kind() {
                ErrorKind::Poison => ErrorKind::Bug,
                kind => kind,
            },
            Self::Insert { source } => source.kind(),
            Self::TableChanged { .. } | Self::OutOfTime { .. } => ErrorKind::Retriable,
        }
    }
}

impl From<LoadError> for Diagnostic {
    fn from(error: LoadError) -> Self {
        let error_message = chain(&error);
        tracing::error!(error = error_message, kind = ?error.kind(), "batch not loaded, it is delivered again");
        Self { error_type: format!("{:?}", error.kind()), error_message }
    }
}
