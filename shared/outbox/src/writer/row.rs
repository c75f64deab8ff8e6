//! An event as its row holds it. What is in here, MySQL stores and Kafka takes.

use crate::{
    error::WriteError,
    event::{NewEvent, PlacedEvent},
    trace::{TRACEPARENT, TraceParent},
};
use sqlx::{MySql, MySqlConnection, QueryBuilder};
use std::collections::BTreeMap;

/// Bytes of an event as the broker sees it: payload as MySQL prints it, key, headers and framing. Below librdkafka's
/// default of 1,000,000 and Kafka's of 1 MiB.
pub const MAX_EVENT_BYTES: usize = 900_000;
/// What a publisher adds to a record: its own headers, about eight of at most 100 bytes, and the framing.
const ENVELOPE_BYTES: usize = 1_024;
/// What frames one header: two lengths, and the quotes and commas where headers travel as JSON.
const HEADER_BYTES: usize = 10;

/// Events of a transaction: below MySQL's 65,535 placeholders a statement, seven an event.
const MAX_EVENTS: usize = 5_000;
/// Bytes of all events of a transaction: one packet of MySQL's protocol, and a quarter of its `max_allowed_packet`.
const MAX_TRANSACTION_BYTES: usize = 15 * 1_024 * 1_024;
/// A statement is prepared for each number of events, and this many are kept with a connection.
const MAX_PREPARED: usize = 8;

/// Characters of a type, an id, a header's name: the width of the columns.
const MAX_NAME: usize = 64;
const MAX_HEADERS: usize = 16;
const MAX_HEADER_VALUE: usize = 1_024;
/// Made by publishers from the columns, compared in lower case.
const RESERVED_HEADERS: [&str; 4] = ["eventtype", "aggregatetype", "aggregateversion", "content-type"];
const RESERVED_PREFIXES: [&str; 2] = ["ce_", "ce-"];

#[derive(Debug)]
pub(super) struct OutboxRow {
    event_id: String,
    aggregate_id: String,
    aggregate_type: String,
    event_type: String,
    aggregate_version: u32,
    payload: String,
    headers: String,
    record_bytes: usize,
}

impl OutboxRow {
    pub(super) fn new(placed: PlacedEvent) -> Result<Self, WriteError> {
        let PlacedEvent { aggregate_type, aggregate_id, aggregate_version, event } = placed;
        check_aggregate_type(&aggregate_type)?;
        check_aggregate_id(&aggregate_id)?;
        check_name("event_type", &event.event_type)?;
        if aggregate_version == 0 {
            return Err(WriteError::Version);
        }
        let header_bytes = check_headers(&event.headers)?;
        let record_bytes = event.payload_bytes()? + aggregate_id.len() + header_bytes + ENVELOPE_BYTES;
        let NewEvent { event_id, event_type, payload, headers } = event;
        if record_bytes > MAX_EVENT_BYTES {
            return Err(WriteError::TooLarge {
                event_type,
                aggregate_type,
                aggregate_id,
                bytes: record_bytes,
                limit: MAX_EVENT_BYTES,
            });
        }
        Ok(Self {
            event_id: event_id.to_string(),
            aggregate_id,
            aggregate_type,
            event_type,
            aggregate_version,
            payload: payload.to_string(),
            headers: serde_json::json!(headers).to_string(),
            record_bytes,
        })
    }

    /// Inserts all of them in one statement, so that their ids follow each other in this order.
    pub(super) async fn insert_all(
        connection: &mut MySqlConnection,
        rows: &[Self],
    ) -> Result<(), WriteError> {
        if rows.is_empty() {
            return Ok(());
        }
        let bytes = rows.iter().map(|row| row.record_bytes).sum();
        if rows.len() > MAX_EVENTS || bytes > MAX_TRANSACTION_BYTES {
            return Err(WriteError::TooMuch {
                events: rows.len(),
                bytes,
                max_events: MAX_EVENTS,
                max_bytes: MAX_TRANSACTION_BYTES,
            });
        }
        let mut insert = QueryBuilder::<MySql>::new(
            "INSERT INTO outbox (event_id, aggregate_id, aggregate_type, event_type, aggregate_version, payload, headers) ",
        );
        insert.push_values(rows, |mut values, row| {
            values
                .push_bind(&row.event_id)
                .push_bind(&row.aggregate_id)
                .push_bind(&row.aggregate_type)
                .push_bind(&row.event_type)
                .push_bind(row.aggregate_version)
                .push_bind(&row.payload)
                .push_bind(&row.headers);
        });
        let insert = insert.build().persistent(rows.len() <= MAX_PREPARED);
        insert
            .execute(connection)
            .await
            .map_err(|source| WriteError::Database { step: "inserting events", source })?;
        Ok(())
    }
}

/// The publisher's topic is made of it.
pub(super) fn check_aggregate_type(text: &str) -> Result<(), WriteError> {
    match is_aggregate_type(text) {
        true => Ok(()),
        false => Err(refused("aggregate_type", text, MAX_NAME, "of A-Z a-z 0-9 . _ - and at least one")),
    }
}

pub(super) const fn is_aggregate_type(text: &str) -> bool {
    let bytes = text.as_bytes();
    let mut n = 0;
    while n < bytes.len() {
        if !(bytes[n].is_ascii_alphanumeric() || matches!(bytes[n], b'.' | b'_' | b'-')) {
            return false;
        }
        n += 1;
    }
    !bytes.is_empty() && bytes.len() <= MAX_NAME
}

pub(super) fn check_aggregate_id(text: &str) -> Result<(), WriteError> {
    check_name("aggregate_id", text)
}

fn check_name(field: &str, text: &str) -> Result<(), WriteError> {
    if text.is_empty() || text.len() > MAX_NAME || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(refused(field, text, MAX_NAME, "printable ASCII characters, at least one and no blank"));
    }
    Ok(())
}

/// Bytes that the headers add to a record.
fn check_headers(headers: &BTreeMap<String, String>) -> Result<usize, WriteError> {
    if headers.len() > MAX_HEADERS {
        return Err(WriteError::Field {
            field: "headers".to_owned(),
            size: headers.len(),
            limit: MAX_HEADERS,
            wants: "of them",
        });
    }
    let mut bytes = 0;
    for (name, value) in headers {
        let folded = name.to_ascii_lowercase();
        if RESERVED_HEADERS.contains(&folded.as_str())
            || RESERVED_PREFIXES.iter().any(|prefix| folded.starts_with(prefix))
        {
            return Err(WriteError::ReservedHeader { name: name.clone() });
        }
        let fits = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'.' | b'_' | b'-');
        if name.is_empty() || name.len() > MAX_NAME || !name.bytes().all(fits) {
            return Err(refused("a header's name", name, MAX_NAME, "of a-z 0-9 . _ - and at least one"));
        }
        if value.len() > MAX_HEADER_VALUE || value.chars().any(char::is_control) {
            let field = format!("value of header {name}");
            return Err(refused(&field, value, MAX_HEADER_VALUE, "bytes without control characters"));
        }
        if name == TRACEPARENT {
            value.parse::<TraceParent>()?;
        }
        bytes += name.len() + value.len() + HEADER_BYTES;
    }
    Ok(bytes)
}

/// Tells the size of the text, never the text: it may be a customer's.
fn refused(field: &str, text: &str, limit: usize, wants: &'static str) -> WriteError {
    WriteError::Field { field: field.to_owned(), size: text.len(), limit, wants }
}
