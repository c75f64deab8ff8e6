//! The JSON records of a registry. Fields are only ever added, with a default.

use crate::{Digest, Generation, PublicKey, Schema, Target, aot::Parts};
use serde::{Deserialize, Serialize};
use std::fmt;
use time::OffsetDateTime;

/// What a module says of itself, as it was when it was published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModuleInfo {
    pub digest: Digest,
    pub name: String,
    pub version: String,
    pub event_types: Vec<String>,
    pub tables: Vec<TableInfo>,
    /// Size of the component.
    pub bytes: usize,
    #[serde(with = "time::serde::rfc3339")]
    pub published_at: OffsetDateTime,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableInfo {
    pub name: String,
    /// Name and ClickHouse type of each column, in the module's order.
    pub columns: Vec<(String, String)>,
}

impl ModuleInfo {
    pub(super) fn new(digest: Digest, schema: &Schema, bytes: usize, now: OffsetDateTime) -> Self {
        let table = |table: &crate::Table| TableInfo {
            name: table.name.to_string(),
            columns: table.columns.iter().map(|c| (c.name.clone(), c.column_type.to_string())).collect(),
        };
        Self {
            digest,
            name: schema.name.clone(),
            version: schema.version.clone(),
            event_types: schema.event_types.clone(),
            tables: schema.tables.iter().map(table).collect(),
            bytes,
            published_at: now,
        }
    }

    /// Whether the record says what the module does. The module's native code is signed; its record is not.
    pub fn is_of(&self, schema: &Schema) -> bool {
        *self == Self::new(self.digest.clone(), schema, self.bytes, self.published_at)
    }

    /// Where the module can be active.
    pub fn slot(&self) -> Slot {
        let mut tables: Vec<&str> = self.tables.iter().map(|table| table.name.as_str()).collect();
        tables.sort_unstable();
        Slot(tables.join("+"))
    }
}

/// What one transform at a time is active for: the tables that it fills, sorted and joined by `+`. Modules that fill the
/// same tables take each other's place; those of other tables are active beside them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Slot(String);

impl Slot {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The table that both fill, if there is one.
    pub(super) fn shared_table<'a>(&'a self, other: &Self) -> Option<&'a str> {
        self.0.split('+').find(|table| other.0.split('+').any(|theirs| theirs == *table))
    }
}

impl From<&str> for Slot {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Native code of a module for one engine, and who vouches for it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ArtifactInfo {
    pub(super) module: Digest,
    pub(super) engine: String,
    /// SHA-256 of the native code, and of the one that counts instructions.
    pub(super) artifact: Digest,
    pub(super) metered: Digest,
    pub(super) bytes: [usize; 2],
    #[serde(with = "time::serde::rfc3339")]
    pub(super) compiled_at: OffsetDateTime,
    /// For people: who is believed is told by the function's own keys.
    pub(super) signed_by: String,
    /// ed25519 over module, engine and both digests, in hex.
    pub(super) signature: String,
}

impl ArtifactInfo {
    pub(super) fn new(
        module: Digest,
        target: Target,
        (parts, bytes): (Parts, [usize; 2]),
        (signed_by, signature): (PublicKey, String),
        now: OffsetDateTime,
    ) -> Self {
        Self {
            module,
            engine: target.key.to_owned(),
            artifact: parts.fast,
            metered: parts.metered,
            bytes,
            compiled_at: now,
            signed_by: signed_by.to_string(),
            signature,
        }
    }

    pub(super) fn parts(&self) -> Parts {
        Parts { fast: self.artifact.clone(), metered: self.metered.clone() }
    }
}

/// One change of what is active, and all that is active after it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pointer {
    pub generation: Generation,
    pub change: Change,
    /// At most one a slot; none shares a table with another.
    pub active: Vec<ActiveTransform>,
}

impl Pointer {
    pub fn in_slot(&self, slot: &Slot) -> Option<&ActiveTransform> {
        self.active.iter().find(|active| active.slot == *slot)
    }

    /// The transforms that fill one of a slot's tables at least: what a module of this slot would stand in for.
    pub fn on_tables_of(&self, slot: &Slot) -> impl Iterator<Item = &ActiveTransform> {
        self.active.iter().filter(|active| active.slot.shared_table(slot).is_some())
    }
}

/// Who changed what, when and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    pub kind: ChangeKind,
    pub slot: Slot,
    pub by: String,
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChangeKind {
    Activate,
    RollBack,
    /// By a function, whose records the module rejected too often.
    AutoRollBack,
    /// Nothing is active in the slot any more.
    Deactivate,
}

/// A transform that is active.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActiveTransform {
    pub slot: Slot,
    pub digest: Digest,
    /// Name and version of the module, for people.
    pub name: String,
    pub version: String,
    /// Of the change that made it active; on each of its rows.
    pub generation: Generation,
    /// Who made it active.
    pub by: String,
    #[serde(with = "time::serde::rfc3339")]
    pub since: OffsetDateTime,
    /// What was active here before, and is again after a roll-back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Digest>,
    /// Rejected more than this, it is rolled back by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<RejectLimit>,
}

/// How much of its records a module may reject, by its own judgement or by trapping, right after its activation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RejectLimit {
    /// Of the records it was given, in percent: 0 to 100.
    pub percent: u32,
    /// Judged from so many records on,
    pub from_records: u64,
    /// and up to so many, in each process of the function.
    pub to_records: u64,
}

impl Default for RejectLimit {
    /// A twentieth, judged over the first 10,000 records.
    fn default() -> Self {
        Self { percent: 5, from_records: 100, to_records: 10_000 }
    }
}

/// What one process of the function did with one activation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Records given to the module; those of types that it doesn't want aren't.
    pub records: u64,
    pub rows: u64,
    pub skipped: u64,
    /// By the module, or by the host for what the module made of them.
    pub rejected: u64,
    /// Those of `rejected` on which the module trapped.
    pub trapped: u64,
    /// Time within the module and the host's checks.
    pub run_us: u64,
}

impl std::ops::AddAssign for Stats {
    fn add_assign(&mut self, other: Self) {
        self.records += other.records;
        self.rows += other.rows;
        self.skipped += other.skipped;
        self.rejected += other.rejected;
        self.trapped += other.trapped;
        self.run_us += other.run_us;
    }
}
