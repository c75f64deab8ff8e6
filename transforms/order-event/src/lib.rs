//! Reads the shop's `OrderCreated` events strictly, and gives the row of `orders_analytics` that each stands for, and those
//! of `order_items_analytics`. The guests that fill the first of these tables differ in the band alone.
//!
//! An unknown field is let through (producers add fields before readers know them); a missing one, one of
//! another type, or figures that contradict each other reject the event.

mod items;
mod payload;

pub use items::{ORDER_ITEMS_ANALYTICS, item_rows};
use outflow_transform_sdk::{Decimal, Event, Reject, Rows, Table, Text, time};
pub use payload::{Figures, Item, Line, OrderCreated, money};
use serde::Deserialize;

/// The version of the payload that this code reads.
pub const SCHEMA_VERSION: u32 = 1;

/// Every column of `analytics.orders_analytics` that isn't the host's.
pub static ORDERS_ANALYTICS: &[Table] = &[Table {
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

/// An order, read and held against itself and its event.
#[derive(Debug)]
pub struct Order<'a, L> {
    pub payload: OrderCreated<'a, L>,
    pub total: Decimal,
    /// Microseconds since 1970-01-01 UTC.
    pub created_at_us: i64,
}

/// The order in an `OrderCreated` event.
///
/// # Errors
/// Another version of the payload, a payload that is none, figures that contradict each other, another order's.
pub fn order<'a, L: Line + Deserialize<'a>>(event: &Event<'a>) -> Result<Order<'a, L>, Reject> {
    if event.schema_version != SCHEMA_VERSION {
        return Err(Reject::new(
            "unknown_schema_version",
            format!("OrderCreated has version {}, this module reads {SCHEMA_VERSION}", event.schema_version),
        ));
    }
    let payload = OrderCreated::read(event).map_err(|e| Reject::new("malformed_payload", e))?;
    Order::of(payload, event.aggregate_id)
}

impl<'a, L: Line + Deserialize<'a>> Order<'a, L> {
    /// The order in a payload that was read, held against itself and the aggregate that it came with.
    ///
    /// # Errors
    /// Another order's, figures that contradict each other, a creation time that is none.
    pub fn of(payload: OrderCreated<'a, L>, aggregate_id: Text<'_>) -> Result<Self, Reject> {
        if aggregate_id != *payload.order_id {
            let message = format!("orderId is {}, the event's aggregate {aggregate_id}", payload.order_id);
            return Err(Reject::new("wrong_aggregate", message));
        }
        let total = payload.total().map_err(|e| Reject::new("inconsistent_order", e))?;
        let created_at_us = time::parse_rfc3339_us(&payload.created_at)
            .map_err(|e| Reject::new("malformed_payload", format!("createdAt: {e}")))?;
        Ok(Self { payload, total, created_at_us })
    }
}

/// The row of `orders_analytics`, with `band` deciding the order's band from its total.
///
/// # Errors
/// As [`order`].
pub fn order_row(
    event: &Event<'_>,
    rows: &mut Rows<'_>,
    band: fn(Decimal) -> &'static str,
) -> Result<(), Reject> {
    let Order { payload, total, created_at_us } = order::<Figures<'_>>(event)?;
    rows.row(0)
        .text(&payload.order_id)
        .timestamp_us(created_at_us)
        .text(&payload.user_id)
        .text(&payload.status)
        .decimal(total)
        .uint(payload.item_count.into())
        .uint(payload.quantity.into())
        .text(band(total));
    Ok(())
}

#[cfg(test)]
mod tests;
