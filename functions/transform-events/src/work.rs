//! One partition's share of a batch: decoded, run, and turned into the records to produce, each tied to the
//! record it came from. Pure: what Kafka said comes in from outside.

use crate::{
    dead_letter::{self, Reason},
    envelope,
};
use outflow_broker as broker;
use outflow_kafka_batch::{Partition, Record};
use outflow_transform::{Event, Loaded, Outcome, Row, Stamp};
use std::{sync::Arc, time::Instant};

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
    pub(crate) record: broker::Record,
}

/// Runs the modules over a partition. Blocks for as long as they take, within their limits.
///
/// A record is put aside once for each module that rejects it, and once alone where it can't even be read.
pub(crate) fn work(partition: Partition, loaded: &[Arc<Loaded>], transformed_at_us: i64) -> Work {
    let mut made = Made::default();
    let decoded: Vec<Result<Event<'_>, Reason>> = partition
        .records
        .iter()
        .map(|record| envelope::event(&partition.topic, partition.partition, record))
        .collect();
    let events: Vec<(usize, Event<'_>)> =
        decoded.iter().enumerate().filter_map(|(of, event)| Some((of, *event.as_ref().ok()?))).collect();
    for (of, reason) in decoded.iter().enumerate().filter_map(|(of, event)| Some((of, event.as_ref().err()?)))
    {
        made.put_aside(&partition, of, reason, None);
    }
    for loaded in loaded {
        // A record that was put aside for one module alone is for that one when it comes again.
        let its: Vec<&(usize, Event<'_>)> =
            events.iter().filter(|(of, _)| is_for(&partition.records[*of], loaded)).collect();
        let batch: Vec<Event<'_>> = its.iter().map(|(_, event)| *event).collect();
        let (stamp, began_at) = (Stamp { generation: loaded.generation, transformed_at_us }, Instant::now());
        let ran = loaded.module.run(&batch, stamp);
        loaded.count(&ran, batch.iter().map(|event| loaded.module.wants(event)), began_at.elapsed());
        if let Some(unfinished) = &ran.unfinished {
            tracing::error!(
                topic = partition.topic,
                partition = partition.partition,
                offset = batch[unfinished.from].offset,
                slot = %loaded.slot,
                reason = unfinished.reason,
                "transform did not finish, the partition comes again from here"
            );
            let of = its[unfinished.from].0;
            made.undecided_from = Some(made.undecided_from.map_or(of, |before| before.min(of)));
        }
        for ((of, _), outcome) in its.iter().zip(ran.outcomes) {
            match outcome {
                Outcome::Rows(rows) => made.rows(&partition, *of, rows),
                Outcome::Skip => {}
                Outcome::Reject(rejection) => {
                    made.put_aside(&partition, *of, &rejection.into(), Some(loaded));
                }
            }
        }
    }
    let Made { mut produce, undecided_from, rejected } = made;
    // What comes again is not put aside, and not sent, twice.
    produce.retain(|produce| undecided_from.is_none_or(|from| produce.of < from));
    produce.sort_by_key(|produce| produce.of);
    let decided = undecided_from.unwrap_or(partition.records.len());
    let mut with_something: Vec<usize> = produce.iter().map(|produce| produce.of).collect();
    with_something.dedup();
    let skipped = decided - with_something.len();
    drop(events);
    drop(decoded);
    Work { partition, produce, undecided_from, skipped, rejected }
}

/// Whether the module is to be asked about the record: a record that was put aside for one of them says so.
fn is_for(record: &Record, loaded: &Loaded) -> bool {
    record.header(dead_letter::SLOT).is_none_or(|slot| slot == loaded.slot.as_str())
}

/// What came of a partition, in the order of the modules.
#[derive(Default)]
struct Made {
    produce: Vec<Produce>,
    undecided_from: Option<usize>,
    rejected: usize,
}

impl Made {
    fn rows(&mut self, partition: &Partition, of: usize, rows: Vec<Row>) {
        self.produce.extend(rows.into_iter().map(|row| {
            let (key, headers) = (partition.records[of].key.clone(), Vec::new());
            let record = broker::Record { topic: row.table.to_string(), key, payload: row.json, headers };
            Produce { of, record }
        }));
    }

    fn put_aside(&mut self, partition: &Partition, of: usize, reason: &Reason, by: Option<&Loaded>) {
        self.rejected += 1;
        let record = &partition.records[of];
        tracing::warn!(
            topic = partition.topic,
            partition = partition.partition,
            offset = record.offset,
            slot = by.map(|by| by.slot.as_str()),
            stage = reason.stage,
            code = reason.code,
            reason = reason.message,
            "record put aside"
        );
        let letter = dead_letter::record(&partition.topic, partition.partition, record, reason, by);
        self.produce.push(Produce { of, record: letter });
    }
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
