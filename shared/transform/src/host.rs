//! A loaded module, and how a batch goes through it: one call for all; after a trap, record by record, so
//! that only the record that traps is rejected.

use crate::{
    Artifact, Batch, Digest, Engine, Event, Outcome, Rejection, Schema, SchemaError, Stage, Stamp,
    Unfinished,
    aot::{self, Metered},
    guest::{Failed, Guest, Log, Pre, Unfit, cut},
    packed::Malformed,
    row::{Outcomes, Stamper, same_in_each_row},
};
use std::{
    sync::{Arc, OnceLock},
    time::Instant,
};

/// A module that passed its checks.
pub struct Module {
    engine: Engine,
    pre: Pre,
    /// For records that are tried alone, made from `metered` when the first of them comes.
    suspects: OnceLock<Option<Pre>>,
    metered: Metered,
    schema: Schema,
    /// That the module reads.
    headers: Vec<String>,
    digest: Digest,
}

impl std::fmt::Debug for Module {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Module").field("digest", &self.digest).field("schema", &self.schema).finish()
    }
}

/// Why a module can't be used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("its native code does not load here: {reason}")]
    Deserialize { reason: String },
    #[error("it imports what this host does not offer: {reason}")]
    Imports { reason: String },
    #[error("it does not export what a transform must: {reason}")]
    Exports { reason: String },
    #[error("it can't say what it is: {reason}")]
    Describe { reason: String },
    #[error("what it says of itself is refused")]
    Schema(#[source] SchemaError),
}

impl From<Unfit> for LoadError {
    fn from(unfit: Unfit) -> Self {
        match unfit {
            Unfit::Imports(reason) => Self::Imports { reason },
            Unfit::Exports(reason) => Self::Exports { reason },
        }
    }
}

impl Module {
    /// Loads native code and checks imports, exports and what `describe` says.
    ///
    /// # Errors
    /// Says which of them is wrong.
    pub fn load(engine: &Engine, digest: Digest, artifact: &Artifact) -> Result<Self, LoadError> {
        let component =
            aot::fast(engine, artifact).map_err(|e| LoadError::Deserialize { reason: format!("{e:#}") })?;
        let pre = Pre::new(engine.fast(), &component)?;
        let log = Log::new(engine.limits(), digest.short());
        let described =
            Guest::new(engine.fast(), engine.limits(), &pre, &log, None).and_then(Guest::describe);
        let (descriptor, headers) =
            described.map_err(|failed| LoadError::Describe { reason: failed.to_string() })?;
        let schema = Schema::check(descriptor).map_err(LoadError::Schema)?;
        let (suspects, metered) = (OnceLock::new(), artifact.metered());
        Ok(Self { engine: engine.clone(), pre, suspects, metered, schema, headers, digest })
    }

    pub fn schema(&self) -> &Schema {
        &self.schema
    }

    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Runs a batch. Blocks its thread for as long as the module takes, within the limits.
    ///
    /// The same events and stamp give the same outcomes: the module has no clock and no randomness.
    pub fn run(&self, events: &[Event<'_>], stamp: Stamp) -> Batch {
        self.run_within(self.engine.limits().batch_bytes, events, stamp)
    }

    /// As [`Module::run`], for a batch that shares its memory with others: of its rows so many bytes go, or those of the first
    /// event. The rest is unfinished.
    pub fn run_within(&self, batch_bytes: usize, events: &[Event<'_>], stamp: Stamp) -> Batch {
        let wanted: Vec<&Event<'_>> = events.iter().filter(|event| self.wants(event)).collect();
        let same = same_in_each_row(&self.digest, stamp);
        let stamper = Stamper { batch_bytes, ..self.stamper(stamp, &same) };
        let (answers, unfinished) = self.answers(&wanted, stamper);
        if wanted.len() == events.len() && unfinished.is_none() {
            return Batch { outcomes: answers, unfinished: None };
        }
        let mut answers = answers.into_iter();
        let mut outcomes = Vec::with_capacity(events.len());
        for event in events {
            if !self.wants(event) {
                outcomes.push(Outcome::Skip);
            } else if let Some(outcome) = answers.next() {
                outcomes.push(outcome);
            } else {
                break;
            }
        }
        let from = outcomes.len();
        Batch { outcomes, unfinished: unfinished.map(|reason| Unfinished { from, reason }) }
    }

    /// Instructions that the module takes for these events, in one batch; the same on every machine.
    ///
    /// # Errors
    /// Says why the module did not come to its end.
    #[cfg(feature = "compile")]
    pub fn instructions(&self, events: &[Event<'_>], stamp: Stamp) -> Result<u64, String> {
        let wanted: Vec<&Event<'_>> = events.iter().filter(|event| self.wants(event)).collect();
        let pre = self.suspects().ok_or("its native code does not load here")?;
        let limits = self.engine.limits();
        let failed = |failed: Failed| failed.to_string();
        let mut guest =
            Guest::new(self.engine.metered(), limits, pre, &self.log(), Some(u64::MAX)).map_err(failed)?;
        let same = same_in_each_row(&self.digest, stamp);
        let stamper = self.stamper(stamp, &same);
        guest.transform(&wanted, &self.headers, stamper, limits.rerun_budget).map_err(failed)?;
        Ok(guest.instructions())
    }

    /// Makes an instance and throws it away: what each batch pays for being alone.
    ///
    /// # Errors
    /// Says why there is none.
    pub fn instantiate(&self) -> Result<(), String> {
        let guest = Guest::new(self.engine.fast(), self.engine.limits(), &self.pre, &self.log(), None);
        guest.map(drop).map_err(|failed| failed.to_string())
    }

    /// Whether the module is asked about such an event at all.
    pub fn wants(&self, event: &Event<'_>) -> bool {
        self.schema.event_types.iter().any(|wanted| wanted == event.event_type)
    }

    /// Whether the module looks at a header of this name; one of typed values is given all of them.
    pub fn reads_header(&self, name: &str) -> bool {
        matches!(self.pre, Pre::Typed(_)) || self.headers.iter().any(|wanted| wanted == name)
    }

    fn log(&self) -> Arc<Log> {
        Log::new(self.engine.limits(), &self.schema.name)
    }

    fn stamper<'a>(&'a self, stamp: Stamp, same: &'a [Vec<u8>; 3]) -> Stamper<'a> {
        let limits = self.engine.limits();
        Stamper {
            schema: &self.schema,
            stamp,
            same,
            row_bytes: limits.row_bytes,
            rows_per_record: limits.rows_per_record,
            record_bytes: limits.record_bytes,
            batch_bytes: limits.batch_bytes,
        }
    }

    /// An outcome an event, or fewer with the reason why the rest has none.
    fn answers(&self, events: &[&Event<'_>], stamper: Stamper<'_>) -> (Vec<Outcome>, Option<String>) {
        if events.is_empty() {
            return (Vec::new(), None);
        }
        let (limits, log) = (self.engine.limits(), self.log());
        let guest = Guest::new(self.engine.fast(), limits, &self.pre, &log, None);
        let answered = guest
            .and_then(|mut guest| guest.transform(events, &self.headers, stamper, limits.batch_deadline));
        match answered {
            Ok(outcomes) => {
                let full = (outcomes.len() < events.len()).then(|| full(stamper));
                (outcomes, full)
            }
            Err(failed @ Failed::Instance(_)) => (Vec::new(), Some(failed.to_string())),
            Err(failed) => {
                let (digest, records) = (&self.digest, events.len());
                tracing::warn!(%digest, records, %failed, "batch failed, rerun by record");
                self.rerun(events, stamper, &log)
            }
        }
    }

    /// Each record alone, in an instance of its own that counts instructions. Stops at the first that can't be decided
    /// now: order within a partition would break if those behind it went on.
    fn rerun(
        &self,
        events: &[&Event<'_>],
        stamper: Stamper<'_>,
        log: &Arc<Log>,
    ) -> (Vec<Outcome>, Option<String>) {
        let limits = self.engine.limits();
        let (wasmtime, pre, fuel) = match self.suspects() {
            Some(pre) => (self.engine.metered(), pre, Some(limits.record_fuel)),
            // Without its other half the module can still trap; only a loop can't be told from a stall.
            None => (self.engine.fast(), &self.pre, None),
        };
        let started = Instant::now();
        let mut outcomes = Outcomes::within(stamper.batch_bytes, events.len());
        for event in events {
            if started.elapsed() > limits.rerun_budget {
                return (outcomes.into_vec(), Some("the time for a rerun by record is used up".to_owned()));
            }
            let guest = Guest::new(wasmtime, limits, pre, log, fuel);
            let answered = guest.and_then(|mut guest| {
                guest.transform(&[event], &self.headers, stamper, limits.record_deadline)
            });
            let (code, message) = match answered {
                Ok(alone) => {
                    if alone.into_iter().all(|outcome| outcomes.take(outcome)) {
                        continue;
                    }
                    return (outcomes.into_vec(), Some(full(stamper)));
                }
                Err(failed @ (Failed::Deadline | Failed::Instance(_))) => {
                    return (outcomes.into_vec(), Some(failed.to_string()));
                }
                Err(failed @ Failed::Fuel(_)) => ("out_of_fuel", failed.to_string()),
                Err(Failed::Trap(reason)) => ("trap", reason),
                Err(failed @ Failed::Malformed(Malformed::Count { .. })) => {
                    ("wrong_outcome_count", failed.to_string())
                }
                Err(failed @ Failed::Malformed(_)) => ("malformed_answer", failed.to_string()),
            };
            let message = cut(&message, limits.message_bytes).to_owned();
            outcomes.take(Outcome::Reject(Rejection { stage: Stage::Trap, code: code.to_owned(), message }));
        }
        (outcomes.into_vec(), None)
    }

    fn suspects(&self) -> Option<&Pre> {
        let load = || {
            let component = aot::metered(&self.engine, &self.metered).map_err(|e| format!("{e:#}"));
            let pre = component.and_then(|component| {
                Pre::new(self.engine.metered(), &component).map_err(|e| format!("{e:?}"))
            });
            pre.inspect_err(|reason| {
                tracing::error!(digest = %self.digest, reason, "no native code that counts instructions");
            })
            .ok()
        };
        self.suspects.get_or_init(load).as_ref()
    }
}

/// Why there are fewer outcomes than events.
fn full(stamper: Stamper<'_>) -> String {
    format!("its rows pass {} bytes", stamper.batch_bytes)
}
