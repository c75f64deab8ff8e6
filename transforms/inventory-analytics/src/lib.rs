//! `StockReserved` to `inventory_analytics`: a row a line of a reservation, with the pieces that it holds.
//!
//! The row's key is the reservation's order and the product, each of which a reservation has once.

use outflow_transform_sdk::{Event, Reject, Rows, Table, time};
use serde::Deserialize;
use std::borrow::Cow;

/// The version of the payload that this code reads.
const SCHEMA_VERSION: u32 = 1;

static TABLES: &[Table] = &[Table {
    name: "inventory_analytics",
    columns: &[
        ("order_id", "UUID"),
        ("product_id", "String"),
        ("reserved_at", "DateTime64(3, 'UTC')"),
        ("status", "LowCardinality(String)"),
        ("quantity", "UInt32"),
    ],
}];

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Reservation<'a> {
    #[serde(borrow)]
    order_id: Cow<'a, str>,
    #[serde(borrow)]
    status: Cow<'a, str>,
    #[serde(borrow)]
    lines: Vec<Line<'a>>,
    #[serde(borrow)]
    created_at: Cow<'a, str>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line<'a> {
    #[serde(borrow)]
    product_id: Cow<'a, str>,
    quantity: u32,
}

fn map(event: &Event<'_>, rows: &mut Rows<'_>) -> Result<(), Reject> {
    if event.schema_version != SCHEMA_VERSION {
        return Err(Reject::new(
            "unknown_schema_version",
            format!("StockReserved has version {}, this module reads {SCHEMA_VERSION}", event.schema_version),
        ));
    }
    let malformed = |e: String| Reject::new("malformed_payload", e);
    let payload = event.text().map_err(|e| malformed(e.to_string()))?;
    let reservation: Reservation<'_> = serde_json::from_str(payload).map_err(|e| malformed(e.to_string()))?;
    if event.aggregate_id != *reservation.order_id {
        let message =
            format!("orderId is {}, the event's aggregate {}", reservation.order_id, event.aggregate_id);
        return Err(Reject::new("wrong_aggregate", message));
    }
    let reserved_at_us =
        time::parse_rfc3339_us(&reservation.created_at).map_err(|e| malformed(format!("createdAt: {e}")))?;
    for line in &reservation.lines {
        rows.row(0)
            .text(&reservation.order_id)
            .text(&line.product_id)
            .timestamp_us(reserved_at_us)
            .text(&reservation.status)
            .uint(line.quantity.into());
    }
    Ok(())
}

outflow_transform_sdk::export!(event_types: ["StockReserved"], tables: TABLES, map: map);
