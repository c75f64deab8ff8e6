//! Holds dashboards, alerts and documentation against what relay and transform tell: they name nothing that isn't told, and
//! nothing that is told is left out.

use anyhow::{Context, ensure};
use outflow_outbox::metrics::{DELIVER_TIME, MOVE_TIME, READ_TIME};
use outflow_stack::workspace_root;
use serde_json::Value;
use std::collections::BTreeSet;

/// A function's metrics: how their names begin, and where they are told, shown and explained.
struct Told {
    prefix: &'static str,
    source: &'static str,
    dashboard: &'static str,
    documentation: &'static str,
}

const RELAY: Told = Told {
    prefix: "outflow_outbox_",
    source: "shared/outbox/src/metrics.rs",
    dashboard: "grafana/dashboards/relay.json",
    documentation: "docs/outbox.md",
};
const TRANSFORM: Told = Told {
    prefix: "outflow_transform_",
    source: "shared/transform/src/metrics.rs",
    dashboard: "grafana/dashboards/transforms.json",
    documentation: "docs/transforms.md",
};
const HISTOGRAMS: [&str; 3] = [READ_TIME, DELIVER_TIME, MOVE_TIME];

fn read(path: &str) -> anyhow::Result<String> {
    std::fs::read_to_string(workspace_root().join(path)).with_context(|| path.to_owned())
}

impl Told {
    /// Each word of the file that begins as these metrics do.
    fn names_in(&self, path: &str) -> anyhow::Result<BTreeSet<String>> {
        Ok(self.names_of(&read(path)?))
    }

    fn names_of(&self, text: &str) -> BTreeSet<String> {
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        words.filter(|word| word.starts_with(self.prefix)).map(str::to_owned).collect()
    }

    /// Read from the source, so that a new metric can't be left out here.
    fn names(&self) -> anyhow::Result<BTreeSet<String>> {
        let told = self.names_in(self.source)?;
        ensure!(told.len() >= 3, "{} has changed its shape: {told:?}", self.source);
        Ok(told)
    }

    fn asked_by_dashboard(&self) -> anyhow::Result<BTreeSet<String>> {
        let dashboard: Value = serde_json::from_str(&read(self.dashboard)?)?;
        let mut asked = BTreeSet::new();
        for panel in dashboard["panels"].as_array().context("a dashboard has panels")? {
            for target in panel["targets"].as_array().context("a panel has targets")? {
                asked.extend(self.names_of(target["expr"].as_str().context("a target has its query")?));
            }
        }
        Ok(asked)
    }
}

/// The names under which Prometheus keeps a metric.
fn kept(metric: &str) -> Vec<String> {
    if HISTOGRAMS.contains(&metric) {
        return ["bucket", "sum", "count"].map(|part| format!("{metric}_{part}")).to_vec();
    }
    vec![metric.to_owned()]
}

#[test]
fn dashboards_and_alerts_ask_for_what_is_told() -> anyhow::Result<()> {
    for (told, asker, asked) in [
        (RELAY, "the dashboard", RELAY.asked_by_dashboard()?),
        (RELAY, "the alerts", RELAY.names_in("prometheus/rules/outflow-relay.yml")?),
        (RELAY, "the alerts' tests", RELAY.names_in("prometheus/tests/outflow-relay.yml")?),
        (TRANSFORM, "the dashboard", TRANSFORM.asked_by_dashboard()?),
    ] {
        let kept: BTreeSet<String> = told.names()?.iter().flat_map(|metric| kept(metric)).collect();
        ensure!(!asked.is_empty(), "{asker} ask for nothing");
        let unknown: Vec<_> = asked.difference(&kept).collect();
        ensure!(unknown.is_empty(), "{asker} ask for what {} doesn't tell: {unknown:?}", told.source);
    }
    Ok(())
}

#[test]
fn every_metric_has_a_panel_and_is_explained() -> anyhow::Result<()> {
    for told in [RELAY, TRANSFORM] {
        let (shown, explained) = (told.asked_by_dashboard()?, told.names_in(told.documentation)?);
        for metric in told.names()? {
            ensure!(kept(&metric).iter().any(|name| shown.contains(name)), "no panel shows {metric}");
            ensure!(explained.contains(&metric), "{} doesn't explain {metric}", told.documentation);
        }
    }
    Ok(())
}
