//! One tick of the schedule: relay what waits, then say what was done, in metrics and in the answer.

use crate::{context::Context, error::TickError};
use lambda_runtime::LambdaEvent;
use outflow_outbox::Report;
use outflow_telemetry::{chain, metrics::FLUSH_LIMIT, time_left};
use serde::Deserialize;
use std::time::{Duration, Instant};

/// Kept free before the function's deadline beside what the relay and a flush may take: for the answer.
const ANSWER: Duration = Duration::from_secs(1);
/// How long a drain goes on looking after the last event: while orders come, each is on its way within milliseconds, and
/// an outbox without any costs one query a tick.
const IDLE: Duration = Duration::from_millis(500);
/// The longest drain, however many orders come: a caller gets its report, and new settings their turn.
const LONGEST_DRAIN: Duration = Duration::from_secs(60);
/// The same for a nudge or a single tick. On a laptop they wait for each other at the one instance, and two of them must be
/// over before their callers give up (5 s). Whoever commits after the end sees the lease free, and nudges.
const LONGEST_SINGLE_DRAIN: Duration = Duration::from_secs(2);

/// The schedule's input. EventBridge's finest rate is a minute, so one invocation ticks for a minute; whatever can call
/// more often sends `for_s: 0`, or nothing, and gets one drain a call.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Tick {
    /// Seconds between two drains of one invocation, at least 1.
    every_s: u64,
    /// Seconds for which the invocation goes on; 0 is one drain.
    for_s: u64,
}

/// Drains the outbox, once or every few seconds, and reports the sum. A tick that fails is tried again by the next one;
/// the invocation fails where its last tick did.
pub(crate) async fn handle(context: &Context, event: LambdaEvent<Tick>) -> Result<Report, TickError> {
    let Tick { every_s, for_s } = event.payload;
    let started = Instant::now();
    let every = Duration::from_secs(every_s.max(1));
    let deadline = started + time_left(event.context.deadline()).saturating_sub(reserve(context));
    let last_tick_before = started + Duration::from_secs(for_s);
    let longest = if for_s == 0 { LONGEST_SINGLE_DRAIN } else { LONGEST_DRAIN };
    let mut total = Report::default();
    let mut tick = started;
    loop {
        let until = deadline.min(Instant::now() + longest);
        let failure = match context.relay.run(until, IDLE).await {
            Ok(report) => {
                tracing::info!(
                    published = report.published,
                    retried = report.retried,
                    dead_lettered = report.dead_lettered,
                    backlog = report.backlog,
                    oldest_age_ms = report.oldest_age_ms,
                    gaps = report.gaps,
                    parked = report.parked,
                    "outbox drained"
                );
                total = Report {
                    published: total.published + report.published,
                    retried: total.retried + report.retried,
                    dead_lettered: total.dead_lettered + report.dead_lettered,
                    ..report
                };
                None
            }
            Err(error) => Some(error),
        };
        // After each drain, also one that failed: Lambda freezes this process between two invocations, and may end it.
        context.metrics.flush().await;
        // A drain that took longer than the pause is followed at once, and not by all the ticks it has missed.
        tick = (tick + every).max(Instant::now());
        if tick >= last_tick_before || tick >= deadline {
            return failure.map_or(Ok(total), |error| Err(error.into()));
        }
        if let Some(error) = failure {
            tracing::error!(error = chain(&error), "outbox not drained, the next tick tries again");
        }
        tokio::time::sleep_until(tick.into()).await;
    }
}

/// Time kept free before the function's deadline: where Kafka and MySQL are slow, a drain goes on for so long.
fn reserve(context: &Context) -> Duration {
    context.relay.overtime() + FLUSH_LIMIT + ANSWER
}

#[cfg(test)]
mod tests;
