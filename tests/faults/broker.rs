//! A Kafka that is away, and one that refuses a record.

use crate::{field::Field, writers::Writers};
use outflow_outbox::{NewEvent, PlacedEvent, write_without_lock};
use outflow_stack::Service;
use outflow_tests::{event, long};
use rand::{Rng, SeedableRng, distr::Alphanumeric, rngs::StdRng};
use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, AlterConfig, ResourceSpecifier},
    client::DefaultClientContext,
};
use serde_json::json;
use std::time::Duration;
use uuid::Uuid;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_of_kafka_burns_no_attempt_and_all_is_delivered_in_order_afterwards() {
    let field = Field::alone().await;
    let stack = field.stack();
    let writers = Writers::start(&field, 4).await;
    let relay = field.relay();
    field.until("events flow", async || field.records().await > 100).await;
    let outages: &[(bool, u64)] = if long() { &[(true, 240), (false, 120)] } else { &[(true, 15)] };
    for &(killed, seconds) in outages {
        match killed {
            true => stack.kill(Service::Kafka).await.unwrap(),
            false => drop(stack.stop(Service::Kafka).await.unwrap()),
        }
        // Writers never wait for a broker.
        let before = writers.committed();
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        assert!(writers.committed() > before + 20);
        assert_eq!(
            field.number("SELECT COUNT(*) FROM outbox_failures").await,
            0,
            "nothing is to blame but kafka"
        );
        stack.start(Service::Kafka).await.unwrap();
    }
    writers.stop().await;

    field.settle().await;

    relay.stop().await;
    field.judge().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_the_broker_refuses_parks_its_aggregate_alone_and_follows_once_it_is_let_through() {
    let field = Field::shared().await;
    limit_topic(&field, "2000").await;
    let relay = field.relay();
    let mut transaction = field.pool.begin().await.unwrap();
    for version in 1..=5 {
        let mut events: Vec<PlacedEvent> =
            (0..40).map(|other| event(field.aggregate_type, &format!("o-{other}"), version)).collect();
        let mut big = event(field.aggregate_type, "big", version);
        if version == 2 {
            // It cannot be compressed below the limit.
            let random = StdRng::seed_from_u64(field.seed);
            let text: String = random.sample_iter(Alphanumeric).take(5_000).map(char::from).collect();
            big.event = NewEvent::new(Uuid::now_v7(), "Grown", json!({"text": text}));
        }
        events.insert(20, big);
        write_without_lock(&mut transaction, &events).await.unwrap();
    }
    transaction.commit().await.unwrap();
    let states = async |state: &str| {
        let sql =
            format!("SELECT COUNT(*) FROM outbox_failures WHERE aggregate_id = 'big' AND state = '{state}'");
        field.number(&sql).await
    };

    field.until("the others are through", async || field.records().await > 40 * 5).await;
    field
        .until("the big one is given up", async || (states("dead").await, states("waiting").await) == (1, 3))
        .await;
    write_without_lock(
        &mut field.pool.acquire().await.unwrap(),
        &[event(field.aggregate_type, "big", 6), event(field.aggregate_type, "o-1", 6)],
    )
    .await
    .unwrap();
    field.until("a later one waits as well", async || states("waiting").await == 4).await;
    field.until("its neighbour does not", async || field.records().await >= 40 * 5 + 2).await;
    assert_eq!(field.number("SELECT COUNT(*) FROM outbox_failures WHERE aggregate_id <> 'big'").await, 0);
    let cause: String = sqlx::query_scalar("SELECT cause FROM outbox_failures WHERE state = 'dead'")
        .fetch_one(&field.pool)
        .await
        .unwrap();
    assert_eq!(cause, "message_too_large");

    limit_topic(&field, "1048588").await;
    let mut operator = field.pool.begin().await.unwrap();
    for sql in [
        "SELECT relay_group FROM outbox_position FOR UPDATE",
        "UPDATE outbox_failures SET state = 'retry', attempts = 0, next_attempt_at = UTC_TIMESTAMP(6) WHERE state = 'dead'",
    ] {
        sqlx::query(sql).execute(&mut *operator).await.unwrap();
    }
    operator.commit().await.unwrap();
    field.settle().await;

    relay.stop().await;
    field.judge().await;
}

async fn limit_topic(field: &Field, bytes: &str) {
    let brokers = &field.shop.endpoints.kafka.brokers;
    let client: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", brokers).create().unwrap();
    let change = AlterConfig::new(ResourceSpecifier::Topic(&field.topic)).set("max.message.bytes", bytes);
    let results = client.alter_configs([&change], &AdminOptions::new()).await.unwrap();
    results.into_iter().for_each(|result| drop(result.unwrap()));
}
