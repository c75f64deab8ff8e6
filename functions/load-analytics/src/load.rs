//! Rows into ClickHouse: one block a batch and table; where ClickHouse refuses a block, halves of it, down to the rows at fault.

use crate::{
    batch::{Pending, Rejected},
    error::LoadError,
};
use outflow_analytics::{AnalyticsError, Table, Writer, blocks};
use outflow_telemetry::{ErrorKind, chain};
use std::time::{Duration, Instant};

/// One insert may take this long: far more than a block of 6 MB needs, far less than the views' slack of ten minutes.
const INSERT_LIMIT: Duration = Duration::from_secs(30);

/// Loads all rows before `until`, in one block a table unless they touch too many months or leave different columns to
/// their defaults. Returns those that ClickHouse refuses.
///
/// # Errors
/// Where ClickHouse is away, slow or not set up, or time runs out: then nothing is told of any row, and the whole batch
/// is to be tried again. What had been inserted by then does no harm.
pub(crate) async fn load(
    writer: &Writer,
    rows: Vec<Pending>,
    until: Instant,
) -> Result<Vec<Rejected>, LoadError> {
    let mut rejected = Vec::new();
    for block in blocks(rows, |pending| &pending.row) {
        let refused = refused_rows(block.len(), |range| {
            let rows = &block[range];
            async move {
                let left = until.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Err(LoadError::OutOfTime { rows: rows.len() });
                }
                let limit = left.min(INSERT_LIMIT);
                match writer.insert_block(rows.iter().map(|pending| &pending.row), limit).await {
                    Ok(_rows) => Ok(()),
                    Err(source) if source.kind() == ErrorKind::Poison => {
                        unchanged(writer, rows[0].row.table(), limit).await?;
                        Err(LoadError::Insert { source })
                    }
                    Err(source) => Err(LoadError::Insert { source }),
                }
            }
        })
        .await?;
        let mut refused = refused.into_iter().peekable();
        for (index, pending) in block.into_iter().enumerate() {
            if let Some((_, error)) = refused.next_if(|(at, _)| *at == index) {
                let code = match &error {
                    LoadError::Insert { source } => clickhouse_code(source),
                    _ => "clickhouse".to_owned(),
                };
                rejected.push(Rejected { origin: pending.origin, reason: chain(&error), code });
            }
        }
    }
    Ok(rejected)
}

/// A refusal is the rows' fault only as long as they were encoded for the table as it is.
async fn unchanged(writer: &Writer, table: &Table, limit: Duration) -> Result<(), LoadError> {
    let name = table.name();
    let now = writer.table_now(name, limit).await;
    let now = now.map_err(|source| LoadError::Table { table: name.to_owned(), source })?;
    if *now == *table { Ok(()) } else { Err(LoadError::TableChanged { table: name.to_owned() }) }
}

fn clickhouse_code(error: &AnalyticsError) -> String {
    error.code().map_or_else(|| "clickhouse".to_owned(), |code| format!("clickhouse_{code}"))
}

/// Inserts items 0..count as one block; a block that is refused for what is in it is halved. Returns the items that are
/// refused alone, ascending.
async fn refused_rows<F>(
    count: usize,
    insert: impl Fn(std::ops::Range<usize>) -> F,
) -> Result<Vec<(usize, LoadError)>, LoadError>
where
    F: Future<Output = Result<(), LoadError>>,
{
    let mut refused = Vec::new();
    let mut waiting: Vec<_> = std::iter::once(0..count).collect();
    while let Some(range) = waiting.pop() {
        match insert(range.clone()).await {
            Ok(()) => {}
            Err(error) if error.kind() != ErrorKind::Poison => return Err(error),
            Err(error) if range.len() <= 1 => refused.push((range.start, error)),
            Err(error) => {
                tracing::warn!(rows = range.len(), error = chain(&error), "block refused, halving it");
                let middle = range.start + range.len() / 2;
                waiting.push(middle..range.end);
                waiting.push(range.start..middle);
            }
        }
    }
    Ok(refused)
}

#[cfg(test)]
mod tests {
    use super::*;
    use outflow_analytics::AnalyticsError;
    use std::{cell::RefCell, collections::BTreeSet};

    fn poison() -> LoadError {
        let source = clickhouse_error("Code: 469. DB::Exception: Constraint is violated");
        LoadError::Insert { source: AnalyticsError::Insert { table: "t".to_owned(), rows: 1, source } }
    }

    fn clickhouse_error(text: &str) -> outflow_analytics::ClickHouseError {
        outflow_analytics::ClickHouseError::BadResponse(text.to_owned())
    }

    /// Inserts `count` items of which `bad` are refused; returns the inserted ones, the refused ones and the calls made.
    async fn run(count: usize, bad: &[usize]) -> (BTreeSet<usize>, Vec<usize>, usize) {
        let inserted = RefCell::new(BTreeSet::new());
        let calls = RefCell::new(0);
        let refused = refused_rows(count, |range| {
            *calls.borrow_mut() += 1;
            let fits = !range.clone().any(|index| bad.contains(&index));
            if fits {
                inserted.borrow_mut().extend(range);
            }
            async move { if fits { Ok(()) } else { Err(poison()) } }
        })
        .await
        .expect("only rows are at fault");
        (inserted.into_inner(), refused.into_iter().map(|(index, _)| index).collect(), calls.into_inner())
    }

    #[tokio::test]
    async fn a_good_batch_is_one_insert() {
        assert_eq!(run(10_000, &[]).await.2, 1);
    }

    #[tokio::test]
    async fn exactly_the_rows_at_fault_are_left_out() {
        for bad in [vec![0], vec![99], vec![3, 4, 50], (0..100).collect()] {
            let (inserted, refused, _) = run(100, &bad).await;
            assert_eq!(refused, bad);
            assert_eq!(inserted, (0..100).filter(|index| !bad.contains(index)).collect());
        }
    }

    #[tokio::test]
    async fn one_bad_row_in_ten_thousand_is_found_in_a_few_inserts() {
        assert!(run(10_000, &[7_777]).await.2 <= 30);
    }

    #[tokio::test]
    async fn a_server_that_is_away_ends_the_search() {
        let error = refused_rows(100, |_| async {
            let source =
                AnalyticsError::Timeout { operation: "insert a block", limit: Duration::from_secs(1) };
            Err(LoadError::Insert { source })
        })
        .await
        .expect_err("nothing can be said of the rows");

        assert_eq!(error.kind(), ErrorKind::Retriable);
    }
}
