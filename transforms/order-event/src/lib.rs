//! Reads the shop's `OrderCreated` events strictly, and gives the row of `orders_analytics` that each stands
//! for. The guests differ in the band alone.
//!
//! An unknown field is let through (producers add fields before readers know them); a missing one, one of
//! another type, or figures that contradict each other reject the event.

mod payload;

use outflow_transform_sdk::{Decimal, Event, Outcome, Table, Value, decimal, time};
use payload::OrderCreated;

/// The version of the payload that this code reads.
pub const SCHEMA_VERSION: u32 = 1;

/// What the guests fill: every column of `analytics.orders_analytics` that isn't the host's.
pub static TABLES: &[Table] = &[Table {
    name: "orders_analytics",
    columns: &[
        ("order_id", "UUID"),
        ("order_date", "DateTime64(3, 'UTC')"),
        ("user_id", "String"),
        ("status", "LowCardinality(String)"),
        ("total_amount", "Decimal(18, 2)"),
        ("item_count", "UInt32"),
        ("quantity", "UInt32"),
        ("order_band", "LowCardinality(String)"),
    ],
}];

/// The outcome of one event, with `band` deciding the order's band from its total.
pub fn map(event: &Event, band: fn(Decimal) -> &'static str) -> Outcome {
    if event.event_type != "OrderCreated" {
        return Outcome::Skip;
    }
    if event.schema_version != SCHEMA_VERSION {
        return Outcome::reject(
            "unknown_schema_version",
            format!("OrderCreated has version {}, this module reads {SCHEMA_VERSION}", event.schema_version),
        );
    }
    match row(event, band) {
        Ok(values) => Outcome::row(0, values),
        Err((code, message)) => Outcome::reject(code, message),
    }
}

type Rejection = (&'static str, String);

fn row(event: &Event, band: fn(Decimal) -> &'static str) -> Result<Vec<Value>, Rejection> {
    let order = OrderCreated::read(&event.payload).map_err(|e| ("malformed_payload", e))?;
    if order.order_id != event.aggregate_id {
        let message = format!("orderId is {}, the event's aggregate {}", order.order_id, event.aggregate_id);
        return Err(("wrong_aggregate", message));
    }
    let total = order.total().map_err(|e| ("inconsistent_order", e))?;
    let created = time::parse_rfc3339_us(&order.created_at)
        .map_err(|e| ("malformed_payload", format!("createdAt: {e}")))?;
    Ok(vec![
        Value::Text(order.order_id.into_owned()),
        Value::TimestampUs(created),
        Value::Text(order.user_id.into_owned()),
        Value::Text(order.status.into_owned()),
        decimal::value(total),
        Value::Uint(order.item_count.into()),
        Value::Uint(order.quantity.into()),
        Value::Text(band(total).to_owned()),
    ])
}

#[cfg(test)]
mod tests;
