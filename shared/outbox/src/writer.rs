//! Writing events in the caller's transaction.

use crate::{error::WriteError, event::NewEvent};
use sqlx::{MySql, MySqlConnection, QueryBuilder};

/// Bytes of a payload: below Kafka's default of 1 MiB a record, with room for headers and framing.
pub const MAX_EVENT_BYTES: usize = 900_000;

/// Writes all events of a transaction in one statement, in order.
///
/// Call it last, inside the transaction that changed the aggregates: whoever writes an aggregate has locked its row in
/// an earlier statement, so that commit order is id order within an aggregate.
///
/// # Errors
/// Refuses an event that Kafka could not take; then, as with any error, the transaction must be rolled back.
pub async fn write(transaction: &mut MySqlConnection, events: &[NewEvent]) -> Result<(), WriteError> {
    if events.is_empty() {
        return Ok(());
    }
    let payloads = events.iter().map(payload_text).collect::<Result<Vec<_>, _>>()?;
    let mut insert = QueryBuilder::<MySql>::new(
        "INSERT INTO outbox (event_id, aggregate_id, aggregate_type, event_type, aggregate_version, payload, headers) ",
    );
    insert.push_values(events.iter().zip(payloads), |mut row, (event, payload)| {
        row.push_bind(event.event_id.to_string())
            .push_bind(&event.aggregate_id)
            .push_bind(&event.aggregate_type)
            .push_bind(&event.event_type)
            .push_bind(event.aggregate_version)
            .push_bind(payload)
            .push("JSON_OBJECT()");
    });
    insert.build().execute(transaction).await.map_err(WriteError::Insert)?;
    Ok(())
}

fn payload_text(event: &NewEvent) -> Result<String, WriteError> {
    let text = event.payload.to_string();
    if text.len() > MAX_EVENT_BYTES {
        return Err(WriteError::TooLarge {
            event_type: event.event_type.clone(),
            aggregate_type: event.aggregate_type.clone(),
            aggregate_id: event.aggregate_id.clone(),
            bytes: text.len(),
            limit: MAX_EVENT_BYTES,
        });
    }
    Ok(text)
}
