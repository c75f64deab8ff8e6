//! A loaded module, and how a batch goes through it: one call for all; after a trap, record by record, so
//! that only the record that traps is rejected.

use crate::{
    Artifact, Batch, Digest, Engine, Event, Outcome, Rejection, Schema, SchemaError, Stage, Stamp,
    Unfinished, aot,
    bindings::{Plugin, PluginPre, outflow::transform::types as wire},
    guest::{self, Failed, Guest, State, cut},
    row::Stamper,
};
use std::time::Instant;
use wasmtime::component::{HasSelf, Linker};

/// A module that passed its checks.
pub struct Module {
    engine: Engine,
    pre: PluginPre<State>,
    schema: Schema,
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

impl Module {
    /// Loads native code and checks imports, exports and what `describe` says.
    pub fn load(engine: &Engine, digest: Digest, artifact: &Artifact) -> Result<Self, LoadError> {
        let component = aot::component(engine, artifact)
            .map_err(|e| LoadError::Deserialize { reason: format!("{e:#}") })?;
        let mut linker = Linker::<State>::new(engine.wasmtime());
        let imports = |e: wasmtime::Error| LoadError::Imports { reason: format!("{e:#}") };
        Plugin::add_to_linker::<_, HasSelf<_>>(&mut linker, |state| state).map_err(imports)?;
        let pre = linker.instantiate_pre(&component).map_err(imports)?;
        let pre = PluginPre::new(pre).map_err(|e| LoadError::Exports { reason: format!("{e:#}") })?;
        let described = Guest::new(engine, &pre, digest.short()).and_then(Guest::describe);
        let descriptor = described.map_err(|failed| LoadError::Describe {
            reason: match failed {
                Failed::Deadline => "its deadline passed".to_owned(),
                Failed::Trap(reason) | Failed::Instance(reason) => reason,
            },
        })?;
        let schema = Schema::check(descriptor).map_err(LoadError::Schema)?;
        Ok(Self { engine: engine.clone(), pre, schema, digest })
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
    pub fn run(&self, events: &[Event], stamp: Stamp) -> Batch {
        let row_bytes = self.engine.limits().row_bytes;
        let stamper = Stamper { schema: &self.schema, digest: &self.digest, stamp, row_bytes };
        let wanted: Vec<&Event> = events.iter().filter(|event| self.wants(event)).collect();
        let (answers, unfinished) = self.answers(&wanted);
        let mut answers = answers.into_iter();
        let mut outcomes = Vec::with_capacity(events.len());
        for event in events {
            if !self.wants(event) {
                outcomes.push(Outcome::Skip);
                continue;
            }
            let Some(answer) = answers.next() else { break };
            outcomes.push(self.outcome(&stamper, event, answer));
        }
        let from = outcomes.len();
        Batch { outcomes, unfinished: unfinished.map(|reason| Unfinished { from, reason }) }
    }

    fn wants(&self, event: &Event) -> bool {
        self.schema.event_types.contains(&event.event_type)
    }

    /// An answer an event, or fewer with the reason why the rest has none.
    fn answers(&self, events: &[&Event]) -> (Vec<Answer>, Option<String>) {
        if events.is_empty() {
            return (Vec::new(), None);
        }
        let headers: Vec<Vec<wire::Header<'_>>> = events.iter().map(|event| guest::headers(event)).collect();
        let batch: Vec<wire::Event<'_>> =
            events.iter().zip(&headers).map(|(event, headers)| guest::event(event, headers)).collect();
        match self.call(&batch, self.engine.limits().batch_deadline) {
            Ok(outcomes) if outcomes.len() == batch.len() => {
                (outcomes.into_iter().map(Answer::Outcome).collect(), None)
            }
            Ok(outcomes) => {
                let (expected, found) = (batch.len(), outcomes.len());
                tracing::warn!(digest = %self.digest, expected, found, "wrong number of outcomes, rerun by record");
                self.rerun(&batch)
            }
            Err(Failed::Instance(reason)) => (Vec::new(), Some(format!("no instance: {reason}"))),
            Err(failed) => {
                tracing::warn!(digest = %self.digest, records = batch.len(), ?failed, "batch failed, rerun by record");
                self.rerun(&batch)
            }
        }
    }

    /// Each record alone, in an instance of its own. Stops at the first that can't be decided now: order
    /// within a partition would break if those behind it went on.
    fn rerun(&self, batch: &[wire::Event<'_>]) -> (Vec<Answer>, Option<String>) {
        let limits = self.engine.limits();
        let started = Instant::now();
        let mut answers = Vec::with_capacity(batch.len());
        for event in batch {
            if started.elapsed() > limits.rerun_budget {
                return (answers, Some("the time for a rerun by record is used up".to_owned()));
            }
            let answer = match self.call(std::slice::from_ref(event), limits.record_deadline) {
                Ok(mut outcomes) => match (outcomes.pop(), outcomes.len()) {
                    (Some(outcome), 0) => Answer::Outcome(outcome),
                    (None, _) => Answer::WrongCount(0),
                    (Some(_), more) => Answer::WrongCount(more + 1),
                },
                Err(Failed::Trap(reason)) => Answer::Trap(reason),
                Err(Failed::Deadline) => {
                    let reason = format!("its deadline of {:?} passed", limits.record_deadline);
                    return (answers, Some(reason));
                }
                Err(Failed::Instance(reason)) => return (answers, Some(format!("no instance: {reason}"))),
            };
            answers.push(answer);
        }
        (answers, None)
    }

    fn call(
        &self,
        batch: &[wire::Event<'_>],
        deadline: std::time::Duration,
    ) -> Result<Vec<wire::Outcome>, Failed> {
        Guest::new(&self.engine, &self.pre, &self.schema.name)?.transform(batch, deadline)
    }

    fn outcome(&self, stamper: &Stamper<'_>, event: &Event, answer: Answer) -> Outcome {
        let limits = self.engine.limits();
        let rejected = |stage, code: &str, message: &str| {
            let cut = |text| cut(text, limits.message_bytes).to_owned();
            Outcome::Reject(Rejection { stage, code: cut(code), message: cut(message) })
        };
        match answer {
            Answer::Trap(reason) => rejected(Stage::Trap, "trap", &reason),
            Answer::WrongCount(found) => {
                rejected(Stage::Trap, "wrong_outcome_count", &format!("{found} outcomes for one event"))
            }
            Answer::Outcome(wire::Outcome::Skip) => Outcome::Skip,
            Answer::Outcome(wire::Outcome::Reject(failure)) => {
                rejected(Stage::Module, &failure.code, &failure.message)
            }
            Answer::Outcome(wire::Outcome::Rows(rows)) if rows.len() > limits.rows_per_record => {
                let message = format!("{} rows, at most {} are possible", rows.len(), limits.rows_per_record);
                rejected(Stage::Row, "too_many_rows", &message)
            }
            Answer::Outcome(wire::Outcome::Rows(rows)) => match stamper.rows(event, &rows) {
                Ok(rows) => Outcome::Rows(rows),
                Err(rejection) => Outcome::Reject(rejection),
            },
        }
    }
}

/// What the module made of one event.
enum Answer {
    Outcome(wire::Outcome),
    Trap(String),
    WrongCount(usize),
}
