//! `OrderCreated` to `order_items_analytics`: a row a line of the order, with what it sold for.

use order_event::{ORDER_ITEMS_ANALYTICS, item_rows};
use outflow_transform_sdk::{Event, Reject, Rows};

fn map(event: &Event<'_>, rows: &mut Rows<'_>) -> Result<(), Reject> {
    item_rows(event, rows, 0)
}

outflow_transform_sdk::export!(event_types: ["OrderCreated"], tables: ORDER_ITEMS_ANALYTICS, map: map);
