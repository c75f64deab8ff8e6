//! A broker that dies in mid-flow.

mod support;

use serde_json::Value;
use std::{collections::BTreeSet, time::Duration};
use support::{Broker, Functions, Reply, group, mapping, options, until};

#[tokio::test]
async fn a_broker_killed_in_mid_flow_costs_nothing() {
    let broker = Broker::own().await;
    let topic = broker.fresh_topic().await;
    let functions = Functions::start(|_, _| Reply::After(Duration::from_millis(50), Value::Null)).await;
    let sources = mapping(&topic, "BatchSize: 10");
    let running = sources.start(options(&functions.url, &broker.brokers)).await.expect("it starts");
    broker.produce(&topic, 0, (0..300).map(|number| number.to_string())).await;
    until("deliveries have begun", async || (functions.calls().len() > 3).then_some(())).await;

    broker.kill_and_start().await;
    broker.produce(&topic, 0, (300..400).map(|number| number.to_string())).await;

    until("all is committed", async || {
        let committed = broker.committed(&group(&topic), &topic).await;
        (committed.get(&0) == Some(&400)).then_some(())
    })
    .await;
    running.stop().await;
    let delivered: Vec<i64> = functions.batches().into_iter().flatten().map(|(_, offset)| offset).collect();
    let distinct: BTreeSet<i64> = delivered.iter().copied().collect();
    assert_eq!(distinct, (0..400).collect());
    // A repetition starts over from a committed offset: first appearances are in order.
    let mut highest = -1;
    for offset in delivered {
        assert!(offset <= highest + 1, "{offset} came before {}", highest + 1);
        highest = highest.max(offset);
    }
}
