//! When the function itself rolls a module back.

use super::{Workbench, order};
use outflow_broker::{
    Record,
    letters::log::Log,
    topics::{self, TopicSpec},
};
use outflow_tests::{Function, kafka_event};
use serde_json::json;

#[tokio::test]
async fn what_a_module_rejects_of_redriven_records_does_not_count_against_it() {
    let bench = Workbench::start().await;
    let (letters, retries) = (topics::dead_letters(&bench.topic), topics::retries(&bench.topic));
    topics::ensure(&bench.brokers, &[TopicSpec { name: letters.clone(), partitions: 1 }]).await.unwrap();
    let first = bench.activate("order-analytics").await;
    let rejecting = bench.outflow.publish("rejecting-guest").await.unwrap();
    bench.json(0, &["activate", &rejecting, "--unchecked", "--judge-from", "10"]).await;
    let env: Vec<_> = bench.outflow.env().collect();
    let function = Function::start("transform-events", &env).await.expect("the function compiles");
    let give = async |topic: &str| {
        let orders = (0..20).map(|_| Record { topic: topic.to_owned(), ..order("u-1") });
        let answer = function.invoke(kafka_event(orders)).await;
        assert_eq!(answer, Ok(json!({"batchItemFailures": []})));
    };
    let put_aside = async || {
        let bounds = Log::new(&bench.brokers).bounds(&letters).await.unwrap();
        bounds.unwrap()[&0].1
    };

    give(&retries).await;

    assert_eq!(put_aside().await, 20);
    let status = bench.json(0, &["status"]).await;
    assert_eq!(status["active"][0]["digest"], rejecting);
    assert_eq!(status["active"][0]["stats"]["records"], 0);

    give(&bench.topic).await;

    assert_eq!(put_aside().await, 40);
    let status = bench.json(0, &["status"]).await;
    assert_eq!(status["active"][0]["digest"], first);
    let change = &status["history"][0]["change"];
    assert_eq!(change["kind"], "auto_roll_back");
    assert!(
        change["why"].as_str().unwrap().starts_with("it rejected 20 of its first 20 records"),
        "{change}"
    );
}
