//! The topics, in one place: names, partitions, and how they come to be.

use crate::error::BrokerError;
use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    types::RDKafkaErrorCode,
};
use std::time::Duration;

/// Events of orders, keyed by order id.
pub const ORDER_EVENTS: &str = "order.events";
/// Events of stock reservations, keyed by order id.
pub const INVENTORY_EVENTS: &str = "inventory.events";
/// Analytics rows as a transform wrote them, keyed by order id. A topic of rows has the name of their table.
pub const ORDERS_ANALYTICS: &str = "orders_analytics";
pub const ORDER_ITEMS_ANALYTICS: &str = "order_items_analytics";
pub const INVENTORY_ANALYTICS: &str = "inventory_analytics";

/// Partitions of a topic that carries events or rows: what one machine's readers can share.
const PARTITIONS: i32 = 4;
/// Bytes that a dead letter may have, twice Kafka's default: a record of the largest size comes with its reason beside it,
/// and one that could not be put aside would hold up its partition for ever. What is redriven may be as large.
const DEAD_LETTER_BYTES: &str = "2097152";
const ADMIN_TIMEOUT: Duration = Duration::from_secs(10);

const DEAD_LETTERS: &str = ".dlq";
const RETRIES: &str = ".retry";
const AUDIT: &str = ".audit";

/// Where records of this topic go that could not be processed.
pub fn dead_letters(topic: &str) -> String {
    format!("{topic}{DEAD_LETTERS}")
}

/// Where dead letters of this topic are sent back: only the function that gave them up reads it.
pub fn retries(topic: &str) -> String {
    format!("{topic}{RETRIES}")
}

/// What was done with the dead letters of this topic: for each the newest entry, by its id.
pub fn audit(topic: &str) -> String {
    format!("{topic}{DEAD_LETTERS}{AUDIT}")
}

/// The topic that a record belongs to which was read from `topic`: from `order.events.retry` it is one of `order.events`,
/// and so is a dead letter of `order.events.dlq`.
pub fn source(topic: &str) -> &str {
    topic.strip_suffix(RETRIES).or_else(|| topic.strip_suffix(DEAD_LETTERS)).unwrap_or(topic)
}

/// Holds redriven records.
pub fn is_retries(topic: &str) -> bool {
    topic.ends_with(RETRIES)
}

/// Holds dead letters.
pub fn is_dead_letters(topic: &str) -> bool {
    topic.ends_with(DEAD_LETTERS)
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicSpec {
    pub name: String,
    pub partitions: i32,
}

/// The topics of events, which transforms read.
pub const EVENTS: [&str; 2] = [ORDER_EVENTS, INVENTORY_EVENTS];

/// The topics that functions read; each has one for its dead letters, one that they are sent back by, and their audit.
const SOURCES: [&str; 5] =
    [ORDER_EVENTS, INVENTORY_EVENTS, ORDERS_ANALYTICS, ORDER_ITEMS_ANALYTICS, INVENTORY_ANALYTICS];

/// Every topic that Outflow needs.
pub fn all() -> Vec<TopicSpec> {
    let mut specs: Vec<TopicSpec> =
        SOURCES.map(|name| TopicSpec { name: name.to_owned(), partitions: PARTITIONS }).to_vec();
    for beside in [dead_letters, retries, audit] {
        specs.extend(SOURCES.map(|source| TopicSpec { name: beside(source), partitions: 1 }));
    }
    specs
}

/// What a topic of this name has otherwise than the broker's own settings.
fn settings(topic: &str) -> &'static [(&'static str, &'static str)] {
    if is_dead_letters(topic) {
        // Until somebody has decided; Kafka would delete them after a week.
        &[("max.message.bytes", DEAD_LETTER_BYTES), ("retention.ms", "-1")]
    } else if is_retries(topic) {
        &[("max.message.bytes", DEAD_LETTER_BYTES)]
    } else if topic.ends_with(AUDIT) {
        &[("cleanup.policy", "compact")]
    } else {
        &[]
    }
}

/// Creates the topics that are not there yet and returns their names. Safe to repeat; never changes one that exists.
///
/// # Errors
/// Where the broker does not answer, or refuses a topic.
pub async fn ensure(brokers: &str, topics: &[TopicSpec]) -> Result<Vec<String>, BrokerError> {
    let client: AdminClient<DefaultClientContext> = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .create()
        .map_err(|source| BrokerError::Connect { brokers: brokers.to_owned(), source })?;
    let wanted: Vec<_> = topics
        .iter()
        .map(|spec| {
            let topic = NewTopic::new(&spec.name, spec.partitions, TopicReplication::Fixed(-1));
            settings(&spec.name).iter().fold(topic, |topic, (name, value)| topic.set(name, value))
        })
        .collect();
    let options =
        AdminOptions::new().request_timeout(Some(ADMIN_TIMEOUT)).operation_timeout(Some(ADMIN_TIMEOUT));
    let results = client.create_topics(&wanted, &options).await.map_err(|source| BrokerError::Admin {
        brokers: brokers.to_owned(),
        operation: "create topics",
        source,
    })?;
    let mut created = Vec::new();
    for result in results {
        match result {
            Ok(topic) => created.push(topic),
            Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((topic, code)) => return Err(BrokerError::CreateTopic { topic, code }),
        }
    }
    Ok(created)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_belongs_to_the_topic_from_which_it_was_put_aside() {
        for topic in [ORDER_EVENTS, &dead_letters(ORDER_EVENTS), &retries(ORDER_EVENTS)] {
            assert_eq!(source(topic), ORDER_EVENTS);
        }
    }

    #[test]
    fn every_topic_with_dead_letters_has_its_retries_and_its_audit() {
        let names: Vec<String> = all().into_iter().map(|spec| spec.name).collect();
        for letters in names.iter().filter(|name| is_dead_letters(name)) {
            let topic = source(letters);
            for beside in [topic.to_owned(), retries(topic), audit(topic)] {
                assert!(names.contains(&beside), "{beside}");
            }
        }
    }
}
