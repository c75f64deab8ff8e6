//! The events as AWS shapes them: a Kafka batch, a schedule.
//!
//! Must not: decide which records belong together.

use crate::template::{EventSource, Mapping, Schedule};
use base64::{Engine, prelude::BASE64_STANDARD};
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// Lambda's limit for the payload of a synchronous invocation, bytes.
pub(crate) const MAX_PAYLOAD: usize = 6 * 1024 * 1024;

/// A Kafka record as it was read. The topic is the mapping's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    /// Milliseconds since the epoch, UTC.
    pub(crate) timestamp_ms: i64,
    pub(crate) timestamp_type: TimestampType,
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) value: Option<Vec<u8>>,
    pub(crate) headers: Vec<(String, Vec<u8>)>,
}

impl Message {
    /// Memory that it holds, bytes, roughly.
    pub(crate) fn size(&self) -> usize {
        let bytes = |part: &Option<Vec<u8>>| part.as_ref().map_or(0, Vec::len);
        let headers: usize = self.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        bytes(&self.key) + bytes(&self.value) + headers + size_of::<Self>()
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) enum TimestampType {
    #[default]
    #[serde(rename = "CREATE_TIME")]
    Create,
    #[serde(rename = "LOG_APPEND_TIME")]
    LogAppend,
    #[serde(rename = "NO_TIMESTAMP_TYPE")]
    Unknown,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Record<'a> {
    topic: &'a str,
    partition: i32,
    offset: i64,
    timestamp: i64,
    timestamp_type: TimestampType,
    key: Option<String>,
    value: Option<String>,
    /// One map a header, so that a name may come twice; bytes signed, as Java has them.
    headers: Vec<BTreeMap<&'a str, Vec<i8>>>,
}

fn encode(topic: &str, message: &Message) -> String {
    let base64 = |part: &Option<Vec<u8>>| part.as_ref().map(|bytes| BASE64_STANDARD.encode(bytes));
    let signed = |bytes: &[u8]| bytes.iter().map(|byte| byte.cast_signed()).collect();
    let record = Record {
        topic,
        partition: message.partition,
        offset: message.offset,
        timestamp: message.timestamp_ms,
        timestamp_type: message.timestamp_type,
        key: base64(&message.key),
        value: base64(&message.value),
        headers: message
            .headers
            .iter()
            .map(|(name, value)| BTreeMap::from([(name.as_str(), signed(value))]))
            .collect(),
    };
    serde_json::to_string(&record).expect("texts, numbers and lists always serialise")
}

/// A Kafka batch that grows record by record and never over Lambda's payload limit.
#[derive(Debug)]
pub(crate) struct KafkaEvent {
    topic: String,
    head: String,
    /// Partition to its encoded records, in the order they came.
    partitions: BTreeMap<i32, Vec<String>>,
    size: usize,
}

impl KafkaEvent {
    pub(crate) fn new(mapping: &Mapping, brokers: &str) -> Self {
        let head = match mapping.source {
            EventSource::SelfManaged => {
                json!({ "eventSource": "SelfManagedKafka", "bootstrapServers": brokers })
            }
            EventSource::Msk => json!({
                "eventSource": "aws:kafka",
                "eventSourceArn": "arn:aws:kafka:local:000000000000:cluster/local/00000000-0000-0000-0000-000000000000-1",
                "bootstrapServers": brokers,
            }),
        };
        let head = head.to_string();
        let head = format!(r#"{},"records":{{"#, head.trim_end_matches('}'));
        let size = head.len() + "}}".len();
        Self { topic: mapping.topic.clone(), head, partitions: BTreeMap::new(), size }
    }

    /// False, and nothing changed, if the record does not fit any more.
    pub(crate) fn push(&mut self, message: &Message) -> bool {
        let record = encode(&self.topic, message);
        // A partition's key with its brackets, or the comma between two records; and the comma between partitions.
        let frame = match self.partitions.contains_key(&message.partition) {
            true => 1,
            false => key(&self.topic, message.partition).len() + 4,
        };
        if self.size + frame + record.len() > MAX_PAYLOAD {
            return false;
        }
        self.size += frame + record.len();
        self.partitions.entry(message.partition).or_default().push(record);
        true
    }

    pub(crate) fn into_json(self) -> String {
        let partitions = self
            .partitions
            .iter()
            .map(|(partition, records)| format!("{}:[{}]", key(&self.topic, *partition), records.join(",")));
        format!("{}{}}}}}", self.head, partitions.collect::<Vec<_>>().join(","))
    }
}

fn key(topic: &str, partition: i32) -> String {
    Value::from(format!("{topic}-{partition}")).to_string()
}

/// What EventBridge sends: the rule's input, or its own envelope.
pub(crate) fn schedule_event(schedule: &Schedule, id: &str, at: OffsetDateTime) -> Value {
    if let Some(input) = &schedule.input {
        return input.clone();
    }
    let at = at.replace_nanosecond(0).unwrap_or(at);
    json!({
        "version": "0",
        "id": id,
        "detail-type": "Scheduled Event",
        "source": "aws.events",
        "account": "000000000000",
        "time": at.format(&Rfc3339).unwrap_or_default(),
        "region": "local",
        "resources": [format!("arn:aws:events:local:000000000000:rule/{}", schedule.name)],
        "detail": {},
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::template::StartingPosition;
    use expect_test::expect;
    use std::time::Duration;
    use time::macros::datetime;

    pub(crate) fn mapping() -> Mapping {
        Mapping {
            name: "Rows".into(),
            function: "load-rows".into(),
            topic: "rows".into(),
            group: "outflow-load-rows-rows".into(),
            source: EventSource::SelfManaged,
            enabled: true,
            start: StartingPosition::TrimHorizon,
            batch_size: 4,
            window: Duration::from_millis(500),
            max_retries: Some(2),
            max_age: None,
            bisect: true,
            partial: true,
            on_failure: Some("rows.dlq".into()),
        }
    }

    pub(crate) fn message(partition: i32, offset: i64) -> Message {
        Message {
            partition,
            offset,
            timestamp_ms: 1_700_000_000_123,
            key: Some(b"k".to_vec()),
            value: Some(format!("v{offset}").into_bytes()),
            ..Message::default()
        }
    }

    #[test]
    fn a_batch_has_the_shape_that_aws_gives_it() {
        let mut event = KafkaEvent::new(&mapping(), "a:9092,b:9092");
        let headers = vec![("traceparent".into(), b"00".to_vec()), ("bin".into(), vec![0, 127, 128, 255])];
        assert!(event.push(&Message { headers, ..message(1, 41) }));
        assert!(event.push(&Message { key: None, value: None, ..message(1, 42) }));
        assert!(event.push(&message(0, 7)));
        let size = event.size;
        let json = event.into_json();
        assert!((json.len()..=json.len() + 1).contains(&size), "{size} is not {}", json.len());
        expect![[r#"{"bootstrapServers":"a:9092,b:9092","eventSource":"SelfManagedKafka","records":{"rows-0":[{"topic":"rows","partition":0,"offset":7,"timestamp":1700000000123,"timestampType":"CREATE_TIME","key":"aw==","value":"djc=","headers":[]}],"rows-1":[{"topic":"rows","partition":1,"offset":41,"timestamp":1700000000123,"timestampType":"CREATE_TIME","key":"aw==","value":"djQx","headers":[{"traceparent":[48,48]},{"bin":[0,127,-128,-1]}]},{"topic":"rows","partition":1,"offset":42,"timestamp":1700000000123,"timestampType":"CREATE_TIME","key":null,"value":null,"headers":[]}]}}"#]]
        .assert_eq(&json);
    }

    #[test]
    fn awss_own_types_read_it() {
        let mut event = KafkaEvent::new(&Mapping { source: EventSource::Msk, ..mapping() }, "a:9092");
        let headers = vec![("bin".to_owned(), vec![200])];
        assert!(event.push(&Message { headers, ..message(3, 5) }));

        let read: aws_lambda_events::event::kafka::KafkaEvent =
            serde_json::from_str(&event.into_json()).expect("the event has AWS's shape");

        assert_eq!(read.event_source.as_deref(), Some("aws:kafka"));
        assert_eq!(read.bootstrap_servers.as_deref(), Some("a:9092"));
        let record = &read.records["rows-3"][0];
        assert_eq!((record.partition, record.offset), (3, 5));
        assert_eq!(record.timestamp_type.as_deref(), Some("CREATE_TIME"));
        assert_eq!(record.value.as_deref(), Some("djU="));
        assert_eq!(record.headers[0]["bin"], vec![-56]);
    }

    #[test]
    fn a_batch_stays_below_six_megabytes() {
        let big = |offset| Message { value: Some(vec![0; 1024 * 1024]), ..message(0, offset) };
        let mut event = KafkaEvent::new(&mapping(), "a:9092");
        let taken = (0..10).take_while(|offset| event.push(&big(*offset))).count();
        assert_eq!(taken, 4);
        assert!(event.into_json().len() <= MAX_PAYLOAD);
        let huge = Message { value: Some(vec![0; 5 * 1024 * 1024]), ..message(0, 0) };
        assert!(!KafkaEvent::new(&mapping(), "a:9092").push(&huge));
    }

    #[test]
    fn a_schedule_without_input_sends_eventbridges_envelope() {
        let schedule = Schedule {
            name: "Hourly".into(),
            function: "f".into(),
            enabled: true,
            expression: "rate(1 hour)".into(),
            every: Duration::from_secs(3600),
            input: None,
        };
        let event = schedule_event(&schedule, "id-1", datetime!(2026-01-02 03:04:05.678 UTC));
        let read: aws_lambda_events::event::eventbridge::EventBridgeEvent<Value> =
            serde_json::from_value(event.clone()).expect("the event has AWS's shape");
        assert_eq!(read.detail_type, "Scheduled Event");
        expect![[r#"{"account":"000000000000","detail":{},"detail-type":"Scheduled Event","id":"id-1","region":"local","resources":["arn:aws:events:local:000000000000:rule/Hourly"],"source":"aws.events","time":"2026-01-02T03:04:05Z","version":"0"}"#]]
        .assert_eq(&event.to_string());
    }
}
