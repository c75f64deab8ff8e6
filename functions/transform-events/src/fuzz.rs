//! What must hold for any record: it is an event that says what the record does, or a dead letter that keeps it whole.
//!
//! [`envelope`] turns bytes into a record, [`invocation`] reads them as Lambda's JSON, and both panic where a promise is
//! broken. The targets of `fuzz/` call them with what coverage leads to, the tests below with what a fixed seed leads to and
//! with the seeds that are kept.

use crate::{dead_letter, envelope};
use outflow_broker::{letters::Origin, topics};
use outflow_kafka_batch::{KafkaEvent, Record};
use outflow_transform::Event;
use serde::de::IgnoredAny;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

const TOPIC: &str = "order.events";
const NAMES: [&str; 14] = [
    "eventType",
    "aggregateVersion",
    "ce_id",
    "ce_time",
    "schemaVersion",
    "outflowCanary",
    "outflow-slot",
    "outflow-attempts",
    "outflow-offset",
    "outflow-partition",
    "outflow-topic",
    "outflow-redriven-from",
    "outflow-",
    "",
];

/// A record out of bytes.
pub fn envelope(data: &[u8]) {
    let mut source = Source(data);
    let mut record = record(&mut source);
    let is_redriven = source.byte().is_multiple_of(4);
    let read_from = if is_redriven { topics::retries(TOPIC) } else { TOPIC.to_owned() };
    let partition = i32::from(source.byte());
    let said = (source.text(), source.text().repeat(usize::from(source.byte())));
    one(&read_from, partition, &mut record, said);
}

/// What Lambda hands over, as its JSON.
pub fn invocation(data: &[u8]) {
    let Ok(event) = serde_json::from_slice::<KafkaEvent>(data) else { return };
    let Ok(partitions) = outflow_kafka_batch::partitions(event) else { return };
    for mut partition in partitions {
        assert!(!partition.records.is_empty() && partition.records.is_sorted_by_key(|record| record.offset));
        for record in &mut partition.records {
            one(&partition.topic, partition.partition, record, (String::new(), String::new()));
        }
    }
}

/// A module would say `said` of it.
fn one(read_from: &str, partition: i32, record: &mut Record, (code, message): (String, String)) {
    let origin = Origin::take(read_from, partition, record.offset, &mut record.headers);
    assert_eq!(origin.topic, topics::source(read_from));
    let reason = match envelope::event(&origin, record) {
        Ok(event) => {
            says(&event, &origin, record);
            dead_letter::Reason { stage: "module", code, message }
        }
        Err(reason) => {
            assert_eq!(reason.stage, "decode");
            assert!(!reason.message.is_empty());
            assert!(is_to_blame(&reason.code, record), "{reason:?} of {record:?}");
            reason
        }
    };
    keeps_all(&origin, record, &reason);
}

/// Each field of the event is the record's.
fn says(event: &Event<'_>, origin: &Origin<'_>, record: &Record) {
    assert_eq!(Some(event.payload), record.value.as_deref());
    assert!(is_json(event.payload), "{:?} is JSON", event.payload);
    assert_eq!(Some(event.aggregate_id.as_bytes()), record.key.as_deref());
    assert_eq!(Some(event.id.as_bytes()), last(record, "ce_id"));
    assert_eq!(Some(event.event_type.as_bytes()), last(record, "eventType"));
    assert_eq!(whole(last(record, "aggregateVersion")), Some(event.aggregate_version.into()));
    assert!(event.aggregate_version > 0);
    let schema_version = last(record, "schemaVersion");
    if schema_version.is_some() {
        assert_eq!(whole(schema_version), Some(event.schema_version.into()));
    } else {
        assert_eq!(event.schema_version, 1);
    }
    let ce_time =
        last(record, "ce_time").and_then(|text| std::str::from_utf8(text).ok()).expect("it was read");
    let nanos = OffsetDateTime::parse(ce_time, &Rfc3339).expect("it was read").unix_timestamp_nanos();
    let late = nanos - i128::from(event.occurred_at_us) * 1_000;
    assert!((0..1_000).contains(&late), "{ce_time} became {} µs", event.occurred_at_us);
    assert_eq!(
        i128::from(event.relayed_at_us),
        (i128::from(record.timestamp_ms) * 1_000).clamp(i64::MIN.into(), i64::MAX.into())
    );
    assert_eq!((event.topic, event.partition, event.offset), (origin.topic, origin.partition, origin.offset));
    assert_eq!(event.headers, record.headers);
    assert_eq!(event.is_canary, last(record, "outflowCanary") == Some(&b"1"[..]));
}

/// Whether the record has the fault of that code.
fn is_to_blame(code: &str, record: &Record) -> bool {
    let is_text = |bytes: &[u8]| std::str::from_utf8(bytes).is_ok();
    match code {
        "no_value" => record.value.is_none(),
        "not_json" => !record.value.as_deref().is_some_and(is_json),
        "no_key" => record.key.is_none(),
        "bad_key" => !record.key.as_deref().is_some_and(is_text),
        "missing_header" => ["eventType", "aggregateVersion", "ce_id", "ce_time"]
            .iter()
            .any(|name| !last(record, name).is_some_and(is_text)),
        "bad_header" => {
            let version = whole(last(record, "aggregateVersion"));
            let schema = last(record, "schemaVersion");
            let has_time = last(record, "ce_time")
                .and_then(|text| std::str::from_utf8(text).ok())
                .is_some_and(|text| OffsetDateTime::parse(text, &Rfc3339).is_ok());
            !version.is_some_and(|version| (1..=u64::MAX.into()).contains(&version))
                || schema.is_some() && whole(schema).is_none_or(|version| version > u32::MAX.into())
                || !has_time
        }
        _ => false,
    }
}

/// The dead letter holds the record, and sent back it is the record again: of its first place, given up once more.
fn keeps_all(origin: &Origin<'_>, record: &Record, reason: &dead_letter::Reason) {
    let letter = dead_letter::record(origin, record, reason, None);
    assert_eq!(letter.topic, topics::dead_letters(origin.topic));
    assert_eq!((&letter.key, &letter.payload), (&record.key, &record.value));
    assert_eq!(letter.headers[..record.headers.len()], record.headers);
    let added = &letter.headers[record.headers.len()..];
    assert!(added.iter().all(|(name, value)| {
        let is_cut = value.len() <= 1_024 || !["outflow-reason", "outflow-code"].contains(&name.as_str());
        name.starts_with("outflow-") && is_cut && std::str::from_utf8(value).is_ok()
    }));

    let mut headers = letter.headers;
    let retries = topics::retries(origin.topic);
    let again = Origin::take(&retries, 0, 0, &mut headers);
    assert_eq!(headers, record.headers);
    assert_eq!((again.topic, again.partition, again.offset), (origin.topic, origin.partition, origin.offset));
    assert_eq!(again.attempts, origin.attempts.saturating_add(1));
    assert_eq!((again.slot, again.redriven_from), (origin.slot.clone(), origin.redriven_from.clone()));
}

fn record(source: &mut Source<'_>) -> Record {
    let mut headers: Vec<(String, Vec<u8>)> = Vec::new();
    for (at, name) in NAMES.iter().enumerate().take(6) {
        // The canary's and the schema's may be missing.
        if at < 4 || source.byte().is_multiple_of(2) {
            headers.push(((*name).to_owned(), likely(at, source)));
        }
    }
    for _ in 0..source.byte() % 4 {
        let at = usize::from(source.byte());
        match source.byte() % 4 {
            0 => drop(headers.remove(at % headers.len())),
            1 => headers.push((NAMES[at % NAMES.len()].to_owned(), source.bytes())),
            2 => headers.push((NAMES[at % NAMES.len()].to_owned(), likely(at, source))),
            _ => headers.push((source.text(), source.bytes())),
        }
        if headers.is_empty() {
            break;
        }
    }
    let value = match source.byte() {
        0..10 => None,
        10..60 => Some(source.bytes()),
        // Not yet JSON: what is in the string may be anything.
        60..90 => Some([b"{\"a\":\"", &source.bytes()[..], b"\"}"].concat()),
        90..100 => Some("[".repeat(usize::from(source.byte())).into_bytes()),
        _ => Some(serde_json::to_vec(&source.text()).expect("a string is JSON")),
    };
    let key = match source.byte() {
        0..10 => None,
        10..60 => Some(source.bytes()),
        _ => Some(source.text().into_bytes()),
    };
    Record {
        offset: source.bits().cast_signed(),
        timestamp_ms: source.bits().cast_signed(),
        key,
        value,
        headers,
    }
}

/// What a header of that place among the names has, mostly.
fn likely(at: usize, source: &mut Source<'_>) -> Vec<u8> {
    if source.byte() > 240 {
        return source.bytes();
    }
    match at % NAMES.len() {
        1 | 4 | 7 => (source.byte() % 12).to_string().into_bytes(),
        8 | 9 => (u32::from(source.byte()) << 24).to_string().into_bytes(),
        3 => time(source).into_bytes(),
        5 => b"1".to_vec(),
        _ => source.text().into_bytes(),
    }
}

fn time(source: &mut Source<'_>) -> String {
    // The years 0 to 9999, to the nanosecond.
    let nanos = i128::from(source.bits()) * 17 % 315_000_000_000_000_000_000 - 62_000_000_000_000_000_000;
    let time = OffsetDateTime::from_unix_timestamp_nanos(nanos).expect("a year that it knows");
    let text = time.format(&Rfc3339).expect("a year of four digits");
    match source.byte() {
        0..200 => text,
        200..220 => text.replace('Z', "+05:45"),
        220..230 => text.replace('Z', "-00:00"),
        230..240 => text.to_lowercase(),
        _ => text.replacen(|c: char| c.is_ascii_digit(), "6", usize::from(source.byte()) % 18),
    }
}

/// The value of the last header of this name, as Kafka's clients take it.
fn last<'a>(record: &'a Record, name: &str) -> Option<&'a [u8]> {
    let mut values = record.headers.iter().filter(|(key, _)| key == name).map(|(_, value)| value.as_slice());
    values.next_back()
}

fn whole(text: Option<&[u8]>) -> Option<u128> {
    std::str::from_utf8(text?).ok()?.parse().ok()
}

fn is_json(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok_and(|text| serde_json::from_str::<IgnoredAny>(text).is_ok())
}

/// Bytes that are taken one after the other; behind their end are zeros.
struct Source<'a>(&'a [u8]);

impl Source<'_> {
    fn byte(&mut self) -> u8 {
        let Some((byte, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *byte
    }

    fn bits(&mut self) -> u64 {
        (0..8).fold(0, |bits, _| bits << 8 | u64::from(self.byte()))
    }

    /// Short, and any bytes.
    fn bytes(&mut self) -> Vec<u8> {
        let len = usize::from(self.byte() % 40).min(self.0.len());
        let (taken, rest) = self.0.split_at(len);
        self.0 = rest;
        taken.to_vec()
    }

    fn text(&mut self) -> String {
        String::from_utf8_lossy(&self.bytes()).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{prelude::*, strategy::ValueTree, test_runner::RngSeed};
    use std::{fs, path::Path};

    /// The same cases each time: what the fuzzer finds is kept as a seed.
    fn config() -> ProptestConfig {
        ProptestConfig {
            cases: 4_096,
            rng_seed: RngSeed::Fixed(0x6f75_7466_6c6f_7721),
            failure_persistence: None,
            ..ProptestConfig::default()
        }
    }

    fn data() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(any::<u8>(), 0..512)
    }

    proptest! {
        #![proptest_config(config())]

        #[test]
        fn a_record_is_an_event_that_says_the_same_or_a_dead_letter_that_keeps_it(data in data()) {
            envelope(&data);
        }
    }

    proptest! {
        #![proptest_config(config())]

        #[test]
        fn so_it_is_in_the_json_of_an_invocation(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4)) {
            let mut json = include_bytes!("../events/order-created.json").to_vec();
            for (at, byte) in changes {
                *at.get_mut(&mut json) = byte;
            }
            invocation(&json);
        }
    }

    #[test]
    fn kept_seeds_hold() {
        let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds");
        for (target, run) in [("envelope", envelope as fn(&[u8])), ("invocation", invocation)] {
            let seeds = fs::read_dir(seeds.join(target)).expect("each target has seeds");
            let seeds: Vec<_> = seeds.map(|seed| seed.expect("it can be listed").path()).collect();
            assert!(!seeds.is_empty(), "{target} has none");
            seeds.iter().for_each(|seed| run(&fs::read(seed).expect("it can be read")));
        }
    }

    #[test]
    fn the_cases_of_the_fixed_seed_lead_everywhere() {
        let mut runner = proptest::test_runner::TestRunner::new(config());
        let (mut good, mut codes) = (0, std::collections::BTreeSet::new());
        for _ in 0..config().cases {
            let data = data().new_tree(&mut runner).expect("bytes can be made").current();
            let mut record = record(&mut Source(&data));
            let origin = Origin::take(TOPIC, 0, 0, &mut record.headers);
            match envelope::event(&origin, &record) {
                Ok(_) => good += 1,
                Err(reason) => drop(codes.insert(reason.code)),
            }
        }
        let all = ["bad_header", "bad_key", "missing_header", "no_key", "no_value", "not_json"];
        assert!(good > 500 && codes.iter().eq(&all), "{good} were good, the others had {codes:?}");
    }
}
