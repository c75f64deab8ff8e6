//! `cargo lambda invoke` with each function's own event file, as the README tells.

use crate::harness::on_the_pipe;
use anyhow::{Context, ensure};
use outflow_stack::workspace_root;
use serde_json::Value;
use tokio::process::Command;

#[test]
fn every_function_answers_its_example_event() {
    on_the_pipe(async |shop| {
        let cargo_lambda = shop.pipe.stack.installer().cargo_lambda(&outflow_stack::Quiet).await?;
        let url = shop.pipe.system.functions_url.clone();
        let port = url.rsplit(':').next().context("the url has a port")?.to_owned();
        for (function, file, expected) in [
            ("create-order", "order.json", "statusCode"),
            ("outbox-relay", "tick.json", "published"),
            ("transform-events", "order-created.json", "batchItemFailures"),
            ("load-analytics", "rows.json", "batchItemFailures"),
        ] {
            let output = Command::new(&cargo_lambda)
                .args([
                    "lambda",
                    "invoke",
                    "--invoke-address",
                    "127.0.0.1",
                    "--invoke-port",
                    &port,
                    function,
                    "--data-file",
                ])
                .arg(workspace_root().join(format!("functions/{function}/events/{file}")))
                .output()
                .await?;
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            ensure!(output.status.success(), "{function}: {text}{}", String::from_utf8_lossy(&output.stderr));
            let answer: Value =
                serde_json::from_str(text.trim()).with_context(|| format!("{function}: {text}"))?;
            ensure!(answer.get(expected).is_some(), "{function}: {answer}");
            if expected == "statusCode" {
                ensure!(answer[expected] == 201, "{answer}");
            }
            if expected == "batchItemFailures" {
                ensure!(answer[expected].as_array().is_some_and(Vec::is_empty), "{function}: {answer}");
            }
        }
        Ok(())
    });
}
