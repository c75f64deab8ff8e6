//! Kafka event source mappings.

use super::{TemplateError, fields::Fields};
use serde_json::Value;
use std::time::Duration;

/// Lambda's default window for Kafka.
const DEFAULT_WINDOW: Duration = Duration::from_millis(500);

/// Lambda's default batch size for Kafka, in records.
const DEFAULT_BATCH_SIZE: u64 = 100;

/// The most records that Lambda puts in a batch.
const MAX_BATCH_SIZE: u64 = 10_000;

/// Seven days, the oldest that `MaximumRecordAgeInSeconds` can be.
const MAX_AGE_S: i64 = 604_800;

/// With infinite retries and an on-failure destination AWS applies this bound by itself.
const RETRIES_WITH_DESTINATION: u32 = 10;

/// Which kind of cluster the template names: it shows in the event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventSource {
    Msk,
    SelfManaged,
}

/// Where a consumer group without committed offsets begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartingPosition {
    TrimHorizon,
    Latest,
}

/// One Kafka topic that triggers one function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// The resource or event in the template.
    pub name: String,
    pub function: String,
    pub topic: String,
    /// `ConsumerGroupId`, or `outflow-<function>-<topic>`: stable over restarts, one for each mapping.
    pub group: String,
    pub source: EventSource,
    pub enabled: bool,
    pub start: StartingPosition,
    /// Records at most in an invocation.
    pub batch_size: usize,
    /// How long a batch is waited for after its first record.
    pub window: Duration,
    /// Retries after an error of the function; None is without end.
    pub max_retries: Option<u32>,
    pub max_age: Option<Duration>,
    /// Split a batch on an error of the function.
    pub bisect: bool,
    /// Read `batchItemFailures` from the answer.
    pub partial: bool,
    /// The topic of `kafka://<topic>`.
    pub on_failure: Option<String>,
}

/// What a mapping may ask for and is not done here: its records arrive unfiltered and as they are.
const NOT_PLAYED: [&str; 3] = ["FilterCriteria", "SchemaRegistryConfig", "StartingPositionTimestamp"];

/// The fields of a mapping that are read and not played, one line each.
pub(super) fn notes(fields: &Fields<'_>) -> impl Iterator<Item = String> {
    let asked = NOT_PLAYED.into_iter().filter(|field| fields.get(field).is_some());
    asked.map(|field| format!("{}: {field} is not played", fields.resource))
}

/// A SAM event. It may name several topics; Lambda takes one a mapping, and so each becomes one.
pub(super) fn from_event(
    function: &str,
    fields: &Fields<'_>,
    source: EventSource,
) -> Result<Vec<Mapping>, TemplateError> {
    let topics = fields.texts("Topics")?;
    if topics.is_empty() {
        return Err(fields.problem("Topics", "names no topic"));
    }
    let group = fields.text("ConsumerGroupId")?;
    topics.into_iter().map(|topic| mapping(function, fields, source, topic, group.clone())).collect()
}

/// An `AWS::Lambda::EventSourceMapping`; None if it reads no Kafka.
pub(super) fn from_resource(function: &str, fields: &Fields<'_>) -> Result<Option<Mapping>, TemplateError> {
    let mut topics = fields.texts("Topics")?;
    let (Some(topic), true) = (topics.pop(), topics.is_empty()) else {
        return match fields.get("Topics") {
            Some(_) => Err(fields.problem("Topics", "must name one topic")),
            None => Ok(None),
        };
    };
    let (source, config) = match fields.get("SelfManagedEventSource") {
        Some(_) => (EventSource::SelfManaged, "SelfManagedKafkaEventSourceConfig"),
        None => (EventSource::Msk, "AmazonManagedKafkaEventSourceConfig"),
    };
    let group = fields.inner(config).text("ConsumerGroupId")?;
    mapping(function, fields, source, topic, group).map(Some)
}

fn mapping(
    function: &str,
    fields: &Fields<'_>,
    source: EventSource,
    topic: String,
    group: Option<String>,
) -> Result<Mapping, TemplateError> {
    let start = match fields.text("StartingPosition")?.as_deref() {
        None | Some("TRIM_HORIZON") => StartingPosition::TrimHorizon,
        Some("LATEST") => StartingPosition::Latest,
        Some(other) => {
            let problem = format!("is {other}: TRIM_HORIZON and LATEST can be played");
            return Err(fields.problem("StartingPosition", problem));
        }
    };
    let on_failure = on_failure(fields, &topic)?;
    let retries = fields.bound("MaximumRetryAttempts", 10_000)?.and_then(|number| number.try_into().ok());
    let partial = fields.texts("FunctionResponseTypes")?.iter().any(|kind| kind == "ReportBatchItemFailures");
    let batch_size = fields.integer("BatchSize", 1..=MAX_BATCH_SIZE)?.unwrap_or(DEFAULT_BATCH_SIZE);
    Ok(Mapping {
        name: fields.resource.clone(),
        function: function.to_owned(),
        group: group.unwrap_or_else(|| format!("outflow-{function}-{topic}")),
        topic,
        source,
        enabled: fields.flag("Enabled")?.unwrap_or(true),
        start,
        batch_size: usize::try_from(batch_size).unwrap_or(usize::MAX),
        window: fields
            .integer("MaximumBatchingWindowInSeconds", 0..=300)?
            .map_or(DEFAULT_WINDOW, Duration::from_secs),
        max_retries: retries.or_else(|| on_failure.as_ref().map(|_| RETRIES_WITH_DESTINATION)),
        max_age: fields.bound("MaximumRecordAgeInSeconds", MAX_AGE_S)?.map(Duration::from_secs),
        bisect: fields.flag("BisectBatchOnFunctionError")?.unwrap_or(false),
        partial,
        on_failure,
    })
}

fn on_failure(fields: &Fields<'_>, topic: &str) -> Result<Option<String>, TemplateError> {
    let destination = match fields.inner("DestinationConfig").get("OnFailure") {
        None => return Ok(None),
        Some(target) => target.get("Destination").and_then(Value::as_str).unwrap_or_default(),
    };
    match destination.strip_prefix("kafka://") {
        Some("") | None => Err(fields.problem(
            "DestinationConfig.OnFailure.Destination",
            format!("is {destination:?}: only kafka://<topic> can be played"),
        )),
        Some(same) if same == topic => {
            Err(fields
                .problem("DestinationConfig.OnFailure.Destination", "is the topic that is read: a loop"))
        }
        Some(other) => Ok(Some(other.to_owned())),
    }
}
