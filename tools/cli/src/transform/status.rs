//! What is active, what it does, and how that came.

use super::RegistryArgs;
use crate::output::{Finding, Json};
use clap::Args;
use comfy_table::{Table, presets::NOTHING};
use outflow_transform::{ActiveTransform, ModuleInfo, Pointer, Registry, Stats};
use serde::Serialize;
use time::format_description::well_known::Rfc3339;

#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    registry: RegistryArgs,
    #[command(flatten)]
    json: Json,
}

/// Changes that are read: one object each.
const HISTORY: usize = 20;

#[derive(Debug, Serialize)]
struct Status {
    registry: String,
    /// One a slot.
    active: Vec<Active>,
    /// Changes, newest first.
    history: Vec<Pointer>,
    /// Numbers of pointers that can't be read; no function follows them.
    unreadable: Vec<u32>,
    modules: Vec<ModuleInfo>,
}

#[derive(Debug, Serialize)]
struct Active {
    #[serde(flatten)]
    transform: ActiveTransform,
    /// As its processes have told at the end of a batch, once in five seconds at most.
    stats: Stats,
    /// Time a record, in the module and in the host's checks.
    us_per_record: Option<f64>,
}

pub(crate) async fn run(args: &StatusArgs) -> anyhow::Result<Finding> {
    let status = Status::read(&args.registry.open()?).await?;
    args.json.report(&status, status.text()?)?;
    let fine = !status.active.is_empty() && status.unreadable.is_empty();
    Ok(if fine { Finding::Fine } else { Finding::Wrong })
}

impl Status {
    async fn read(registry: &Registry) -> anyhow::Result<Self> {
        let (mut history, mut unreadable) = (Vec::new(), Vec::new());
        for &generation in registry.generations().await?.iter().rev().take(HISTORY) {
            match registry.pointer(generation).await {
                Ok(pointer) => history.extend(pointer),
                Err(error) => {
                    eprintln!(
                        "outflow: generation {generation} is skipped: {:#}",
                        anyhow::Error::from(error)
                    );
                    unreadable.push(generation.get());
                }
            }
        }
        let mut active = Vec::new();
        for transform in history.first().map(|pointer| pointer.active.clone()).unwrap_or_default() {
            let stats = registry.stats(transform.generation).await?;
            active.push(Active { transform, us_per_record: us_per_record(&stats), stats });
        }
        let (registry, modules) = (registry.location().to_owned(), registry.modules().await?);
        Ok(Self { registry, active, history, unreadable, modules })
    }

    fn text(&self) -> anyhow::Result<String> {
        let mut active = table([
            "tables",
            "generation",
            "digest",
            "module",
            "version",
            "since",
            "by",
            "records",
            "rows",
            "rejects",
            "µs a record",
        ]);
        for Active { transform, stats, us_per_record } in &self.active {
            active.add_row([
                transform.slot.to_string(),
                transform.generation.to_string(),
                transform.digest.short().to_owned(),
                transform.name.clone(),
                transform.version.clone(),
                transform.since.format(&Rfc3339)?,
                transform.by.clone(),
                stats.records.to_string(),
                stats.rows.to_string(),
                stats.rejected.to_string(),
                us_per_record.map_or(String::new(), |us| format!("{us:.1}")),
            ]);
        }
        let mut history = table(["generation", "change", "tables", "digest", "at", "by", "why"]);
        for pointer in &self.history {
            let change = &pointer.change;
            let kind = serde_json::to_value(change.kind)?;
            history.add_row([
                pointer.generation.to_string(),
                kind.as_str().unwrap_or_default().to_owned(),
                change.slot.to_string(),
                pointer.in_slot(&change.slot).map_or("", |active| active.digest.short()).to_owned(),
                change.at.format(&Rfc3339)?,
                change.by.clone(),
                change.why.clone().unwrap_or_default(),
            ]);
        }
        let mut modules = table(["digest", "module", "version", "tables", "published"]);
        for info in &self.modules {
            let published = info.published_at.format(&Rfc3339)?;
            let (digest, tables) = (info.digest.short().to_owned(), info.slot().to_string());
            modules.add_row([digest, info.name.clone(), info.version.clone(), tables, published]);
        }
        let mut text = String::new();
        for (title, table) in [("active", active), ("changes", history), ("published", modules)] {
            text.push_str(&format!("{title}\n{table}\n"));
        }
        if self.active.is_empty() {
            text.push_str(
                "no transform is active: run `outflow transform publish NAME`, then `outflow transform activate DIGEST`",
            );
        }
        Ok(text.trim_end().to_owned())
    }
}

fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_preset(NOTHING).set_header(header);
    table
}

#[expect(clippy::float_arithmetic, reason = "a mean time, for people")]
fn us_per_record(stats: &Stats) -> Option<f64> {
    (stats.records > 0).then(|| stats.run_us as f64 / stats.records as f64)
}
