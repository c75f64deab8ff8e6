//! Tables whose rows guard aggregates: the one place in which the writer makes SQL of names.

use super::row::is_aggregate_type;
use crate::error::WriteError;
use sqlx::{AssertSqlSafe, MySqlConnection, Row, mysql::MySqlArguments, query::Query};

/// A table with a row for each id, whose lock guards one aggregate of that id, or several.
///
/// A column of the row holds each aggregate's version: the number of its events so far, 0 before the first one. The
/// writer alone changes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AggregateTable<const N: usize> {
    table: &'static str,
    id: &'static str,
    /// Type, and the column of its version.
    aggregates: [(&'static str, &'static str); N],
}

impl<const N: usize> AggregateTable<N> {
    /// `id` is the column of the table's primary key (or of another unique one) and compares with text; `aggregates`
    /// are their types, each with the column of its version, an integer that is not NULL.
    ///
    /// ```
    /// use outflow_outbox::AggregateTable;
    /// /// An order, and the stock that is held for it.
    /// const ORDERS: AggregateTable<2> =
    ///     AggregateTable::new("orders", "id", [("Order", "version"), ("Stock", "stock_version")]);
    /// ```
    ///
    /// # Panics
    /// Where a name is not one (letters, digits, `_`) or an aggregate's type is none (1 to 64 of `A-Z a-z 0-9 . _ -`),
    /// and where two aggregates share a column. In a `const` this is told by the compiler:
    /// ```compile_fail
    /// # use outflow_outbox::AggregateTable;
    /// const ORDERS: AggregateTable<1> =
    ///     AggregateTable::new("orders; DROP TABLE orders", "id", [("Order", "version")]);
    /// # fn main() { let _ = ORDERS; }
    /// ```
    pub const fn new(
        table: &'static str,
        id: &'static str,
        aggregates: [(&'static str, &'static str); N],
    ) -> Self {
        assert!(is_identifier(table) && is_identifier(id), "a table or a column has no such name");
        let mut n = 0;
        while n < N {
            let (aggregate_type, version) = aggregates[n];
            assert!(is_aggregate_type(aggregate_type), "an aggregate has no such type");
            assert!(is_identifier(version), "a column has no such name");
            let mut other = 0;
            while other < n {
                assert!(
                    !is_same(version, aggregates[other].1),
                    "two aggregates share the column of a version"
                );
                other += 1;
            }
            n += 1;
        }
        Self { table, id, aggregates }
    }
}

const fn is_identifier(name: &str) -> bool {
    let bytes = name.as_bytes();
    let mut n = 0;
    while n < bytes.len() {
        if !(bytes[n].is_ascii_alphanumeric() || bytes[n] == b'_') {
            return false;
        }
        n += 1;
    }
    !bytes.is_empty() && bytes.len() <= 64
}

const fn is_same(a: &str, b: &str) -> bool {
    a.eq_ignore_ascii_case(b)
}

/// A row that this transaction holds, and how far its aggregates have come.
#[derive(Debug)]
pub(super) struct LockedRow {
    table: &'static str,
    id_column: &'static str,
    pub(super) id: String,
    pub(super) aggregates: Vec<Aggregate>,
}

#[derive(Debug)]
pub(super) struct Aggregate {
    pub(super) aggregate_type: &'static str,
    version_column: &'static str,
    /// As the row has it.
    pub(super) found: u32,
    /// With the events that have been added since.
    pub(super) version: u32,
}

impl LockedRow {
    fn new<const N: usize>(table: &AggregateTable<N>, id: String, found: [u32; N]) -> Self {
        let aggregate = |((aggregate_type, version_column), found)| Aggregate {
            aggregate_type,
            version_column,
            found,
            version: found,
        };
        Self {
            table: table.table,
            id_column: table.id,
            id,
            aggregates: table.aggregates.into_iter().zip(found).map(aggregate).collect(),
        }
    }

    /// The row for this id, locked, if there is one.
    pub(super) async fn lock<const N: usize>(
        connection: &mut MySqlConnection,
        table: &AggregateTable<N>,
        id: &str,
    ) -> Result<Option<Self>, WriteError> {
        let failed = |source| WriteError::Database { step: "locking a row", source };
        let versions: String =
            table.aggregates.iter().map(|(_, version)| format!(", CAST(`{version}` AS UNSIGNED)")).collect();
        let AggregateTable { table: name, id: id_column, .. } = table;
        let sql = format!(
            "SELECT CAST(`{id_column}` AS CHAR){versions} FROM `{name}` WHERE `{id_column}` = ? FOR UPDATE"
        );
        let select = sqlx::query(AssertSqlSafe(sql)).bind(id);
        let Some(row) = select.fetch_optional(connection).await.map_err(failed)? else { return Ok(None) };
        // As the row has it: a column that ignores case has found "A" for "a", and one aggregate has one name.
        let id = row.try_get(0).map_err(failed)?;
        let mut found = [0; N];
        for (n, version) in found.iter_mut().enumerate() {
            let stored: u64 = row.try_get(n + 1).map_err(failed)?;
            *version = u32::try_from(stored).map_err(|_| WriteError::Version)?;
        }
        Ok(Some(Self::new(table, id, found)))
    }

    /// The row that this statement inserts, with aggregates that have no events yet. Whether it really is the row of
    /// this id, with versions of 0, shows in [`Self::advance`].
    pub(super) async fn insert<const N: usize>(
        connection: &mut MySqlConnection,
        table: &AggregateTable<N>,
        id: &str,
        insert: Query<'_, sqlx::MySql, MySqlArguments>,
    ) -> Result<Self, WriteError> {
        let done = insert.execute(connection).await;
        let done = done.map_err(|source| WriteError::Database { step: "inserting a row", source })?;
        match done.rows_affected() {
            1 => Ok(Self::new(table, id.to_owned(), [0; N])),
            rows => Err(WriteError::NotInserted { table: table.table, id: id.to_owned(), rows }),
        }
    }

    pub(super) fn is<const N: usize>(&self, table: &AggregateTable<N>, id: &str) -> bool {
        let columns = |aggregate: &Aggregate| (aggregate.aggregate_type, aggregate.version_column);
        self.table == table.table
            && self.id == id
            && self.aggregates.iter().map(columns).eq(table.aggregates.iter().copied())
    }

    /// Writes the versions reached into the row. Holds that the row is there, and that nobody else has changed them:
    /// so it is the row that the proof tells of.
    pub(super) async fn advance(&self, connection: &mut MySqlConnection) -> Result<(), WriteError> {
        let moved: Vec<_> =
            self.aggregates.iter().filter(|aggregate| aggregate.version != aggregate.found).collect();
        if moved.is_empty() {
            return Ok(());
        }
        let columns = |separator: &str| {
            let columns: Vec<_> =
                moved.iter().map(|aggregate| format!("`{}` = ?", aggregate.version_column)).collect();
            columns.join(separator)
        };
        let Self { table, id_column, id, .. } = self;
        let sql = format!(
            "UPDATE `{table}` SET {} WHERE `{id_column}` = ? AND {}",
            columns(", "),
            columns(" AND ")
        );
        let mut update = sqlx::query(AssertSqlSafe(sql));
        for aggregate in &moved {
            update = update.bind(aggregate.version);
        }
        update = update.bind(id);
        for aggregate in &moved {
            update = update.bind(aggregate.found);
        }
        let done = update.execute(connection).await;
        let done = done.map_err(|source| WriteError::Database { step: "moving a version on", source })?;
        match done.rows_affected() {
            1 => Ok(()),
            _ => Err(WriteError::RowChanged { table, id: id.clone() }),
        }
    }
}
