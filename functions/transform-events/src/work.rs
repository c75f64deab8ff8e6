//! One partition's share of a batch: decoded, run, and turned into the records to produce, each tied to the
//! record it came from. Pure: what Kafka said comes in from outside.

use outflow_broker::{self as broker, letters::Origin, topics};
use outflow_kafka_batch::Partition;
use outflow_transform::{Batch, Event, Loaded, Outcome, Rows, Stamp};
use std::{sync::Arc, time::Instant};
use transform_events::{
    dead_letter::{self, Reason},
    envelope,
};

/// What the partitions of an invocation share, whatever the modules make of them. Each partition that finds none left comes
/// again.
#[derive(Debug)]
pub(crate) struct Room {
    /// No module begins after it.
    pub(crate) until: Instant,
    /// Rows, as JSON.
    pub(crate) bytes: usize,
}

impl Room {
    /// Lets a module run on so many events, within the bytes that it is given.
    fn run(&mut self, events: usize, module: impl FnOnce(usize) -> Batch) -> Batch {
        if events > 0 && Instant::now() >= self.until {
            return Batch::undecided("the function's time is used up");
        }
        let batch = module(self.bytes);
        self.bytes = self.bytes.saturating_sub(batch.outcomes.iter().map(Outcome::bytes).sum());
        batch
    }
}

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
/// A record is put aside once for each module that rejects it, and once alone where it can't even be read. What was
/// redriven is a record of its source topic, and where a module rejected it, it is for that one's slot alone.
pub(crate) fn work(
    mut partition: Partition,
    loaded: &[Arc<Loaded>],
    transformed_at_us: i64,
    room: &mut Room,
) -> Work {
    let (topic, number) = (partition.topic.as_str(), partition.partition);
    let origins: Vec<Origin<'_>> = partition
        .records
        .iter_mut()
        .map(|record| Origin::take(topic, number, record.offset, &mut record.headers))
        .collect();
    let mut made = Made::new(&origins, &partition);
    let decoded: Vec<Result<Event<'_>, Reason>> = origins
        .iter()
        .zip(&partition.records)
        .map(|(origin, record)| {
            let event = envelope::event(origin, record)?;
            let is_active = |slot: &String| loaded.iter().any(|loaded| loaded.slot.as_str() == slot);
            match origin.slot.as_ref().filter(|slot| !is_active(slot)) {
                Some(slot) => Err(Reason::inactive(slot)),
                None => Ok(event),
            }
        })
        .collect();
    let events: Vec<(usize, Event<'_>)> =
        decoded.iter().enumerate().filter_map(|(of, event)| Some((of, *event.as_ref().ok()?))).collect();
    for (of, reason) in decoded.iter().enumerate().filter_map(|(of, event)| Some((of, event.as_ref().err()?)))
    {
        made.put_aside(of, reason, None);
    }
    for loaded in loaded {
        let is_for = |of: usize| origins[of].slot.as_deref().is_none_or(|slot| slot == loaded.slot.as_str());
        let its: Vec<&(usize, Event<'_>)> = events.iter().filter(|(of, _)| is_for(*of)).collect();
        let batch: Vec<Event<'_>> = its.iter().map(|(_, event)| *event).collect();
        let (stamp, began_at) = (Stamp { generation: loaded.generation, transformed_at_us }, Instant::now());
        let ran = room.run(batch.len(), |bytes| loaded.module.run_within(bytes, &batch, stamp));
        // What somebody sends back had been rejected: it would speak against a module that is better than the one before.
        if !topics::is_retries(&partition.topic) {
            loaded.count(&ran, batch.iter().map(|event| loaded.module.wants(event)), began_at.elapsed());
        }
        if let Some(unfinished) = &ran.unfinished {
            let of = its[unfinished.from].0;
            tracing::error!(
                topic = partition.topic,
                partition = partition.partition,
                offset = partition.records[of].offset,
                slot = %loaded.slot,
                reason = unfinished.reason,
                "transform did not finish, the partition comes again from here"
            );
            made.undecided_from = Some(made.undecided_from.map_or(of, |before| before.min(of)));
        }
        for ((of, _), outcome) in its.iter().zip(ran.outcomes) {
            match outcome {
                Outcome::Rows(rows) => made.rows(*of, rows),
                Outcome::Skip => {}
                Outcome::Reject(rejection) => made.put_aside(*of, &rejection.into(), Some(loaded)),
            }
        }
    }
    let Made { mut produce, undecided_from, rejected, .. } = made;
    // What comes again is not put aside, and not sent, twice.
    produce.retain(|produce| undecided_from.is_none_or(|from| produce.of < from));
    produce.sort_by_key(|produce| produce.of);
    let decided = undecided_from.unwrap_or(partition.records.len());
    let mut with_something: Vec<usize> = produce.iter().map(|produce| produce.of).collect();
    with_something.dedup();
    let skipped = decided - with_something.len();
    drop((events, decoded, origins));
    Work { partition, produce, undecided_from, skipped, rejected }
}

/// What came of a partition, in the order of the modules.
struct Made<'a> {
    origins: &'a [Origin<'a>],
    partition: &'a Partition,
    produce: Vec<Produce>,
    undecided_from: Option<usize>,
    rejected: usize,
}

impl<'a> Made<'a> {
    fn new(origins: &'a [Origin<'a>], partition: &'a Partition) -> Self {
        Self { origins, partition, produce: Vec::new(), undecided_from: None, rejected: 0 }
    }

    fn rows(&mut self, of: usize, rows: Rows) {
        let key = &self.partition.records[of].key;
        self.produce.extend(rows.into_iter().map(|row| {
            let (topic, payload) = (row.table.to_string(), Some(row.json));
            let record = broker::Record { topic, key: key.clone(), payload, headers: Vec::new() };
            Produce { of, record }
        }));
    }

    fn put_aside(&mut self, of: usize, reason: &Reason, by: Option<&Loaded>) {
        self.rejected += 1;
        let record = &self.partition.records[of];
        tracing::warn!(
            topic = self.partition.topic,
            partition = self.partition.partition,
            offset = record.offset,
            slot = by.map(|by| by.slot.as_str()),
            stage = reason.stage,
            code = reason.code,
            reason = reason.message,
            "record put aside"
        );
        let letter = dead_letter::record(&self.origins[of], record, reason, by);
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
    use std::time::Duration;

    /// A partition of records 100, 101 and on.
    fn decided(undecided_from: Option<usize>) -> Work {
        let record =
            |offset| batch::Record { offset, timestamp_ms: 0, key: None, value: None, headers: Vec::new() };
        let records = (100..105).map(record).collect();
        let partition = Partition { topic: "order.events".to_owned(), partition: 0, records };
        Work { partition, produce: Vec::new(), undecided_from, skipped: 0, rejected: 0 }
    }

    #[test]
    fn partitions_share_the_bytes_of_their_rows() {
        let mut room = Room { until: Instant::now() + Duration::from_secs(3_600), bytes: 100 };
        let rows = |bytes: usize| {
            let row = outflow_transform::Row { table: "rows".into(), json: vec![b' '; bytes] };
            Batch { outcomes: vec![Outcome::Rows(Rows::from([row])), Outcome::Skip], unfinished: None }
        };
        let mut given = Vec::new();
        for bytes in [60, 70, 10] {
            let batch = room.run(2, |left| {
                given.push(left);
                rows(bytes)
            });
            assert_eq!(batch, rows(bytes));
        }
        assert_eq!(given, [100, 40, 0]);
    }

    #[test]
    fn no_module_begins_when_time_is_up_and_its_events_come_again() {
        let mut room = Room { until: Instant::now(), bytes: 100 };
        let batch = room.run(1, |_| panic!("it begins"));
        assert_eq!(batch.unfinished.map(|unfinished| unfinished.from), Some(0));
        let nothing = || Batch { outcomes: Vec::new(), unfinished: None };
        assert_eq!(room.run(0, |_| nothing()), nothing());
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
