//! The arithmetic of batches and failures, with clock and chance in hand.

use super::*;
use crate::event::tests::{mapping, message};
use bytes::Bytes;

const BACKOFF: Backoff = Backoff { first: Duration::from_millis(100), most: Duration::from_secs(5) };

/// Queues with a clock that only the test moves.
struct Bench {
    queues: Queues,
    now: Instant,
    now_ms: i64,
}

impl Bench {
    fn new(mapping: Mapping) -> Self {
        let mut queues = Queues::new(mapping, "a:9092", BACKOFF);
        queues.assign(&[0, 1, 2]);
        Self { queues, now: Instant::now(), now_ms: 1_700_000_001_000 }
    }

    fn push(&mut self, partition: i32, offsets: std::ops::Range<i64>) -> &mut Self {
        for offset in offsets {
            self.queues.push(message(partition, offset), self.now);
        }
        self
    }

    fn pass(&mut self, time: Duration) -> &mut Self {
        self.now += time;
        self
    }

    fn next(&mut self) -> Work {
        self.queues.next(self.now, self.now_ms)
    }

    /// The next batch, waiting for as long as the queues want.
    fn batch(&mut self) -> Batch {
        loop {
            match self.next() {
                Work::Invoke(batch) => return batch,
                Work::Wait(Some(until)) => self.now = until,
                other => panic!("a batch was expected, not {other:?}"),
            }
        }
    }

    fn settle(&mut self, batch: &Batch, outcome: Outcome) -> Settled {
        self.queues.settle(batch, outcome, self.now, || u32::MAX)
    }

    fn answer(&mut self, batch: &Batch, answer: &str) -> Settled {
        self.settle(batch, Outcome::Answer(Bytes::copy_from_slice(answer.as_bytes())))
    }

    fn fail(&mut self, batch: &Batch) -> Settled {
        self.settle(batch, Outcome::Failed(FunctionError::new("Bug", "no")))
    }

    fn discard(&mut self) -> Discard {
        match self.next() {
            Work::Discard(discard) => discard,
            other => panic!("a discard was expected, not {other:?}"),
        }
    }
}

/// "0:[1,2] 2:[7]"
fn shape(batch: &Batch) -> String {
    let slices = batch.slices.iter().map(|(partition, slice)| format!("{partition}:{:?}", slice.offsets));
    slices.collect::<Vec<_>>().join(" ").replace(", ", ",")
}

fn progress(settled: &Settled) -> Vec<(i32, i64)> {
    settled.progress.iter().map(|(partition, next)| (*partition, *next)).collect()
}

fn item(partition: i32, offset: i64) -> String {
    format!(
        r#"{{"batchItemFailures":[{{"itemIdentifier":{{"partition":"rows-{partition}","offset":{offset}}}}}]}}"#
    )
}

#[test]
fn a_batch_goes_when_it_is_full_or_its_window_is_over() {
    let mut bench = Bench::new(mapping());
    bench.push(0, 0..3);
    assert!(matches!(bench.next(), Work::Wait(Some(_))));
    assert_eq!(shape(&bench.pass(Duration::from_millis(500)).batch()), "0:[0,1,2]");

    let mut bench = Bench::new(mapping());
    bench.push(0, 0..3).push(1, 0..9);
    assert!(matches!(bench.next(), Work::Invoke(batch) if batch.records == 4));
}

#[test]
fn partitions_share_a_batch_fairly() {
    let mut bench = Bench::new(Mapping { batch_size: 9, ..mapping() });
    bench.push(0, 0..20).push(1, 0..1).push(2, 0..20);
    let batch = bench.batch();
    assert_eq!(shape(&batch), "0:[0,1,2,3] 1:[0] 2:[0,1,2,3]");
    assert_eq!(progress(&bench.answer(&batch, "null")), [(0, 4), (1, 1), (2, 4)]);
    assert!(shape(&bench.batch()).starts_with("0:[4,"));
}

#[test]
fn what_lambda_takes_for_success_is_success() {
    for answer in ["", "null", "{}", "7", r#"{"batchItemFailures":null}"#, r#"{"batchItemFailures":[]}"#] {
        let mut bench = Bench::new(mapping());
        let batch = bench.push(0, 0..2).batch();
        assert_eq!(progress(&bench.answer(&batch, answer)), [(0, 2)], "{answer}");
    }
}

#[test]
fn a_partial_failure_resumes_its_partition_there_and_the_others_go_on() {
    let mut bench = Bench::new(mapping());
    let batch = bench.push(0, 0..2).push(1, 0..2).batch();
    let settled = bench.answer(&batch, &item(0, 1));
    assert_eq!(progress(&settled), [(0, 1), (1, 2)]);
    assert_eq!(settled.retried, [(0, 1, 1)]);

    bench.push(1, 2..6);
    assert_eq!(shape(&bench.batch()), "1:[2,3,4,5]");
}

#[test]
fn the_lowest_of_several_failures_counts() {
    let mut bench = Bench::new(mapping());
    let batch = bench.push(0, 5..9).batch();
    let both = r#"{"batchItemFailures":[
        {"itemIdentifier":{"partition":"rows-0","offset":8}},
        {"itemIdentifier":{"partition":"rows-0","offset":6}}]}"#;
    assert_eq!(progress(&bench.answer(&batch, both)), [(0, 6)]);
}

#[test]
fn an_identifier_that_is_not_in_the_batch_fails_all_of_it() {
    let broken = r#"{"batchItemFailures":[{"itemIdentifier":{"partition":"rows-0"}}]}"#.to_owned();
    for answer in [item(0, 99), item(7, 0), item(0, 1).replace("rows-0", "x"), broken, "{".to_owned()] {
        let mut bench = Bench::new(mapping());
        let batch = bench.push(0, 0..2).push(1, 0..2).batch();
        let settled = bench.answer(&batch, &answer);
        assert_eq!(progress(&settled), [], "{answer}");
        assert_eq!(settled.retried.len(), 2, "{answer}");
    }
}

#[test]
fn the_same_record_failing_too_often_is_put_aside_alone_and_its_neighbours_go_on() {
    let mut bench = Bench::new(mapping());
    bench.push(0, 0..4);
    for _ in 0..3 {
        let batch = bench.batch();
        bench.answer(&batch, &item(0, 1));
    }
    // One attempt and the mapping's two retries are spent.
    let discard = bench.discard();
    assert_eq!(discard.condition, Condition::RetriesExhausted);
    assert_eq!(discard.messages.iter().map(|m| m.offset).collect::<Vec<_>>(), [1]);
    assert_eq!(discard.invocations, 3);
    assert_eq!(progress(&bench.queues.settle_discard(&discard, true, bench.now, 0)), [(0, 2)]);
    assert_eq!(shape(&bench.batch()), "0:[2,3]");
}

#[test]
fn without_splitting_the_rest_of_the_batch_is_put_aside_too() {
    let mut bench = Bench::new(Mapping { bisect: false, ..mapping() });
    bench.push(0, 0..4);
    for _ in 0..3 {
        let batch = bench.batch();
        bench.answer(&batch, &item(0, 1));
    }
    assert_eq!(bench.discard().messages.len(), 3);
}

#[test]
fn what_the_destination_does_not_take_stays_and_is_sent_again() {
    let mut bench = Bench::new(Mapping { max_retries: Some(0), ..mapping() });
    let batch = bench.push(0, 0..1).batch();
    bench.fail(&batch);
    let discard = bench.discard();
    assert_eq!(progress(&bench.queues.settle_discard(&discard, false, bench.now, 0)), []);
    assert!(matches!(bench.next(), Work::Wait(Some(until)) if until > bench.now));
    bench.pass(Duration::from_secs(6));
    assert_eq!(bench.discard().messages, discard.messages);
}

#[test]
fn an_error_is_split_until_the_bad_record_stands_alone() {
    let mut bench = Bench::new(mapping());
    bench.push(0, 0..4).push(1, 0..1);
    let mut seen = Vec::new();
    let mut dead = Vec::new();
    // The function panics over record 2 of partition 0.
    for _ in 0..20 {
        match bench.next() {
            Work::Wait(None) => break,
            Work::Wait(Some(until)) => bench.now = until,
            Work::Discard(discard) => {
                dead.extend(discard.messages.iter().map(|m| m.offset));
                bench.queues.settle_discard(&discard, true, bench.now, 0);
            }
            Work::Invoke(batch) => {
                seen.push(shape(&batch));
                let bad = batch.slices.get(&0).is_some_and(|slice| slice.offsets.contains(&2));
                if bad {
                    bench.fail(&batch)
                } else {
                    bench.answer(&batch, "null")
                };
            }
        }
    }
    assert_eq!(dead, [2]);
    assert_eq!(
        seen,
        [
            "0:[0,1,2] 1:[0]",
            "0:[0,1,2]",
            "1:[0]",
            "0:[0]",
            "0:[1,2]",
            "0:[1]",
            // Twice as many after each success, until it fails again.
            "0:[2,3]",
            "0:[2]",
            "0:[2]",
            "0:[2]",
            "0:[3]"
        ]
    );
}

#[test]
fn a_function_out_of_reach_burns_nothing_however_long() {
    let mut bench = Bench::new(mapping());
    bench.push(0, 0..2);
    for _ in 0..1_000 {
        let batch = bench.batch();
        let settled = bench.settle(&batch, Outcome::Unavailable("connection refused".into()));
        assert!(settled.progress.is_empty());
    }
    assert_eq!(shape(&bench.batch()), "0:[0,1]");
}

#[test]
fn a_record_over_the_payload_limit_is_put_aside_and_the_rest_goes_on() {
    let mut bench = Bench::new(mapping());
    let huge = Message { value: Some(vec![0; 6 * 1024 * 1024]), ..message(0, 1) };
    bench.push(0, 0..1);
    bench.queues.push(huge, bench.now);
    bench.push(0, 2..3);
    bench.pass(Duration::from_secs(1));
    let batch = bench.batch();
    assert_eq!(shape(&batch), "0:[0]");
    bench.answer(&batch, "null");
    let discard = bench.discard();
    assert_eq!((discard.condition, discard.messages[0].offset), (Condition::PayloadTooLarge, 1));
    bench.queues.settle_discard(&discard, true, bench.now, 0);
    assert_eq!(shape(&bench.batch()), "0:[2]");
}

#[test]
fn records_over_the_maximum_age_are_put_aside() {
    let mut bench = Bench::new(Mapping { max_age: Some(Duration::from_secs(60)), ..mapping() });
    bench.push(0, 0..2);
    bench.now_ms += 120_000;
    let discard = bench.discard();
    assert_eq!((discard.condition, discard.messages.len()), (Condition::EventAgeExceeded, 2));
}

#[test]
fn a_partition_taken_away_in_mid_call_settles_nothing() {
    let mut bench = Bench::new(mapping());
    let batch = bench.push(0, 0..2).batch();
    bench.queues.revoke(&[0]);
    bench.queues.assign(&[0]);
    bench.push(0, 0..2);
    assert_eq!(progress(&bench.answer(&batch, "null")), []);
    assert_eq!(shape(&bench.batch()), "0:[0,1]");
}

#[test]
fn a_topic_made_anew_is_read_from_its_beginning() {
    let mut bench = Bench::new(mapping());
    let batch = bench.push(0, 50..54).batch();
    bench.push(0, 0..2);
    assert_eq!(progress(&bench.answer(&batch, "null")), []);
    assert_eq!(shape(&bench.batch()), "0:[0,1]");
}

#[test]
fn back_off_doubles_to_its_most_and_half_of_it_is_chance() {
    let wait = |in_row, chance| BACKOFF.wait(in_row, chance).as_millis();
    assert_eq!([wait(1, 0), wait(2, 0), wait(3, 0), wait(60, 0)], [50, 100, 200, 2_500]);
    assert_eq!([wait(1, u32::MAX), wait(60, u32::MAX)], [99, 4_999]);
}
