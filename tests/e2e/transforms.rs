//! A transform that changes while events flow, and one that must not come in.

use crate::harness::{Shop, on_the_pipe};
use anyhow::{Context, ensure};
use serde_json::Value;
use xtask::pipe::{CHANGED_TRANSFORM, FIRST_TRANSFORM};

#[test]
fn a_new_transform_counts_from_the_next_batch_on_without_a_restart() {
    on_the_pipe(async |shop| {
        let first = shop.pipe.outflow.publish(FIRST_TRANSFORM).await?;
        let changed = shop.pipe.outflow.publish(CHANGED_TRANSFORM).await?;
        shop.pipe.outflow.activate(&first).await?;
        let before = shop.order().await?;
        shop.assert_conserved().await?;
        let processes = shop.pipe.system.function_processes("transform-events");

        shop.pipe.outflow.activate(&changed).await?;
        let after = shop.order().await?;
        shop.assert_conserved().await?;

        ensure!(digest_of(shop, &before).await? == first.as_str());
        ensure!(digest_of(shop, &after).await? == changed.as_str());
        ensure!(
            !processes.is_empty() && shop.pipe.system.function_processes("transform-events") == processes
        );
        Ok(())
    });
}

#[test]
fn what_is_no_transform_is_refused_when_it_is_published_and_the_active_one_goes_on() {
    on_the_pipe(async |shop| {
        let file = tempfile::NamedTempFile::with_suffix(".wasm")?;
        std::fs::write(file.path(), b"\0asm\x01\0\0\0 and then nothing that loads")?;

        let refused =
            shop.pipe.outflow.try_run(&["transform", "publish", &file.path().display().to_string()]).await;

        ensure!(!matches!(refused, Ok((0, _))), "a broken module was published: {refused:?}");
        shop.orders(3).await?;
        shop.assert_conserved().await
    });
}

#[test]
fn a_pointer_to_what_does_not_load_changes_nothing_and_the_log_says_why() {
    on_the_pipe(async |shop| {
        let digest = shop.pipe.outflow.publish(FIRST_TRANSFORM).await?;
        shop.pipe.outflow.activate(&digest).await?;
        // Loaded by now: the last good one is what a function has run.
        shop.order().await?;
        shop.assert_conserved().await?;
        // Past the command, which would refuse it: a copy of the newest pointer that names a broken module.
        let registry = shop.pipe.stack.registry()?;
        let broken = "0".repeat(64);
        std::fs::write(registry.join(format!("modules/{broken}.wasm")), b"nothing that loads")?;
        let pointers = registry.join("pointers");
        let names =
            std::fs::read_dir(&pointers)?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let newest = names.max().context("there is a pointer")?;
        let next = newest.trim_end_matches(".json").parse::<u64>()? + 1;
        let mut pointer: Value = serde_json::from_slice(&std::fs::read(pointers.join(&newest))?)?;
        pointer["generation"] = next.into();
        let active = pointer["active"].as_array_mut().context("it says what is active")?;
        let ours = active.iter_mut().find(|active| active["digest"] == digest.as_str());
        let ours = ours.context("the module is active")?;
        (ours["digest"], ours["generation"]) = (broken.into(), next.into());
        std::fs::write(pointers.join(format!("{next:08}.json")), pointer.to_string())?;

        let order = shop.order().await?;
        shop.assert_conserved().await?;

        ensure!(digest_of(shop, &order).await? == digest.as_str(), "the last good one went on");
        let log = std::fs::read_to_string(shop.pipe.system.logs()[0])?;
        let refusal =
            log.lines().rfind(|line| line.contains("transform refused")).context("the log says why")?;
        ensure!(refusal.contains("reason") && refusal.contains("outflow transform rollback"), "{refusal}");
        // The next pointer mends it.
        shop.pipe.outflow.activate(&digest).await
    });
}

/// The module that mapped this order.
async fn digest_of(shop: &Shop, order: &Value) -> anyhow::Result<Value> {
    let id = order["orderId"].as_str().unwrap_or_default();
    let sql = format!(
        "SELECT toString(transform_digest) AS digest FROM orders_analytics FINAL WHERE order_id = '{id}'"
    );
    Ok(shop.pipe.query_one(&sql).await?["digest"].clone())
}
