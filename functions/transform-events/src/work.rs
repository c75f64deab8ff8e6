//! One partition's share of a batch: decoded, run, and turned into the records to produce, each tied to the
//! record it came from. Pure: what Kafka said comes in from outside.

use crate::{
    dead_letter::{self, Reason},
    envelope,
};
use outflow_broker::Record;
use outflow_kafka_batch::Partition;
use outflow_transform::{Loaded, Outcome, Stamp};

/// What is to be produced for one partition.
#[derive(Debug)]
pub(crate) struct Work {
    pub(crate) partition: Partition,
    /// In the order of the records they come from; a record has none, one or several.
    pub(crate) produce: Vec<Produce>,
    /// Index of the first record that wasn't decided: it and those behind it come again.
    pub(crate) undecided_from: Option<usize>,
    pub(crate) skipped: usize,
    pub(crate) rejected: usize,
}

#[derive(Debug)]
pub(crate) struct Produce {
    /// Index of the record of the partition that this comes from.
    pub(crate) of: usize,
    pub(crate) record: Record,
}

/// Runs the module over a partition. Blocks for as long as the module takes, within its limits.
pub(crate) fn work(partition: Partition, loaded: &Loaded, stamp: Stamp) -> Work {
    let mut events = Vec::with_capacity(partition.records.len());
    let mut faults: Vec<Option<Reason>> = Vec::with_capacity(partition.records.len());
    for record in &partition.records {
        match envelope::event(&partition, record) {
            Ok(event) => {
                events.push(event);
                faults.push(None);
            }
            Err(reason) => faults.push(Some(reason)),
        }
    }
    let ran = loaded.module.run(&events, stamp);
    if let Some(unfinished) = &ran.unfinished {
        tracing::error!(
            topic = partition.topic,
            partition = partition.partition,
            offset = events[unfinished.from].offset,
            reason = unfinished.reason,
            "transform did not finish, the partition comes again from here"
        );
    }
    let mut outcomes = ran.outcomes.into_iter();
    let mut work = Work { produce: Vec::new(), undecided_from: None, skipped: 0, rejected: 0, partition };
    for (of, fault) in faults.into_iter().enumerate() {
        let outcome = match fault {
            Some(reason) => Err(reason),
            None => match outcomes.next() {
                Some(Outcome::Rows(rows)) => Ok(rows),
                Some(Outcome::Skip) => {
                    work.skipped += 1;
                    continue;
                }
                Some(Outcome::Reject(rejection)) => Err(rejection.into()),
                None => {
                    work.undecided_from = Some(of);
                    break;
                }
            },
        };
        let Partition { topic, partition, records } = &work.partition;
        match outcome {
            Ok(rows) => work.produce.extend(rows.into_iter().map(|row| {
                let (key, headers) = (records[of].key.clone(), Vec::new());
                Produce {
                    of,
                    record: Record { topic: row.table.to_string(), key, payload: Some(row.json), headers },
                }
            })),
            Err(reason) => {
                work.rejected += 1;
                tracing::warn!(
                    topic,
                    partition,
                    offset = records[of].offset,
                    stage = reason.stage,
                    code = reason.code,
                    reason = reason.message,
                    "record put aside"
                );
                let record = dead_letter::record(topic, *partition, &records[of], &reason, loaded.digest());
                work.produce.push(Produce { of, record });
            }
        }
    }
    work
}

/// The offset from which a partition comes again: of its first record that wasn't decided, or of which not
/// everything was confirmed (`unconfirmed` holds indexes of records).
pub(crate) fn retry_from(work: &Work, unconfirmed: impl IntoIterator<Item = usize>) -> Option<i64> {
    let first = unconfirmed.into_iter().chain(work.undecided_from).min()?;
    Some(work.partition.records[first].offset)
}

#[cfg(test)]
mod tests {
    use super::*;
    use outflow_kafka_batch as batch;

    /// A partition of records 100, 101 and on.
    fn decided(undecided_from: Option<usize>) -> Work {
        let record =
            |offset| batch::Record { offset, timestamp_ms: 0, key: None, value: None, headers: Vec::new() };
        let records = (100..105).map(record).collect();
        let partition = Partition { topic: "order.events".to_owned(), partition: 0, records };
        Work { partition, produce: Vec::new(), undecided_from, skipped: 0, rejected: 0 }
    }

    #[test]
    fn a_partition_comes_again_from_its_first_record_that_is_not_done() {
        assert_eq!(retry_from(&decided(None), []), None);
        assert_eq!(retry_from(&decided(None), [3, 1]), Some(101));
        assert_eq!(retry_from(&decided(Some(2)), []), Some(102));
        assert_eq!(retry_from(&decided(Some(2)), [4]), Some(102));
        assert_eq!(retry_from(&decided(Some(2)), [0]), Some(100));
    }
}
