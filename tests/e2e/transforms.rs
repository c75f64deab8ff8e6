//! A transform that changes while events flow, one that goes back by itself, and one that must not come in.

use crate::{
    dead_letters::{BESIDE, REJECTING, open},
    harness::{Shop, eventually, on_the_pipe},
};
use anyhow::{Context, ensure};
use serde_json::Value;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use xtask::pipe::{CHANGED_TRANSFORM, FIRST_TRANSFORM};

/// Where the transforms of orders are active.
const ORDERS: &str = "orders_analytics";
/// The version of every guest of this workspace.
const VERSION: &str = "1.0.0";

#[test]
fn a_new_transform_counts_from_the_next_batch_on_without_a_restart() {
    on_the_pipe(async |shop| {
        let began = OffsetDateTime::now_utc();
        let first = shop.pipe.outflow.publish(FIRST_TRANSFORM).await?;
        let changed = shop.pipe.outflow.publish(CHANGED_TRANSFORM).await?;
        shop.pipe.outflow.activate(&first).await?;
        let before = shop.order().await?;
        shop.assert_lines_conserved(began).await?;
        let processes = shop.pipe.system.function_processes("transform-events");

        // Times in the registry are whole seconds.
        let began_at = OffsetDateTime::now_utc().unix_timestamp();
        let activate = ["transform", "activate", &changed, "--by", "mina", "--why", "bands are wanted"];
        shop.pipe.outflow.run(&activate).await?;
        let after = shop.order().await?;
        shop.assert_lines_conserved(began).await?;

        let active = figures_of(shop, &changed).await?;
        let since =
            OffsetDateTime::parse(active["since"].as_str().context("it is active since then")?, &Rfc3339)?;
        ensure!((began_at..=OffsetDateTime::now_utc().unix_timestamp()).contains(&since.unix_timestamp()));
        ensure!(active["name"] == CHANGED_TRANSFORM && active["version"] == VERSION, "{active}");
        ensure!(active["by"] == "mina" && active["slot"] == ORDERS, "{active}");
        ensure!(active["stats"]["rows"] == active["stats"]["records"], "a row an order: {active}");
        ensure!(active["stats"]["rejected"] == 0 && active["us_per_record"].as_f64() > Some(0.0), "{active}");
        let newest = &status(shop).await?["history"][0];
        ensure!(newest["change"]["kind"] == "activate" && newest["change"]["why"] == "bands are wanted");
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

#[test]
fn a_module_that_rejects_too_much_goes_back_by_itself_and_what_it_rejected_arrives_after_all() {
    on_the_pipe(async |shop| {
        let began = OffsetDateTime::now_utc();
        let good = shop.pipe.outflow.switch_to(FIRST_TRANSFORM).await?;
        shop.order().await?;
        shop.assert_conserved().await?;
        let rejecting = shop.pipe.outflow.publish(REJECTING).await?;
        let activate = ["transform", "activate", &rejecting, "--judge-from", "2", "--max-rejects", "10"];
        shop.pipe.outflow.run(&activate).await?;

        // One is too few to tell.
        shop.order().await?;
        let active = figures_of(shop, &rejecting).await?;
        ensure!(active["stats"]["rejected"] == active["stats"]["records"], "it rejects all: {active}");
        ensure!(active["stats"]["rows"] == 0 && active["us_per_record"].as_f64() > Some(0.0), "{active}");
        shop.orders(2).await?;

        let back = eventually("it is rolled back", async || {
            let newest = status(shop).await?["history"][0].clone();
            Ok((newest["change"]["kind"] == "auto_roll_back").then_some(newest))
        })
        .await?;
        let change = &back["change"];
        ensure!(change["by"] == "transform-events" && change["slot"] == ORDERS, "{change}");
        let why = change["why"].as_str().context("the reason is kept")?;
        ensure!(
            ["2 of its first 2", "3 of its first 3"].iter().any(|counts| {
                why == format!("it rejected {counts} records (0 by trapping), more than 10 %")
            }),
            "{why}"
        );
        let now = in_orders(&status(shop).await?)?;
        ensure!(now["digest"] == good.as_str() && now["by"] == "transform-events", "{now}");

        // The last order may have met the good one again. Each is a letter or has its row.
        let letters = eventually("all of them are decided", async || {
            let letters: u64 =
                open(shop, &rejecting).await?.iter().filter_map(|cause| cause["letters"].as_u64()).sum();
            let (_, report) = shop.pipe.outflow.verify().await?;
            Ok((letters >= 2 && report["missing"] == letters).then_some(letters))
        })
        .await?;
        let redrive = ["dlq", "redrive", "--module", &rejecting, "--yes", "--why", "it went back by itself"];
        let report: Value =
            serde_json::from_str(&shop.pipe.outflow.run(&[&redrive[..], &["--json", "-"]].concat()).await?)?;
        ensure!(report["counts"]["redriven"] == letters, "{}", report["counts"]);
        shop.assert_lines_conserved(began).await?;
        ensure!(open(shop, &rejecting).await?.is_empty(), "all of them are closed");
        Ok(())
    });
}

#[test]
fn a_new_slot_whose_module_the_function_does_not_trust_loses_nothing_and_the_log_says_what_mends_it() {
    on_the_pipe(async |shop| {
        let began = OffsetDateTime::now_utc();
        let outflow = &shop.pipe.outflow;
        outflow.switch_to(FIRST_TRANSFORM).await?;
        outflow.switch_to(BESIDE).await?;
        shop.assert_lines_conserved(began).await?;
        outflow.run(&["transform", "deactivate", "--slot", "order_items_analytics", "--yes"]).await?;
        // Whoever publishes and activates has a key that the function was not told of.
        let folder = tempfile::tempdir()?;
        let key = folder.path().join("key").display().to_string();
        let stranger = outflow.run(&["transform", "key", "--new", &key]).await?;
        let trusted = outflow.env().find(|(name, _)| *name == "OUTFLOW_TRANSFORM_TRUSTED_KEYS");
        let trusted = format!("{},{}", trusted.context("the function trusts somebody")?.1, stranger.trim());
        let publish =
            ["transform", "publish", BESIDE, "--key", &key, "--trusted-keys", stranger.trim(), "--json", "-"];
        let published: Value = serde_json::from_str(&outflow.run(&publish).await?)?;
        let digest = published["digest"].as_str().context("a published transform has a digest")?;
        outflow.run(&["transform", "activate", digest, "--trusted-keys", &trusted]).await?;

        shop.orders(3).await?;
        eventually("the log says what mends it", async || {
            let log = std::fs::read_to_string(shop.pipe.system.logs()[0])?;
            let line = log.lines().rfind(|line| line.contains("all of it comes again")).unwrap_or_default();
            let told = ["order_items_analytics", "not signed by a trusted key", "outflow transform publish"];
            Ok(told.iter().all(|told| line.contains(told)).then_some(()))
        })
        .await?;
        let (_, report) = shop.pipe.outflow.verify().await?;
        ensure!(report["missing"] == 3, "nothing goes on without the rows of the new slot: {report}");

        ensure!(shop.pipe.outflow.publish(BESIDE).await? == digest, "the same module, by a trusted key");
        shop.assert_lines_conserved(began).await
    });
}

/// What is active, and how that came.
async fn status(shop: &Shop) -> anyhow::Result<Value> {
    let (_, status) = shop.pipe.outflow.try_run(&["transform", "status", "--json", "-"]).await?;
    serde_json::from_str(&status).context("outflow transform status prints JSON")
}

/// What is active for the table of orders.
fn in_orders(status: &Value) -> anyhow::Result<Value> {
    let active = status["active"].as_array().and_then(|all| all.iter().find(|one| one["slot"] == ORDERS));
    active.cloned().context("nothing is active there")
}

/// The same, once the function has told of records that this module had.
async fn figures_of(shop: &Shop, digest: &str) -> anyhow::Result<Value> {
    eventually("the function tells what the module did", async || {
        let active = in_orders(&status(shop).await?)?;
        ensure!(active["digest"] == digest, "another one is active: {active}");
        Ok((active["stats"]["records"].as_u64() > Some(0)).then_some(active))
    })
    .await
}

/// The module that mapped this order.
async fn digest_of(shop: &Shop, order: &Value) -> anyhow::Result<Value> {
    let id = order["orderId"].as_str().unwrap_or_default();
    let sql = format!(
        "SELECT toString(transform_digest) AS digest FROM orders_analytics FINAL WHERE order_id = '{id}'"
    );
    Ok(shop.pipe.query_one(&sql).await?["digest"].clone())
}
