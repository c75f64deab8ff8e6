//! Records to rows: what can be read goes on, what cannot is set aside with its reason. Pure.

use outflow_analytics::OrdersAnalyticsRow;
use outflow_kafka_batch::{Partition, Record};
use outflow_telemetry::chain;

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
    pub(crate) row: OrdersAnalyticsRow,
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
pub(crate) fn read(partitions: Vec<Partition>) -> (Vec<Pending>, Vec<Rejected>) {
    let (mut pending, mut rejected) = (Vec::new(), Vec::new());
    for Partition { topic, partition, records } in partitions {
        for record in records {
            let origin = Origin { topic: topic.clone(), partition, record };
            match OrdersAnalyticsRow::from_json(origin.record.value.as_deref().unwrap_or_default()) {
                Ok(row) => pending.push(Pending { origin, row }),
                Err(error) => {
                    rejected.push(Rejected { origin, reason: chain(&error), code: error.code().to_owned() });
                }
            }
        }
    }
    (pending, rejected)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A record at this offset whose value is a good row, unless another is given.
    pub(crate) fn record(offset: i64, value: Option<&[u8]>) -> Record {
        let good = format!(
            r#"{{"order_id": "01932d1e-7b1c-7a10-8c44-{offset:012}", "order_date": "2026-11-23 07:11:32.123",
            "user_id": "u-1", "status": "PENDING", "total_amount": "59.97", "item_count": 2, "quantity": 5,
            "order_band": "all", "version": 16777217, "is_deleted": 0,
            "event_id": "01932d1e-7b1c-7a10-8c44-6f0d9a3b2c02", "transform_digest": "ab12",
            "occurred_at": "2026-11-23 07:11:32.123", "relayed_at": "2026-11-23 07:11:35.001",
            "transformed_at": "2026-11-23 07:11:35.040"}}"#
        );
        Record {
            offset,
            timestamp_ms: 0,
            key: None,
            value: Some(value.map_or(good.into_bytes(), <[u8]>::to_vec)),
            headers: Vec::new(),
        }
    }

    #[test]
    fn a_record_that_is_no_row_leaves_its_neighbours_alone() {
        let mut tombstone = record(9, None);
        tombstone.value = None;
        let partition =
            |partition, records| Partition { topic: "orders_analytics".to_owned(), partition, records };

        let (pending, rejected) = read(vec![
            partition(0, vec![record(4, None), record(5, Some(b"not json")), record(6, None)]),
            partition(1, vec![record(8, Some(b"{}")), tombstone, record(10, None)]),
        ]);

        let place = |origin: &Origin| (origin.partition, origin.record.offset);
        assert_eq!(pending.iter().map(|p| place(&p.origin)).collect::<Vec<_>>(), [(0, 4), (0, 6), (1, 10)]);
        assert_eq!(rejected.iter().map(|r| place(&r.origin)).collect::<Vec<_>>(), [(0, 5), (1, 8), (1, 9)]);
        assert!(rejected[1].reason.contains("order_id"), "{}", rejected[1].reason);
        assert_eq!(rejected[2].code, "empty");
    }
}
