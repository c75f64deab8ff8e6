//! A mapping that somebody got wrong, mended: what it rejected is sent back, to it alone.

use crate::harness::{Shop, eventually, on_the_pipe};
use anyhow::{Context, ensure};
use outflow_broker::{letters::log::Log, topics};
use rdkafka::Message;
use serde_json::Value;
use std::collections::BTreeSet;
use xtask::pipe::FIRST_TRANSFORM;

pub(crate) const REJECTING: &str = "rejecting-guest";
/// Another transform of the same events, active beside it.
pub(crate) const BESIDE: &str = "order-items-analytics";
const ORDERS: usize = 6;

#[test]
fn what_a_broken_module_rejected_is_redriven_once_it_is_mended_and_nobody_else_sees_it_twice() {
    on_the_pipe(async |shop| {
        let beside = shop.pipe.outflow.switch_to(BESIDE).await?;
        let mended = shop.pipe.outflow.switch_to(FIRST_TRANSFORM).await?;
        shop.order().await?;
        shop.assert_conserved().await?;

        let rejecting = shop.pipe.outflow.switch_to(REJECTING).await?;
        let mut rejected = BTreeSet::new();
        for _ in 0..ORDERS {
            rejected
                .insert(shop.order().await?["orderId"].as_str().context("an order has an id")?.to_owned());
        }
        let cause = eventually("all of them are put aside", async || {
            let causes = open(shop, &rejecting).await?;
            Ok(causes.into_iter().find(|cause| cause["letters"].as_u64() == Some(ORDERS as u64)))
        })
        .await?;
        ensure!(cause["code"] == "not_mapped" && cause["stage"] == "module", "{cause}");
        ensure!(cause["slot"] == "orders_analytics", "{cause}");
        // The module beside it goes on meanwhile.
        eventually("the other transform has mapped them", async || {
            Ok((keys(shop, "order_items_analytics", &rejected).await?.1 == ORDERS).then_some(()))
        })
        .await?;
        let events = keys(shop, topics::ORDER_EVENTS, &rejected).await?;
        let items = keys(shop, "order_items_analytics", &rejected).await?;

        shop.pipe.outflow.activate(&mended).await?;
        let redrive = ["dlq", "redrive", "--module", &rejecting, "--yes", "--why", "the mapping is mended"];
        let report: Value =
            serde_json::from_str(&shop.pipe.outflow.run(&[&redrive[..], &["--json", "-"]].concat()).await?)?;
        ensure!(report["counts"]["redriven"] == ORDERS, "{}", report["counts"]);

        shop.assert_conserved().await?;
        ensure!(open(shop, &rejecting).await?.is_empty(), "all of them are closed");
        let letters = keys(shop, &topics::dead_letters(topics::ORDER_EVENTS), &rejected).await?;
        ensure!(letters.0 == ORDERS, "none was rejected again: {letters:?}");
        // Whoever else reads the source topic, and the other transform of it, had their share once.
        ensure!(keys(shop, topics::ORDER_EVENTS, &rejected).await? == events, "events were sent again");
        ensure!(keys(shop, "order_items_analytics", &rejected).await? == items, "{beside} ran again");
        Ok(())
    });
}

#[test]
fn a_record_that_is_rejected_again_comes_back_with_one_attempt_more() {
    on_the_pipe(async |shop| {
        let mended = shop.pipe.outflow.publish(FIRST_TRANSFORM).await?;
        let rejecting = shop.pipe.outflow.switch_to(REJECTING).await?;
        shop.order().await?;
        let attempts = async |attempts: u64| {
            eventually("the record is put aside", async || {
                let causes = open(shop, &rejecting).await?;
                let found = causes.into_iter().find(|cause| cause["max_attempts"].as_u64() == Some(attempts));
                Ok(found.and_then(|cause| Some(cause["example"].as_str()?.to_owned())))
            })
            .await
        };
        let redrive = async |id: &str, more: &[&str]| {
            let arguments = [&["dlq", "redrive", id, "--yes", "--why", "once more", "--json", "-"], more];
            shop.pipe.outflow.try_run(&arguments.concat()).await
        };
        let first = attempts(1).await?;
        ensure!(redrive(&first, &[]).await?.0 == 0);
        let second = attempts(2).await?;

        let (code, refused) = redrive(&second, &["--max-attempts", "2"]).await?;
        ensure!(code == 1 && refused.contains("too_many_attempts"), "{refused}");
        let shown: Value =
            serde_json::from_str(&shop.pipe.outflow.run(&["dlq", "show", &second, "--json", "-"]).await?)?;
        ensure!(shown["redriven_from"] == first.as_str(), "{shown}");

        shop.pipe.outflow.activate(&mended).await?;
        ensure!(redrive(&second, &[]).await?.0 == 0);
        shop.assert_conserved().await
    });
}

/// The causes of open letters of this module.
pub(crate) async fn open(shop: &Shop, module: &str) -> anyhow::Result<Vec<Value>> {
    let list = shop.pipe.outflow.run(&["dlq", "list", "--module", module, "--json", "-"]).await?;
    let list: Value = serde_json::from_str(&list)?;
    Ok(list["causes"].as_array().context("a list has causes")?.clone())
}

/// How many records of a topic have one of these keys, and how many of the keys are there.
async fn keys(shop: &Shop, topic: &str, wanted: &BTreeSet<String>) -> anyhow::Result<(usize, usize)> {
    let log = Log::new(&shop.pipe.endpoints.kafka.brokers);
    let (mut records, mut found) = (0, BTreeSet::new());
    let mut reader = log.read(topic, None).await?.with_context(|| format!("there is no topic {topic}"))?;
    while let Some(message) = reader.next().await? {
        let key = message.key().and_then(|key| std::str::from_utf8(key).ok());
        if let Some(key) = key.filter(|key| wanted.contains(*key)) {
            records += 1;
            found.insert(key.to_owned());
        }
    }
    Ok((records, found.len()))
}
