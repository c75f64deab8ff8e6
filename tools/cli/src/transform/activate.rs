//! Changing what is active: activate, go back, leave a table without a transform.

use super::{By, RegistryArgs, confirmed, live, refused, shadow};
use crate::output::{Finding, Json};
use anyhow::{Error, anyhow, ensure};
use clap::Args;
use outflow_transform::{
    ChangeKind, Engine, Limits, Module, Pointer, RegistryError, RejectLimit, Slot, Target,
};
use serde::Serialize;
use time::OffsetDateTime;

#[derive(Debug, Args)]
pub(crate) struct ActivateArgs {
    /// Its digest, or the beginning of it.
    digest: String,
    /// Skips the comparison of the module's columns with the live ClickHouse table.
    #[arg(long)]
    unchecked: bool,
    /// Adds the columns that the table lacks, without asking.
    #[arg(long)]
    yes: bool,
    /// Rejected more than this part of its first records, the module is rolled back by itself. 100 never does.
    #[arg(long, value_name = "PERCENT", default_value_t = RejectLimit::default().percent,
          value_parser = clap::value_parser!(u32).range(0..=100))]
    max_rejects: u32,
    /// Records after which that is judged first.
    #[arg(long, value_name = "RECORDS", default_value_t = RejectLimit::default().from_records)]
    judge_from: u64,
    /// Records after which it is not judged any more, in each process.
    #[arg(long, value_name = "RECORDS", default_value_t = RejectLimit::default().to_records)]
    judge_to: u64,
    #[command(flatten)]
    by: By,
    #[command(flatten)]
    registry: RegistryArgs,
    #[command(flatten)]
    json: Json,
}

#[derive(Debug, Args)]
pub(crate) struct RollbackArgs {
    /// The tables that it fills, as `status` shows them; where one transform is active it need not be named.
    #[arg(long, value_name = "TABLES")]
    slot: Option<String>,
    #[command(flatten)]
    by: By,
    #[command(flatten)]
    registry: RegistryArgs,
    #[command(flatten)]
    json: Json,
}

#[derive(Debug, Args)]
pub(crate) struct DeactivateArgs {
    /// The tables that it fills, as `status` shows them.
    #[arg(long, value_name = "TABLES")]
    slot: String,
    /// Does it without asking.
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    by: By,
    #[command(flatten)]
    registry: RegistryArgs,
    #[command(flatten)]
    json: Json,
}

/// A change, and what is active in its slot after it.
#[derive(Debug, Serialize)]
struct Report {
    generation: u32,
    kind: ChangeKind,
    slot: Slot,
    digest: Option<String>,
    name: Option<String>,
    version: Option<String>,
    by: String,
    #[serde(with = "time::serde::rfc3339")]
    at: OffsetDateTime,
    why: Option<String>,
    /// The last report of the module as a candidate: beside what was active until now, or else beside another one.
    #[serde(skip_serializing_if = "Option::is_none")]
    shadow: Option<shadow::Last>,
    /// Columns that were added to live tables.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    added_columns: Vec<String>,
}

pub(crate) async fn run(args: &ActivateArgs) -> anyhow::Result<Finding> {
    ensure!(
        args.max_rejects == 100 || (1..=args.judge_to).contains(&args.judge_from),
        "--judge-from {} is not within 1 and --judge-to {}: the module would never be judged; --max-rejects 100 says so",
        args.judge_from,
        args.judge_to
    );
    let registry = args.registry.open()?;
    let info = registry.find(&args.digest).await.map_err(|error| {
        anyhow!("{:#}; `outflow transform status` lists what is published", Error::from(error))
    })?;
    // Nobody signs the record in the registry, and columns are added by what it says: the module is asked itself.
    let native = match registry.artifact(&info.digest, Target::THIS).await {
        Ok(native) => native,
        Err(error) => return refusal(error),
    };
    let module = match Module::load(&Engine::new(Limits::default())?, info.digest.clone(), &native) {
        Ok(module) => module,
        Err(error) => return Ok(refused(info.digest.short(), &error.into())),
    };
    if !info.is_of(module.schema()) {
        let error = anyhow!(
            "modules/{}.json in the registry is not what the module says of itself; `outflow transform publish` mends it",
            info.digest
        );
        return Ok(refused(info.digest.short(), &error));
    }
    let shadow = match shadow::Last::find(&registry, &info, registry.newest().await?.0.as_ref()).await {
        Ok(Some(last)) => {
            eprintln!("outflow: {last}");
            Some(last)
        }
        Ok(None) => {
            eprintln!(
                "outflow: it never ran beside the active module; `outflow transform shadow {}` shows what it will change",
                info.digest.short()
            );
            None
        }
        // It informs, and keeps nobody from changing what is active.
        Err(error) => {
            eprintln!("outflow: its last report can't be read: {:#}", Error::from(error));
            None
        }
    };
    // Before anything is added to a table for it.
    if let Err(error) = registry.check_activation(&info.digest).await {
        return refusal(error);
    }
    let mut added_columns = Vec::new();
    if !args.unchecked {
        match live::compare_tables(&module.schema().tables).await? {
            None => eprintln!("outflow: OUTFLOW_CLICKHOUSE_URL isn't set, so the live table isn't looked at"),
            Some(found) if !found.differences.is_empty() => {
                eprintln!("outflow: {} does not fit the live table, nothing was changed:", info.name);
                found.differences.iter().for_each(|difference| eprintln!("  {difference}"));
                return Ok(Finding::Wrong);
            }
            Some(found) if !found.additions.is_empty() => {
                eprintln!("outflow: {} has columns that the live table lacks:", info.name);
                found.additions.iter().for_each(|addition| eprintln!("  {addition}"));
                if !confirmed("Add them? Rows that are there keep the type's default.", args.yes)? {
                    eprintln!("outflow: nothing was changed");
                    return Ok(Finding::Wrong);
                }
                added_columns = live::add(&found.additions).await?;
            }
            Some(_) => {}
        }
    }
    let limit =
        RejectLimit { percent: args.max_rejects, from_records: args.judge_from, to_records: args.judge_to };
    report(
        registry.activate(&info.digest, Some(limit), args.by.signed()).await,
        shadow,
        added_columns,
        &args.json,
    )
}

pub(crate) async fn roll_back(args: &RollbackArgs) -> anyhow::Result<Finding> {
    let registry = args.registry.open()?;
    let slot = args.slot.as_deref().map(Slot::from);
    report(registry.roll_back(slot.as_ref(), args.by.signed()).await, None, Vec::new(), &args.json)
}

pub(crate) async fn deactivate(args: &DeactivateArgs) -> anyhow::Result<Finding> {
    let registry = args.registry.open()?;
    let slot = Slot::from(args.slot.as_str());
    let question =
        format!("Leave {slot} without a transform? Its events are skipped from the next batch on.");
    if !confirmed(&question, args.yes)? {
        return Ok(Finding::Wrong);
    }
    report(registry.deactivate(&slot, args.by.signed()).await, None, Vec::new(), &args.json)
}

/// Tells what is refused; an error where the registry itself is at fault.
fn refusal(error: RegistryError) -> anyhow::Result<Finding> {
    match error {
        RegistryError::Conflict { .. }
        | RegistryError::NothingToRollBackTo { .. }
        | RegistryError::NotActive { .. }
        | RegistryError::NoneActive
        | RegistryError::TableTaken { .. }
        | RegistryError::Untrusted { .. }
        | RegistryError::Damaged { .. }
        | RegistryError::NoArtifact { .. } => {
            eprintln!("outflow: {error}");
            Ok(Finding::Wrong)
        }
        other => Err(other.into()),
    }
}

fn report(
    pointed: Result<Pointer, RegistryError>,
    shadow: Option<shadow::Last>,
    added_columns: Vec<String>,
    json: &Json,
) -> anyhow::Result<Finding> {
    let Pointer { generation, change, active } = match pointed {
        Ok(pointer) => pointer,
        Err(error) => return refusal(error),
    };
    let now = active.into_iter().find(|active| active.slot == change.slot);
    let line = match &now {
        Some(active) => format!(
            "{} {} ({}) is active in {} from the next batch on, generation {generation}",
            active.name,
            active.version,
            active.digest.short(),
            active.slot,
        ),
        None => {
            format!("nothing is active in {} from the next batch on, generation {generation}", change.slot)
        }
    };
    let report = Report {
        generation: generation.get(),
        kind: change.kind,
        slot: change.slot,
        digest: now.as_ref().map(|active| active.digest.to_string()),
        name: now.as_ref().map(|active| active.name.clone()),
        version: now.as_ref().map(|active| active.version.clone()),
        by: change.by,
        at: change.at,
        why: change.why,
        shadow,
        added_columns,
    };
    json.report(&report, line)?;
    Ok(Finding::Fine)
}
