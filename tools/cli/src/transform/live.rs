//! A module's columns against the live ClickHouse table, before it may become active.
//!
//! The loader sends every column that the module names and none that it doesn't, so both must agree: a
//! column more would be refused there, a column less would silently get its default.

use anyhow::Context;
use outflow_analytics::{Column, Config, Reader};
use outflow_telemetry::config::{ConfigError, from_env};
use outflow_transform::{ColumnType, HOST_COLUMNS, ModuleInfo};

/// What doesn't fit, in words. None where OUTFLOW_CLICKHOUSE_URL isn't set: then there is no table to ask.
pub(crate) async fn differences(info: &ModuleInfo) -> anyhow::Result<Option<Vec<String>>> {
    let config = match from_env::<Config>() {
        Ok(config) => config,
        Err(ConfigError::Missing(name)) if name == "OUTFLOW_CLICKHOUSE_URL" => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let reader = Reader::new(&config)?;
    let mut found = Vec::new();
    for table in &info.tables {
        let live = reader.columns(&table.name).await.with_context(|| {
            format!(
                "the live table {} could not be looked at: start ClickHouse, or pass --unchecked",
                table.name
            )
        })?;
        found.extend(compare(&table.name, &table.columns, &live));
    }
    Ok(Some(found))
}

fn compare(table: &str, declared: &[(String, String)], live: &[Column]) -> Vec<String> {
    if live.is_empty() {
        return vec![format!("table {table} does not exist: run `outflow init`")];
    }
    let live: Vec<&Column> = live.iter().filter(|c| !HOST_COLUMNS.contains(&c.name.as_str())).collect();
    let mut found = Vec::new();
    for (name, declared_type) in declared {
        match live.iter().find(|column| column.name == *name) {
            None => found.push(format!("{table}.{name} {declared_type}: the table has no such column")),
            Some(column) if !same_type(declared_type, &column.data_type) => {
                found.push(format!(
                    "{table}.{name}: the module says {declared_type}, the table {}",
                    column.data_type
                ));
            }
            Some(_) => {}
        }
    }
    for column in &live {
        if !declared.iter().any(|(name, _)| *name == column.name) {
            found.push(format!("{table}.{} {}: the module does not fill it", column.name, column.data_type));
        }
    }
    let names = |columns: &mut dyn Iterator<Item = &str>| columns.collect::<Vec<_>>().join(", ");
    let expected = names(&mut live.iter().map(|column| column.name.as_str()));
    if found.is_empty() && names(&mut declared.iter().map(|(name, _)| name.as_str())) != expected {
        found.push(format!("{table}: the columns' order is {expected}"));
    }
    found
}

/// Spelling aside: ClickHouse writes `Decimal(18, 2)` with a space.
fn same_type(declared: &str, live: &str) -> bool {
    matches!((declared.parse::<ColumnType>(), live.parse::<ColumnType>()), (Ok(a), Ok(b)) if a == b)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(declared: &[(&str, &str)], live: &[(&str, &str)]) -> String {
        let owned = |&(name, t): &(&str, &str)| (name.to_owned(), t.to_owned());
        let declared: Vec<_> = declared.iter().map(owned).collect();
        let column = |&(name, t): &(&str, &str)| Column { name: name.to_owned(), data_type: t.to_owned() };
        compare("t", &declared, &live.iter().map(column).collect::<Vec<_>>()).join("\n")
    }

    #[test]
    fn equal_tables_have_no_difference_whatever_the_host_adds() {
        let live = [
            ("id", "UUID"),
            ("sum", "Decimal(18, 2)"),
            ("version", "UInt64"),
            ("loaded_at", "DateTime64(3, 'UTC')"),
        ];
        assert_eq!(check(&[("id", "UUID"), ("sum", "Decimal(18,2)")], &live), "");
    }

    #[test]
    fn each_difference_is_told() {
        let live = [("id", "UUID"), ("sum", "Decimal(18, 2)"), ("band", "String")];
        expect_test::expect![[r#"
            t.sum: the module says Decimal(9, 2), the table Decimal(18, 2)
            t.new Bool: the table has no such column
            t.band String: the module does not fill it"#]]
        .assert_eq(&check(&[("sum", "Decimal(9, 2)"), ("id", "UUID"), ("new", "Bool")], &live));
        expect_test::expect!["t: the columns' order is id, sum, band"]
            .assert_eq(&check(&live_swapped(), &live));
        expect_test::expect!["table t does not exist: run `outflow init`"]
            .assert_eq(&check(&[("id", "UUID")], &[]));
    }

    fn live_swapped() -> [(&'static str, &'static str); 3] {
        [("sum", "Decimal(18, 2)"), ("id", "UUID"), ("band", "String")]
    }
}
