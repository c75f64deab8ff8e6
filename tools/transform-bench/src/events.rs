//! Orders as the shop writes them, one to three lines, 420 bytes of JSON or so, and what is reserved for them. Each has the
//! relay's ten headers.

use crate::BATCH;
use outflow_transform::Event;
use uuid::Uuid;

/// What the relay sends.
pub(crate) struct Sent {
    id: String,
    event_type: &'static str,
    pub(crate) topic: &'static str,
    pub(crate) aggregate_id: String,
    pub(crate) payload: String,
    pub(crate) headers: Vec<(String, Vec<u8>)>,
}

/// A batch of new orders, always the same.
pub(crate) fn orders() -> Vec<Sent> {
    (0..BATCH as u128).map(order).collect()
}

/// A batch of reservations for these orders.
pub(crate) fn reservations() -> Vec<Sent> {
    (0..BATCH as u128).map(reservation).collect()
}

fn order(number: u128) -> Sent {
    let items: Vec<String> = lines(number)
        .map(|(product, quantity)| {
            let total = format!("{}.{:02}", quantity * 1_999 / 100, quantity * 1_999 % 100);
            format!(
                r#"{{"productId":"p-{product:03}","name":"Espresso cup {product}","quantity":{quantity},"unitPrice":"19.99","lineTotal":"{total}"}}"#
            )
        })
        .collect();
    let pieces: u128 = lines(number).map(|(_, quantity)| quantity).sum();
    let total = format!("{}.{:02}", pieces * 1_999 / 100, pieces * 1_999 % 100);
    let payload = format!(
        r#"{{"orderId":"{}","userId":"u-{}","status":"PENDING","totalAmount":"{total}","itemCount":{},"quantity":{pieces},"items":[{}],"createdAt":"2026-11-23T07:11:32.{:03}Z"}}"#,
        order_id(number),
        number % 100,
        items.len(),
        items.join(","),
        number % 1_000
    );
    sent(number, ["OrderCreated", "Order", "order.events"], payload)
}

fn reservation(number: u128) -> Sent {
    let lines: Vec<String> = lines(number)
        .map(|(product, quantity)| format!(r#"{{"productId":"p-{product:03}","quantity":{quantity}}}"#))
        .collect();
    let payload = format!(
        r#"{{"orderId":"{}","status":"RESERVED","lines":[{}],"createdAt":"2026-11-23T07:11:32.{:03}Z"}}"#,
        order_id(number),
        lines.join(","),
        number % 1_000
    );
    sent(number, ["StockReserved", "Inventory", "inventory.events"], payload)
}

/// Product and pieces of each line of an order.
fn lines(number: u128) -> impl Iterator<Item = (u128, u128)> {
    (0..1 + number % 3).map(move |line| ((number * 7 + line) % 1_000, 1 + (number + line) % 4))
}

fn order_id(number: u128) -> Uuid {
    Uuid::from_u128(0x019a_af0c_5a7b_7c31_8f42_0000_0000_0000 + number)
}

/// Both aggregates of an order have its id.
fn sent(number: u128, [event_type, aggregate_type, topic]: [&'static str; 3], payload: String) -> Sent {
    let id = Uuid::from_u128(0x019a_af0c_5a7c_7000_8000_0000_0000_0000 + number).to_string();
    let header = |name: &str, value: &str| (name.to_owned(), value.as_bytes().to_vec());
    let headers = vec![
        header("eventType", event_type),
        header("aggregateType", aggregate_type),
        header("aggregateVersion", "1"),
        header("ce_id", &id),
        header("ce_type", event_type),
        header("ce_source", "outflow/outbox"),
        header("ce_time", "2026-11-23T07:11:32.123Z"),
        header("ce_specversion", "1.0"),
        header("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        header("ce_datacontenttype", "application/json"),
    ];
    Sent { id, event_type, topic, aggregate_id: order_id(number).to_string(), payload, headers }
}

impl Sent {
    pub(crate) fn event(&self) -> Event<'_> {
        Event {
            id: &self.id,
            event_type: self.event_type,
            aggregate_id: &self.aggregate_id,
            aggregate_version: 1,
            schema_version: 1,
            occurred_at_us: 1_795_417_892_123_000,
            relayed_at_us: 1_795_417_892_456_000,
            topic: self.topic,
            headers: &self.headers,
            payload: self.payload.as_bytes(),
            ..Event::default()
        }
    }
}
