//! `OrderCreated` to `orders_analytics`, with orders banded by their amount.

use order_event::{ORDERS_ANALYTICS, order_row};
use outflow_transform_sdk::{Decimal, Event, Reject, Rows};

fn map(event: &Event<'_>, rows: &mut Rows<'_>) -> Result<(), Reject> {
    order_row(event, rows, band)
}

/// 'small' below 50, 'medium' below 200, 'large' from there on, in the shop's currency.
fn band(total: Decimal) -> &'static str {
    if total < Decimal::from(50) {
        "small"
    } else if total < Decimal::from(200) {
        "medium"
    } else {
        "large"
    }
}

outflow_transform_sdk::export!(event_types: ["OrderCreated"], tables: ORDERS_ANALYTICS, map: map);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_band_begins_at_its_limit() {
        for (cents, expected) in
            [(0, "small"), (4_999, "small"), (5_000, "medium"), (19_999, "medium"), (20_000, "large")]
        {
            assert_eq!(band(Decimal::new(cents, 2)), expected, "{cents} cents");
        }
    }
}
