//! A table as ClickHouse describes it: which columns a row may carry, which it must, and where its partitions lie.
//!
//! Pure. Must not: know where the description comes from.

use crate::error::AnalyticsError;
use outflow_columns::{ColumnType, Kind};
use std::collections::{BTreeMap, HashMap};

/// When a row arrived. ClickHouse stamps it; a row that says so itself would be believed by the views of history.
const STAMPED_BY_CLICKHOUSE: &str = "loaded_at";
/// Columns of the host whose 0 or 1 every table holds to by a constraint.
const FLAGS: [&str; 2] = ["is_deleted", "is_canary"];

/// A line of `system.columns`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    pub name: String,
    /// As ClickHouse spells it.
    pub data_type: String,
    /// `DEFAULT`, `MATERIALIZED`, `ALIAS`, `EPHEMERAL`; empty where the table has nothing to fill in.
    pub default_kind: String,
}

/// A table that rows can be encoded for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    pub(crate) name: String,
    /// What a row may carry, in the table's order.
    pub(crate) columns: Vec<Column>,
    /// What a row may not carry, and why.
    closed: BTreeMap<String, &'static str>,
    by_name: HashMap<String, usize>,
    /// The column by whose month, UTC, the table is partitioned.
    pub(crate) month_of: Option<usize>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Column {
    pub(crate) name: String,
    pub(crate) column_type: ColumnType,
    /// May be left out: the table fills it in.
    pub(crate) has_default: bool,
    /// 0 or 1.
    pub(crate) is_flag: bool,
}

impl Table {
    /// `partition_key` as `system.tables` has it. Only `toYYYYMM(column)` is understood; rows of a table that is
    /// partitioned otherwise aren't spread over blocks before ClickHouse asks for it.
    ///
    /// # Errors
    /// Where there is no column at all, which is how ClickHouse describes a table that isn't there; where a row would
    /// have to carry a column of a type that JSON cannot carry exactly.
    pub fn new(name: &str, described: Vec<Described>, partition_key: &str) -> Result<Self, AnalyticsError> {
        if described.is_empty() {
            return Err(AnalyticsError::NoTable { table: name.to_owned() });
        }
        let (mut columns, mut closed) = (Vec::with_capacity(described.len()), BTreeMap::new());
        for Described { name: column, data_type, default_kind } in described {
            if column == STAMPED_BY_CLICKHOUSE {
                closed.insert(column, "clickhouse stamps it");
                continue;
            }
            let has_default = match default_kind.as_str() {
                "" => false,
                "DEFAULT" => true,
                _ => {
                    closed.insert(column, "clickhouse computes it");
                    continue;
                }
            };
            match data_type.parse() {
                Ok(column_type) => {
                    let is_flag = FLAGS.contains(&column.as_str());
                    columns.push(Column { name: column, column_type, has_default, is_flag });
                }
                Err(_) if has_default => {
                    closed.insert(column, "a row cannot carry its type");
                }
                Err(source) => {
                    return Err(AnalyticsError::ColumnType { table: name.to_owned(), column, source });
                }
            }
        }
        let month = partition_key.strip_prefix("toYYYYMM(").and_then(|rest| rest.strip_suffix(')'));
        let by_name: HashMap<_, _> =
            columns.iter().enumerate().map(|(at, column)| (column.name.clone(), at)).collect();
        let month_of = month
            .and_then(|column| by_name.get(column.trim_matches('`')).copied())
            .filter(|at| matches!(columns[*at].column_type.kind(), Kind::DateTime64(_)))
            .filter(|at| !columns[*at].column_type.is_nullable());
        Ok(Self { name: name.to_owned(), columns, closed, by_name, month_of })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn find(&self, column: &str) -> Option<usize> {
        self.by_name.get(column).copied()
    }

    /// Why a column that [`Table::find`] doesn't know is not taken.
    pub(crate) fn refusal(&self, column: &str) -> &'static str {
        self.closed.get(column).copied().unwrap_or("the table has none of this name")
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Columns as (name, type, default kind).
    pub(crate) fn table(
        columns: &[(&str, &str, &str)],
        partition_key: &str,
    ) -> Result<Table, AnalyticsError> {
        let described = columns.iter().map(|(name, data_type, default_kind)| Described {
            name: (*name).to_owned(),
            data_type: (*data_type).to_owned(),
            default_kind: (*default_kind).to_owned(),
        });
        Table::new("t", described.collect(), partition_key)
    }

    #[test]
    fn a_row_may_carry_what_the_table_does_not_compute() {
        let table = table(
            &[
                ("a", "UInt8", ""),
                ("b", "LowCardinality(Nullable(String))", "DEFAULT"),
                ("c", "UInt8", "MATERIALIZED"),
                ("d", "UInt8", "ALIAS"),
                ("e", "UInt8", "EPHEMERAL"),
                ("f", "Array(String)", "DEFAULT"),
                ("loaded_at", "DateTime64(3, 'UTC')", "DEFAULT"),
            ],
            "",
        )
        .expect("a row needs `a` alone");

        let carried: Vec<_> = table.columns.iter().map(|c| (c.name.as_str(), c.has_default)).collect();
        assert_eq!(carried, [("a", false), ("b", true)]);
        for (column, refusal) in [
            ("c", "clickhouse computes it"),
            ("d", "clickhouse computes it"),
            ("e", "clickhouse computes it"),
            ("f", "a row cannot carry its type"),
            ("loaded_at", "clickhouse stamps it"),
            ("g", "the table has none of this name"),
        ] {
            assert_eq!((table.find(column), table.refusal(column)), (None, refusal), "{column}");
        }
    }

    #[test]
    fn a_table_that_no_row_could_fill_is_refused_with_its_column() {
        let error = table(&[("price", "Float64", "")], "").expect_err("no row can carry a float");
        assert!(error.to_string().contains("t.price"), "{error}");
        assert!(matches!(table(&[], ""), Err(AnalyticsError::NoTable { table }) if table == "t"));
    }

    #[test]
    fn months_are_those_of_the_partition_key() {
        let month_of = |key: &str| {
            let columns = [
                ("id", "UUID", ""),
                ("at", "DateTime64(3, 'UTC')", ""),
                ("maybe", "Nullable(DateTime64(3, 'UTC'))", ""),
            ];
            table(&columns, key).expect("all types are carried").month_of
        };
        assert_eq!(month_of("toYYYYMM(at)"), Some(1));
        assert_eq!(month_of("toYYYYMM(`at`)"), Some(1));
        for other in
            ["", "toYYYYMM(maybe)", "toYYYYMM(id)", "toYYYYMM(gone)", "toDate(at)", "(toYYYYMM(at), id)"]
        {
            assert_eq!(month_of(other), None, "{other}");
        }
    }
}
