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
/// and one that could not be put aside would hold up its partition for ever.
const DEAD_LETTER_BYTES: &str = "2097152";
const ADMIN_TIMEOUT: Duration = Duration::from_secs(10);

/// Where records of this topic go that could not be processed.
pub fn dead_letters(topic: &str) -> String {
    format!("{topic}.dlq")
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicSpec {
    pub name: String,
    pub partitions: i32,
}

/// Every topic that Outflow needs.
pub fn all() -> Vec<TopicSpec> {
    let spec = |name: &str, partitions| TopicSpec { name: name.to_owned(), partitions };
    vec![
        spec(ORDER_EVENTS, PARTITIONS),
        spec(INVENTORY_EVENTS, PARTITIONS),
        spec(ORDERS_ANALYTICS, PARTITIONS),
        spec(ORDER_ITEMS_ANALYTICS, PARTITIONS),
        spec(INVENTORY_ANALYTICS, PARTITIONS),
        spec(&dead_letters(ORDER_EVENTS), 1),
        spec(&dead_letters(INVENTORY_EVENTS), 1),
        spec(&dead_letters(ORDERS_ANALYTICS), 1),
        spec(&dead_letters(ORDER_ITEMS_ANALYTICS), 1),
        spec(&dead_letters(INVENTORY_ANALYTICS), 1),
    ]
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
            match spec.name.ends_with(&dead_letters("")) {
                true => topic.set("max.message.bytes", DEAD_LETTER_BYTES),
                false => topic,
            }
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
