//! An event as a CloudEvent 1.0 in JSON.

use outflow_outbox::OutboxEvent;
use serde::Serialize;
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use time::format_description::well_known::Rfc3339;

/// CloudEvents' own names, and those that stand beside them here; a header of such a name is not to hide one.
const TAKEN: [&str; 11] = [
    "specversion",
    "id",
    "source",
    "type",
    "subject",
    "time",
    "datacontenttype",
    "dataschema",
    "data",
    "aggregatetype",
    "aggregateversion",
];

#[derive(Debug, Serialize)]
struct Envelope<'a> {
    specversion: &'static str,
    id: &'a str,
    source: &'a str,
    r#type: &'a str,
    subject: &'a str,
    time: String,
    datacontenttype: &'static str,
    aggregatetype: &'a str,
    aggregateversion: u32,
    #[serde(flatten)]
    headers: BTreeMap<String, &'a str>,
    data: &'a RawValue,
}

/// Appends the event in JSON. Its payload goes in as it is.
///
/// # Errors
/// Where the payload is no JSON.
pub(super) fn write_json(
    body: &mut Vec<u8>,
    event: &OutboxEvent,
    source: &str,
) -> Result<(), serde_json::Error> {
    let mut headers = BTreeMap::new();
    for (name, value) in &event.headers {
        headers.entry(extension(name)).or_insert(value.as_str());
    }
    let envelope = Envelope {
        specversion: "1.0",
        id: &event.event_id,
        source,
        r#type: &event.event_type,
        subject: &event.aggregate_id,
        time: event
            .created_at
            .format(&Rfc3339)
            .expect("a stored timestamp has a year that RFC 3339 can tell"),
        datacontenttype: "application/json",
        aggregatetype: &event.aggregate_type,
        aggregateversion: event.aggregate_version,
        headers,
        data: serde_json::from_str(&event.payload)?,
    };
    serde_json::to_writer(body, &envelope)
}

/// A header's name as an extension attribute, which has lower case letters and digits alone: `schema-version` is
/// `schemaversion`. A name that is taken gets `header` in front of it; of two that become one, the first stays.
fn extension(name: &str) -> String {
    let name: String =
        name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect();
    if name.is_empty() || TAKEN.contains(&name.as_str()) { format!("header{name}") } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use time::macros::datetime;

    fn to_json(event: &OutboxEvent) -> Result<Vec<u8>, serde_json::Error> {
        let mut body = Vec::new();
        write_json(&mut body, event, "shop").map(|()| body)
    }

    fn event(headers: &[(&str, &str)]) -> OutboxEvent {
        OutboxEvent {
            id: 7,
            event_id: "0192".to_owned(),
            aggregate_type: "Order".to_owned(),
            aggregate_id: "o-1".to_owned(),
            aggregate_version: 3,
            event_type: "OrderCreated".to_owned(),
            payload: r#"{"price": "1.10", "big": 12345678901234567890123}"#.to_owned(),
            headers: headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            created_at: datetime!(2026-11-23 07:11:32.000_123 UTC),
        }
    }

    #[test]
    fn an_event_becomes_a_cloud_event_with_its_payload_untouched() {
        let json = to_json(&event(&[("traceparent", "00-1")])).expect("the payload is JSON");

        let text = std::str::from_utf8(&json).expect("JSON is text");
        assert!(text.contains(r#""data":{"price": "1.10", "big": 12345678901234567890123}"#), "{text}");
        let mut value: Value = serde_json::from_slice(&json).expect("it can be read");
        value["data"].take();
        let expected = json!({
            "specversion": "1.0", "id": "0192", "source": "shop", "type": "OrderCreated", "subject": "o-1",
            "time": "2026-11-23T07:11:32.000123Z", "datacontenttype": "application/json",
            "aggregatetype": "Order", "aggregateversion": 3, "traceparent": "00-1", "data": null,
        });
        assert_eq!(value, expected);
    }

    #[test]
    fn no_header_hides_an_attribute_and_no_name_breaks_the_rules_of_names() {
        let headers = [("id", "1"), ("schema-version", "2"), ("Data", "3"), ("x.y_z", "4"), ("-", "5")];
        let json = to_json(&event(&headers)).expect("the payload is JSON");

        let value: Value = serde_json::from_slice(&json).expect("it can be read");
        let names: Vec<&str> = value.as_object().expect("an object").keys().map(String::as_str).collect();
        assert!(names.iter().all(|name| name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())));
        assert_eq!((&value["id"], &value["headerid"]), (&json!("0192"), &json!("1")));
        assert_eq!((&value["schemaversion"], &value["xyz"]), (&json!("2"), &json!("4")));
        assert_eq!((&value["headerdata"], &value["header"]), (&json!("3"), &json!("5")));
    }

    #[test]
    fn a_payload_that_is_no_json_is_told() {
        let broken = OutboxEvent { payload: "{".to_owned(), ..event(&[]) };
        assert!(to_json(&broken).is_err());
    }
}
