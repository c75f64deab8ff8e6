//! One call into one fresh instance. A store that trapped can't be entered again, so none is kept.

use crate::{
    Event,
    bindings::{Plugin, PluginImports, PluginPre, outflow::transform::types as wire},
    engine::{Engine, Limits, ticks},
};
use std::time::Duration;
use wasmtime::{Store, StoreLimits, StoreLimitsBuilder, Trap};

/// Core instances, memories and tables of one instance; the pool's own bounds are the same.
const MAX_PARTS: usize = 8;

/// Why a call gave nothing.
#[derive(Debug)]
pub(crate) enum Failed {
    /// The wall clock ran out: the module loops, or the machine stalls.
    Deadline,
    /// The module itself: panic, `unreachable`, memory, stack.
    Trap(String),
    /// The host had no instance to give.
    Instance(String),
}

/// What an instance can reach: its limits and the log.
pub(crate) struct State {
    limits: StoreLimits,
    module: String,
    lines_left: u32,
    dropped: u32,
    line_bytes: usize,
    /// The last error that the module logged: a panic's words, which its trap doesn't carry.
    last_error: Option<String>,
}

impl PluginImports for State {
    fn log(&mut self, level: u8, message: String) {
        if level <= 1 {
            self.last_error = Some(cut(&message, self.line_bytes).to_owned());
        }
        if self.lines_left == 0 {
            self.dropped += 1;
            return;
        }
        self.lines_left -= 1;
        let (module, message) = (self.module.as_str(), cut(&message, self.line_bytes));
        match level {
            0 | 1 => tracing::error!(module, message, "transform says"),
            2 => tracing::warn!(module, message, "transform says"),
            3 => tracing::info!(module, message, "transform says"),
            _ => tracing::debug!(module, message, "transform says"),
        }
    }
}

/// The interface of types alone: it has no functions.
impl wire::Host for State {}

impl Drop for State {
    fn drop(&mut self) {
        if self.dropped > 0 {
            tracing::warn!(module = self.module, dropped = self.dropped, "transform logs too much");
        }
    }
}

/// The text up to `max` bytes, at a character's end.
pub(crate) fn cut(text: &str, max: usize) -> &str {
    &text[..text.floor_char_boundary(max)]
}

/// An instance and its store, for one call.
pub(crate) struct Guest {
    store: Store<State>,
    plugin: Plugin,
}

impl Guest {
    pub(crate) fn new(engine: &Engine, pre: &PluginPre<State>, module: &str) -> Result<Self, Failed> {
        let limits = engine.limits();
        let mut store = Store::new(engine.wasmtime(), state(limits, module));
        store.limiter(|state| &mut state.limits);
        store.set_hostcall_fuel(limits.output_bytes);
        store.set_epoch_deadline(ticks(limits.batch_deadline));
        let plugin = pre.instantiate(&mut store).map_err(|e| match e.downcast_ref::<Trap>() {
            Some(Trap::Interrupt) => Failed::Deadline,
            _ => Failed::Instance(format!("{e:#}")),
        })?;
        Ok(Self { store, plugin })
    }

    pub(crate) fn describe(mut self) -> Result<wire::Descriptor, Failed> {
        self.plugin.outflow_transform_transformer().call_describe(&mut self.store).map_err(failed)
    }

    pub(crate) fn transform(
        mut self,
        batch: &[wire::Event<'_>],
        deadline: Duration,
    ) -> Result<Vec<wire::Outcome>, Failed> {
        self.store.set_epoch_deadline(ticks(deadline));
        let called = self.plugin.outflow_transform_transformer().call_transform(&mut self.store, batch);
        called.map_err(|error| match (failed(error), self.store.data_mut().last_error.take()) {
            (Failed::Trap(reason), Some(last_error)) => Failed::Trap(format!("{reason}: {last_error}")),
            (failed, _) => failed,
        })
    }
}

fn state(limits: &Limits, module: &str) -> State {
    State {
        limits: StoreLimitsBuilder::new()
            .memory_size(limits.memory_bytes)
            .instances(MAX_PARTS)
            .tables(MAX_PARTS)
            .memories(MAX_PARTS)
            .trap_on_grow_failure(true)
            .build(),
        module: module.to_owned(),
        lines_left: limits.log_lines,
        dropped: 0,
        line_bytes: limits.message_bytes,
        last_error: None,
    }
}

fn failed(error: wasmtime::Error) -> Failed {
    match error.downcast_ref::<Trap>() {
        Some(Trap::Interrupt) => Failed::Deadline,
        // The cause alone: the frames above it are addresses of a stripped module.
        _ => Failed::Trap(error.root_cause().to_string()),
    }
}

/// The headers as the interface has them; [`event`] borrows them.
pub(crate) fn headers(event: &Event) -> Vec<wire::Header<'_>> {
    event.headers.iter().map(|(key, value)| wire::Header { key, value }).collect()
}

pub(crate) fn event<'a>(event: &'a Event, headers: &'a [wire::Header<'a>]) -> wire::Event<'a> {
    wire::Event {
        id: &event.id,
        event_type: &event.event_type,
        aggregate_id: &event.aggregate_id,
        aggregate_version: event.aggregate_version,
        schema_version: event.schema_version,
        occurred_at_us: event.occurred_at_us,
        topic: &event.topic,
        partition: event.partition,
        offset: event.offset,
        headers,
        payload: &event.payload,
    }
}
