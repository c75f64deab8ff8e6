//! Dead letters: a record that a function gave up, unchanged in key and value, with the reason in headers beside its own.
//!
//! A function asks [`Origin::take`] what a record is (a redriven one tells of its first life) and writes with
//! [`dead_letter`]. With the feature `operator` there is what an operator does about them: `census` counts, `plan` and
//! `work` select and carry out, `desk` writes.
//!
//! Must not: know what a record means, or decide that one is given up.

#[cfg(feature = "operator")]
pub mod audit;
#[cfg(feature = "operator")]
pub mod census;
#[cfg(feature = "operator")]
pub mod desk;
#[cfg(feature = "operator")]
mod error;
#[cfg(feature = "operator")]
pub mod letter;
#[cfg(feature = "operator")]
pub mod log;
#[cfg(feature = "operator")]
pub mod plan;
#[cfg(feature = "operator")]
pub mod work;

#[cfg(feature = "operator")]
pub use error::LetterError;

use crate::{producer::Record, topics};

/// The headers' names.
pub mod header {
    /// What was wrong, for people.
    pub const REASON: &str = "outflow-reason";
    /// The same as one word: dead letters are grouped by it.
    pub const CODE: &str = "outflow-code";
    /// Where in the pipe it was given up.
    pub const STAGE: &str = "outflow-stage";
    /// SHA-256 of the module that rejected it.
    pub const MODULE: &str = "outflow-transform-digest";
    /// Which transform rejected it, of those that are active beside each other; absent where none did.
    pub const SLOT: &str = "outflow-slot";
    /// Where the record was first, not where a redriven one was read from.
    pub const TOPIC: &str = "outflow-topic";
    pub const PARTITION: &str = "outflow-partition";
    pub const OFFSET: &str = "outflow-offset";
    /// How often it was given up.
    pub const ATTEMPTS: &str = "outflow-attempts";
    /// The dead letter that a redriven record was.
    pub const REDRIVEN_FROM: &str = "outflow-redriven-from";

    pub(super) const ALL: [&str; 10] =
        [REASON, CODE, STAGE, MODULE, SLOT, TOPIC, PARTITION, OFFSET, ATTEMPTS, REDRIVEN_FROM];
}

/// Bytes of a reason and of a code; what lies behind is cut off. Modules and servers could say anything.
const MAX_REASON: usize = 1_024;
const MAX_CODE: usize = 128;

type Headers = Vec<(String, Vec<u8>)>;

/// What a record is, wherever it was read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin<'a> {
    /// Its source topic: never one of retries.
    pub topic: &'a str,
    pub partition: i32,
    pub offset: i64,
    /// How often it was given up before.
    pub attempts: u32,
    /// Redriven for this transform alone: the others had it.
    pub slot: Option<String>,
    /// The dead letter that it was.
    pub redriven_from: Option<String>,
}

impl<'a> Origin<'a> {
    /// Takes what we put into the headers of a redriven record, and leaves it those that it came with. Whoever asks
    /// Kafka to deliver a record again needs the place where it was read, not this one.
    pub fn take(topic: &'a str, partition: i32, offset: i64, headers: &mut Headers) -> Self {
        let topic_of = topics::source(topic);
        let plain = Self { topic: topic_of, partition, offset, attempts: 0, slot: None, redriven_from: None };
        let origin = if topics::is_retries(topic) {
            let text = |name: &str| {
                let (_, value) = headers.iter().rev().find(|(key, _)| key == name)?;
                std::str::from_utf8(value).ok()
            };
            // By hand records may come without.
            let first = text(header::PARTITION).zip(text(header::OFFSET));
            let first = first.and_then(|(partition, offset)| partition.parse().ok().zip(offset.parse().ok()));
            let (partition, offset) = first.unwrap_or((partition, offset));
            let attempts = text(header::ATTEMPTS).and_then(|number| number.parse().ok()).unwrap_or(0);
            let owned = |name: &str| text(name).map(str::to_owned);
            let (slot, redriven_from) = (owned(header::SLOT), owned(header::REDRIVEN_FROM));
            Self { partition, offset, attempts, slot, redriven_from, ..plain }
        } else {
            plain
        };
        headers.retain(|(name, _)| !is_ours(name));
        origin
    }
}

/// Why a record is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rejection<'a> {
    pub stage: &'a str,
    /// Short and stable.
    pub code: &'a str,
    /// For people.
    pub reason: &'a str,
    /// The transform that rejected it, and its module's digest.
    pub by: Option<(&'a str, &'a str)>,
}

/// The dead letter of a record, with the headers that [`Origin::take`] left.
pub fn dead_letter(
    origin: &Origin<'_>,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    mut headers: Headers,
    rejection: &Rejection<'_>,
) -> Record {
    let Rejection { stage, code, reason, by } = rejection;
    headers.retain(|(name, _)| !is_ours(name));
    let mut add = |name: &str, value: &str| headers.push((name.to_owned(), value.as_bytes().to_vec()));
    add(header::REASON, cut(reason, MAX_REASON));
    add(header::CODE, cut(code, MAX_CODE));
    add(header::STAGE, stage);
    // What is for one transform alone stays so, whoever gives it up.
    if let Some(slot) = by.map(|(slot, _)| slot).or(origin.slot.as_deref()) {
        add(header::SLOT, slot);
    }
    if let Some((_, module)) = by {
        add(header::MODULE, module);
    }
    add(header::TOPIC, origin.topic);
    add(header::PARTITION, &origin.partition.to_string());
    add(header::OFFSET, &origin.offset.to_string());
    add(header::ATTEMPTS, &origin.attempts.saturating_add(1).to_string());
    if let Some(before) = &origin.redriven_from {
        add(header::REDRIVEN_FROM, before);
    }
    Record { topic: topics::dead_letters(origin.topic), key, payload: value, headers }
}

/// A header that tells of dead letters, and is none of the record's own.
pub(crate) fn is_ours(name: &str) -> bool {
    header::ALL.contains(&name)
}

fn cut(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> Headers {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec())).collect()
    }

    fn lines(headers: &Headers) -> String {
        let line = |(name, value): &(String, Vec<u8>)| match value.len() {
            0..=100 => format!("{name}={}\n", String::from_utf8_lossy(value)),
            long => format!("{name} ({long} bytes)\n"),
        };
        headers.iter().map(line).collect()
    }

    #[test]
    fn a_dead_letter_is_the_record_with_its_reason_and_its_place() {
        let mut headers = headers(&[("eventType", "OrderCreated"), ("outflow-canary", "1")]);
        let origin = Origin::take("order.events", 3, 7, &mut headers);
        let reason = "é".repeat(1_000);
        let by = Some(("orders_analytics", "ab12"));
        let rejection = Rejection { stage: "module", code: "no_total", reason: &reason, by };

        let letter = dead_letter(&origin, None, Some(b"\xff{".to_vec()), headers, &rejection);

        assert_eq!((letter.topic.as_str(), letter.key), ("order.events.dlq", None));
        assert_eq!(letter.payload.as_deref(), Some(&b"\xff{"[..]));
        let expected = "\
            eventType=OrderCreated\noutflow-canary=1\noutflow-reason (1024 bytes)\noutflow-code=no_total\n\
            outflow-stage=module\noutflow-slot=orders_analytics\noutflow-transform-digest=ab12\n\
            outflow-topic=order.events\noutflow-partition=3\noutflow-offset=7\noutflow-attempts=1\n";
        assert_eq!(lines(&letter.headers), expected);
    }

    #[test]
    fn a_redriven_record_is_the_one_that_it_was() {
        let own = [("eventType", "OrderCreated")];
        let redriven = [
            own[0],
            ("outflow-attempts", "2"),
            ("outflow-slot", "order_items"),
            ("outflow-partition", "3"),
            ("outflow-offset", "7"),
            ("outflow-redriven-from", "order.events.dlq/0/5"),
        ];
        let mut redriven = headers(&redriven);

        let origin = Origin::take("order.events.retry", 0, 99, &mut redriven);

        let slot = Some("order_items".to_owned());
        let redriven_from = Some("order.events.dlq/0/5".to_owned());
        let expected =
            Origin { topic: "order.events", partition: 3, offset: 7, attempts: 2, slot, redriven_from };
        assert_eq!((&origin, &redriven), (&expected, &headers(&own)));
        let rejection = Rejection { stage: "decode", code: "not_json", reason: "", by: None };
        let again = dead_letter(&origin, None, None, redriven, &rejection);
        assert_eq!((again.topic.as_str(), again.payload), ("order.events.dlq", None));
        let told = lines(&again.headers);
        let told_last = "outflow-offset=7\noutflow-attempts=3\noutflow-redriven-from=order.events.dlq/0/5\n";
        assert!(told.ends_with(told_last), "{told}");
        assert!(told.contains("outflow-slot=order_items") && !told.contains("digest"), "{told}");
    }

    #[test]
    fn only_the_retry_topic_tells_of_a_first_life() {
        let pretended = [("outflow-attempts", "4"), ("outflow-slot", "other"), ("outflow-offset", "1")];
        let mut headers = headers(&pretended);

        let origin = Origin::take("order.events", 3, 7, &mut headers);

        assert_eq!((origin.partition, origin.offset, origin.attempts), (3, 7, 0));
        assert_eq!((origin.topic, origin.slot, origin.redriven_from), ("order.events", None, None));
        assert!(headers.is_empty());
        let by_hand = Origin::take("order.events.retry", 0, 5, &mut headers);
        assert_eq!((by_hand.partition, by_hand.offset, by_hand.attempts), (0, 5, 0));
    }
}
