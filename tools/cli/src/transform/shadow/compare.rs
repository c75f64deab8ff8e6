//! What two sides made of the same records, cell by cell: counts, and a few examples of each. Pure; what it keeps does not
//! grow with the records.
//!
//! Both sides are stamped alike (one generation, one time), so that of the host's columns the digest alone must differ; it
//! is left out.

use outflow_columns::{ColumnType, Kind};
use outflow_transform::{Event, Outcome, Rejection, Row, Schema, Stage};
use serde::Serialize;
use serde_json::{Value, value::RawValue};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

/// Of each kind of difference.
pub(super) const EXAMPLES: usize = 3;
/// Kinds of outcomes, and codes, that are told apart; a module can make up any number of them.
const KINDS: usize = 50;
/// What further ones are counted as.
const OTHER: &str = "other";
/// Characters of a value in an example, bytes of a code.
const VALUE_CHARS: usize = 240;
const CODE_BYTES: usize = 128;
/// Names the module, so it differs always.
const DIGEST: &str = "transform_digest";

/// What one side made of a record: one module, or several that are active on the tables in question.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Made {
    pub(super) rows: Vec<Row>,
    pub(super) rejections: Vec<Rejection>,
}

impl Made {
    pub(super) fn take(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Rows(rows) => self.rows.extend(rows),
            Outcome::Skip => {}
            Outcome::Reject(rejection) => self.rejections.push(rejection),
        }
    }

    /// `rows`, `skip`, or `reject`, stage and code; all of them that it is, where several modules did not agree.
    fn kind(&self) -> String {
        let rows = (!self.rows.is_empty()).then(|| "rows".to_owned());
        let rejects = self.rejects().into_iter().map(|(stage, code)| format!("reject {stage} {code}"));
        let kinds: Vec<String> = rows.into_iter().chain(rejects).collect();
        if kinds.is_empty() { "skip".to_owned() } else { kinds.join(", ") }
    }

    /// Stages and codes of its rejections, each once.
    fn rejects(&self) -> BTreeSet<(&'static str, &str)> {
        self.rejections.iter().map(|Rejection { stage, code, .. }| (stage.as_str(), short(code))).collect()
    }

    fn is_trapped(&self) -> bool {
        self.rejections.iter().any(|rejection| rejection.stage == Stage::Trap)
    }

    /// For an example of a changed outcome.
    fn told(&self) -> String {
        let rows = match self.rows.len() {
            0 if !self.rejections.is_empty() => None,
            1 => Some("1 row".to_owned()),
            rows => Some(format!("{rows} rows")),
        };
        let messages = self.rejections.iter().map(|rejection| rejection.message.clone());
        cut(&rows.into_iter().chain(messages).collect::<Vec<_>>().join("; "))
    }
}

/// Where a difference was seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Place {
    pub(super) event_id: String,
    /// topic/partition/offset
    pub(super) record: String,
}

impl Place {
    fn of(event: &Event<'_>) -> Self {
        let record = format!("{}/{}/{}", event.topic, event.partition, event.offset);
        Self { event_id: event.id.to_owned(), record }
    }
}

/// Records of which both sides have an outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Records {
    pub(super) compared: u64,
    pub(super) same: u64,
    pub(super) different: u64,
}

/// The rows of a table, paired in their order within each record.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct TableRows {
    pub(super) table: String,
    pub(super) active: u64,
    pub(super) candidate: u64,
    pub(super) same: u64,
    pub(super) changed: u64,
    /// The candidate's alone.
    pub(super) added: u64,
    /// The active side's alone.
    pub(super) removed: u64,
    /// Of records with more or fewer rows.
    pub(super) examples: Vec<RowsExample>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct RowsExample {
    #[serde(flatten)]
    pub(super) place: Place,
    /// Rows that the record became in this table.
    pub(super) active: u64,
    pub(super) candidate: u64,
}

/// A column in which rows differ.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct ColumnRows {
    pub(super) table: String,
    pub(super) column: String,
    /// Rows that differ in it.
    pub(super) rows: u64,
    pub(super) examples: Vec<CellExample>,
}

/// Values are absent where a side lacks the column, and where none are to be shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct CellExample {
    #[serde(flatten)]
    pub(super) place: Place,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) active: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) candidate: Option<Value>,
}

/// Records whose outcome is of another kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Turned {
    pub(super) active: String,
    pub(super) candidate: String,
    pub(super) records: u64,
    pub(super) examples: Vec<TurnedExample>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct TurnedExample {
    #[serde(flatten)]
    pub(super) place: Place,
    /// How many rows, or the rejection's message; absent where no values are to be shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) active: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) candidate: Option<String>,
}

/// Records that one side rejected alike.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Rejected {
    /// `module`, `row` or `trap`
    pub(super) stage: String,
    pub(super) code: String,
    pub(super) records: u64,
}

/// Something for the active side, and for the candidate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Sides<T> {
    pub(super) active: T,
    pub(super) candidate: T,
}

/// All that was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Differences {
    pub(super) records: Records,
    pub(super) tables: Vec<TableRows>,
    /// The one with the most rows first.
    pub(super) columns: Vec<ColumnRows>,
    pub(super) outcomes: Vec<Turned>,
    pub(super) rejects: Sides<Vec<Rejected>>,
    /// Records on which a side trapped.
    pub(super) traps: Sides<u64>,
}

/// A comparison that goes on.
#[derive(Debug)]
pub(super) struct Comparison {
    types: Sides<Types>,
    with_values: bool,
    records: Records,
    tables: BTreeMap<Arc<str>, TableRows>,
    columns: BTreeMap<(Arc<str>, String), ColumnRows>,
    outcomes: BTreeMap<(String, String), Turned>,
    rejects: Sides<BTreeMap<(String, String), u64>>,
    traps: Sides<u64>,
}

/// By table and column.
pub(super) type Types = HashMap<(Arc<str>, String), ColumnType>;

/// Of the tables of one side.
pub(super) fn types<'a>(schemas: impl IntoIterator<Item = &'a Schema>) -> Types {
    let tables = schemas.into_iter().flat_map(|schema| &schema.tables);
    let columns = tables.flat_map(|table| {
        table.columns.iter().map(|column| ((table.name.clone(), column.name.clone()), column.column_type))
    });
    columns.collect()
}

impl Comparison {
    /// Without `with_values`, examples tell places alone.
    pub(super) fn new(types: Sides<Types>, with_values: bool) -> Self {
        Self {
            types,
            with_values,
            records: Records::default(),
            tables: BTreeMap::new(),
            columns: BTreeMap::new(),
            outcomes: BTreeMap::new(),
            rejects: Sides::default(),
            traps: Sides::default(),
        }
    }

    pub(super) fn records(&self) -> Records {
        self.records
    }

    /// Compares what became of one record.
    pub(super) fn take(&mut self, event: &Event<'_>, active: &Made, candidate: &Made) {
        reject(&mut self.rejects.active, active);
        reject(&mut self.rejects.candidate, candidate);
        self.traps.active += u64::from(active.is_trapped());
        self.traps.candidate += u64::from(candidate.is_trapped());
        let turned = self.turned(event, active, candidate);
        let mut differs = turned;
        let both = active.rows.iter().chain(&candidate.rows);
        for table in both.map(|row| &row.table).collect::<BTreeSet<_>>() {
            differs |= self.table(event, table, active, candidate);
        }
        self.records.compared += 1;
        *(if differs { &mut self.records.different } else { &mut self.records.same }) += 1;
    }

    fn turned(&mut self, event: &Event<'_>, active: &Made, candidate: &Made) -> bool {
        let kinds = (active.kind(), candidate.kind());
        if kinds.0 == kinds.1 {
            return false;
        }
        let is_known = self.outcomes.contains_key(&kinds) || self.outcomes.len() < KINDS;
        let kinds = if is_known { kinds } else { (OTHER.to_owned(), OTHER.to_owned()) };
        let turned = self.outcomes.entry(kinds).or_insert_with_key(|(active, candidate)| {
            let (active, candidate) = (active.clone(), candidate.clone());
            Turned { active, candidate, records: 0, examples: Vec::new() }
        });
        turned.records += 1;
        if turned.examples.len() < EXAMPLES {
            let told = |made: &Made| self.with_values.then(|| made.told());
            let (active, candidate) = (told(active), told(candidate));
            turned.examples.push(TurnedExample { place: Place::of(event), active, candidate });
        }
        true
    }

    fn table(&mut self, event: &Event<'_>, table: &Arc<str>, active: &Made, candidate: &Made) -> bool {
        let rows = |made: &Made| -> Vec<Cells> {
            made.rows.iter().filter(|row| row.table == *table).map(|row| cells(&row.json)).collect()
        };
        let (active, candidate) = (rows(active), rows(candidate));
        let (mut same, mut changed) = (0, 0);
        for (active, candidate) in active.iter().zip(&candidate) {
            let differs = self.row(event, table, active, candidate);
            *(if differs { &mut changed } else { &mut same }) += 1;
        }
        let counts = self
            .tables
            .entry(table.clone())
            .or_insert_with(|| TableRows { table: table.as_ref().to_owned(), ..TableRows::default() });
        let (active, candidate) = (active.len() as u64, candidate.len() as u64);
        counts.active += active;
        counts.candidate += candidate;
        counts.same += same;
        counts.changed += changed;
        counts.added += candidate.saturating_sub(active);
        counts.removed += active.saturating_sub(candidate);
        if active != candidate && counts.examples.len() < EXAMPLES {
            counts.examples.push(RowsExample { place: Place::of(event), active, candidate });
        }
        changed > 0 || active != candidate
    }

    fn row(&mut self, event: &Event<'_>, table: &Arc<str>, active: &Cells, candidate: &Cells) -> bool {
        let mut differs = false;
        for column in active.keys().chain(candidate.keys()).collect::<BTreeSet<_>>() {
            if column == DIGEST {
                continue;
            }
            let [was, is] = [active, candidate].map(|row| row.get(column).map(|cell| &**cell));
            let key = (table.clone(), column.clone());
            let [from, to] = [(&self.types.active, was), (&self.types.candidate, is)].map(|(types, cell)| {
                let column_type = types.get(&key);
                cell.map(|cell| canonical(column_type.map(|found| found.kind()), cell))
            });
            if from == to {
                continue;
            }
            differs = true;
            let found = self.columns.entry(key).or_insert_with_key(|(table, column)| ColumnRows {
                table: table.as_ref().to_owned(),
                column: column.clone(),
                rows: 0,
                examples: Vec::new(),
            });
            found.rows += 1;
            if found.examples.len() < EXAMPLES {
                let shown = |cell: Option<&RawValue>| cell.filter(|_| self.with_values).map(value);
                let (active, candidate) = (shown(was), shown(is));
                found.examples.push(CellExample { place: Place::of(event), active, candidate });
            }
        }
        differs
    }

    /// What was found by now.
    pub(super) fn differences(&self) -> Differences {
        let mut columns: Vec<ColumnRows> = self.columns.values().cloned().collect();
        columns.sort_by_key(|column| std::cmp::Reverse(column.rows));
        let mut outcomes: Vec<Turned> = self.outcomes.values().cloned().collect();
        outcomes.sort_by_key(|turned| std::cmp::Reverse(turned.records));
        let rejects = |of: &BTreeMap<(String, String), u64>| {
            let rejected = |((stage, code), records): (&(String, String), &u64)| Rejected {
                stage: stage.clone(),
                code: code.clone(),
                records: *records,
            };
            let mut rejects: Vec<Rejected> = of.iter().map(rejected).collect();
            rejects.sort_by_key(|rejected| std::cmp::Reverse(rejected.records));
            rejects
        };
        Differences {
            records: self.records,
            tables: self.tables.values().cloned().collect(),
            columns,
            outcomes,
            rejects: Sides {
                active: rejects(&self.rejects.active),
                candidate: rejects(&self.rejects.candidate),
            },
            traps: self.traps,
        }
    }
}

fn reject(rejects: &mut BTreeMap<(String, String), u64>, made: &Made) {
    for (stage, code) in made.rejects() {
        let key = (stage.to_owned(), code.to_owned());
        let is_known = rejects.contains_key(&key) || rejects.len() < KINDS;
        let key = if is_known { key } else { (OTHER.to_owned(), OTHER.to_owned()) };
        *rejects.entry(key).or_default() += 1;
    }
}

/// A row's cells as the host wrote them, by column.
type Cells = BTreeMap<String, Box<RawValue>>;

fn cells(json: &[u8]) -> Cells {
    serde_json::from_slice(json).expect("a row of the host is a JSON object")
}

/// What a cell says, whatever way its type writes it.
#[derive(Debug, PartialEq, Eq)]
enum Canonical {
    Null,
    /// Without zeros that say nothing: 5, "5" and "5.00" are one number.
    Number(String),
    /// Without zeros at the end of the second.
    Time(String),
    Text(String),
    /// A boolean, or a mark of the host.
    Plain(String),
}

fn canonical(kind: Option<Kind>, cell: &RawValue) -> Canonical {
    if cell.get() == "null" {
        return Canonical::Null;
    }
    let text = serde_json::from_str::<String>(cell.get()).unwrap_or_else(|_| cell.get().to_owned());
    match kind {
        Some(Kind::Int(_) | Kind::UInt(_) | Kind::Decimal { .. }) => Canonical::Number(number(&text)),
        Some(Kind::DateTime64(_)) => Canonical::Time(without_zeros(&text).to_owned()),
        Some(Kind::Uuid) => Canonical::Text(text.to_ascii_lowercase()),
        Some(Kind::String) => Canonical::Text(text),
        Some(Kind::Bool) | None => Canonical::Plain(text),
    }
}

fn number(text: &str) -> String {
    let short = without_zeros(text);
    if short == "-0" { "0".to_owned() } else { short.to_owned() }
}

/// Zeros behind a point, and the point where nothing else follows it.
fn without_zeros(text: &str) -> &str {
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { text }
}

/// A cell for an example.
fn value(cell: &RawValue) -> Value {
    match serde_json::from_str(cell.get()).expect("a cell of the host is JSON") {
        Value::String(text) => Value::String(cut(&text)),
        other => other,
    }
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(VALUE_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

fn short(code: &str) -> &str {
    &code[..code.floor_char_boundary(CODE_BYTES)]
}

#[cfg(test)]
mod tests;
