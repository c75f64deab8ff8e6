//! One batch: read its records, load the rows as one block a table, put what can never be loaded aside.

use crate::{
    batch,
    context::{Context, DELIVERY_TIMEOUT},
    dead_letters,
    error::LoadError,
    load,
};
use lambda_runtime::LambdaEvent;
use outflow_kafka_batch::{BatchResponse, KafkaEvent, partitions};
use outflow_telemetry::time_left;
use std::time::{Duration, Instant};

/// Time kept free before the function's deadline: dead letters may take their delivery time-out, then their producer is
/// emptied.
const DEADLINE_RESERVE: Duration = DELIVERY_TIMEOUT.saturating_add(Duration::from_secs(3));
/// A timeout shorter than the reserve still leaves time for one try.
const SHORTEST_TRY: Duration = Duration::from_secs(2);

/// Dead letters come last: a batch that fails and is delivered again writes none of them twice.
pub(crate) async fn handle(
    context: &Context,
    event: LambdaEvent<KafkaEvent>,
) -> Result<BatchResponse, LoadError> {
    let started = Instant::now();
    let left = time_left(event.context.deadline()).saturating_sub(DEADLINE_RESERVE).max(SHORTEST_TRY);
    let partitions = partitions(event.payload).map_err(|source| LoadError::Batch { source })?;
    let until = started + left;
    let (pending, mut rejected) = batch::read(&context.writer, partitions, until).await?;
    let rows = pending.len();
    rejected.extend(load::load(&context.writer, pending, until).await?);
    let dead = rejected.len();
    let response = dead_letters::send(&context.dead_letters, rejected).await;
    let ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    tracing::info!(rows, dead, ms, complete = response.is_complete(), "batch loaded");
    Ok(response)
}
