//! Orders as the shop writes them: one to three lines, 420 bytes of JSON or so, the relay's ten headers.

use crate::BATCH;
use outflow_transform::Event;
use uuid::Uuid;

pub(crate) struct Order {
    id: String,
    pub(crate) aggregate_id: String,
    pub(crate) payload: String,
    pub(crate) headers: Vec<(String, Vec<u8>)>,
}

/// A batch of them, always the same.
pub(crate) fn orders() -> Vec<Order> {
    (0..BATCH as u128).map(order).collect()
}

fn order(number: u128) -> Order {
    let id = Uuid::from_u128(0x019a_af0c_5a7c_7000_8000_0000_0000_0000 + number).to_string();
    let aggregate_id = Uuid::from_u128(0x019a_af0c_5a7b_7c31_8f42_0000_0000_0000 + number).to_string();
    let lines = 1 + number % 3;
    let items: Vec<String> = (0..lines)
        .map(|line| {
            let (product, quantity) = ((number * 7 + line) % 1_000, 1 + (number + line) % 4);
            let total = format!("{}.{:02}", quantity * 1_999 / 100, quantity * 1_999 % 100);
            format!(
                r#"{{"productId":"p-{product:03}","name":"Espresso cup {product}","quantity":{quantity},"unitPrice":"19.99","lineTotal":"{total}"}}"#
            )
        })
        .collect();
    let pieces: u128 = (0..lines).map(|line| 1 + (number + line) % 4).sum();
    let total = format!("{}.{:02}", pieces * 1_999 / 100, pieces * 1_999 % 100);
    let payload = format!(
        r#"{{"orderId":"{aggregate_id}","userId":"u-{}","status":"PENDING","totalAmount":"{total}","itemCount":{lines},"quantity":{pieces},"items":[{}],"createdAt":"2026-11-23T07:11:32.{:03}Z"}}"#,
        number % 100,
        items.join(","),
        number % 1_000
    );
    let header = |name: &str, value: &str| (name.to_owned(), value.as_bytes().to_vec());
    let headers = vec![
        header("eventType", "OrderCreated"),
        header("aggregateType", "Order"),
        header("aggregateVersion", "1"),
        header("ce_id", &id),
        header("ce_type", "OrderCreated"),
        header("ce_source", "outflow/outbox"),
        header("ce_time", "2026-11-23T07:11:32.123Z"),
        header("ce_specversion", "1.0"),
        header("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        header("ce_datacontenttype", "application/json"),
    ];
    Order { id, aggregate_id, payload, headers }
}

impl Order {
    pub(crate) fn event(&self) -> Event<'_> {
        Event {
            id: &self.id,
            event_type: "OrderCreated",
            aggregate_id: &self.aggregate_id,
            aggregate_version: 1,
            schema_version: 1,
            occurred_at_us: 1_795_417_892_123_000,
            relayed_at_us: 1_795_417_892_456_000,
            topic: "order.events",
            headers: &self.headers,
            payload: self.payload.as_bytes(),
            ..Event::default()
        }
    }
}
