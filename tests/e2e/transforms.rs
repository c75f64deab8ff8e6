//! A transform that changes while events flow, and one that must not come in.

use crate::harness::on_the_pipe;
use anyhow::ensure;
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

        let digest = async |order: &serde_json::Value| {
            let id = order["orderId"].as_str().unwrap_or_default();
            let sql = format!(
                "SELECT toString(transform_digest) AS digest FROM orders_analytics FINAL WHERE order_id = '{id}'"
            );
            anyhow::Ok(shop.pipe.query_one(&sql).await?["digest"].clone())
        };
        ensure!(digest(&before).await? == first.as_str());
        ensure!(digest(&after).await? == changed.as_str());
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
