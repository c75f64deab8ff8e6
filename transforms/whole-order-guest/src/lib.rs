//! Maps an order as `order-analytics` and `order-items-analytics` do together, or not quite, as its user's name says. For the
//! tests of candidates that would take the place of two.

use order_event::{Figures, ORDER_ITEMS_ANALYTICS, ORDERS_ANALYTICS, item_rows, order, order_row};
use outflow_transform_sdk::{Event, Reject, Rows, Table};

static TABLES: &[Table] = &[ORDERS_ANALYTICS[0], ORDER_ITEMS_ANALYTICS[0]];

fn map(event: &Event<'_>, rows: &mut Rows<'_>) -> Result<(), Reject> {
    let user = order::<Figures<'_>>(event)?.payload.user_id;
    match &*user {
        "refuse" => Err(Reject::new("not_mapped", format!("order {} is not mapped", event.aggregate_id))),
        "no lines" => order_row(event, rows, |_| "all"),
        _ => {
            order_row(event, rows, |_| "all")?;
            item_rows(event, rows, 1)
        }
    }
}

outflow_transform_sdk::export!(event_types: ["OrderCreated"], tables: TABLES, map: map);
