//! What goes wrong with transforms, counted through OpenTelemetry's open facade: whoever runs them chooses the exporter.

use crate::Slot;
use opentelemetry::{KeyValue, global, metrics::Counter};

/// The meter's name.
pub const METER: &str = "outflow-transform";
/// Modules rolled back for what they rejected, by `slot`: once each, by the process that has done it.
pub const ROLLBACKS: &str = "outflow_transform_rollbacks_total";
/// Times that an active module could not be used, by `slot`: once a try, and while batches come it is tried again after
/// 1, 2, 4 … 60 s.
pub const REFUSED_MODULES: &str = "outflow_transform_refused_modules_total";
/// Pointers that could not be understood and were passed over.
pub const REFUSED_POINTERS: &str = "outflow_transform_refused_pointers_total";

#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    rollbacks: Counter<u64>,
    refused_modules: Counter<u64>,
    refused_pointers: Counter<u64>,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let meter = global::meter(METER);
        let counter = |name: &'static str| meter.u64_counter(name).build();
        let (rollbacks, refused_modules) = (counter(ROLLBACKS), counter(REFUSED_MODULES));
        let refused_pointers = counter(REFUSED_POINTERS);
        // A counter that nobody has added to is not exported, and an alert on it would never see a zero.
        refused_pointers.add(0, &[]);
        Self { rollbacks, refused_modules, refused_pointers }
    }

    /// The slot's counters are there from now on, at zero.
    pub(crate) fn know(&self, slot: &Slot) {
        self.rollbacks.add(0, &[of(slot)]);
        self.refused_modules.add(0, &[of(slot)]);
    }

    pub(crate) fn rolled_back(&self, slot: &Slot) {
        self.rollbacks.add(1, &[of(slot)]);
    }

    pub(crate) fn refused(&self, slot: &Slot) {
        self.refused_modules.add(1, &[of(slot)]);
    }

    pub(crate) fn refused_pointer(&self) {
        self.refused_pointers.add(1, &[]);
    }
}

fn of(slot: &Slot) -> KeyValue {
    KeyValue::new("slot", slot.to_string())
}
