//! `outflow transform …`: a WASM transform's life from source to rollback.

mod live;

use crate::output::{Finding, Json};
use anyhow::{Context, Error, anyhow, bail};
use clap::{Args, Subcommand};
use outflow_transform::{
    Digest, Engine, Limits, Module, ModuleInfo, Pointer, Registry, RegistryError, compile,
};
use serde::Serialize;
use std::{
    path::{Path, PathBuf},
    time::Instant,
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

#[derive(Debug, Subcommand)]
pub(crate) enum TransformCommand {
    /// Builds a guest crate into a component, and prints the component's path.
    Build {
        /// The guest's package name.
        name: String,
        #[command(flatten)]
        sources: Sources,
        #[command(flatten)]
        json: Json,
    },
    /// Checks a module, compiles it to native code, stores both, and prints its digest. Changes nothing that runs.
    Publish {
        /// A guest's package name, which is built first, or the path of a component.
        module: String,
        #[command(flatten)]
        sources: Sources,
        #[command(flatten)]
        registry: RegistryArg,
        #[command(flatten)]
        json: Json,
    },
    /// Makes a published module the active one, from each function's next batch on.
    Activate {
        /// Its digest, or the beginning of it.
        digest: String,
        /// Skips the comparison of the module's columns with the live ClickHouse table.
        #[arg(long)]
        unchecked: bool,
        #[command(flatten)]
        by: By,
        #[command(flatten)]
        registry: RegistryArg,
        #[command(flatten)]
        json: Json,
    },
    /// Goes back to the module that was active before the present one.
    Rollback {
        #[command(flatten)]
        by: By,
        #[command(flatten)]
        registry: RegistryArg,
        #[command(flatten)]
        json: Json,
    },
    /// Shows the active module, its predecessors, and what else is published. Exits 1 where none is active.
    Status {
        #[command(flatten)]
        registry: RegistryArg,
        #[command(flatten)]
        json: Json,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Sources {
    /// The workspace of the guests.
    #[arg(long, value_name = "DIR", default_value = "transforms")]
    transforms: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct RegistryArg {
    /// file:///folder, a plain folder, or s3://bucket/prefix.
    #[arg(long = "registry", value_name = "URL", env = "OUTFLOW_TRANSFORM_REGISTRY")]
    location: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct By {
    /// Who does this; kept with the activation.
    #[arg(long, env = "USER", default_value = "unknown")]
    by: String,
}

pub(crate) async fn run(command: TransformCommand) -> anyhow::Result<Finding> {
    match command {
        TransformCommand::Build { name, sources, json } => build(&name, &sources, &json),
        TransformCommand::Publish { module, sources, registry, json } => {
            publish(&module, &sources, &registry.open()?, &json).await
        }
        TransformCommand::Activate { digest, unchecked, by, registry, json } => {
            activate(&digest, !unchecked, &by.by, &registry.open()?, &json).await
        }
        TransformCommand::Rollback { by, registry, json } => {
            let registry = registry.open()?;
            let pointed = registry.roll_back(&by.by, now()).await;
            report_pointer(pointed, &json)
        }
        TransformCommand::Status { registry, json } => status(&registry.open()?, &json).await,
    }
}

impl RegistryArg {
    fn open(&self) -> anyhow::Result<Registry> {
        let location = self.location.as_deref().context(
            "environment variable OUTFLOW_TRANSFORM_REGISTRY is missing: set it (`cargo xtask stack env` prints the local values), or give --registry",
        )?;
        Registry::open(location).context("give another --registry or OUTFLOW_TRANSFORM_REGISTRY")
    }
}

/// To the second: people read it.
fn now() -> OffsetDateTime {
    let now = OffsetDateTime::now_utc();
    now.replace_nanosecond(0).unwrap_or(now)
}

#[derive(Serialize)]
struct Built<'a> {
    name: &'a str,
    path: &'a Path,
    bytes: u64,
    digest: Digest,
}

fn build(name: &str, sources: &Sources, json: &Json) -> anyhow::Result<Finding> {
    let path = build_component(name, sources)?;
    let wasm = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
    let built = Built { name, path: &path, bytes: wasm.len() as u64, digest: Digest::of(&wasm) };
    json.report(&built, path.display())?;
    Ok(Finding::Fine)
}

fn build_component(name: &str, sources: &Sources) -> anyhow::Result<PathBuf> {
    compile::build_guest(&sources.transforms, name).with_context(|| {
        format!("building '{name}' in {}; --transforms names another workspace", sources.transforms.display())
    })
}

#[derive(Serialize)]
struct PublishReport<'a> {
    #[serde(flatten)]
    info: &'a ModuleInfo,
    artifact_bytes: usize,
    /// Near 0 where the native code was there already.
    compile_ms: u64,
    /// False where the registry had these bytes already.
    new_module: bool,
    new_artifact: bool,
}

async fn publish(
    module: &str,
    sources: &Sources,
    registry: &Registry,
    json: &Json,
) -> anyhow::Result<Finding> {
    let path = if Path::new(module).is_file() {
        PathBuf::from(module)
    } else if module.contains(['/', '.']) {
        bail!("there is no file {module}; give a component's path, or the name of a guest's package");
    } else {
        build_component(module, sources)?
    };
    let wasm = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
    let engine = Engine::new(Limits::default())?;
    let wasm = match compile::componentize(&wasm) {
        Ok(wasm) => wasm,
        Err(error) => return refused(&path, &error.into()),
    };
    let digest = Digest::of(&wasm);
    let started = Instant::now();
    let artifact = match registry.artifact(&digest).await {
        Ok(published) => published,
        // Missing or damaged: made anew either way.
        Err(_) => match compile::compile(&engine, &wasm) {
            Ok(artifact) => artifact,
            Err(error) => return refused(&path, &error.into()),
        },
    };
    let compile_ms = u64::try_from(started.elapsed().as_millis())?;
    // Loaded as a function would: what passes here loads there.
    let module = match Module::load(&engine, digest, &artifact) {
        Ok(module) => module,
        Err(error) => return refused(&path, &error.into()),
    };
    let published = registry.publish(&wasm, &artifact, module.schema(), now()).await?;
    let report = PublishReport {
        info: &published.info,
        artifact_bytes: artifact.bytes().len(),
        compile_ms,
        new_module: published.new_module,
        new_artifact: published.new_artifact,
    };
    json.report(&report, &published.info.digest)?;
    Ok(Finding::Fine)
}

/// The command did its work, and the module is at fault.
fn refused(path: &Path, error: &anyhow::Error) -> anyhow::Result<Finding> {
    eprintln!("outflow: {} is refused: {error:#}", path.display());
    Ok(Finding::Wrong)
}

async fn activate(
    digest: &str,
    checked: bool,
    by: &str,
    registry: &Registry,
    json: &Json,
) -> anyhow::Result<Finding> {
    let info = registry.find(digest).await.map_err(|error| {
        anyhow!("{:#}; `outflow transform status` lists what is published", Error::from(error))
    })?;
    if checked {
        match live::differences(&info).await? {
            None => eprintln!("outflow: OUTFLOW_CLICKHOUSE_URL isn't set, so the live table isn't looked at"),
            Some(differences) if !differences.is_empty() => {
                eprintln!("outflow: {} does not fit the live table, nothing was changed:", info.name);
                differences.iter().for_each(|difference| eprintln!("  {difference}"));
                return Ok(Finding::Wrong);
            }
            Some(_) => {}
        }
    }
    report_pointer(registry.activate(&info.digest, by, now()).await, json)
}

fn report_pointer(pointed: Result<Pointer, RegistryError>, json: &Json) -> anyhow::Result<Finding> {
    match pointed {
        Ok(pointer) => {
            let line = format!(
                "{} {} ({}) is active from the next batch on, generation {}",
                pointer.name,
                pointer.version,
                pointer.digest.short(),
                pointer.generation
            );
            json.report(&pointer, line)?;
            Ok(Finding::Fine)
        }
        Err(error @ (RegistryError::Conflict { .. } | RegistryError::NothingToRollBackTo)) => {
            eprintln!("outflow: {error}");
            Ok(Finding::Wrong)
        }
        Err(error) => Err(error.into()),
    }
}

#[derive(Serialize)]
struct Status {
    registry: String,
    active: Option<Pointer>,
    /// Newest first, the active one included.
    history: Vec<Pointer>,
    /// Numbers of pointers that can't be read; no function follows them.
    unreadable: Vec<u32>,
    modules: Vec<ModuleInfo>,
}

/// Activations that `status` reads: one object each.
const HISTORY: usize = 20;

async fn status(registry: &Registry, json: &Json) -> anyhow::Result<Finding> {
    let mut history = Vec::new();
    let mut unreadable = Vec::new();
    for &generation in registry.generations().await?.iter().rev().take(HISTORY) {
        match registry.pointer(generation).await {
            Ok(pointer) => history.push(pointer),
            Err(error) => {
                eprintln!("outflow: generation {generation} is skipped: {:#}", anyhow::Error::from(error));
                unreadable.push(generation.get());
            }
        }
    }
    let status = Status {
        registry: registry.location().to_owned(),
        active: history.first().cloned(),
        history,
        unreadable,
        modules: registry.modules().await?,
    };
    json.report(&status, table(&status)?)?;
    let fine = status.active.is_some() && status.unreadable.is_empty();
    Ok(if fine { Finding::Fine } else { Finding::Wrong })
}

fn table(status: &Status) -> anyhow::Result<String> {
    let mut table = comfy_table::Table::new();
    table.load_preset(comfy_table::presets::NOTHING);
    table.set_header(["", "generation", "digest", "module", "version", "since", "by"]);
    for (at, pointer) in status.history.iter().enumerate() {
        table.add_row([
            if at == 0 { "active" } else { "" },
            &pointer.generation.to_string(),
            pointer.digest.short(),
            &pointer.name,
            &pointer.version,
            &pointer.activated_at.format(&Rfc3339)?,
            &pointer.by,
        ]);
    }
    let pointed = |info: &&ModuleInfo| status.history.iter().any(|pointer| pointer.digest == info.digest);
    for info in status.modules.iter().filter(|info| !pointed(info)) {
        let since = info.published_at.format(&Rfc3339)?;
        table.add_row(["published", "", info.digest.short(), &info.name, &info.version, &since, ""]);
    }
    if status.active.is_none() {
        return Ok(format!(
            "{table}\nno transform is active: run `outflow transform publish NAME`, then `outflow transform activate DIGEST`"
        ));
    }
    Ok(table.to_string())
}
