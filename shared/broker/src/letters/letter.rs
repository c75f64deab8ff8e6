//! What a dead letter says of itself. Whoever wrote it: a function of ours, the event source that gave up calling one, or
//! Kafka Connect.

use super::{Headers, header, is_ours};
use crate::topics;
use rdkafka::{Message, message::Headers as _};
use serde::Serialize;
use std::{collections::HashMap, fmt, str::FromStr};
use time::OffsetDateTime;

/// The stage of letters that the event source put aside: its function never said anything of the record.
pub const EVENT_SOURCE: &str = "event-source";
/// The stage of letters that Kafka Connect put aside.
pub const CONNECT: &str = "connect";

/// What event sources write beside a record on its way to an on-failure destination.
const OF_EVENT_SOURCES: [&str; 10] = [
    "lambda-condition",
    "lambda-function",
    "lambda-invoke-count",
    "lambda-failed-at",
    "lambda-source-topic",
    "lambda-source-partition",
    "lambda-source-offset",
    "lambda-source-timestamp",
    "lambda-error-type",
    "lambda-error-message",
];
const OF_CONNECT: &str = "__connect.errors.";

/// Where a dead letter lies: `order.events.dlq/0/17`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LetterId {
    /// A topic of dead letters.
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
}

impl fmt::Display for LetterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.topic, self.partition, self.offset)
    }
}

impl Serialize for LetterId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no dead letter: write topic/partition/offset, such as order.events.dlq/0/17")]
pub struct InvalidLetterId(String);

impl FromStr for LetterId {
    type Err = InvalidLetterId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let mut parts = text.rsplitn(3, '/');
            let offset = parts.next()?.parse().ok().filter(|offset| *offset >= 0)?;
            let partition = parts.next()?.parse().ok().filter(|partition| *partition >= 0)?;
            let topic = parts.next().filter(|topic| topics::is_dead_letters(topic))?.to_owned();
            Some(Self { topic, partition, offset })
        };
        parse().ok_or_else(|| InvalidLetterId(text.to_owned()))
    }
}

/// What went wrong: letters of one cause are dealt with together.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Cause {
    /// The source topic.
    pub topic: String,
    pub stage: String,
    pub code: String,
    /// The digest of the module that rejected it, where one did.
    pub module: Option<String>,
    /// Which of the transforms beside each other.
    pub slot: Option<String>,
}

/// Where the record was first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Place {
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.topic, self.partition, self.offset)
    }
}

/// A letter without its value and its record's headers: enough to decide, and small where there are many.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    pub id: LetterId,
    /// When it was put aside.
    pub at: OffsetDateTime,
    pub cause: Cause,
    pub reason: String,
    /// Unknown where somebody else wrote the letter.
    pub first: Option<Place>,
    /// How often its record was given up, this time included.
    pub attempts: u32,
    /// The letter that it was before it was redriven.
    pub redriven_from: Option<String>,
    pub key: Option<Vec<u8>>,
}

/// A whole dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    pub head: Head,
    /// None is a tombstone.
    pub value: Option<Vec<u8>>,
    /// The record's own.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

impl Head {
    pub fn read(message: &impl Message) -> Self {
        let topic = topics::source(message.topic());
        let told = Told::by(message);
        let Account { stage, code, reason, first } =
            told.by_function().or_else(|| told.by_connect()).unwrap_or_else(|| told.by_event_source(topic));
        let counted = told.number(header::ATTEMPTS).and_then(|count| u32::try_from(count).ok()).unwrap_or(0);
        // Of a redriven record: its function had counted the letter before, and nobody has counted this one.
        let uncounted = u32::from(told.text(header::STAGE).is_none());
        let cause = Cause {
            topic: topic.to_owned(),
            stage,
            code: code.unwrap_or_else(|| "unknown".to_owned()),
            module: told.text(header::MODULE),
            slot: told.text(header::SLOT),
        };
        Self {
            id: LetterId {
                topic: message.topic().to_owned(),
                partition: message.partition(),
                offset: message.offset(),
            },
            at: at(message),
            cause,
            reason: reason.unwrap_or_default(),
            first,
            attempts: counted.saturating_add(uncounted),
            redriven_from: told.text(header::REDRIVEN_FROM),
            key: message.key().map(<[u8]>::to_vec),
        }
    }
}

/// The headers that are none of the record's own.
struct Told<'a>(HashMap<&'a str, &'a [u8]>);

/// What whoever wrote the letter says of it.
struct Account {
    stage: String,
    code: Option<String>,
    reason: Option<String>,
    first: Option<Place>,
}

impl<'a> Told<'a> {
    fn by(message: &'a impl Message) -> Self {
        let Some(headers) = message.headers() else { return Self(HashMap::new()) };
        let ours = (0..headers.count()).map(|index| headers.get(index)).filter(|h| !is_its_own(h.key));
        Self(ours.filter_map(|header| Some((header.key, header.value?))).collect())
    }

    fn text(&self, name: &str) -> Option<String> {
        self.0.get(name).map(|value| String::from_utf8_lossy(value).into_owned())
    }

    fn number(&self, name: &str) -> Option<i64> {
        self.text(name)?.parse().ok()
    }

    fn place(&self, topic: &str, partition: &str, offset: &str) -> Option<Place> {
        let partition = self.number(partition)?.try_into().ok()?;
        let topic = topics::source(&self.text(topic)?).to_owned();
        Some(Place { topic, partition, offset: self.number(offset)? })
    }

    fn by_function(&self) -> Option<Account> {
        let stage = self.text(header::STAGE)?;
        let first = self.place(header::TOPIC, header::PARTITION, header::OFFSET);
        Some(Account { stage, code: self.text(header::CODE), reason: self.text(header::REASON), first })
    }

    fn by_connect(&self) -> Option<Account> {
        let of = |name: &str| format!("{OF_CONNECT}{name}");
        let class = self.text(&of("exception.class.name"));
        let topic = self.text(&of("topic"));
        if class.is_none() && topic.is_none() {
            return None;
        }
        Some(Account {
            stage: CONNECT.to_owned(),
            code: class.map(|name| name.rsplit('.').next().unwrap_or_default().to_owned()),
            reason: self.text(&of("exception.message")),
            first: self.place(&of("topic"), &of("partition"), &of("offset")),
        })
    }

    /// Also where nobody says anything.
    fn by_event_source(&self, topic: &str) -> Account {
        let said = [self.text("lambda-error-type"), self.text("lambda-error-message")];
        // A redriven record still tells where it was before that.
        let before = self.number(header::PARTITION).zip(self.number(header::OFFSET));
        let before = before.and_then(|(partition, offset)| {
            Some(Place { topic: topic.to_owned(), partition: partition.try_into().ok()?, offset })
        });
        let read = || self.place("lambda-source-topic", "lambda-source-partition", "lambda-source-offset");
        Account {
            stage: EVENT_SOURCE.to_owned(),
            code: self.text("lambda-condition"),
            reason: Some(said.into_iter().flatten().collect::<Vec<_>>().join(": ")),
            first: before.or_else(read),
        }
    }
}

impl Letter {
    pub fn read(message: &impl Message) -> Self {
        let headers = message.headers().into_iter().flat_map(|headers| headers.iter());
        let own = headers.filter(|header| is_its_own(header.key));
        Self {
            head: Head::read(message),
            value: message.payload().map(<[u8]>::to_vec),
            headers: own.map(|header| (header.key.to_owned(), header.value.map(<[u8]>::to_vec))).collect(),
        }
    }

    /// What tells the function of the record's first life.
    pub(super) fn redriven_headers(&self) -> Headers {
        let head = &self.head;
        let mut headers =
            vec![(header::ATTEMPTS, head.attempts.to_string()), (header::REDRIVEN_FROM, head.id.to_string())];
        if let Some(first) = &head.first {
            headers.push((header::PARTITION, first.partition.to_string()));
            headers.push((header::OFFSET, first.offset.to_string()));
        }
        if let Some(slot) = &head.cause.slot {
            headers.push((header::SLOT, slot.clone()));
        }
        headers.into_iter().map(|(name, value)| (name.to_owned(), value.into_bytes())).collect()
    }
}

/// The record came with it; nobody added it when it was put aside.
fn is_its_own(header: &str) -> bool {
    !is_ours(header) && !OF_EVENT_SOURCES.contains(&header) && !header.starts_with(OF_CONNECT)
}

fn at(message: &impl Message) -> OffsetDateTime {
    let ms = message.timestamp().to_millis().unwrap_or_default();
    let at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000);
    at.unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rdkafka::{
        Timestamp,
        message::{Header, OwnedHeaders, OwnedMessage},
    };

    fn letter(headers: &[(&str, &str)]) -> Letter {
        let headers = headers.iter().fold(OwnedHeaders::new(), |headers, (key, value)| {
            headers.insert(Header { key, value: Some(value.as_bytes()) })
        });
        let topic = "order.events.dlq".to_owned();
        let (key, at) = (Some(b"o-1".to_vec()), Timestamp::CreateTime(1_767_323_045_678));
        Letter::read(&OwnedMessage::new(None, key, topic, at, 0, 17, Some(headers)))
    }

    fn cause(letter: &Letter) -> [&str; 4] {
        let Cause { topic, stage, code, .. } = &letter.head.cause;
        [topic, stage, code, &letter.head.reason]
    }

    #[test]
    fn an_id_is_read_as_it_is_written() {
        let id = LetterId { topic: "order.events.dlq".to_owned(), partition: 0, offset: 17 };
        assert_eq!(id.to_string().parse(), Ok(id));
        for wrong in
            ["17", "order.events/0/17", "order.events.dlq/0", "order.events.dlq/-1/1", "a.dlq/0/x", ""]
        {
            assert_eq!(wrong.parse::<LetterId>(), Err(InvalidLetterId(wrong.to_owned())));
        }
    }

    #[test]
    fn a_functions_letter_says_all() {
        let letter = letter(&[
            ("eventType", "OrderCreated"),
            ("outflow-reason", "no total"),
            ("outflow-code", "no_total"),
            ("outflow-stage", "module"),
            ("outflow-slot", "orders_analytics"),
            ("outflow-transform-digest", "ab12"),
            ("outflow-topic", "order.events"),
            ("outflow-partition", "3"),
            ("outflow-offset", "7"),
            ("outflow-attempts", "2"),
        ]);

        assert_eq!(cause(&letter), ["order.events", "module", "no_total", "no total"]);
        let head = &letter.head;
        assert_eq!(
            (head.cause.module.as_deref(), head.cause.slot.as_deref()),
            (Some("ab12"), Some("orders_analytics"))
        );
        assert_eq!(head.first.as_ref().map(ToString::to_string).as_deref(), Some("order.events/3/7"));
        assert_eq!((head.attempts, head.at.unix_timestamp()), (2, 1_767_323_045));
        assert_eq!(letter.headers, [("eventType".to_owned(), Some(b"OrderCreated".to_vec()))]);
        let names: Vec<_> = letter.redriven_headers().into_iter().map(|(name, _)| name).collect();
        let expected = [
            "outflow-attempts",
            "outflow-redriven-from",
            "outflow-partition",
            "outflow-offset",
            "outflow-slot",
        ];
        assert_eq!(names, expected);
    }

    #[test]
    fn what_the_event_source_put_aside_is_told_apart() {
        let told = [
            ("lambda-condition", "RetriesExhausted"),
            ("lambda-error-type", "Bug"),
            ("lambda-error-message", "it panicked"),
            ("lambda-source-topic", "order.events.retry"),
            ("lambda-source-partition", "0"),
            ("lambda-source-offset", "99"),
        ];
        let fresh = letter(&told);
        assert_eq!(cause(&fresh), ["order.events", "event-source", "RetriesExhausted", "Bug: it panicked"]);
        assert_eq!((fresh.head.attempts, fresh.headers.len()), (1, 0));

        let redriven = [
            ("outflow-attempts", "2"),
            ("outflow-slot", "s"),
            ("outflow-partition", "3"),
            ("outflow-offset", "7"),
        ];
        let again = letter(&[&redriven[..], &told].concat());
        assert_eq!((again.head.attempts, again.head.cause.slot.as_deref()), (3, Some("s")));
        assert_eq!(again.head.first.map(|first| first.to_string()).as_deref(), Some("order.events/3/7"));
        assert_eq!(cause(&letter(&[])), ["order.events", "event-source", "unknown", ""]);
    }

    #[test]
    fn what_kafka_connect_put_aside_is_told_apart() {
        let letter = letter(&[
            ("__connect.errors.topic", "orders_analytics"),
            ("__connect.errors.partition", "2"),
            ("__connect.errors.offset", "5"),
            ("__connect.errors.exception.class.name", "org.apache.kafka.connect.errors.DataException"),
            ("__connect.errors.exception.message", "no JSON"),
            ("traceparent", "00-1"),
        ]);

        assert_eq!(cause(&letter), ["order.events", "connect", "DataException", "no JSON"]);
        assert_eq!((letter.head.attempts, letter.headers.len()), (1, 1));
    }
}
