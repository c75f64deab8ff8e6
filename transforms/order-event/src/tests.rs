//! The mapping without WebAssembly around it; the fixtures run it inside.

use super::*;
use outflow_transform_sdk::Headers;

const ORDER: &str = "0192a7c1-0000-7000-8000-000000000001";

fn event(payload: &str) -> Event<'_> {
    Event {
        id: "0192a7c1-0000-7000-8000-0000000000ff".into(),
        event_type: "OrderCreated".into(),
        aggregate_id: ORDER.into(),
        aggregate_version: 1,
        schema_version: 1,
        occurred_at_us: 0,
        topic: "order.events".into(),
        partition: 0,
        offset: 0,
        headers: Headers::default(),
        payload: payload.as_bytes(),
    }
}

fn payload() -> String {
    format!(
        r#"{{"orderId":"{ORDER}","userId":"u-1","status":"PENDING","totalAmount":"59.97","itemCount":2,
        "quantity":5,"items":[
          {{"productId":"p-1","name":"Cup","quantity":2,"unitPrice":"19.99","lineTotal":"39.98"}},
          {{"productId":"p-2","name":"Pot","quantity":3,"unitPrice":"6.663","lineTotal":"19.99"}}],
        "createdAt":"2026-11-23T07:11:32.123Z"}}"#
    )
}

fn code(event: &Event<'_>) -> &'static str {
    match order::<Item<'_>>(event) {
        Ok(_) => "order",
        Err(reject) => reject.code,
    }
}

#[test]
fn an_order_is_read_with_its_total_and_its_time() {
    let payload = payload();
    let event = event(&payload);
    let order = order::<Item<'_>>(&event).expect("it is consistent");
    assert_eq!(order.total.to_string(), "59.97");
    assert_eq!(order.created_at_us, 1_795_417_892_123_000);
    assert_eq!((order.payload.items.len(), &*order.payload.items[1].name), (2, "Pot"));
}

#[test]
fn what_contradicts_itself_is_rejected() {
    let good = payload();
    assert_eq!(code(&event(&good)), "order");
    for (from, to, expected) in [
        ("\"59.97\"", "59.97", "malformed_payload"),
        ("\"59.97\"", "\"59.98\"", "inconsistent_order"),
        ("\"59.97\"", "\"6e1\"", "inconsistent_order"),
        ("\"39.98\"", "\"-39.98\"", "inconsistent_order"),
        ("\"itemCount\":2", "\"itemCount\":3", "inconsistent_order"),
        ("\"quantity\":5", "\"quantity\":6", "inconsistent_order"),
        ("\"quantity\":5", "\"quantity\":-5", "malformed_payload"),
        ("\"userId\":\"u-1\",", "", "malformed_payload"),
        ("07:11:32.123Z", "7 o'clock", "malformed_payload"),
        (ORDER, "0192a7c1-0000-7000-8000-000000000002", "wrong_aggregate"),
    ] {
        assert_eq!(code(&event(&good.replace(from, to))), expected, "{from} -> {to}");
    }
    assert_eq!(code(&event("{")), "malformed_payload");
    let mut newer = event(&good);
    newer.schema_version = 2;
    assert_eq!(code(&newer), "unknown_schema_version");
}
