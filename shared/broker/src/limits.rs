//! How large a topic's batches may be, learned when one was refused.
//!
//! A topic's `max.message.bytes` is a limit on batches, and its broker refuses a batch as a whole.

use crate::producer::BATCH_BYTES;
use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, ResourceSpecifier},
    client::DefaultClientContext,
};
use std::{collections::HashMap, sync::Mutex, time::Duration};
use tokio::time::Instant;

/// With this size of batch every record travels by itself.
pub(crate) const ALONE: usize = 1;
/// Below it a batch is hardly more than a record.
const SMALLEST: usize = 512;
/// Each step of a search is this much narrower: a few steps, each at the price of a round trip.
const STEP: usize = 8;
/// How long the broker may take to tell a limit; without an answer the limit is searched for.
const DESCRIBE_TIMEOUT: Duration = Duration::from_secs(2);

/// Topics whose batches have to be smaller than [`BATCH_BYTES`]. A limit that somebody raises is noticed by the next process.
#[derive(Debug, Default)]
pub(crate) struct Limits(Mutex<HashMap<String, usize>>);

impl Limits {
    pub(crate) fn batch_bytes(&self, topic: &str) -> usize {
        self.0.lock().expect("no holder of this lock panics").get(topic).copied().unwrap_or(BATCH_BYTES)
    }

    /// A batch of at most `refused` bytes was too large for the topic: how large the next one may be, always less.
    /// Remembered. A power of two, or [`ALONE`]: few clients serve many topics.
    pub(crate) async fn narrow(
        &self,
        topic: &str,
        refused: usize,
        config: &ClientConfig,
        deadline: Instant,
    ) -> usize {
        let known = self.batch_bytes(topic);
        if known < refused {
            return known;
        }
        let told = if refused == BATCH_BYTES { describe(topic, config, deadline).await } else { None };
        let next = fitting(told, refused);
        tracing::info!(
            topic,
            refused,
            told,
            batch_bytes = next,
            "kafka refused a batch, later ones are smaller"
        );
        self.0.lock().expect("no holder of this lock panics").insert(topic.to_owned(), next);
        next
    }
}

/// The next size to try after `refused`, where the topic's limit is `told` or nobody tells it.
fn fitting(told: Option<usize>, refused: usize) -> usize {
    let limit = told.filter(|limit| *limit < refused).unwrap_or(refused / STEP);
    if limit < SMALLEST { ALONE } else { 1 << limit.ilog2() }
}

/// The topic's `max.message.bytes`. None where it is not ours to know, or the broker does not answer in time.
async fn describe(topic: &str, config: &ClientConfig, deadline: Instant) -> Option<usize> {
    let timeout = DESCRIBE_TIMEOUT.min(deadline.saturating_duration_since(Instant::now()));
    let mut ours = ClientConfig::new();
    for name in ["bootstrap.servers", "client.id"] {
        ours.set(name, config.get(name)?);
    }
    let client: AdminClient<DefaultClientContext> = ours.create().ok()?;
    let options = AdminOptions::new().request_timeout(Some(timeout));
    let answer = client.describe_configs([&ResourceSpecifier::Topic(topic)], &options).await;
    // Its end waits for its thread.
    tokio::task::spawn_blocking(move || drop(client));
    let resource = answer.ok()?.pop()?.ok()?;
    resource.get("max.message.bytes")?.value.as_deref()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_that_the_broker_tells_is_met_in_one_step() {
        assert_eq!(fitting(Some(2_000), BATCH_BYTES), 1_024);
        assert_eq!(fitting(Some(700_000), BATCH_BYTES), 524_288);
        assert_eq!(fitting(Some(300), BATCH_BYTES), ALONE);
    }

    #[test]
    fn an_unknown_limit_is_searched_for_and_the_search_ends() {
        let mut size = BATCH_BYTES;
        let mut steps = Vec::new();
        while size != ALONE {
            size = fitting(None, size);
            steps.push(size);
        }
        assert_eq!(steps, [65_536, 8_192, 1_024, ALONE]);
        // A broker that tells a limit and refuses a batch below it is not asked again.
        assert_eq!(fitting(Some(2_000), 1_024), ALONE);
    }
    #[tokio::test]
    async fn what_was_learned_of_a_topic_holds_for_it_alone_and_for_calls_that_were_refused_meanwhile() {
        let limits = Limits::default();
        let (nobody, deadline) = (ClientConfig::new(), Instant::now());

        assert_eq!(limits.narrow("a", BATCH_BYTES, &nobody, deadline).await, 65_536);

        assert_eq!((limits.batch_bytes("a"), limits.batch_bytes("b")), (65_536, BATCH_BYTES));
        assert_eq!(limits.narrow("a", BATCH_BYTES, &nobody, deadline).await, 65_536);
        assert_eq!(limits.narrow("a", 65_536, &nobody, deadline).await, 8_192);
        assert_eq!(limits.batch_bytes("a"), 8_192);
    }
}
