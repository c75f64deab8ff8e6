//! One batch: run the active transforms, produce its rows and dead letters, say from where to read again.

use crate::{
    context::Context,
    error::TransformError,
    work::{Room, Work, retry_from, work},
};
use lambda_runtime::LambdaEvent;
use outflow_kafka_batch::{BatchResponse, KafkaEvent, partitions};
use outflow_telemetry::{chain, time_left};
use std::{
    mem::take,
    time::{Duration, Instant},
};
use time::OffsetDateTime;

/// A function's timeout that is shorter than what is kept free still leaves time for its first partitions: each invocation
/// gets on.
const SHORTEST_RUN: Duration = Duration::from_secs(2);

/// A record counts as done once everything it became is confirmed by Kafka; its partition is read again from
/// the first that isn't. Rows sent twice are one row: their version is the same.
pub(crate) async fn handle(
    context: &Context,
    event: LambdaEvent<KafkaEvent>,
) -> Result<BatchResponse, TransformError> {
    let response = transform(context, event).await;
    // Also where it failed: Lambda freezes this process between two invocations, and may end it.
    context.metrics.flush().await;
    response
}

async fn transform(
    context: &Context,
    event: LambdaEvent<KafkaEvent>,
) -> Result<BatchResponse, TransformError> {
    let started = Instant::now();
    let deadline = event.context.deadline();
    let partitions = partitions(event.payload)?;
    let loaded = context.active.refresh(started).await?;
    let transformed_at_us = now_us();
    let running = loaded.clone();
    let left = time_left(deadline).saturating_sub(context.reserve()).max(SHORTEST_RUN);
    let mut room = Room { until: Instant::now() + left, bytes: context.limits.batch_bytes };
    let mut works: Vec<Work> = tokio::task::spawn_blocking(move || {
        let work = |partition| work(partition, &running, transformed_at_us, &mut room);
        partitions.into_iter().map(work).collect()
    })
    .await?;
    let ran = started.elapsed();
    let response = produce(context, &mut works).await;
    context.reporter.after_batch(&context.active, &loaded).await;
    let sum = |count: fn(&Work) -> usize| works.iter().map(count).sum::<usize>();
    let digests: Vec<&str> = loaded.iter().map(|loaded| loaded.digest().short()).collect();
    tracing::info!(
        records = sum(|work| work.partition.records.len()),
        produced = sum(|work| work.produce.len()),
        skipped = sum(|work| work.skipped),
        rejected = sum(|work| work.rejected),
        digests = digests.join(" "),
        complete = response.is_complete(),
        run_us = ran.as_micros(),
        total_us = started.elapsed().as_micros(),
        "batch transformed"
    );
    Ok(response)
}

async fn produce(context: &Context, works: &mut [Work]) -> BatchResponse {
    let produced = works.iter_mut().flat_map(|work| &mut work.produce);
    let records = produced.map(|produce| take(&mut produce.record)).collect();
    let mut results = context.producer.send_all(records).await.into_iter();
    let mut response = BatchResponse::default();
    for work in works {
        let mut unconfirmed = Vec::new();
        for (produce, result) in work.produce.iter().zip(results.by_ref()) {
            if let Err(error) = result {
                if unconfirmed.is_empty() {
                    let (topic, offset) = (&work.partition.topic, work.partition.records[produce.of].offset);
                    tracing::error!(
                        topic,
                        partition = work.partition.partition,
                        offset,
                        error = chain(&error),
                        "rows not confirmed, the partition comes again from here"
                    );
                }
                unconfirmed.push(produce.of);
            }
        }
        if let Some(offset) = retry_from(work, unconfirmed) {
            response.retry_from(&work.partition.topic, work.partition.partition, offset);
        }
    }
    response
}

/// The clock of the invocation: one time for all of its rows.
fn now_us() -> i64 {
    i64::try_from(OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
