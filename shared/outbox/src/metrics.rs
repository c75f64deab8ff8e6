//! The metrics of writer and relay, through OpenTelemetry's open facade: whoever runs a relay chooses the exporter.
//!
//! Idle is healthy: lag is told as the age of the oldest event that waits, never as the time since the last one.

use crate::settings::Report;
use opentelemetry::{
    KeyValue, global,
    metrics::{Counter, Gauge, Histogram},
};
use std::time::Duration;

/// The meter's name.
pub const METER: &str = "outflow-outbox";
/// Events confirmed by the publisher.
pub const PUBLISHED: &str = "outflow_outbox_published_total";
/// Attempts to deliver a parked event.
pub const RETRIED: &str = "outflow_outbox_retried_total";
/// Events given up until an operator looks at them; `cause` tells why.
pub const DEAD: &str = "outflow_outbox_dead_total";
/// Leases taken from a relay that had not given its own back.
pub const TAKEOVERS: &str = "outflow_outbox_takeovers_total";
/// Events confirmed for the first time behind a higher version of their aggregate, or behind another event with the same
/// one: must stay 0. What is published again is none.
pub const ORDER_VIOLATIONS: &str = "outflow_outbox_order_violations_total";
/// Returns to an older position, because the server lacked what had been delivered.
pub const SET_BACK: &str = "outflow_outbox_set_back_total";
/// Steps of deleting delivered rows that failed: tried again later, and no drain fails for one.
pub const PRUNE_FAILURES: &str = "outflow_outbox_prune_failures_total";
/// Ids behind the position, an estimate.
pub const BACKLOG: &str = "outflow_outbox_backlog_events";
/// Age of the oldest event behind the position; 0 where nothing waits.
pub const OLDEST_AGE: &str = "outflow_outbox_oldest_age_seconds";
/// Open gaps, in ranges.
pub const GAPS: &str = "outflow_outbox_open_gaps";
/// Time since the oldest open gap was first seen; 0 where there is none.
pub const OLDEST_GAP_AGE: &str = "outflow_outbox_oldest_gap_age_seconds";
/// Aggregates that stand still behind an event that could not be delivered.
pub const PARKED: &str = "outflow_outbox_parked_aggregates";
/// Time to read one page.
pub const READ_TIME: &str = "outflow_outbox_read_seconds";
/// Time from handing a batch to the publisher to its last confirmation.
pub const DELIVER_TIME: &str = "outflow_outbox_deliver_seconds";
/// Time to move the position.
pub const MOVE_TIME: &str = "outflow_outbox_move_seconds";

/// Upper bounds of the time histograms, in seconds: 0.5 ms to 10 s.
const BOUNDS: [f64; 14] =
    [0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0];

/// Gaps that are open.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct OpenGaps {
    pub(crate) ranges: u64,
    /// Since the oldest of them was first seen.
    pub(crate) oldest_age: Duration,
}

#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    pub(crate) published: Counter<u64>,
    pub(crate) retried: Counter<u64>,
    dead: Counter<u64>,
    pub(crate) takeovers: Counter<u64>,
    pub(crate) order_violations: Counter<u64>,
    pub(crate) set_back: Counter<u64>,
    pub(crate) prune_failures: Counter<u64>,
    backlog: Gauge<u64>,
    oldest_age: Gauge<f64>,
    gaps: Gauge<u64>,
    oldest_gap_age: Gauge<f64>,
    parked: Gauge<u64>,
    read_time: Histogram<f64>,
    deliver_time: Histogram<f64>,
    move_time: Histogram<f64>,
    group: [KeyValue; 1],
}

impl Metrics {
    pub(crate) fn new(group: &str) -> Self {
        let meter = global::meter(METER);
        let counter = |name: &'static str| meter.u64_counter(name).build();
        let seconds = |name: &'static str| {
            meter.f64_histogram(name).with_unit("s").with_boundaries(BOUNDS.to_vec()).build()
        };
        let metrics = Self {
            published: counter(PUBLISHED),
            retried: counter(RETRIED),
            dead: counter(DEAD),
            takeovers: counter(TAKEOVERS),
            order_violations: counter(ORDER_VIOLATIONS),
            set_back: counter(SET_BACK),
            prune_failures: counter(PRUNE_FAILURES),
            backlog: meter.u64_gauge(BACKLOG).build(),
            oldest_age: meter.f64_gauge(OLDEST_AGE).with_unit("s").build(),
            gaps: meter.u64_gauge(GAPS).build(),
            oldest_gap_age: meter.f64_gauge(OLDEST_GAP_AGE).with_unit("s").build(),
            parked: meter.u64_gauge(PARKED).build(),
            read_time: seconds(READ_TIME),
            deliver_time: seconds(DELIVER_TIME),
            move_time: seconds(MOVE_TIME),
            group: [KeyValue::new("group", group.to_owned())],
        };
        // A counter that nobody has added to is not exported, and an alert on it would never see a zero.
        let Self { published, retried, takeovers, order_violations, set_back, prune_failures, .. } = &metrics;
        for counter in [published, retried, takeovers, order_violations, set_back, prune_failures] {
            metrics.count(counter, 0);
        }
        metrics
    }

    pub(crate) fn count(&self, counter: &Counter<u64>, by: u64) {
        counter.add(by, &self.group);
    }

    pub(crate) fn dead(&self, cause: &'static str) {
        self.dead.add(1, &[self.group[0].clone(), KeyValue::new("cause", cause)]);
    }

    pub(crate) fn read(&self, took: Duration) {
        self.read_time.record(took.as_secs_f64(), &self.group);
    }

    pub(crate) fn delivered(&self, took: Duration) {
        self.deliver_time.record(took.as_secs_f64(), &self.group);
    }

    pub(crate) fn moved(&self, took: Duration) {
        self.move_time.record(took.as_secs_f64(), &self.group);
    }

    /// How the outbox stands; of gaps nothing is told where they were not looked at.
    pub(crate) fn standing(&self, report: &Report, gaps: Option<OpenGaps>) {
        self.backlog.record(report.backlog, &self.group);
        self.oldest_age.record(Duration::from_millis(report.oldest_age_ms).as_secs_f64(), &self.group);
        if let Some(OpenGaps { ranges, oldest_age }) = gaps {
            self.gaps.record(ranges, &self.group);
            self.oldest_gap_age.record(oldest_age.as_secs_f64(), &self.group);
        }
        self.parked.record(report.parked, &self.group);
    }
}
