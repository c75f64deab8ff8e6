//! A mapping of orders that somebody got wrong: it rejects each of them. For the tests of dead letters.

use order_event::ORDERS_ANALYTICS;
use outflow_transform_sdk::{Event, Reject, Rows};

fn map(event: &Event<'_>, _: &mut Rows<'_>) -> Result<(), Reject> {
    Err(Reject::new("not_mapped", format!("order {} is not mapped", event.aggregate_id)))
}

outflow_transform_sdk::export!(event_types: ["OrderCreated"], tables: ORDERS_ANALYTICS, map: map);
