//! JSON in, JSON out: the mapping of `order-analytics` behind the interface that people write first. A baseline of the
//! benchmarks, never published.

mod bindings {
    #![allow(unsafe_code, missing_debug_implementations, unreachable_pub, clippy::all)]
    wit_bindgen::generate!({ path: "wit", world: "naive" });
}

use order_event::{Figures, Order, OrderCreated};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(borrow)]
    aggregate_id: Cow<'a, str>,
    #[serde(borrow)]
    payload: OrderCreated<'a, Figures<'a>>,
}

#[derive(Serialize)]
struct Row<'a> {
    order_id: &'a str,
    order_date_us: i64,
    user_id: &'a str,
    status: &'a str,
    total_amount: String,
    item_count: u32,
    quantity: u32,
    order_band: &'a str,
}

fn row<'a>(order: &'a Option<Order<'a, Figures<'a>>>) -> Option<Row<'a>> {
    let Order { payload, total, created_at_us } = order.as_ref()?;
    Some(Row {
        order_id: &payload.order_id,
        order_date_us: *created_at_us,
        user_id: &payload.user_id,
        status: &payload.status,
        total_amount: total.to_string(),
        item_count: payload.item_count,
        quantity: payload.quantity,
        order_band: "all",
    })
}

struct Naive;

impl bindings::Guest for Naive {
    fn transform(events: String) -> String {
        let events: Vec<Event<'_>> = serde_json::from_str(&events).expect("the host writes events");
        let orders: Vec<Option<Order<'_, Figures<'_>>>> = events
            .into_iter()
            .map(|event| Order::of(event.payload, (&*event.aggregate_id).into()).ok())
            .collect();
        serde_json::to_string(&orders.iter().map(row).collect::<Vec<_>>()).expect("rows are plain data")
    }
}

#[allow(unsafe_code)]
mod export {
    use super::{Naive, bindings};
    bindings::export!(Naive with_types_in bindings);
}
