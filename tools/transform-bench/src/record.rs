//! Time a record, on one thread, contenders in turns.

use crate::{
    BATCH, Entry, Scale,
    baselines::{self, JsonComponent},
    events, median, median_us,
};
use outflow_transform::{Digest, Engine, Event, Generation, Limits, Module, Outcome, Stamp, Target, compile};
use std::{
    hint::black_box,
    path::{Path, PathBuf},
    time::Instant,
};

pub(crate) fn transforms() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../transforms")
}

pub(crate) fn guest(name: &str) -> Vec<u8> {
    std::fs::read(compile::build_guest(&transforms(), name).unwrap()).unwrap()
}

pub(crate) fn load(wasm: &[u8]) -> Module {
    let artifact = compile::compile(Target::THIS, wasm).unwrap();
    Module::load(&Engine::new(Limits::default()).unwrap(), Digest::of(wasm), &artifact).unwrap()
}

pub(crate) fn stamp() -> Stamp {
    Stamp { generation: Generation::new(7).unwrap(), transformed_at_us: 1_800_000_000_123_456 }
}

pub(crate) fn run(scale: Scale) -> Vec<Entry> {
    let wasm = guest("order-analytics");
    let module = load(&wasm);
    let json = JsonComponent::load(&guest("json-component"));
    let orders = events::orders();
    let batch: Vec<Event<'_>> = orders.iter().map(events::Sent::event).collect();

    // The same rows, or the comparison is none.
    let ours = module.run(&batch, stamp());
    let native = baselines::native(&batch, module.digest().as_str(), stamp());
    for (outcome, native) in ours.outcomes.iter().zip(&native) {
        let Outcome::Rows(rows) = outcome else { panic!("no row: {outcome:?}") };
        let [ours, native]: [serde_json::Value; 2] =
            [&rows[0].json, native].map(|json| serde_json::from_slice(json).unwrap());
        assert_eq!(ours, native);
    }
    assert_eq!(json.run(&batch).iter().filter(|row| !row.is_null()).count(), BATCH);

    let mut times: [Vec<f64>; 3] = Default::default();
    for _ in 0..scale.rounds() {
        let mut time = |which: usize, work: &dyn Fn()| {
            let began_at = Instant::now();
            work();
            times[which].push(began_at.elapsed().as_secs_f64() * 1e9 / BATCH as f64);
        };
        time(0, &|| drop(black_box(module.run(black_box(&batch), stamp()))));
        let native = || baselines::native(black_box(&batch), module.digest().as_str(), stamp());
        time(1, &|| drop(black_box(native())));
        time(2, &|| drop(black_box(json.run(black_box(&batch)))));
    }
    let [ours, native, json] = times.each_mut().map(|times| median(times));
    let instance = median_us(scale.rounds() * 10, || module.instantiate().unwrap());
    let instructions = module.instructions(&batch, stamp()).unwrap() as f64 / BATCH as f64;
    vec![
        Entry::against("transform.record", ours, "ns", ("native", native)),
        Entry::against("transform.record", ours, "ns", ("json_component", json)),
        Entry::alone("transform.record_instructions", instructions, "instructions"),
        Entry::alone("transform.instance", instance, "us"),
    ]
}
