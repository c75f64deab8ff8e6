//! Publishing: fixtures pass, native code for each machine, signed.

use super::{
    RegistryArgs, SigningArgs, Sources,
    build::{Component, component},
    fixtures, now,
    progress::Step,
    refused,
};
use crate::output::{Finding, Json};
use anyhow::Context;
use clap::Args;
use outflow_transform::{Digest, Engine, Limits, Module, ModuleInfo, Target, compile};
use serde::Serialize;
use std::{path::PathBuf, time::Instant};

#[derive(Debug, Args)]
pub(crate) struct PublishArgs {
    /// The guest's package, or the path of a component.
    module: String,
    /// The folder of fixtures that it must pass; by default `fixtures` beside the guest's source.
    #[arg(long, value_name = "DIR")]
    fixtures: Option<PathBuf>,
    #[command(flatten)]
    sources: Sources,
    #[command(flatten)]
    registry: RegistryArgs,
    #[command(flatten)]
    signing: SigningArgs,
    #[command(flatten)]
    json: Json,
}

#[derive(Serialize)]
struct Report<'a> {
    #[serde(flatten)]
    info: &'a ModuleInfo,
    /// Of the native code for this machine that usual batches run.
    artifact_bytes: usize,
    /// Near 0 where the native code was there already.
    compile_ms: u64,
    /// False where the registry had these bytes already.
    new_module: bool,
    /// Engines whose native code is new.
    new_artifacts: Vec<&'static str>,
    /// Events of the fixtures; 0 where there are none.
    fixture_events: usize,
}

pub(crate) async fn run(args: &PublishArgs) -> anyhow::Result<Finding> {
    let (registry, key) = (args.registry.open()?, args.signing.load()?);
    if !registry.trusts(&key.public()) {
        let error = anyhow::anyhow!(
            "the signing key's public half {} is none of OUTFLOW_TRANSFORM_TRUSTED_KEYS: functions would not load what it \
             signs; tell them of it first, or sign with a key that they trust",
            key.public()
        );
        return Ok(refused("the key", &error));
    }
    let Some(Component { name, wasm, fixtures }) = component(&args.module, &args.sources)? else {
        return Ok(Finding::Wrong);
    };
    let digest = Digest::of(&wasm);
    let started = Instant::now();
    let mut artifacts = Vec::new();
    for target in Target::published() {
        let step = Step::begin(format!("native code for {}", target.key));
        let artifact = match registry.whole_artifact(&digest, target).await {
            Ok(published) => Ok(published),
            // Missing, damaged or signed by nobody that is trusted: made anew in any case.
            Err(_) => compile::compile(target, &wasm),
        };
        drop(step);
        match artifact {
            Ok(artifact) => artifacts.push((target, artifact)),
            Err(error) => return Ok(refused(name, &error.into())),
        }
    }
    let compile_ms = u64::try_from(started.elapsed().as_millis())?;
    let (_, native) =
        artifacts.iter().find(|(target, _)| *target == Target::THIS).context("this machine is one")?;
    // Loaded as a function would: what passes here loads there.
    let module = match Module::load(&Engine::new(Limits::default())?, digest, native) {
        Ok(module) => module,
        Err(error) => return Ok(refused(name, &error.into())),
    };
    let mut fixture_events = 0;
    if let Some(folder) = args.fixtures.clone().or(fixtures) {
        let report = fixtures::check(&module, &folder, false)?;
        if report.different > 0 {
            eprintln!("{}", fixtures::text(&report));
            return Ok(refused(name, &anyhow::anyhow!("it does not pass its own fixtures")));
        }
        fixture_events = report.events;
    } else {
        eprintln!(
            "outflow: {name} has no fixtures, so nothing says that its rows are right; --fixtures names some"
        );
    }
    let artifact_bytes = native.bytes()?[0].len();
    let step = Step::begin(format!("writing to {}", registry.location()));
    let published = registry.publish(&wasm, &artifacts, module.schema(), &key, now()).await?;
    drop(step);
    let report = Report {
        info: &published.info,
        artifact_bytes,
        compile_ms,
        new_module: published.new_module,
        new_artifacts: published.new_artifacts,
        fixture_events,
    };
    args.json.report(&report, &published.info.digest)?;
    Ok(Finding::Fine)
}
