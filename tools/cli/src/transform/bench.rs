//! Time and instructions a record, beside the active module's.

use super::{
    RegistryArgs, Sources,
    build::{Component, component},
    fixtures,
    progress::Step,
    refused,
};
use crate::output::{Finding, Json};
use anyhow::{Context, ensure};
use clap::Args;
use comfy_table::{Table, presets::NOTHING};
use outflow_transform::{Digest, Engine, Event, Limits, Module, Registry, Target, compile, fixture};
use serde::Serialize;
use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// The guest's package, or the path of a component.
    module: String,
    /// Events, repeated to fill a batch; by default those of the guest's fixtures.
    #[arg(long, value_name = "FILE")]
    events: Option<PathBuf>,
    /// Events a batch.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    batch: u32,
    /// How long each module runs.
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=60))]
    seconds: u32,
    #[command(flatten)]
    sources: Sources,
    #[command(flatten)]
    registry: RegistryArgs,
    #[command(flatten)]
    json: Json,
}

/// One module's figures; host checks and the building of rows are in the time, not in the instructions.
#[derive(Debug, Serialize)]
struct Figures {
    /// `candidate` or `active`.
    which: &'static str,
    digest: Digest,
    /// The median batch.
    ns_per_record: u64,
    /// Of the module alone; the same on every machine.
    instructions_per_record: u64,
    /// To make and drop an instance, which each batch has for itself: the median.
    ns_per_instance: u64,
}

#[derive(Debug, Serialize)]
struct Report {
    batch: usize,
    figures: Vec<Figures>,
}

pub(crate) async fn run(args: &BenchArgs) -> anyhow::Result<Finding> {
    let Some(Component { name, wasm, fixtures }) = component(&args.module, &args.sources)? else {
        return Ok(Finding::Wrong);
    };
    let path = args.events.clone().or(fixtures.map(|folder| folder.join("events.jsonl")));
    let path =
        path.with_context(|| format!("{name} has no fixtures: name a file of events with --events"))?;
    let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let events = fixture::read(&text).with_context(|| format!("in {}", path.display()))?;
    ensure!(!events.is_empty(), "{} holds no event", path.display());
    let batch: Vec<Event<'_>> =
        events.iter().map(fixture::FixtureEvent::event).cycle().take(args.batch as usize).collect();

    let registry = args.registry.open();
    let candidate = match load(registry.as_ref().ok(), &wasm).await {
        Ok(module) => module,
        Err(error) => return Ok(refused(name, &error)),
    };
    let mut modules = vec![("candidate", candidate)];
    match &registry {
        Ok(registry) => {
            let active = active(registry, &modules[0].1).await?;
            modules.extend(active.map(|active| ("active", active)));
        }
        Err(error) => eprintln!("outflow: the candidate runs alone: {error:#}"),
    }
    let step = Step::begin(format!("running {} events a batch", batch.len()));
    let mut times: Vec<Vec<Duration>> = vec![Vec::new(); modules.len()];
    let until = Instant::now() + Duration::from_secs(args.seconds.into()) * u32::try_from(modules.len())?;
    // In turns, so that a slow moment of the machine meets both.
    while Instant::now() < until {
        for ((_, module), times) in modules.iter().zip(&mut times) {
            let began_at = Instant::now();
            let ran = module.run(&batch, fixtures::stamp());
            times.push(began_at.elapsed());
            ensure!(
                ran.unfinished.is_none(),
                "{} did not finish a batch: {:?}",
                module.digest(),
                ran.unfinished
            );
        }
    }
    let mut figures = Vec::new();
    for ((which, module), mut times) in modules.iter().zip(times) {
        times.sort_unstable();
        let records = batch.len() as u64;
        let instructions = module
            .instructions(&batch, fixtures::stamp())
            .map_err(anyhow::Error::msg)
            .with_context(|| format!("module {}", module.digest().short()))?;
        figures.push(Figures {
            which,
            digest: module.digest().clone(),
            ns_per_record: u64::try_from(times[times.len() / 2].as_nanos())? / records,
            instructions_per_record: instructions / records,
            ns_per_instance: ns_per_instance(module)?,
        });
    }
    drop(step);
    let report = Report { batch: batch.len(), figures };
    args.json.report(&report, text_of(&report))?;
    Ok(Finding::Fine)
}

/// The median of 100.
fn ns_per_instance(module: &Module) -> anyhow::Result<u64> {
    let mut times = Vec::new();
    for _ in 0..100 {
        let began_at = Instant::now();
        module.instantiate().map_err(anyhow::Error::msg)?;
        times.push(began_at.elapsed());
    }
    times.sort_unstable();
    Ok(u64::try_from(times[times.len() / 2].as_nanos())?)
}

/// With the native code that functions load, where it is published; else it is compiled.
async fn load(registry: Option<&Registry>, wasm: &[u8]) -> anyhow::Result<Module> {
    if let Some(registry) = registry {
        let digest = Digest::of(wasm);
        if let Ok(artifact) = registry.artifact(&digest, Target::THIS).await {
            return Ok(Module::load(&Engine::new(Limits::default())?, digest, &artifact)?);
        }
    }
    fixtures::load(wasm)
}

/// The active module of the candidate's tables; None where there is none.
async fn active(registry: &Registry, candidate: &Module) -> anyhow::Result<Option<Module>> {
    let (Some(pointer), _) = registry.newest().await? else { return Ok(None) };
    let tables = |module: &Module| {
        let mut names: Vec<String> =
            module.schema().tables.iter().map(|table| table.name.to_string()).collect();
        names.sort_unstable();
        names.join("+")
    };
    let slot = tables(candidate);
    let Some(active) = pointer.active.iter().find(|active| active.slot.as_str() == slot) else {
        return Ok(None);
    };
    let wasm = registry.module(&active.digest).await?;
    let wasm = compile::componentize(&wasm)?;
    load(Some(registry), &wasm).await.map(Some)
}

fn text_of(report: &Report) -> String {
    let mut table = Table::new();
    table.load_preset(NOTHING).set_header([
        "",
        "module",
        "ns a record",
        "instructions a record",
        "ns an instance",
    ]);
    for figures in &report.figures {
        table.add_row([
            figures.which.to_owned(),
            figures.digest.short().to_owned(),
            figures.ns_per_record.to_string(),
            figures.instructions_per_record.to_string(),
            figures.ns_per_instance.to_string(),
        ]);
    }
    let debug = if cfg!(debug_assertions) { "; the host is a debug build, without optimisation" } else { "" };
    format!("{table}\n{} events a batch{debug}", report.batch)
}
