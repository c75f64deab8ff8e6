//! Maps an order as `order-analytics` does, or wrong in the way that its user's name says. For the tests of candidates that
//! run beside the active module.

use order_event::{Figures, ORDERS_ANALYTICS, order, order_row};
use outflow_transform_sdk::{Event, Reject, Rows};

fn map(event: &Event<'_>, rows: &mut Rows<'_>) -> Result<(), Reject> {
    let user = order::<Figures<'_>>(event)?.payload.user_id;
    match &*user {
        "panic" => panic!("order {} is too much", event.aggregate_id),
        "loop" => loop {
            std::hint::spin_loop();
        },
        "reject" => Err(Reject::new("not_mapped", format!("order {} is not mapped", event.aggregate_id))),
        "skip" => Ok(()),
        "twice" => {
            order_row(event, rows, |_| "all")?;
            order_row(event, rows, |_| "all")
        }
        "band" => order_row(event, rows, |_| "other"),
        _ => order_row(event, rows, |_| "all"),
    }
}

outflow_transform_sdk::export!(event_types: ["OrderCreated"], tables: ORDERS_ANALYTICS, map: map);
