//! From a guest's source, or a component's file, to a component.

use super::{Sources, progress::Step, refused};
use crate::output::{Finding, Json};
use anyhow::{Context, bail};
use clap::Args;
use outflow_transform::{Digest, compile};
use serde::Serialize;
use std::path::{Path, PathBuf};

#[derive(Debug, Args)]
pub(crate) struct BuildArgs {
    /// The guest's package.
    name: String,
    #[command(flatten)]
    sources: Sources,
    #[command(flatten)]
    json: Json,
}

#[derive(Serialize)]
struct Built<'a> {
    name: &'a str,
    path: &'a Path,
    bytes: u64,
    digest: Digest,
}

pub(crate) fn run(args: &BuildArgs) -> anyhow::Result<Finding> {
    let path = guest(&args.name, &args.sources)?;
    let wasm = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
    let built = Built { name: &args.name, path: &path, bytes: wasm.len() as u64, digest: Digest::of(&wasm) };
    args.json.report(&built, path.display())?;
    Ok(Finding::Fine)
}

fn guest(name: &str, sources: &Sources) -> anyhow::Result<PathBuf> {
    let _step = Step::begin(format!("building {name}"));
    compile::build_guest(&sources.transforms, name).with_context(|| {
        format!("building '{name}' in {}; --transforms names another workspace", sources.transforms.display())
    })
}

/// A component, and the folder of its fixtures where it has some.
pub(super) struct Component {
    /// As it was named by the caller.
    pub(super) name: String,
    pub(super) wasm: Vec<u8>,
    pub(super) fixtures: Option<PathBuf>,
}

/// The component in a file, or of a guest's package. None where what is in the file is none; that was told.
pub(super) fn component(module: &str, sources: &Sources) -> anyhow::Result<Option<Component>> {
    let is_file = Path::new(module).is_file();
    let path = if is_file {
        PathBuf::from(module)
    } else if module.contains(['/', '.']) {
        bail!("there is no file {module}; give a component's path, or the name of a guest's package");
    } else {
        guest(module, sources)?
    };
    let wasm = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
    match compile::componentize(&wasm) {
        Ok(wasm) => {
            let fixtures = fixtures_of(module, sources).filter(|folder| folder.is_dir());
            Ok(Some(Component { name: module.to_owned(), wasm, fixtures }))
        }
        Err(error) => {
            refused(path.display(), &error.into());
            Ok(None)
        }
    }
}

/// The folder beside a guest's source, whether it is there or not; a component's file has none.
pub(super) fn fixtures_of(module: &str, sources: &Sources) -> Option<PathBuf> {
    (!Path::new(module).is_file()).then(|| sources.transforms.join(module).join("fixtures"))
}
