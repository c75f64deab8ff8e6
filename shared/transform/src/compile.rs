//! From a guest's source to a component, and from a component to native code. Needs Cranelift: for the
//! operator's command and for tests alone.

mod npm;

use crate::{Artifact, Target, engine};
use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};
use wit_component::ComponentEncoder;

#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    #[error("{path} could not be {action}")]
    File {
        path: PathBuf,
        action: &'static str,
        #[source]
        source: std::io::Error,
    },
    #[error("cargo could not be run (is Rust installed?)")]
    Cargo(#[source] std::io::Error),
    #[error("guest {name} does not build; cargo's messages are above")]
    Build { name: String },
    #[error(
        "npm could not be run: install Node.js 18 or newer with npm (https://nodejs.org, Debian's package npm)"
    )]
    Npm(#[source] std::io::Error),
    #[error("guest {name} does not build; everything npm said is in {log}, which ends so:\n{end}", log = .log.display())]
    NpmBuild { name: String, log: PathBuf, end: String },
    #[error("the guest could not be made a component (is it built with outflow-transform-sdk?): {reason}")]
    Componentize { reason: String },
    #[error("the component does not compile: {reason}")]
    Compile { reason: String },
}

/// Builds the guest `name` of the workspace in `transforms` and wraps it into a component: a crate with cargo, a folder
/// with a `package.json` by its own script `build`. Returns the component's path, `target/components/NAME.wasm` in
/// that workspace.
///
/// A crate's module holds no path of this machine. The same source in the same folder gives the same digest; in another
/// folder it doesn't: cargo hashes the workspace's path into symbols, and they decide the order of functions.
pub fn build_guest(transforms: &Path, name: &str) -> Result<PathBuf, CompileError> {
    const TARGET: &str = "wasm32-unknown-unknown";
    let file = |path: &Path, action| {
        let path = path.to_owned();
        move |source| CompileError::File { path, action, source }
    };
    let transforms = transforms.canonicalize().map_err(file(transforms, "found"))?;
    let target = transforms.join("target");
    let components = target.join("components");
    std::fs::create_dir_all(&components).map_err(file(&components, "made"))?;
    if npm::is_guest(&transforms.join(name)) {
        return npm::build(&transforms.join(name), name, &components);
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .current_dir(&transforms)
        .args(["build", "--quiet", "--release", "--target", TARGET, "--package", name])
        .arg("--target-dir")
        .arg(&target)
        .env("CARGO_ENCODED_RUSTFLAGS", guest_flags(&transforms))
        // Set where this runs under cargo itself; it belongs to the other workspace.
        .env_remove("CARGO_BUILD_TARGET")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .map_err(CompileError::Cargo)?;
    if !status.success() {
        return Err(CompileError::Build { name: name.to_owned() });
    }
    let core = target.join(TARGET).join("release").join(format!("{}.wasm", name.replace('-', "_")));
    let component = componentize(&std::fs::read(&core).map_err(file(&core, "read"))?)?;
    let path = components.join(format!("{name}.wasm"));
    // Renamed into place: tests and commands may build the same guest at once.
    let unfinished = components.join(format!("{name}.wasm.{}", std::process::id()));
    std::fs::write(&unfinished, component).map_err(file(&unfinished, "written"))?;
    std::fs::rename(&unfinished, &path).map_err(file(&path, "written"))?;
    Ok(path)
}

/// A guest's stack.
const STACK_BYTES: usize = 128 << 10;

/// `--remap-path-prefix` for the sources of this repository and of the registry, and the size of the stack.
fn guest_flags(transforms: &Path) -> String {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| std::env::home_dir().map(|home| home.join(".cargo")));
    let root = transforms.parent().unwrap_or(transforms);
    let mut flags = vec![format!("--remap-path-prefix={}=/outflow", root.display())];
    if let Some(home) = home {
        flags.push(format!("--remap-path-prefix={}=/cargo", home.display()));
    }
    // Of a megabyte of stack, the default, a guest touches the last kilobytes: its heap would lie behind all of it.
    flags.push(format!("-Clink-arg=-zstack-size={STACK_BYTES}"));
    // Each call pays for a look at the stack and at the deadline, which no native code does: LLVM's own threshold, 225,
    // takes calls to be nearly free. With 800 a record of `order-analytics` takes 0.85 of the time, and its native code
    // has 1.6 times the bytes, which load 0.15 ms later.
    flags.push("-Cllvm-args=--inline-threshold=800".to_owned());
    flags.join("\u{1f}")
}

/// Wraps a core module, built for wasm32-unknown-unknown with the SDK, into a component. What is a component
/// already comes back as it is.
pub fn componentize(wasm: &[u8]) -> Result<Vec<u8>, CompileError> {
    /// Bytes 4 to 8 of a core module; a component has another layer here.
    const CORE_VERSION: [u8; 4] = [1, 0, 0, 0];
    if wasm.get(4..8).is_some_and(|version| version != CORE_VERSION) {
        return Ok(wasm.to_vec());
    }
    ComponentEncoder::default()
        .module(wasm)
        .and_then(|encoder| encoder.validate(true).encode())
        .map_err(|e| CompileError::Componentize { reason: format!("{e:#}") })
}

/// The configuration of the host's engine for usual batches, for baselines that run under the same one.
///
/// # Errors
/// Where wasmtime doesn't know the target.
pub fn engine_config(target: Target) -> wasmtime::Result<wasmtime::Config> {
    engine::engine_config(target.triple, false)
}

/// Compiles a component for the engines of a target: 0.1 to 1 s.
///
/// # Errors
/// What the compiler says.
pub fn compile(target: Target, component: &[u8]) -> Result<Artifact, CompileError> {
    let compile = |metered| {
        let config = engine::engine_config(target.triple, metered)?;
        wasmtime::Engine::new(&config)?.precompile_component(component)
    };
    let failed = |e: wasmtime::Error| CompileError::Compile { reason: format!("{e:#}") };
    Ok(Artifact::compiled(compile(false).map_err(failed)?, compile(true).map_err(failed)?))
}
