//! What a relay has read, has on its way and has confirmed, and what follows from each thing that happens. No I/O.
//!
//! The log is read in steps. A step is over when each of its events is confirmed or parked, and the position moves over
//! steps in their order, so nothing that is undecided is ever passed.

use crate::{
    dispatch::{ByKey, Dispatch, Key, Keyring, Task},
    event::OutboxEvent,
    failures::{Attempt, FailureChanges, Place},
    gaps::{Gap, Gaps, IdStep, StepWatch, StoredGaps},
    log::{self, Fetched, Page, Progress},
    settings::RelaySettings,
};
use std::{collections::VecDeque, mem};
use time::PrimitiveDateTime;

/// Steps that may be open: their events are bounded in bytes, this bounds what is kept beside those.
const MOST_STEPS: usize = 64;
/// Bytes of events to park after which no further step is added to a move: they are copied within the time that it has.
const PARKED_BYTES_A_MOVE: usize = 1 << 20;

/// MySQL holds each row that has appeared in a gap against one range after the other: so many comparisons take a second.
const MOST_COMPARISONS: usize = 100_000_000;

/// Events that are parked in one move, but for those of a step more.
const PARKED_A_MOVE: usize = 1_000;

/// The cause of a row that is no event that can be published.
pub(crate) const ROW_INVALID: &str = "row_invalid";

/// One page on its way.
#[derive(Debug)]
struct Step {
    /// Where the position is once it is over; None where it only filled gaps.
    end: Option<(u64, String)>,
    /// Ids that have appeared in gaps, and the step to which the rest of the gap is cut.
    filled: Vec<(u64, IdStep)>,
    new_gaps: Vec<Gap>,
    /// Events that are neither confirmed nor parked.
    open: usize,
    failures: FailureChanges,
}

/// What a page brought.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Taken {
    pub(crate) events: usize,
    /// Rows that are no event that can be published: dead from the start.
    pub(crate) invalid: u64,
    /// The page would have opened more gaps than the bound allows, and was cut before that; or so many are open that it
    /// did not even ask for what lies behind them.
    pub(crate) at_bound: bool,
}

#[derive(Debug)]
pub(crate) struct Flow {
    keyring: Keyring,
    pub(crate) dispatch: Dispatch,
    /// Parked aggregates, and how many of their rows are not written yet.
    parked: ByKey<usize>,
    /// Read up to here.
    cursor: u64,
    /// Gaps as of what has been read.
    open: Gaps,
    step: StepWatch,
    /// Whether an id off the step was told of.
    told_of_step: bool,
    steps: VecDeque<Step>,
    first_step: u64,
    /// Of events that are in memory.
    bytes: usize,
    /// About what a row takes: rises with one page of large rows, and falls by half with each page of small ones.
    row_bytes: usize,
    /// Gaps as of what is over.
    confirmed: StoredGaps,
    position: u64,
    moved_to: u64,
    /// The event at the position, and whether a checkpoint has noted it.
    last_event: Option<String>,
    failures: FailureChanges,
}

impl Flow {
    pub(crate) fn new(position: u64, gaps: Vec<Gap>, step: StepWatch) -> Self {
        let confirmed = StoredGaps::load(gaps);
        Self {
            keyring: Keyring::default(),
            dispatch: Dispatch::default(),
            parked: ByKey::default(),
            cursor: position,
            open: confirmed.gaps().clone(),
            step,
            told_of_step: false,
            steps: VecDeque::new(),
            first_step: 0,
            bytes: 0,
            row_bytes: 1_024,
            confirmed,
            position,
            moved_to: position,
            last_event: None,
            failures: FailureChanges::default(),
        }
    }

    pub(crate) fn park_all(&mut self, aggregates: Vec<(String, String)>) {
        for (aggregate_type, aggregate_id) in aggregates {
            self.parked.entry(self.keyring.key(&aggregate_type, &aggregate_id)).or_default();
        }
    }

    pub(crate) fn parked(&self) -> usize {
        self.parked.len()
    }

    pub(crate) fn cursor(&self) -> u64 {
        self.cursor
    }

    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    pub(crate) fn open_gaps(&self) -> &Gaps {
        &self.open
    }

    pub(crate) fn confirmed_gaps(&self) -> &Gaps {
        self.confirmed.gaps()
    }

    /// Rows and bytes of the next page; None while enough is in memory.
    pub(crate) fn next_page(&self, settings: &RelaySettings) -> Option<(usize, usize)> {
        if self.bytes + settings.batch_bytes > settings.in_flight_bytes && self.bytes > 0
            || self.steps.len() >= MOST_STEPS
        {
            return None;
        }
        // With many gaps a page is as large, so that a row pays for one look into a gap: up to so many rows, so many
        // comparisons and so many bytes, and not where the page may be parked as a whole.
        let most = if self.parked.len() < PARKED_A_MOVE { 10_000 } else { PARKED_A_MOVE };
        let rows = settings.batch_rows.max(self.open.len().min(most));
        let rows = rows.min(MOST_COMPARISONS / self.open.len().clamp(1, log::MOST_ASKED));
        Some((rows.min(settings.batch_bytes / self.row_bytes + 1), settings.batch_bytes))
    }

    /// Takes in what was read: gaps it fills, gaps it opens, events to send, events to park.
    pub(crate) fn take_page(&mut self, page: Page, seen_at: PrimitiveDateTime, max_gaps: usize) -> Taken {
        let mut taken = Taken { at_bound: self.open.len() > log::MOST_ASKED, ..Taken::default() };
        let step = self.step.judge(page.rows.iter().map(|row| row.event.id));
        let (mut rows, mut behind): (Vec<Fetched>, Vec<Fetched>) = (Vec::new(), Vec::new());
        let mut filled = Vec::new();
        for row in page.rows {
            let id = row.event.id;
            if id > self.cursor {
                behind.push(row);
            } else if let Some(gap) = self.open.around(id) {
                let step = self.step.of_gap(step, gap);
                self.open.fill(id, step);
                filled.push((id, step));
                rows.push(row);
            }
        }
        let mut new_gaps = step.gaps_within(self.cursor, behind.iter().map(|row| row.event.id), seen_at);
        let room = max_gaps.saturating_sub(self.open.len());
        if let Some(beyond) = new_gaps.get(room) {
            let bound = beyond.first;
            behind.retain(|row| row.event.id < bound);
            new_gaps.truncate(room);
            taken.at_bound = true;
        }
        new_gaps.iter().for_each(|gap| self.open.insert(*gap));
        let end = behind.last().map(|row| (row.event.id, row.event.event_id.clone()));
        if let Some((id, _)) = &end {
            self.cursor = *id;
        }
        rows.append(&mut behind);
        if let Some(id) = self.step.see(rows.iter().map(|row| row.event.id))
            && !mem::replace(&mut self.told_of_step, true)
        {
            tracing::warn!(
                id,
                "an id lies off the server's auto_increment step: every missing id counts as a gap for the next {} rows",
                StepWatch::ENOUGH
            );
        }
        taken.events = rows.len();
        if rows.is_empty() {
            return taken;
        }
        let number = self.first_step + self.steps.len() as u64;
        let failures = FailureChanges::default();
        self.steps.push_back(Step { end, filled, new_gaps, open: rows.len(), failures });
        let bytes: usize = rows.iter().map(|row| row.event.bytes()).sum();
        self.bytes += bytes;
        self.row_bytes = (bytes / rows.len()).max(self.row_bytes / 2).max(1);
        for Fetched { event, fault } in rows {
            let key = self.keyring.key(&event.aggregate_type, &event.aggregate_id);
            let task = Task { step: number, key, event };
            if self.parked.contains_key(&key) {
                self.wait(task);
            } else if let Some(error) = fault {
                // Behind what is on its way of its aggregate it has nothing to wait for: it never goes out.
                tracing::warn!(
                    event_id = task.event.event_id,
                    error,
                    "row is no event, its aggregate is parked"
                );
                taken.invalid += 1;
                self.refuse(&task, Attempt { cause: ROW_INVALID, error, pause: None });
            } else {
                self.dispatch.add(task);
            }
        }
        taken
    }

    /// The event is through.
    pub(crate) fn confirm(&mut self, task: &Task) {
        self.dispatch.settled(task.key);
        self.settle(task, |_| {});
    }

    /// The event was refused for its own sake: its aggregate is parked, and with it what follows.
    pub(crate) fn park(&mut self, task: &Task, attempt: Attempt) {
        let behind = self.dispatch.refused(task.key);
        self.refuse(task, attempt);
        behind.into_iter().for_each(|task| self.wait(task));
    }

    fn refuse(&mut self, task: &Task, attempt: Attempt) {
        *self.parked.entry(task.key).or_default() += 1;
        let place = place(task.key, &task.event);
        self.settle(task, |failures| {
            failures.bytes += task.event.bytes();
            failures.refused.push((place, attempt));
        });
    }

    fn wait(&mut self, task: Task) {
        *self.parked.entry(task.key).or_default() += 1;
        let place = place(task.key, &task.event);
        self.settle(&task, |failures| {
            failures.bytes += task.event.bytes();
            failures.waiting.push(place);
        });
    }

    fn settle(&mut self, task: &Task, note: impl FnOnce(&mut FailureChanges)) {
        self.bytes -= task.event.bytes();
        let index = usize::try_from(task.step - self.first_step).expect("steps are few");
        let step = &mut self.steps[index];
        step.open -= 1;
        note(&mut step.failures);
    }

    /// A parked event's key and place.
    pub(crate) fn place(&self, event: &OutboxEvent) -> Place {
        place(self.keyring.key(&event.aggregate_type, &event.aggregate_id), event)
    }

    /// What became of parked events, for the next move.
    pub(crate) fn note(&mut self, changes: FailureChanges) {
        self.failures.append(changes);
    }

    /// The gaps are dead, wherever they have not changed meanwhile. Returns how many.
    pub(crate) fn bury(&mut self, dead: &[Gap]) -> usize {
        dead.iter().filter(|gap| self.open.remove(gap) && self.confirmed.remove(gap)).count()
    }

    /// Moves over the steps that are over; true where there is something to write. Those that one move cannot carry are
    /// left for the next one.
    pub(crate) fn advance(&mut self) -> bool {
        let fits = |parks: usize, noted: usize| parks == 0 || noted < PARKED_BYTES_A_MOVE;
        while self.failures.refused.len() + self.failures.waiting.len() < PARKED_A_MOVE
            && let Some(step) = self
                .steps
                .pop_front_if(|step| step.open == 0 && fits(step.failures.bytes, self.failures.bytes))
        {
            self.first_step += 1;
            step.filled.into_iter().for_each(|(id, step)| self.confirmed.fill(id, step));
            step.new_gaps.into_iter().for_each(|gap| self.confirmed.insert(gap));
            self.failures.append(step.failures);
            if let Some((id, event_id)) = step.end {
                self.position = id;
                self.last_event = Some(event_id);
            }
        }
        self.has_progress()
    }

    fn has_progress(&self) -> bool {
        self.position != self.moved_to || !self.failures.is_empty() || self.confirmed.is_dirty()
    }

    /// Nothing that was read will be read again, once what was taken to be written is.
    pub(crate) fn is_all_moved(&self) -> bool {
        self.steps.is_empty() && !self.has_progress()
    }

    /// What to write now. The caller writes it, or gives the whole flow up.
    pub(crate) fn take_progress(&mut self, checkpoint: bool) -> Progress {
        self.moved_to = self.position;
        Progress {
            position: self.position,
            gaps: self.confirmed.take_changes(),
            failures: mem::take(&mut self.failures),
            checkpoint: if checkpoint { self.last_event.take() } else { None },
        }
    }

    /// The position has moved to an event that no checkpoint has noted.
    pub(crate) fn wants_checkpoint(&self) -> bool {
        self.last_event.is_some()
    }

    /// The progress was written; `free` are the aggregates of which no row is left.
    pub(crate) fn written(&mut self, failures: &FailureChanges, free: &[Key]) {
        for place in failures.refused.iter().map(|(place, _)| place).chain(&failures.waiting) {
            if let Some(unwritten) = self.parked.get_mut(&place.key) {
                *unwritten = unwritten.saturating_sub(1);
            }
        }
        for key in free {
            if self.parked.get(key) == Some(&0) {
                self.parked.remove(key);
            }
        }
    }
}

fn place(key: Key, event: &OutboxEvent) -> Place {
    Place {
        id: event.id,
        key,
        aggregate_type: event.aggregate_type.clone(),
        aggregate_id: event.aggregate_id.clone(),
    }
}

#[cfg(test)]
mod tests;
