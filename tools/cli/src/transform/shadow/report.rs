//! What a candidate's run has shown: for machines, for people, and for the registry.

use super::{
    compare::{ColumnRows, Differences, Place, RowsExample, Sides, Turned},
    lineup::{Apart, Speed},
};
use crate::outbox::text::{count, moment, table};
use outflow_transform::{ActiveTransform, Digest, ModuleInfo, Slot};
use serde::Serialize;
use serde_json::Value;
use std::fmt::Write;
use time::OffsetDateTime;

/// The result; its keys are a contract.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) slot: Slot,
    pub(super) candidate: Named,
    /// What is active on the candidate's tables: none, one, or several where the candidate would take the place of several.
    pub(super) active: Vec<Named>,
    pub(super) topics: Vec<String>,
    #[serde(with = "time::serde::rfc3339")]
    pub(super) began_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    pub(super) ended_at: OffsetDateTime,
    pub(super) ended: Ended,
    /// In a line.
    pub(super) summary: String,
    #[serde(flatten)]
    pub(super) differences: Differences,
    pub(super) apart: Apart,
    pub(super) speed: Sides<Option<Speed>>,
    /// Time of the candidate by that of what is active.
    pub(super) ratio: Option<f64>,
}

/// A module, for people and for comparing.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Named {
    /// The tables whose rows are its own.
    pub(super) slot: Slot,
    pub(super) digest: Digest,
    pub(super) name: String,
    pub(super) version: String,
}

impl From<&ModuleInfo> for Named {
    fn from(info: &ModuleInfo) -> Self {
        let (name, version) = (info.name.clone(), info.version.clone());
        Self { slot: info.slot(), digest: info.digest.clone(), name, version }
    }
}

impl From<&ActiveTransform> for Named {
    fn from(active: &ActiveTransform) -> Self {
        let (name, version) = (active.name.clone(), active.version.clone());
        Self { slot: active.slot.clone(), digest: active.digest.clone(), name, version }
    }
}

/// Why it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Ended {
    /// As many as were wanted are compared.
    Records,
    /// Its time was over.
    Time,
    /// No record came for as long as it was to wait.
    Silence,
    /// Somebody stopped it.
    Interrupted,
}

impl Report {
    /// Records about which a module was asked.
    pub(super) fn asked(&self) -> u64 {
        let undecided = self.apart.undecided;
        self.differences.records.compared + undecided.active + undecided.candidate
    }

    /// Whether somebody has to look before the module is activated. A slower one is told, not judged: machines stall.
    pub(super) fn differs(&self) -> bool {
        self.differences.records.different > 0 || self.apart.undecided.candidate > 0
    }
}

#[expect(clippy::float_arithmetic, reason = "a ratio of times, for people")]
pub(super) fn ratio(speed: Sides<Option<Speed>>) -> Option<f64> {
    let (active, candidate) = (speed.active?.ns_per_record, speed.candidate?.ns_per_record);
    (active > 0).then(|| (candidate as f64 / active as f64 * 100.0).round() / 100.0)
}

/// `1,000 records, 12 differ: orders_analytics.order_band in 12 rows; rows → reject trap trap once`
pub(super) fn summary(differences: &Differences, apart: &Apart) -> String {
    /// Columns, and kinds of outcomes.
    const NAMED: usize = 3;
    let Differences { records, tables, columns, outcomes, .. } = differences;
    let mut parts = Vec::new();
    for ColumnRows { table, column, rows, .. } in columns.iter().take(NAMED) {
        parts.push(format!("{table}.{column} in {}", rows_of(*rows)));
    }
    if columns.len() > NAMED {
        parts.push(format!("{} more columns", columns.len() - NAMED));
    }
    for Turned { active, candidate, records, .. } in outcomes.iter().take(NAMED) {
        parts.push(format!("{active} → {candidate}: {}", count(*records)));
    }
    if outcomes.len() > NAMED {
        parts.push(format!("{} more kinds of outcomes", outcomes.len() - NAMED));
    }
    let (added, removed): (u64, u64) =
        (tables.iter().map(|table| table.added).sum(), tables.iter().map(|table| table.removed).sum());
    if added > 0 {
        parts.push(format!("{} added", rows_of(added)));
    }
    if removed > 0 {
        parts.push(format!("{} removed", rows_of(removed)));
    }
    if apart.undecided.candidate > 0 {
        parts.push(format!("{} not decided in time", count(apart.undecided.candidate)));
    }
    let compared = format!("{} record{}", count(records.compared), plural(records.compared));
    match parts.as_slice() {
        [] => format!("{compared}, no difference"),
        parts => format!("{compared}, {} differ: {}", count(records.different), parts.join("; ")),
    }
}

fn rows_of(number: u64) -> String {
    format!("{} row{}", count(number), plural(number))
}

fn plural(number: u64) -> &'static str {
    if number == 1 { "" } else { "s" }
}

/// For people.
pub(super) fn describe(report: &Report) -> String {
    let mut text = String::new();
    let put = |text: &mut String, line: String| writeln!(text, "{line}").expect("a string takes all");
    let Report { differences, apart, .. } = report;
    let tables = &differences.tables;
    if !tables.is_empty() {
        let mut rows = table(&["table", "active", "candidate", "same", "changed", "added", "removed"]);
        for t in tables {
            let counts = [t.active, t.candidate, t.same, t.changed, t.added, t.removed].map(count);
            rows.add_row([vec![t.table.clone()], counts.to_vec()].concat());
        }
        put(&mut text, rows.to_string());
    }
    for ColumnRows { table, column, rows, examples } in &differences.columns {
        put(&mut text, format!("{table}.{column}: {} differ", rows_of(*rows)));
        for example in examples {
            let (was, is) = (told(example.active.as_ref()), told(example.candidate.as_ref()));
            put(&mut text, format!("  {}: {was} → {is}", place(&example.place)));
        }
    }
    for t in tables.iter().filter(|table| !table.examples.is_empty()) {
        put(&mut text, format!("{}: other numbers of rows", t.table));
        for RowsExample { place: at, active, candidate } in &t.examples {
            put(&mut text, format!("  {}: {active} → {candidate}", place(at)));
        }
    }
    for Turned { active, candidate, records, examples } in &differences.outcomes {
        put(&mut text, format!("{active} → {candidate}: {} record{}", count(*records), plural(*records)));
        for example in examples {
            // A panic's message has several lines.
            let told = |told: &Option<String>| told.as_deref().unwrap_or("…").replace('\n', " ");
            let (was, is) = (told(&example.active), told(&example.candidate));
            put(&mut text, format!("  {}: {was} → {is}", place(&example.place)));
        }
    }
    for (side, rejects) in
        [("active", &differences.rejects.active), ("candidate", &differences.rejects.candidate)]
    {
        for rejected in rejects {
            let (stage, code, records) = (&rejected.stage, &rejected.code, count(rejected.records));
            put(&mut text, format!("rejected by the {side} side: {stage} {code}: {records}"));
        }
    }
    for (what, number) in [("of other types", apart.other_types), ("without an event", apart.unreadable)] {
        if number > 0 {
            put(&mut text, format!("records {what}: {}", count(number)));
        }
    }
    let undecided = [
        ("active", apart.undecided.active, &apart.undecided_because.active),
        ("candidate", apart.undecided.candidate, &apart.undecided_because.candidate),
    ];
    for (side, number, because) in undecided {
        if let Some(because) = because {
            put(&mut text, format!("not decided by the {side} side: {}, such as: {because}", count(number)));
        }
    }
    for (side, speed) in [("active", report.speed.active), ("candidate", report.speed.candidate)] {
        if let Some(Speed { ns_per_record, instructions_per_record }) = speed {
            let instructions = instructions_per_record.map_or("?".to_owned(), count);
            let line =
                format!("{side}: {} ns and {instructions} instructions a record", count(ns_per_record));
            put(&mut text, line);
        }
    }
    if let Some(ratio) = report.ratio {
        put(&mut text, format!("the candidate takes {ratio:.2} times the time"));
    }
    let silence = match report.ended {
        Ended::Silence => ", then no record came any more",
        Ended::Interrupted => ", then it was stopped",
        Ended::Records | Ended::Time => "",
    };
    let beside = match report.active.as_slice() {
        [] => "beside nothing".to_owned(),
        active => format!("beside {}", names(active)),
    };
    write!(text, "{beside}{silence}: {}", report.summary).expect("a string takes all");
    text
}

fn names(modules: &[Named]) -> String {
    let name = |Named { slot, digest, name, version }: &Named| {
        format!("{name} {version} ({}) in {slot}", digest.short())
    };
    modules.iter().map(name).collect::<Vec<_>>().join(", ")
}

fn place(place: &Place) -> String {
    format!("{} ({})", place.record, place.event_id)
}

fn told(value: Option<&Value>) -> String {
    value.map_or("absent".to_owned(), ToString::to_string)
}

/// When it ran, for whoever activates the module.
pub(super) fn at(report: &Value) -> String {
    let at = report["ended_at"].as_str().unwrap_or_default();
    OffsetDateTime::parse(at, &time::format_description::well_known::Rfc3339)
        .map_or_else(|_| at.to_owned(), moment)
}
