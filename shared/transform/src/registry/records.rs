//! The JSON records of a registry. Fields are only ever added, with a default.

use crate::{Artifact, Digest, ENGINE_KEY, Generation, Schema};
use serde::{Deserialize, Serialize};
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
}

/// Native code of a module for one engine. A signature over all three is to stand here.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ArtifactInfo {
    pub(super) module: Digest,
    pub(super) engine: String,
    /// SHA-256 of the native code.
    pub(super) artifact: Digest,
    pub(super) bytes: usize,
    #[serde(with = "time::serde::rfc3339")]
    pub(super) compiled_at: OffsetDateTime,
}

impl ArtifactInfo {
    pub(super) fn new(module: Digest, artifact: &Artifact, now: OffsetDateTime) -> Self {
        Self {
            module,
            engine: ENGINE_KEY.to_owned(),
            artifact: artifact.digest().clone(),
            bytes: artifact.bytes().len(),
            compiled_at: now,
        }
    }
}

/// One activation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pointer {
    pub generation: Generation,
    pub digest: Digest,
    /// Name and version of the module, for people.
    pub name: String,
    pub version: String,
    pub kind: PointerKind,
    /// Who activated it.
    pub by: String,
    #[serde(with = "time::serde::rfc3339")]
    pub activated_at: OffsetDateTime,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PointerKind {
    Activate,
    RollBack,
}

impl Pointer {
    pub(super) fn new(
        generation: Generation,
        info: &ModuleInfo,
        by: &str,
        now: OffsetDateTime,
        kind: PointerKind,
    ) -> Self {
        Self {
            generation,
            digest: info.digest.clone(),
            name: info.name.clone(),
            version: info.version.clone(),
            kind,
            by: by.to_owned(),
            activated_at: now,
        }
    }
}
