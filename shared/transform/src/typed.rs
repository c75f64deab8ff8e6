//! The batch and its answer as typed values: for modules in any language, and for those of version 1.0.

use crate::{
    Event, Outcome, Rejection, Stage, bindings::typed::outflow::transform::types as wire, cells::Cell,
    guest::cut, row::Stamper,
};

/// The headers as the interface has them; [`event`] borrows them.
pub(crate) fn headers<'a>(event: &Event<'a>) -> Vec<wire::Header<'a>> {
    event.headers.iter().map(|(key, value)| wire::Header { key, value }).collect()
}

pub(crate) fn event<'a>(event: &Event<'a>, headers: &'a [wire::Header<'a>]) -> wire::Event<'a> {
    wire::Event {
        id: event.id,
        event_type: event.event_type,
        aggregate_id: event.aggregate_id,
        aggregate_version: event.aggregate_version,
        schema_version: event.schema_version,
        occurred_at_us: event.occurred_at_us,
        topic: event.topic,
        partition: event.partition,
        offset: event.offset,
        headers,
        payload: event.payload,
    }
}

/// The outcome of one event, rows checked and stamped.
pub(crate) fn outcome(
    outcome: &wire::Outcome,
    event: &Event<'_>,
    stamper: Stamper<'_>,
    message_bytes: usize,
) -> Outcome {
    match outcome {
        wire::Outcome::Skip => Outcome::Skip,
        wire::Outcome::Reject(wire::Failure { code, message }) => {
            let [code, message] = [code, message].map(|text| cut(text, message_bytes).to_owned());
            Outcome::Reject(Rejection { stage: Stage::Module, code, message })
        }
        wire::Outcome::Rows(given) => {
            let mut rows = stamper.event(event, given.len());
            for given in given {
                let mut row = rows.row(given.table, given.values.len());
                given.values.iter().for_each(|value| row.cell(cell(value)));
                row.end();
            }
            rows.end()
        }
    }
}

fn cell(value: &wire::Value) -> Cell<'_> {
    match value {
        wire::Value::Null => Cell::Null,
        wire::Value::Boolean(value) => Cell::Boolean(*value),
        wire::Value::Int(value) => Cell::Int(*value),
        wire::Value::Uint(value) => Cell::Uint(*value),
        wire::Value::Float(_) => Cell::Float,
        wire::Value::Decimal(text) => Cell::Decimal(text),
        wire::Value::Text(text) => Cell::Text(text),
        wire::Value::Bytes(bytes) => Cell::Bytes(bytes),
        wire::Value::TimestampUs(value) => Cell::TimestampUs(*value),
    }
}
