//! One call into one fresh instance. A store that trapped can't be entered again, so none is kept.

use crate::{
    Event, Outcome,
    bindings::{
        packed::{PackedPlugin, PackedPluginPre},
        typed::{Plugin, PluginPre, outflow::transform::types as wire},
    },
    engine::{Limits, ticks},
    packed::{self, Malformed},
    row::{Outcomes, Stamper},
    typed,
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};
use wasmtime::{
    Store, StoreContextMut, StoreLimits, StoreLimitsBuilder, Trap,
    component::{Component, HasSelf, InstancePre, Linker},
};

/// Core instances, memories and tables of one instance; the pool's own bounds are the same.
const MAX_PARTS: usize = 8;

/// Why a call gave nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failed {
    /// The wall clock ran out: the module loops, or the machine stalls.
    #[error("its deadline passed")]
    Deadline,
    /// So many instructions are the module's own doing.
    #[error("it takes more than {0} instructions")]
    Fuel(u64),
    /// The module itself: panic, `unreachable`, memory, stack.
    #[error("{0}")]
    Trap(String),
    /// It answered what is no answer.
    #[error("its answer can't be read: {0}")]
    Malformed(#[from] Malformed),
    /// The host had no instance to give.
    #[error("no instance: {0}")]
    Instance(String),
}

/// What the instances of one batch say together: a rerun by record begins no new count.
pub(crate) struct Log {
    module: String,
    lines_left: AtomicU32,
    dropped: AtomicU32,
    line_bytes: usize,
}

impl Log {
    pub(crate) fn new(limits: &Limits, module: &str) -> Arc<Self> {
        Arc::new(Self {
            module: module.to_owned(),
            lines_left: limits.log_lines.into(),
            dropped: AtomicU32::new(0),
            line_bytes: limits.message_bytes,
        })
    }

    fn line(&self, level: u8, message: &str) {
        let one_less = |left: u32| left.checked_sub(1);
        if self.lines_left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let module = self.module.as_str();
        match level {
            0 | 1 => tracing::error!(module, message, "transform says"),
            2 => tracing::warn!(module, message, "transform says"),
            3 => tracing::info!(module, message, "transform says"),
            _ => tracing::debug!(module, message, "transform says"),
        }
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        let dropped = *self.dropped.get_mut();
        if dropped > 0 {
            tracing::warn!(module = self.module, dropped, "transform logs too much");
        }
    }
}

/// What an instance can reach: its limits and the log.
pub(crate) struct State {
    limits: StoreLimits,
    log: Arc<Log>,
    /// The last error that the module logged: a panic's words, which its trap doesn't carry.
    last_error: Option<String>,
}

impl State {
    fn new(limits: &Limits, log: &Arc<Log>) -> Self {
        Self {
            limits: StoreLimitsBuilder::new()
                .memory_size(limits.memory_bytes)
                .instances(MAX_PARTS)
                .tables(MAX_PARTS)
                .memories(MAX_PARTS)
                .trap_on_grow_failure(true)
                .build(),
            log: log.clone(),
            last_error: None,
        }
    }

    fn log(&mut self, level: u8, message: &str) {
        let message = cut(message, self.log.line_bytes);
        if level <= 1 {
            self.last_error = Some(message.to_owned());
        }
        self.log.line(level, message);
    }
}

/// The interface of types alone: it has no functions.
impl wire::Host for State {}

/// The text up to `max` bytes, at a character's end.
pub(crate) fn cut(text: &str, max: usize) -> &str {
    &text[..text.floor_char_boundary(max)]
}

/// A component whose imports are given and whose exports were found, whichever way it speaks.
#[derive(Clone)]
pub(crate) enum Pre {
    Typed(PluginPre<State>),
    Packed(PackedPluginPre<State>),
}

/// What a component lacks, or wants too much.
#[derive(Debug)]
pub(crate) enum Unfit {
    Imports(String),
    Exports(String),
}

impl Pre {
    pub(crate) fn new(engine: &wasmtime::Engine, component: &Component) -> Result<Self, Unfit> {
        let imports = |e: wasmtime::Error| Unfit::Imports(format!("{e:#}"));
        let mut linker = Linker::<State>::new(engine);
        wire::add_to_linker::<_, HasSelf<_>>(&mut linker, |state| state).map_err(imports)?;
        let log = |mut store: StoreContextMut<'_, State>, (level, message): (u8, String)| {
            store.data_mut().log(level, &message);
            Ok(())
        };
        linker.root().func_wrap("log", log).map_err(imports)?;
        let pre: InstancePre<State> = linker.instantiate_pre(component).map_err(imports)?;
        if let Ok(pre) = PackedPluginPre::new(pre.clone()) {
            return Ok(Self::Packed(pre));
        }
        PluginPre::new(pre).map(Self::Typed).map_err(|e| Unfit::Exports(format!("{e:#}")))
    }
}

enum Plugged {
    Typed(Plugin),
    Packed(PackedPlugin),
}

/// An instance and its store, for one call.
pub(crate) struct Guest {
    store: Store<State>,
    plugged: Plugged,
    message_bytes: usize,
    fuel: Option<u64>,
}

impl Guest {
    /// `fuel` is for components of the engine that counts instructions.
    pub(crate) fn new(
        wasmtime: &wasmtime::Engine,
        limits: &Limits,
        pre: &Pre,
        log: &Arc<Log>,
        fuel: Option<u64>,
    ) -> Result<Self, Failed> {
        let mut store = Store::new(wasmtime, State::new(limits, log));
        store.limiter(|state| &mut state.limits);
        store.set_hostcall_fuel(limits.output_bytes);
        store.set_epoch_deadline(ticks(limits.batch_deadline));
        if let Some(fuel) = fuel {
            store.set_fuel(fuel).map_err(|e| Failed::Instance(format!("{e:#}")))?;
        }
        let plugged = match pre {
            Pre::Typed(pre) => pre.instantiate(&mut store).map(Plugged::Typed),
            Pre::Packed(pre) => pre.instantiate(&mut store).map(Plugged::Packed),
        };
        let plugged = plugged.map_err(|e| match e.downcast_ref::<Trap>() {
            Some(Trap::Interrupt) => Failed::Deadline,
            _ => Failed::Instance(format!("{e:#}")),
        })?;
        Ok(Self { store, plugged, message_bytes: limits.message_bytes, fuel })
    }

    /// What the module says of itself, and the headers that it reads; a module of typed values gets all of them.
    pub(crate) fn describe(mut self) -> Result<(wire::Descriptor, Vec<String>), Failed> {
        let store = &mut self.store;
        let described = match &self.plugged {
            Plugged::Typed(plugin) => plugin
                .outflow_transform_transformer()
                .call_describe(store)
                .map(|described| (described, Vec::new())),
            Plugged::Packed(plugin) => {
                let plugin = plugin.outflow_transform_packed_transformer();
                plugin.call_describe(&mut *store).and_then(|d| Ok((d, plugin.call_headers(&mut *store)?)))
            }
        };
        described.map_err(|error| self.failed(error))
    }

    /// An outcome for each event, within `deadline`; fewer where the rows pass the bytes of a batch. `headers` are those
    /// that the module has named.
    pub(crate) fn transform(
        &mut self,
        events: &[&Event<'_>],
        headers: &[String],
        stamper: Stamper<'_>,
        deadline: Duration,
    ) -> Result<Vec<Outcome>, Failed> {
        self.store.set_epoch_deadline(ticks(deadline));
        match &self.plugged {
            Plugged::Typed(plugin) => {
                let headers: Vec<_> = events.iter().map(|event| typed::headers(event)).collect();
                let batch: Vec<_> = events
                    .iter()
                    .zip(&headers)
                    .map(|(event, headers)| typed::event(event, headers))
                    .collect();
                let answer = plugin.outflow_transform_transformer().call_transform(&mut self.store, &batch);
                let answer = answer.map_err(|error| self.failed(error))?;
                if answer.len() != events.len() {
                    let found = u32::try_from(answer.len()).unwrap_or(u32::MAX);
                    return Err(Malformed::Count { found, expected: events.len() }.into());
                }
                let mut outcomes = Outcomes::within(stamper.batch_bytes, events.len());
                for (answer, event) in answer.iter().zip(events) {
                    if !outcomes.take(typed::outcome(answer, event, stamper, self.message_bytes)) {
                        break;
                    }
                }
                Ok(outcomes.into_vec())
            }
            Plugged::Packed(plugin) => {
                let batch = packed::encode(events, headers);
                let answer =
                    plugin.outflow_transform_packed_transformer().call_transform(&mut self.store, &batch);
                let answer = answer.map_err(|error| self.failed(error))?;
                Ok(packed::decode(&answer, events, stamper, self.message_bytes)?)
            }
        }
    }

    /// Instructions that were run, of an instance that counts them.
    #[cfg(feature = "compile")]
    pub(crate) fn instructions(&self) -> u64 {
        self.fuel.zip(self.store.get_fuel().ok()).map_or(0, |(given, left)| given - left)
    }

    fn failed(&mut self, error: wasmtime::Error) -> Failed {
        match error.downcast_ref::<Trap>() {
            Some(Trap::Interrupt) => Failed::Deadline,
            Some(Trap::OutOfFuel) => Failed::Fuel(self.fuel.unwrap_or_default()),
            // The cause alone: the frames above it are addresses of a stripped module.
            _ => {
                let reason = error.root_cause().to_string();
                match self.store.data_mut().last_error.take() {
                    Some(last_error) => Failed::Trap(format!("{reason}: {last_error}")),
                    None => Failed::Trap(reason),
                }
            }
        }
    }
}
