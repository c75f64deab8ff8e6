//! A module's columns against the live ClickHouse table, before it may become active.
//!
//! A column more than the table has can be added: rows that are there keep the type's default. A column less is no
//! matter where the table has a default for it, as for one that a later module added. Nothing is ever dropped or retyped.

use anyhow::Context;
use outflow_analytics::{Column, Config, Reader, Schema};
use outflow_telemetry::config::{ConfigError, from_env};
use outflow_transform::{Column as Declared, ColumnType, HOST_COLUMNS, Table};
use std::fmt;

/// What a comparison has found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// In words. None of them can be mended by adding.
    pub(super) differences: Vec<String>,
    pub(super) additions: Vec<Addition>,
}

/// A column that the module fills and the table lacks.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Addition {
    table: String,
    column: String,
    data_type: ColumnType,
}

impl fmt::Display for Addition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{} {}", self.table, self.column, self.data_type)
    }
}

/// What doesn't fit the tables that a module itself declares. None where OUTFLOW_CLICKHOUSE_URL isn't set: then there is no
/// table to ask.
pub(super) async fn compare_tables(tables: &[Table]) -> anyhow::Result<Option<Found>> {
    let config = match from_env::<Config>() {
        Ok(config) => config,
        Err(ConfigError::Missing(name)) if name == "OUTFLOW_CLICKHOUSE_URL" => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let reader = Reader::new(&config)?;
    let mut found = Found::default();
    for table in tables {
        let live = reader.columns(&table.name).await.with_context(|| {
            format!(
                "the live table {} could not be looked at: start ClickHouse, run `outflow init`, or pass --unchecked",
                table.name
            )
        })?;
        compare(&table.name, &table.columns, &live, &mut found);
    }
    Ok(Some(found))
}

/// Adds the columns; their names afterwards.
pub(super) async fn add(additions: &[Addition]) -> anyhow::Result<Vec<String>> {
    let schema = Schema::new(&from_env::<Config>()?)?;
    let mut added = Vec::new();
    for Addition { table, column, data_type } in additions {
        schema.add_column(table, column, *data_type).await.with_context(|| {
            format!(
                "adding {table}.{column}; added by then: [{}]; run it again once that is mended",
                added.join(", ")
            )
        })?;
        added.push(format!("{table}.{column}"));
    }
    Ok(added)
}

fn compare(table: &str, declared: &[Declared], live: &[Column], found: &mut Found) {
    if live.is_empty() {
        found.differences.push(format!("table {table} does not exist: run `outflow init`"));
        return;
    }
    for Declared { name, column_type } in declared {
        match live.iter().find(|column| column.name == *name) {
            None => found.additions.push(Addition {
                table: table.to_owned(),
                column: name.clone(),
                data_type: *column_type,
            }),
            // Parsed, since spelling is no difference. A type that no module can have is one.
            Some(column) if column.data_type.parse::<ColumnType>() != Ok(*column_type) => {
                found.differences.push(format!(
                    "{table}.{name}: the module says {column_type}, the table {}",
                    column.data_type
                ));
            }
            Some(_) => {}
        }
    }
    for column in live {
        let is_filled = HOST_COLUMNS.contains(&column.name.as_str())
            || !column.default_kind.is_empty()
            || declared.iter().any(|declared| declared.name == column.name);
        if !is_filled {
            let (name, data_type) = (&column.name, &column.data_type);
            found.differences.push(format!("{table}.{name} {data_type}: the module does not fill it"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(declared: &[(&str, &str)], live: &[(&str, &str, &str)]) -> Found {
        let declared = declared.iter().map(|(name, data_type)| Declared {
            name: (*name).to_owned(),
            column_type: data_type.parse().expect("a type that a module can have"),
        });
        let declared: Vec<_> = declared.collect();
        let column = |&(name, data_type, default_kind): &(&str, &str, &str)| Column {
            name: name.to_owned(),
            data_type: data_type.to_owned(),
            default_kind: default_kind.to_owned(),
        };
        let mut found = Found::default();
        compare("t", &declared, &live.iter().map(column).collect::<Vec<_>>(), &mut found);
        found
    }

    #[test]
    fn equal_tables_have_no_difference_whatever_the_host_adds_and_whatever_their_order() {
        let live = [
            ("id", "UUID", ""),
            ("sum", "Decimal(18, 2)", ""),
            ("version", "UInt64", ""),
            ("added_later", "String", "DEFAULT"),
            ("loaded_at", "DateTime64(3, 'UTC')", "DEFAULT"),
        ];
        assert_eq!(check(&[("sum", "Decimal(18,2)"), ("id", "UUID")], &live), Found::default());
    }

    #[test]
    fn a_column_more_can_be_added_and_any_other_difference_is_told() {
        let live = [("id", "UUID", ""), ("sum", "Decimal(18, 2)", ""), ("band", "String", "")];
        let found = check(&[("sum", "Decimal(9, 2)"), ("id", "UUID"), ("new", "Bool")], &live);
        expect_test::expect![[r#"
            t.sum: the module says Decimal(9, 2), the table Decimal(18, 2)
            t.band String: the module does not fill it"#]]
        .assert_eq(&found.differences.join("\n"));
        assert_eq!(found.additions.iter().map(ToString::to_string).collect::<Vec<_>>(), ["t.new Bool"]);
        let found = check(&[("at", "DateTime64(3, 'UTC')")], &[("at", "DateTime64(3, 'Asia/Seoul')", "")]);
        expect_test::expect![
            "t.at: the module says DateTime64(3, 'UTC'), the table DateTime64(3, 'Asia/Seoul')"
        ]
        .assert_eq(&found.differences.join("\n"));
        expect_test::expect!["table t does not exist: run `outflow init`"]
            .assert_eq(&check(&[("id", "UUID")], &[]).differences.join("\n"));
    }
}
