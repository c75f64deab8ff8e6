//! Guests, built once a test binary, and what turns them into modules.
#![allow(dead_code, reason = "each test binary uses its part")]

use outflow_transform::{
    Artifact, Digest, Engine, Event, Generation, Limits, LoadError, Module, Stamp, Target, compile,
};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Mutex, OnceLock},
    time::Duration,
};

pub(crate) fn transforms() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../transforms")
}

/// The component of a guest crate.
pub(crate) fn guest(name: &str) -> Vec<u8> {
    let path = compile::build_guest(&transforms(), name).expect("the guest builds");
    std::fs::read(path).expect("the component is there")
}

/// The guest that does what its events tell it.
pub(crate) fn test_guest() -> &'static [u8] {
    static GUEST: OnceLock<Vec<u8>> = OnceLock::new();
    GUEST.get_or_init(|| guest("test-guest"))
}

/// The test guest with one name in it exchanged for another of the same length.
pub(crate) fn patched(from: &str, to: &str) -> Vec<u8> {
    patch(test_guest(), from, to)
}

/// The same of another one.
pub(crate) fn patch(guest: &[u8], from: &str, to: &str) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let mut wasm = guest.to_vec();
    let at: Vec<usize> =
        (0..wasm.len() - from.len()).filter(|&i| wasm[i..].starts_with(from.as_bytes())).collect();
    assert!(!at.is_empty(), "{from} isn't in the guest");
    for i in at {
        wasm[i..i + to.len()].copy_from_slice(to.as_bytes());
    }
    wasm
}

/// Limits that no test runs into by a busy machine.
pub(crate) fn patient() -> Limits {
    let (batch_deadline, record_deadline) = (Duration::from_secs(30), Duration::from_secs(30));
    let rerun_budget = Duration::from_secs(120);
    Limits { batch_deadline, record_deadline, rerun_budget, ..Limits::default() }
}

pub(crate) fn engine() -> Engine {
    Engine::new(patient()).expect("the engine starts")
}

/// Native code of a component, which runs in every engine: each is compiled once.
pub(crate) fn artifact(wasm: &[u8]) -> Artifact {
    static COMPILED: Mutex<BTreeMap<Digest, Artifact>> = Mutex::new(BTreeMap::new());
    let mut compiled = COMPILED.lock().expect("every component compiles");
    let compile = || compile::compile(Target::THIS, wasm).expect("the component compiles");
    compiled.entry(Digest::of(wasm)).or_insert_with(compile).clone()
}

pub(crate) fn load(engine: &Engine, wasm: &[u8]) -> Result<Module, LoadError> {
    Module::load(engine, Digest::of(wasm), &artifact(wasm))
}

pub(crate) fn stamp() -> Stamp {
    Stamp { generation: Generation::new(7).expect("in range"), transformed_at_us: 1_800_000_000_123_456 }
}

pub(crate) const AGGREGATE: &str = "0192a7c1-0000-7000-8000-000000000001";

pub(crate) fn headers() -> &'static [(String, Vec<u8>)] {
    static HEADERS: OnceLock<[(String, Vec<u8>); 2]> = OnceLock::new();
    HEADERS.get_or_init(|| {
        [("traceparent", "00-1"), ("other", "x")].map(|(k, v)| (k.to_owned(), v.as_bytes().to_vec()))
    })
}

/// An event that tells the test guest what to do.
pub(crate) fn told(order: &str) -> Event<'_> {
    Event {
        id: "0192a7c1-0000-7000-8000-0000000000ff",
        event_type: "Told",
        aggregate_id: AGGREGATE,
        aggregate_version: 1,
        schema_version: 1,
        topic: "told.events",
        headers: headers(),
        payload: order.as_bytes(),
        ..Event::default()
    }
}
