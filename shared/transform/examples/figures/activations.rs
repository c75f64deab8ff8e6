//! A thousand activations while batches run without a pause.

use crate::{
    BATCH, Entry, Scale, events,
    record::{guest, stamp},
    registry::Shelf,
};
use outflow_transform::{Active, Digest, Event, Generation, Outcome, Stamp};
use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};

pub(crate) async fn run(scale: Scale) -> Vec<Entry> {
    let [first, second] = ["order-analytics", "order-analytics-banded"].map(guest);
    let digests = [&first, &second].map(|wasm| Digest::of(wasm));
    let shelf = Shelf::with(&[&first, &second]).await;
    shelf.activate(&digests[1]).await;
    let active = Active::new(shelf.engine.clone(), shelf.registry.clone());
    let ended = AtomicBool::new(false);
    let (activations, time) = scale.activations();

    let activate = async {
        let began_at = Instant::now();
        for number in 0..activations {
            shelf.activate(&digests[number as usize % 2]).await;
            let next = began_at + time * (number + 1) / activations;
            tokio::time::sleep_until(next.into()).await;
        }
        ended.store(true, Ordering::Relaxed);
        began_at.elapsed()
    };
    let load = async {
        let orders = events::orders();
        let batch: Vec<Event<'_>> = orders.iter().map(events::Order::event).collect();
        let (mut batches, mut wrong, mut swaps) = (0_u64, 0_u64, 0_u64);
        let mut newest: Option<Generation> = None;
        let (mut memory_first, mut memory_last) = (0.0, 0.0);
        while !ended.load(Ordering::Relaxed) {
            let loaded = active.refresh(Instant::now()).await.unwrap();
            let [only] = &loaded[..] else { panic!("one is active") };
            wrong += u64::from(newest.is_some_and(|newest| only.generation < newest));
            swaps += u64::from(newest.is_some_and(|newest| only.generation > newest));
            newest = Some(only.generation);
            let stamp = Stamp { generation: only.generation, ..stamp() };
            let ran = only.module.run(&batch, stamp);
            wrong += BATCH as u64 - ran.outcomes.len() as u64;
            // Each record one row, its own, in its place.
            for (order, outcome) in batch.iter().zip(&ran.outcomes) {
                let own = match outcome {
                    Outcome::Rows(rows) if rows.len() == 1 => {
                        let start = format!("{{\"order_id\":\"{}\"", order.aggregate_id);
                        rows[0].json.starts_with(start.as_bytes())
                    }
                    _ => false,
                };
                wrong += u64::from(!own);
            }
            batches += 1;
            memory_last = resident_mib();
            if batches == 200 {
                memory_first = memory_last;
            }
            tokio::task::yield_now().await;
        }
        (batches, wrong, swaps, memory_first, memory_last)
    };
    let (took, (batches, wrong, swaps, memory_first, memory_last)) = tokio::join!(activate, load);
    let rate = f64::from(activations) / took.as_secs_f64() * 60.0;
    vec![
        Entry::alone("transform.activations", f64::from(activations), "activations"),
        Entry::alone("transform.activations_a_minute", rate, "activations"),
        Entry::alone("transform.activations_swaps", swaps as f64, "swaps"),
        Entry::alone("transform.activations_records", (batches * BATCH as u64) as f64, "records"),
        Entry::alone("transform.activations_wrong", wrong as f64, "records"),
        Entry::against("transform.activations_memory", memory_last, "MiB", ("first_reading", memory_first)),
    ]
}

fn resident_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1_024.0
}
