//! Sends a function's metrics by OTLP over HTTP, at the end of each invocation.
//!
//! Lambda can't be scraped, and it freezes a process between two invocations. So nothing runs by itself here, neither a
//! thread nor a timer: the function says when to send, and waits for it, [`FLUSH_LIMIT`] at most.
//!
//! Must not: fail or stop a function because of its metrics, or know any of them by name.

use crate::error::chain;
use opentelemetry::{KeyValue, global};
use opentelemetry_otlp::{
    ExporterBuildError, MetricExporter, Protocol, WithExportConfig as _, WithHttpConfig as _,
};
use opentelemetry_sdk::{
    Resource,
    error::{OTelSdkError, OTelSdkResult},
    metrics::{
        InstrumentKind, ManualReader, Pipeline, SdkMeterProvider, Temporality, data::ResourceMetrics,
        exporter::PushMetricExporter as _, reader::MetricReader,
    },
};
use std::{
    collections::HashMap,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use uuid::Uuid;

/// The longest that a flush keeps its caller waiting.
pub const FLUSH_LIMIT: Duration = Duration::from_millis(500);

/// Why an endpoint can't be used.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// There is no TLS in the functions for it: metrics hold no secrets, and go to a receiver of the same network.
    #[error("must begin with http://")]
    NotHttp,
    #[error("is not an address that metrics could be sent to")]
    Unusable(#[source] ExporterBuildError),
}

/// Where the process's metrics go; nowhere, and at no cost, without an endpoint.
#[derive(Debug)]
pub struct Exporter(Option<Push>);

impl Exporter {
    /// Makes the process's instruments report to the OTLP receiver at `endpoint`, the part before `/v1/metrics`
    /// (`http://prometheus:9090/api/v1/otlp`). Call it before any instrument is made: those made earlier report nothing.
    ///
    /// Each process is an instance of its own (`service.instance.id`), since counters of several must not be mixed.
    ///
    /// # Errors
    /// An endpoint that can't be one. Nobody is connected to: a receiver that is away costs metrics, nothing else.
    pub fn install(function: &'static str, endpoint: Option<&str>) -> Result<Self, EndpointError> {
        // An optional parameter of a template is an empty text.
        let Some(endpoint) = endpoint.filter(|endpoint| !endpoint.is_empty()) else { return Ok(Self(None)) };
        let push = Push::new(function, endpoint)?;
        global::set_meter_provider(push.provider.clone());
        Ok(Self(Some(push)))
    }

    /// Sends what the instruments hold, and takes [`FLUSH_LIMIT`] at most. A flush that fails is logged, once until one
    /// succeeds again; the next one carries its counts too.
    pub async fn flush(&self) {
        if let Some(push) = &self.0 {
            push.flush().await;
        }
    }
}

#[derive(Debug)]
struct Push {
    provider: SdkMeterProvider,
    reader: Reader,
    exporter: MetricExporter,
    is_failing: AtomicBool,
}

#[derive(Debug, thiserror::Error)]
enum FlushError {
    #[error("no answer within {} ms", FLUSH_LIMIT.as_millis())]
    Slow,
    #[error(transparent)]
    Failed(#[from] OTelSdkError),
}

impl Push {
    fn new(function: &'static str, endpoint: &str) -> Result<Self, EndpointError> {
        if !endpoint.starts_with("http://") {
            return Err(EndpointError::NotHttp);
        }
        let exporter = MetricExporter::builder()
            .with_http()
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(format!("{}/v1/metrics", endpoint.trim_end_matches('/')))
            .with_timeout(FLUSH_LIMIT)
            .with_headers(HashMap::new())
            .with_temporality(Temporality::Cumulative)
            .build()
            .map_err(EndpointError::Unusable)?;
        let reader = Reader(Arc::new(ManualReader::default()));
        let resource = Resource::builder_empty().with_attributes([
            KeyValue::new("service.name", function),
            KeyValue::new("service.instance.id", Uuid::new_v4().to_string()),
        ]);
        let provider =
            SdkMeterProvider::builder().with_resource(resource.build()).with_reader(reader.clone()).build();
        Ok(Self { provider, reader, exporter, is_failing: AtomicBool::new(false) })
    }

    async fn flush(&self) {
        let outcome = tokio::time::timeout(FLUSH_LIMIT, self.send()).await;
        let outcome = outcome.unwrap_or(Err(FlushError::Slow));
        let was_failing = self.is_failing.swap(outcome.is_err(), Ordering::Relaxed);
        match outcome {
            Err(error) if !was_failing => {
                tracing::warn!(error = chain(&error), "metrics not sent, the next flush tries again");
            }
            Ok(()) if was_failing => tracing::info!("metrics are sent again"),
            _ => {}
        }
    }

    async fn send(&self) -> Result<(), FlushError> {
        let mut metrics = ResourceMetrics::default();
        self.reader.collect(&mut metrics)?;
        Ok(self.exporter.export(&metrics).await?)
    }
}

/// Read by hand; the provider holds one handle, the flush the other.
#[derive(Clone, Debug)]
struct Reader(Arc<ManualReader>);

impl MetricReader for Reader {
    fn register_pipeline(&self, pipeline: Weak<Pipeline>) {
        self.0.register_pipeline(pipeline);
    }

    fn collect(&self, metrics: &mut ResourceMetrics) -> OTelSdkResult {
        self.0.collect(metrics)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.0.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.0.shutdown_with_timeout(timeout)
    }

    /// Sums are cumulative, as Prometheus wants them: a flush that got lost loses nothing. A gauge is sent only after it
    /// was measured anew: an instance that another has relieved must not tell its old figure as today's.
    fn temporality(&self, kind: InstrumentKind) -> Temporality {
        match kind {
            InstrumentKind::Gauge => Temporality::Delta,
            _ => Temporality::Cumulative,
        }
    }
}

#[cfg(test)]
mod tests;
