//! Real events from Kafka, for commands that look at them. Nothing is committed, no group is joined.

use crate::outbox::when;
use anyhow::anyhow;
use outflow_broker::{
    letters::{
        Origin,
        log::{Log, Start},
    },
    tail::Arrived,
};
use outflow_transform::Record;
use serde::Deserialize;

/// Where Kafka is, from the environment.
#[derive(Debug, Deserialize)]
struct Config {
    /// `OUTFLOW_KAFKA_BROKERS`: `host:port`, comma separated.
    kafka_brokers: String,
}

pub(super) fn kafka() -> anyhow::Result<Log> {
    let config: Config = outflow_telemetry::config::from_env()?;
    Ok(Log::new(config.kafka_brokers))
}

/// `beginning`, `end`, or a moment.
pub(super) fn start(text: &str) -> anyhow::Result<Start> {
    match text {
        "beginning" => Ok(Start::Beginning),
        "end" => Ok(Start::End),
        moment => or_moment(moment, "beginning, or end"),
    }
}

/// As [`start`], for what is there already.
pub(super) fn past(text: &str) -> anyhow::Result<Start> {
    match text {
        "beginning" => Ok(Start::Beginning),
        moment => or_moment(moment, "beginning"),
    }
}

/// A moment; what else could have been written is told where it is none.
fn or_moment(text: &str, places: &str) -> anyhow::Result<Start> {
    when::moment(text).map(Start::Time).map_err(|error| anyhow!("{error}, or {places}"))
}

/// The record as its function takes it: a redriven one is the one that it was.
pub(super) fn first_life(mut arrived: Arrived) -> Arrived {
    let topic = std::mem::take(&mut arrived.topic);
    let origin = Origin::take(&topic, arrived.partition, arrived.offset, &mut arrived.headers);
    (arrived.partition, arrived.offset) = (origin.partition, origin.offset);
    arrived.topic = origin.topic.to_owned();
    arrived
}

/// As the host reads it.
pub(super) fn record(arrived: &Arrived) -> Record<'_> {
    Record {
        topic: &arrived.topic,
        partition: arrived.partition,
        offset: arrived.offset,
        timestamp_ms: arrived.timestamp_ms,
        key: arrived.key.as_deref(),
        value: arrived.value.as_deref(),
        headers: &arrived.headers,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    #[test]
    fn a_place_is_an_end_of_the_topic_or_a_moment() {
        assert_eq!(start("end").expect("a place"), Start::End);
        assert_eq!([start, past].map(|read| read("beginning").expect("a place")), [Start::Beginning; 2]);
        let noon = Start::Time(datetime!(2026-11-23 12:00 UTC));
        assert_eq!([start, past].map(|read| read("2026-11-23T12:00:00Z").expect("a place")), [noon; 2]);
        assert!(past("end").is_err(), "nothing is there behind it");
        assert_eq!(
            start("middle").expect_err("it is no place").to_string(),
            "write 2026-11-23T07:00:00Z, 2026-11-23 (UTC), or 2h for two hours ago, or beginning, or end"
        );
    }
}
