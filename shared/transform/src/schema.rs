//! What a module says of itself, checked: name, event types, tables and their columns.

use crate::{bindings::typed::outflow::transform::types::Descriptor, cells::ColumnType};
use std::sync::Arc;

/// Columns that the host stamps, and those that the pipe behind it adds. A module decides what a row says,
/// not which row wins, so one that declares any of them is refused.
pub const HOST_COLUMNS: [&str; 9] = [
    "version",
    "is_deleted",
    "event_id",
    "transform_digest",
    "occurred_at",
    "relayed_at",
    "transformed_at",
    "loaded_at",
    "is_canary",
];

/// Names that end up in topics and in SQL: short and plain.
const MAX_NAME: usize = 64;
/// More than any table here needs; a bound on what `describe` may hand over.
const MAX_COLUMNS: usize = 256;
const MAX_TABLES: usize = 16;

/// A module's descriptor, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schema {
    pub name: String,
    pub version: String,
    /// Events of other types aren't sent to the module.
    pub event_types: Vec<String>,
    pub tables: Vec<Table>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    pub name: Arc<str>,
    /// The module's columns, in the order of its values; the host's come behind them.
    pub columns: Vec<Column>,
    /// What stands before each column's value in a row's JSON.
    pub(crate) keys: Vec<Box<[u8]>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    pub name: String,
    pub column_type: ColumnType,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SchemaError {
    #[error("the module has no {0}")]
    Missing(&'static str),
    #[error("'{0}' is no name for a table or a column: lower-case letters, digits and _ are, at most 64")]
    Name(String),
    #[error("'{0}' is declared twice")]
    Twice(String),
    #[error("column {table}.{column} is stamped by the host: a module can't declare it")]
    HostColumn { table: String, column: String },
    #[error("column {table}.{column}: {reason}")]
    Type { table: String, column: String, reason: String },
    #[error("{found} {what}, at most {limit} are possible")]
    TooMany { what: &'static str, found: usize, limit: usize },
}

impl Schema {
    pub(crate) fn check(descriptor: Descriptor) -> Result<Self, SchemaError> {
        let Descriptor { name, version, event_types, tables } = descriptor;
        for (what, missing) in [
            ("name", name.is_empty()),
            ("version", version.is_empty()),
            ("event types", event_types.is_empty()),
            ("tables", tables.is_empty()),
        ] {
            if missing {
                return Err(SchemaError::Missing(what));
            }
        }
        at_most("tables", tables.len(), MAX_TABLES)?;
        unique(tables.iter().map(|table| table.name.as_str()))?;
        let tables = tables
            .into_iter()
            .map(|table| {
                at_most("columns", table.columns.len(), MAX_COLUMNS)?;
                if table.columns.is_empty() {
                    return Err(SchemaError::Missing("columns"));
                }
                unique(table.columns.iter().map(|column| column.name.as_str()))?;
                let columns = table.columns.into_iter().map(|c| column(&table.name, c.name, &c.ch_type));
                let columns: Vec<Column> = columns.collect::<Result<_, _>>()?;
                // Names were checked to be plain, so nothing needs escaping.
                let key = |(at, column): (usize, &Column)| {
                    format!("{}\"{}\":", if at == 0 { '{' } else { ',' }, column.name).into_bytes().into()
                };
                let keys = columns.iter().enumerate().map(key).collect();
                Ok(Table { columns, keys, name: table.name.into() })
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { name, version, event_types, tables })
    }
}

fn column(table: &str, column: String, declared: &str) -> Result<Column, SchemaError> {
    if HOST_COLUMNS.contains(&column.as_str()) {
        return Err(SchemaError::HostColumn { table: table.to_owned(), column });
    }
    match declared.parse() {
        Ok(column_type) => Ok(Column { name: column, column_type }),
        Err(e) => {
            let reason = e.to_string();
            Err(SchemaError::Type { table: table.to_owned(), column, reason })
        }
    }
}

fn at_most(what: &'static str, found: usize, limit: usize) -> Result<(), SchemaError> {
    if found > limit { Err(SchemaError::TooMany { what, found, limit }) } else { Ok(()) }
}

fn unique<'a>(names: impl Iterator<Item = &'a str>) -> Result<(), SchemaError> {
    let mut seen = std::collections::HashSet::new();
    for name in names {
        let plain = name.len() <= MAX_NAME
            && name.starts_with(|c: char| c.is_ascii_lowercase())
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
        if !plain {
            return Err(SchemaError::Name(name.chars().take(MAX_NAME).collect()));
        }
        if !seen.insert(name) {
            return Err(SchemaError::Twice(name.to_owned()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bindings::typed::outflow::transform::types as wire;

    /// A module with one column beside its id.
    fn check(column: &str) -> Result<Schema, SchemaError> {
        let columns = [("id", "UUID"), (column, "String")]
            .map(|(name, ch_type)| wire::Column { name: name.to_owned(), ch_type: ch_type.to_owned() });
        Schema::check(wire::Descriptor {
            name: "any".to_owned(),
            version: "1.0.0".to_owned(),
            event_types: vec!["Told".to_owned()],
            tables: vec![wire::Table { name: "t".to_owned(), columns: columns.into() }],
        })
    }

    #[test]
    fn no_column_of_the_host_can_be_declared() {
        for column in HOST_COLUMNS {
            let refused = SchemaError::HostColumn { table: "t".to_owned(), column: column.to_owned() };
            assert_eq!(check(column), Err(refused));
            assert!(check(&format!("{column}_")).is_ok(), "the name alone is taken");
        }
    }
}
