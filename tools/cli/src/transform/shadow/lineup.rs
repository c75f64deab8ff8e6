//! The candidate and what is active on its tables, in one real host: the same limits, the same batches, the same stamp.
//!
//! Blocks its thread for as long as the modules take.

use super::compare::{Comparison, Made, Sides, types};
use crate::transform::source;
use anyhow::Context;
use outflow_broker::tail::Arrived;
use outflow_transform::{
    ActiveTransform, Digest, Engine, Event, Generation, Limits, Module, ModuleInfo, Outcome, Registry, Stamp,
    Target,
};
use serde::Serialize;
use std::time::{Duration, Instant};

/// Both sides, and what was found by now.
pub(super) struct Lineup {
    active: Side,
    candidate: Side,
    pub(super) comparison: Comparison,
    pub(super) apart: Apart,
    /// Who runs first; in turns, so that a slow moment of the machine meets both.
    candidate_first: bool,
}

/// Records, and those of them that are not compared.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Apart {
    /// All that were read, those that are compared among them.
    pub(super) seen: u64,
    /// No module of either side asks for their type.
    pub(super) other_types: u64,
    /// No event is in them: the function puts them aside without asking a module.
    pub(super) unreadable: u64,
    /// A module did not come to its end with them in its time, which the function would leave to a retry.
    pub(super) undecided: Sides<u64>,
    /// Of the last one of these.
    pub(super) undecided_because: Sides<Option<String>>,
}

/// What modules took.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Speed {
    /// With the host's checks, and with reruns after traps.
    pub(super) ns_per_record: u64,
    /// Of the modules alone, over the first batch; the same on every machine. None where it did not come to its end.
    pub(super) instructions_per_record: Option<u64>,
}

impl Lineup {
    /// Loads the modules as the function would: signed native code from the registry.
    pub(super) async fn load(
        registry: &Registry,
        candidate: &ModuleInfo,
        active: &[ActiveTransform],
        with_values: bool,
    ) -> anyhow::Result<Self> {
        let engine = Engine::new(Limits::default())?;
        let load = async |digest: &Digest| {
            let loaded = async {
                let artifact = registry.artifact(digest, Target::THIS).await?;
                anyhow::Ok(Module::load(&engine, digest.clone(), &artifact)?)
            };
            loaded.await.with_context(|| format!("module {} can't be loaded", digest.short()))
        };
        let mut modules = Vec::new();
        for transform in active {
            modules.push(load(&transform.digest).await?);
        }
        let candidate = load(&candidate.digest).await?;
        let types = Sides {
            active: types(modules.iter().map(Module::schema)),
            candidate: types([candidate.schema()]),
        };
        Ok(Self {
            active: Side::new(modules),
            candidate: Side::new(vec![candidate]),
            comparison: Comparison::new(types, with_values),
            apart: Apart::default(),
            candidate_first: false,
        })
    }

    /// Runs both sides over a batch and compares what became of it. Leaves off once `until` has passed.
    pub(super) fn take(&mut self, batch: &[Arrived], until: Instant) {
        let mut events = Vec::with_capacity(batch.len());
        for arrived in batch {
            match source::record(arrived).event() {
                Ok(event) if self.active.wants(&event) || self.candidate.wants(&event) => events.push(event),
                Ok(_) => self.apart.other_types += 1,
                Err(_) => self.apart.unreadable += 1,
            }
        }
        self.apart.seen += batch.len() as u64;
        if events.is_empty() {
            return;
        }
        let (active, candidate) = if self.candidate_first {
            let candidate = self.candidate.run(&events, until);
            (self.active.run(&events, until), candidate)
        } else {
            (self.active.run(&events, until), self.candidate.run(&events, until))
        };
        self.candidate_first = !self.candidate_first;
        // Where one side left off, so does the comparison.
        for (event, (active, candidate)) in events.iter().zip(active.iter().zip(&candidate)) {
            match (active, candidate) {
                (Ok(active), Ok(candidate)) => self.comparison.take(event, active, candidate),
                _ => {
                    let Apart { undecided, undecided_because, .. } = &mut self.apart;
                    note(active, &mut undecided.active, &mut undecided_because.active);
                    note(candidate, &mut undecided.candidate, &mut undecided_because.candidate);
                }
            }
        }
    }

    /// Of a side that ran; None where nothing did.
    pub(super) fn speed(&self) -> Sides<Option<Speed>> {
        Sides { active: self.active.speed(), candidate: self.candidate.speed() }
    }
}

fn note(decided: &Result<Made, String>, count: &mut u64, because: &mut Option<String>) {
    if let Err(reason) = decided {
        *count += 1;
        *because = Some(reason.clone());
    }
}

/// Modules whose rows belong together.
struct Side {
    modules: Vec<Module>,
    /// Given to one of them at least.
    records: u64,
    busy: Duration,
    /// Outer None until a batch was run.
    instructions: Option<Option<u64>>,
}

impl Side {
    fn new(modules: Vec<Module>) -> Self {
        Self { modules, records: 0, busy: Duration::ZERO, instructions: None }
    }

    fn wants(&self, event: &Event<'_>) -> bool {
        self.modules.iter().any(|module| module.wants(event))
    }

    /// What became of each event, or why that could not be decided; fewer where `until` has passed.
    fn run(&mut self, events: &[Event<'_>], until: Instant) -> Vec<Result<Made, String>> {
        if self.records == 0
            && let Some(first) = events.iter().find(|event| self.wants(event))
        {
            // Neither side pays for being the first: code and memory come from the kernel now.
            self.modules.iter().for_each(|module| drop(module.run(&[*first], stamp())));
        }
        let mut made: Vec<Result<Made, String>> = events.iter().map(|_| Ok(Made::default())).collect();
        let began_at = Instant::now();
        for module in &self.modules {
            // Where one left off, the others may.
            let outcomes = outcomes(module, &events[..made.len()], until);
            made.truncate(outcomes.len());
            for (made, outcome) in made.iter_mut().zip(outcomes) {
                match (made.as_mut(), outcome) {
                    (Ok(made), Ok(outcome)) => made.take(outcome),
                    (Ok(_), Err(reason)) => *made = Err(reason),
                    (Err(_), _) => {}
                }
            }
        }
        self.busy += began_at.elapsed();
        let events = &events[..made.len()];
        let given = events.iter().filter(|event| self.wants(event)).count() as u64;
        if given > 0 && self.instructions.is_none() {
            let each = self.modules.iter().map(|module| module.instructions(events, stamp()));
            self.instructions = Some(each.sum::<Result<u64, String>>().ok().map(|sum| sum / given));
        }
        self.records += given;
        made
    }

    fn speed(&self) -> Option<Speed> {
        let ns = u64::try_from(self.busy.as_nanos()).unwrap_or(u64::MAX);
        let instructions_per_record = self.instructions.flatten();
        Some(Speed { ns_per_record: ns.checked_div(self.records)?, instructions_per_record })
    }
}

/// What a module makes of each event. What it leaves open is given to it again, as the function's next batch would; the
/// record at which it makes no way is passed over with the reason.
fn outcomes(module: &Module, events: &[Event<'_>], until: Instant) -> Vec<Result<Outcome, String>> {
    let mut outcomes = Vec::with_capacity(events.len());
    while outcomes.len() < events.len() {
        let ran = module.run(&events[outcomes.len()..], stamp());
        outcomes.extend(ran.outcomes.into_iter().map(Ok));
        let Some(unfinished) = ran.unfinished else { break };
        if unfinished.from == 0 {
            outcomes.push(Err(unfinished.reason));
        }
        if Instant::now() > until {
            break;
        }
    }
    outcomes
}

/// One for both sides and all batches.
fn stamp() -> Stamp {
    Stamp { generation: Generation::FIRST, transformed_at_us: 0 }
}
