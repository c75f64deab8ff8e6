//! `OrderCreated` to `orders_analytics`, every order in the one band 'all'.

use order_event::TABLES;
use outflow_transform_sdk::{Event, Outcome};

fn map(event: &Event) -> Outcome {
    order_event::map(event, |_| "all")
}

outflow_transform_sdk::export!(event_types: ["OrderCreated"], tables: TABLES, map: map);
