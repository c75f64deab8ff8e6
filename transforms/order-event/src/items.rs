//! The rows of `order_items_analytics`, one a line.
//!
//! A row's key is the order and the line's number, which never change: a later version of the order replaces its lines
//! one by one.

use crate::{Item, Order, money, order};
use outflow_transform_sdk::{Event, Reject, Rows, Table};

/// Every column of `analytics.order_items_analytics` that isn't the host's.
pub static ORDER_ITEMS_ANALYTICS: &[Table] = &[Table {
    name: "order_items_analytics",
    columns: &[
        ("order_id", "UUID"),
        ("line", "UInt16"),
        ("order_date", "DateTime64(3, 'UTC')"),
        ("user_id", "String"),
        ("status", "LowCardinality(String)"),
        ("product_id", "LowCardinality(String)"),
        ("product_name", "LowCardinality(String)"),
        ("quantity", "UInt32"),
        ("unit_price", "Decimal(18, 2)"),
        ("line_total", "Decimal(18, 2)"),
    ],
}];

/// The rows of `order_items_analytics`, which is the `table`-th of the module.
///
/// # Errors
/// As [`order`], and where an amount of a line is none.
pub fn item_rows(event: &Event<'_>, rows: &mut Rows<'_>, table: u16) -> Result<(), Reject> {
    let Order { payload, created_at_us, .. } = order::<Item<'_>>(event)?;
    for (line, item) in (1_u64..).zip(&payload.items) {
        let amount = |field, text| money(field, text).map_err(|e| Reject::new("inconsistent_order", e));
        rows.row(table)
            .text(&payload.order_id)
            .uint(line)
            .timestamp_us(created_at_us)
            .text(&payload.user_id)
            .text(&payload.status)
            .text(&item.product_id)
            .text(&item.name)
            .uint(item.quantity.into())
            .decimal(amount("unitPrice", &item.unit_price)?)
            .decimal(amount("lineTotal", &item.line_total)?);
    }
    Ok(())
}
