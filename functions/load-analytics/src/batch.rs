//! Records to rows: what fits its table goes on, what doesn't is set aside with its reason.
//!
//! A topic carries the rows of the table of its name, and so does the one by which its dead letters are sent back.

use crate::error::LoadError;
use outflow_analytics::{EncodedRow, RowEncoder, RowError, Table, Writer};
use outflow_broker::topics;
use outflow_kafka_batch::{Partition, Record};
use outflow_telemetry::chain;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// ClickHouse describes a table within milliseconds; longer than this, it is away.
const DESCRIBE_LIMIT: Duration = Duration::from_secs(10);

/// A record and where it came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) topic: String,
    pub(crate) partition: i32,
    pub(crate) record: Record,
}

/// A row that waits to be loaded.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) origin: Origin,
    pub(crate) row: EncodedRow,
}

/// A record that can never be loaded.
#[derive(Debug)]
pub(crate) struct Rejected {
    pub(crate) origin: Origin,
    /// What was wrong, with its causes.
    pub(crate) reason: String,
    /// The same as one word.
    pub(crate) code: String,
}

/// Reads every record of the batch; partitions and offsets keep their order in both lists.
///
/// # Errors
/// Where a table is not there, or ClickHouse doesn't describe it before `until`.
pub(crate) async fn read(
    writer: &Writer,
    partitions: Vec<Partition>,
    until: Instant,
) -> Result<(Vec<Pending>, Vec<Rejected>), LoadError> {
    let limit = || until.saturating_duration_since(Instant::now()).min(DESCRIBE_LIMIT);
    let mut rows = Vec::new();
    for partitions in partitions.chunk_by(|one, next| one.topic == next.topic) {
        let name = table_of(&partitions[0].topic);
        let error = |source| LoadError::Table { table: name.to_owned(), source };
        let table = writer.table(name, limit()).await.map_err(error)?;
        let mut encoded = encode(&table, partitions);
        if encoded.iter().any(|row| row.as_ref().is_err_and(RowError::is_by_the_table)) {
            // A column may have been added since the table was read: a row is given up only as the table is now.
            let now = writer.table_now(name, limit()).await.map_err(error)?;
            if now != table {
                tracing::info!(table = name, "table has changed, its rows are read again");
                encoded = encode(&now, partitions);
            }
        }
        rows.append(&mut encoded);
    }
    Ok(sort(partitions, rows))
}

/// Rows that are sent back after a rejection come by a topic of their own.
fn table_of(topic: &str) -> &str {
    topics::source(topic)
}

/// A result a record, in their order.
fn encode(table: &Arc<Table>, partitions: &[Partition]) -> Vec<Result<EncodedRow, RowError>> {
    let mut encoder = RowEncoder::new(Arc::clone(table));
    let records = partitions.iter().flat_map(|partition| &partition.records);
    records.map(|record| encoder.encode(record.value.as_deref().unwrap_or_default())).collect()
}

fn sort(
    partitions: Vec<Partition>,
    rows: Vec<Result<EncodedRow, RowError>>,
) -> (Vec<Pending>, Vec<Rejected>) {
    let (mut pending, mut rejected) = (Vec::with_capacity(rows.len()), Vec::new());
    let origins = partitions.into_iter().flat_map(|Partition { topic, partition, records }| {
        records.into_iter().map(move |record| Origin { topic: topic.clone(), partition, record })
    });
    for (origin, row) in origins.zip(rows) {
        match row {
            Ok(row) => pending.push(Pending { origin, row }),
            Err(error) => {
                let (reason, code) = (chain(&error), error.code().to_owned());
                rejected.push(Rejected { origin, reason, code });
            }
        }
    }
    (pending, rejected)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use outflow_analytics::Described;

    /// A record at this offset whose value is a good row of [`table`], unless another is given.
    pub(crate) fn record(offset: i64, value: Option<&[u8]>) -> Record {
        let good = format!(r#"{{"order_id": "01932d1e-7b1c-7a10-8c44-{offset:012}", "quantity": 5}}"#);
        Record {
            offset,
            timestamp_ms: 0,
            key: None,
            value: Some(value.map_or(good.into_bytes(), <[u8]>::to_vec)),
            headers: Vec::new(),
        }
    }

    fn table() -> Arc<Table> {
        let column = |name: &str, data_type: &str| Described {
            name: name.to_owned(),
            data_type: data_type.to_owned(),
            default_kind: String::new(),
        };
        let columns = vec![column("order_id", "UUID"), column("quantity", "UInt32")];
        Arc::new(Table::new("orders_analytics", columns, "").expect("all types are carried"))
    }

    #[test]
    fn redriven_rows_are_of_the_same_table() {
        assert_eq!(["orders_analytics", "orders_analytics.retry"].map(table_of), ["orders_analytics"; 2]);
    }

    #[test]
    fn a_record_that_is_no_row_leaves_its_neighbours_alone() {
        let mut tombstone = record(9, None);
        tombstone.value = None;
        let partition =
            |partition, records| Partition { topic: "orders_analytics".to_owned(), partition, records };
        let partitions = vec![
            partition(0, vec![record(4, None), record(5, Some(b"not json")), record(6, None)]),
            partition(1, vec![record(8, Some(b"{}")), tombstone, record(10, None)]),
        ];

        let rows = encode(&table(), &partitions);
        let (pending, rejected) = sort(partitions, rows);

        let place = |origin: &Origin| (origin.partition, origin.record.offset);
        assert_eq!(pending.iter().map(|p| place(&p.origin)).collect::<Vec<_>>(), [(0, 4), (0, 6), (1, 10)]);
        assert_eq!(rejected.iter().map(|r| place(&r.origin)).collect::<Vec<_>>(), [(0, 5), (1, 8), (1, 9)]);
        assert!(rejected[1].reason.contains("order_id"), "{}", rejected[1].reason);
        assert_eq!(rejected[2].code, "empty");
    }
}
