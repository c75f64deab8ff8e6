//! Loading, swapping, and asking whether anything is new, on a local folder.

use crate::{
    Entry, Scale, events, median, median_us,
    record::{guest, stamp},
};
use outflow_transform::{
    Active, Digest, Engine, Event, Limits, Module, Registry, Signed, SigningKey, Target, compile,
};
use std::{hint::black_box, time::Instant};
use tempfile::TempDir;
use time::OffsetDateTime;
use wasmtime::component::Component;

/// A registry in a folder of its own, with modules published and a key that it trusts.
pub(crate) struct Shelf {
    pub(crate) registry: Registry,
    pub(crate) engine: Engine,
    /// The public key, as a function is told it.
    pub(crate) trusted: String,
    folder: TempDir,
}

impl Shelf {
    pub(crate) async fn with(modules: &[&[u8]]) -> Self {
        let folder = TempDir::new().unwrap();
        let key = SigningKey::from_seed([7; 32]);
        let registry = Registry::open(&folder.path().display().to_string(), key.public().into()).unwrap();
        let engine = Engine::new(Limits::default()).unwrap();
        for wasm in modules {
            let artifacts: Vec<_> =
                Target::published().map(|target| (target, compile::compile(target, wasm).unwrap())).collect();
            let this = artifacts.iter().find(|(target, _)| *target == Target::THIS).unwrap();
            let module = Module::load(&engine, Digest::of(wasm), &this.1).unwrap();
            let now = OffsetDateTime::now_utc();
            registry.publish(wasm, &artifacts, module.schema(), &key, now).await.unwrap();
        }
        Self { registry, engine, trusted: key.public().to_string(), folder }
    }

    pub(crate) fn folder(&self) -> &str {
        self.folder.path().to_str().unwrap()
    }

    pub(crate) async fn activate(&self, digest: &Digest) {
        let signed = Signed { by: "bench".to_owned(), at: OffsetDateTime::now_utc(), why: None };
        self.registry.activate(digest, None, signed).await.unwrap();
    }
}

pub(crate) async fn run(scale: Scale) -> Vec<Entry> {
    let [first, second] = ["order-analytics", "order-analytics-banded"].map(guest);
    let digests = [&first, &second].map(|wasm| Digest::of(wasm));
    let shelf = Shelf::with(&[&first, &second]).await;
    let rounds = scale.rounds().min(100);

    let mut loads = Vec::new();
    for _ in 0..rounds {
        let began_at = Instant::now();
        let artifact = shelf.registry.artifact(&digests[0], Target::THIS).await.unwrap();
        black_box(Module::load(&shelf.engine, digests[0].clone(), &artifact).unwrap());
        loads.push(began_at.elapsed().as_secs_f64() * 1e6);
    }
    // What a load makes native, and no more: the code that counts instructions is left out here as there.
    let compiler = wasmtime::Engine::new(&compile::engine_config(Target::THIS).unwrap()).unwrap();
    let compiled = median_us(if scale.quick { 1 } else { 5 }, || {
        black_box(Component::new(&compiler, &first).unwrap());
    });

    // A batch that meets a swap, beside the batches before it.
    let active = Active::new(shelf.engine.clone(), shelf.registry.clone());
    let orders = events::orders();
    let batch: Vec<Event<'_>> = orders.iter().map(events::Sent::event).collect();
    let (mut swaps, mut quiet, mut pointers) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds {
        shelf.activate(&digests[round % 2]).await;
        for times in [&mut swaps, &mut quiet] {
            let began_at = Instant::now();
            let loaded = active.refresh(began_at).await.unwrap();
            black_box(loaded[0].module.run(&batch, stamp()));
            times.push(began_at.elapsed().as_secs_f64() * 1e6);
        }
    }
    for _ in 0..rounds * 20 {
        let began_at = Instant::now();
        black_box(active.refresh(began_at).await.unwrap());
        pointers.push(began_at.elapsed().as_secs_f64() * 1e6);
    }
    let (load, swap, quiet) = (median(&mut loads), median(&mut swaps), median(&mut quiet));
    vec![
        Entry::against("transform.load", load / 1e3, "ms", ("compile", compiled / 1e3)),
        Entry::alone("transform.swap", (swap - quiet) / 1e3, "ms"),
        Entry::alone("transform.pointer", median(&mut pointers), "us"),
    ]
}
