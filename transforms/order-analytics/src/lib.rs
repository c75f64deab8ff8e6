//! `OrderCreated` to `orders_analytics`, every order in the one band 'all'.

use order_event::{ORDERS_ANALYTICS, order_row};
use outflow_transform_sdk::{Event, Reject, Rows};

fn map(event: &Event<'_>, rows: &mut Rows<'_>) -> Result<(), Reject> {
    order_row(event, rows, |_| "all")
}

outflow_transform_sdk::export!(event_types: ["OrderCreated"], tables: ORDERS_ANALYTICS, map: map);
