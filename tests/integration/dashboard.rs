//! Holds the relay's dashboard, alerts and documentation against what a relay tells: they name nothing that isn't told,
//! and nothing that is told is left out.

use anyhow::{Context, ensure};
use outflow_outbox::metrics::{DELIVER_TIME, MOVE_TIME, READ_TIME};
use outflow_stack::workspace_root;
use serde_json::Value;
use std::collections::BTreeSet;

const PREFIX: &str = "outflow_outbox_";
const HISTOGRAMS: [&str; 3] = [READ_TIME, DELIVER_TIME, MOVE_TIME];

fn read(path: &str) -> anyhow::Result<String> {
    std::fs::read_to_string(workspace_root().join(path)).with_context(|| path.to_owned())
}

/// Each word of the text that begins as our metrics do.
fn names_in(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with(PREFIX)).map(str::to_owned).collect()
}

/// What a relay tells: read from the source, so that a new metric can't be left out here.
fn told() -> anyhow::Result<BTreeSet<String>> {
    let told = names_in(&read("shared/outbox/src/metrics.rs")?);
    ensure!(HISTOGRAMS.iter().all(|name| told.contains(*name)), "metrics.rs has changed its shape: {told:?}");
    Ok(told)
}

/// The names under which Prometheus keeps a metric.
fn kept(metric: &str) -> Vec<String> {
    if HISTOGRAMS.contains(&metric) {
        return ["bucket", "sum", "count"].map(|part| format!("{metric}_{part}")).to_vec();
    }
    vec![metric.to_owned()]
}

fn asked_by_dashboard() -> anyhow::Result<BTreeSet<String>> {
    let dashboard: Value = serde_json::from_str(&read("grafana/dashboards/relay.json")?)?;
    let mut asked = BTreeSet::new();
    for panel in dashboard["panels"].as_array().context("a dashboard has panels")? {
        for target in panel["targets"].as_array().context("a panel has targets")? {
            asked.extend(names_in(target["expr"].as_str().context("a target has its query")?));
        }
    }
    Ok(asked)
}

#[test]
fn dashboard_and_alerts_ask_for_what_a_relay_tells() -> anyhow::Result<()> {
    let kept: BTreeSet<String> = told()?.iter().flat_map(|metric| kept(metric)).collect();
    for (asker, asked) in [
        ("the dashboard", asked_by_dashboard()?),
        ("the alerts", names_in(&read("prometheus/rules/outflow-relay.yml")?)),
        ("the alerts' tests", names_in(&read("prometheus/tests/outflow-relay.yml")?)),
    ] {
        ensure!(!asked.is_empty(), "{asker} ask for nothing");
        let unknown: Vec<_> = asked.difference(&kept).collect();
        ensure!(unknown.is_empty(), "{asker} ask for what no relay tells: {unknown:?}");
    }
    Ok(())
}

#[test]
fn every_metric_has_a_panel_and_is_explained() -> anyhow::Result<()> {
    let (shown, explained) = (asked_by_dashboard()?, names_in(&read("docs/outbox.md")?));
    for metric in told()? {
        ensure!(kept(&metric).iter().any(|name| shown.contains(name)), "no panel shows {metric}");
        ensure!(explained.contains(&metric), "docs/outbox.md doesn't explain {metric}");
    }
    Ok(())
}
