//! The mapping without WebAssembly around it; the fixtures run it inside.

use super::*;

const ORDER: &str = "0192a7c1-0000-7000-8000-000000000001";

fn event(payload: &str) -> Event {
    Event {
        id: "0192a7c1-0000-7000-8000-0000000000ff".to_owned(),
        event_type: "OrderCreated".to_owned(),
        aggregate_id: ORDER.to_owned(),
        aggregate_version: 1,
        schema_version: 1,
        occurred_at_us: 0,
        topic: "order.events".to_owned(),
        partition: 0,
        offset: 0,
        headers: Vec::new(),
        payload: payload.as_bytes().to_vec(),
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

fn code(event: &Event) -> String {
    match map(event, |_| "all") {
        Outcome::Rows(_) => "rows".to_owned(),
        Outcome::Skip => "skip".to_owned(),
        Outcome::Reject(failure) => failure.code,
    }
}

#[test]
fn an_order_becomes_one_row_with_a_value_a_column() {
    let Outcome::Rows(rows) = map(&event(&payload()), |_| "all") else { panic!("no row") };
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].values.len(), TABLES[0].columns.len());
    assert!(matches!(&rows[0].values[4], Value::Decimal(text) if text == "59.97"));
    assert!(matches!(rows[0].values[1], Value::TimestampUs(1_795_417_892_123_000)));
}

#[test]
fn other_events_are_skipped() {
    let mut other = event("not even JSON");
    other.event_type = "OrderPaid".to_owned();
    assert_eq!(code(&other), "skip");
}

#[test]
fn what_contradicts_itself_is_rejected() {
    let good = payload();
    assert_eq!(code(&event(&good)), "rows");
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
