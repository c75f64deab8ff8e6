//! The masks without Kafka.

use super::*;
use proptest::prelude::*;
use rand::SeedableRng;
use serde_json::{Value, json};

fn masks(fields: &[&str], seed: u64) -> Masks {
    let fields: Vec<String> = fields.iter().map(|&field| field.to_owned()).collect();
    Masks::new(&fields, StdRng::seed_from_u64(seed)).expect("they are fields")
}

fn masked(masks: &mut Masks, json: &str) -> Value {
    serde_json::from_str(&masks.payload(json).expect("it can be masked")).expect("it is JSON")
}

fn text(value: &Value) -> &str {
    value.as_str().expect("a text")
}

const UUID: &str = "019aaf0c-5a7b-7c31-8f42-000000000001";

#[test]
fn a_mask_keeps_the_type_and_the_form() {
    let payload = json!({
        "id": UUID, "price": "1019.99", "debt": "-7.5", "phone": "0049123", "name": "Zoë Müller", "when": "2026-11-23T07:11:32Z",
        "none": "", "count": 4_294_967_295_u64, "rate": -12.5, "vip": true, "left": null, "kept": "as it is",
    });
    let fields = ["id", "price", "debt", "phone", "name", "when", "none", "count", "rate", "vip", "left"];
    for seed in 0..50 {
        let mut masks = masks(&fields, seed);
        let masked = masked(&mut masks, &payload.to_string());

        let id = Uuid::try_parse(text(&masked["id"])).expect("a UUID");
        assert!(id.to_string() != UUID && text(&masked["id"]).len() == UUID.len());
        for field in ["price", "debt", "phone"] {
            let (was, is) = (text(&payload[field]), text(&masked[field]));
            assert_ne!(was, is);
            let shape = |text: &str| text.replace(|c: char| c.is_ascii_digit(), "0");
            assert_eq!(shape(was), shape(is), "{field}");
            let zero_first = |text: &str| text.trim_start_matches('-').starts_with('0');
            let whole = was.trim_start_matches('-').split('.').next().map_or(0, str::len);
            assert!(whole == 1 || zero_first(was) == zero_first(is), "{was} → {is}");
        }
        for field in ["name", "when"] {
            let (was, is) = (text(&payload[field]), text(&masked[field]));
            assert_eq!(was.chars().count(), is.chars().count());
            assert!(is.bytes().all(|byte| byte.is_ascii_lowercase()), "{is}");
        }
        assert_eq!(masked["none"], "");
        let count = masked["count"].as_u64().expect("a whole number");
        assert!((1_000_000_000..4_294_967_295).contains(&count), "{count} has its digits and fits its type");
        assert!(masked["rate"].is_f64() && masked["rate"].to_string().starts_with("-"), "{}", masked["rate"]);
        assert!(masked["vip"].is_boolean());
        assert_eq!((&masked["left"], &masked["kept"]), (&Value::Null, &payload["kept"]));
        let matched = masks.matched().expect("each was found");
        assert!(matched.iter().all(|(_, values)| *values == 1), "{matched:?}");
    }
}

#[test]
fn fields_are_found_in_objects_and_through_lists_and_the_rest_stays_byte_for_byte() {
    let payload = r#"{ "shipping" : {"email":"a@b.de", "zip": 10.50 },"items":[{"name":"cup","tags":["x","yy"]},{"name":"pot","q":1.10},7],
        "email":"kept", "name":"kept"}"#;
    let mut found = masks(&["shipping.email", "items.name", "items.tags"], 1);
    let masked = found.payload(payload).expect("it can be masked");
    let value: Value = serde_json::from_str(&masked).expect("it is JSON");

    assert_eq!(
        found.matched().expect("all").iter().map(|(_, values)| *values).collect::<Vec<_>>(),
        [1, 2, 2]
    );
    assert_ne!(value["shipping"]["email"], "a@b.de");
    assert_eq!((&value["email"], &value["name"]), (&json!("kept"), &json!("kept")));
    let masks: [&str; 5] = [
        text(&value["shipping"]["email"]),
        text(&value["items"][0]["name"]),
        text(&value["items"][0]["tags"][0]),
        text(&value["items"][0]["tags"][1]),
        text(&value["items"][1]["name"]),
    ];
    let mut back = masked;
    for (mask, original) in masks.into_iter().zip(["a@b.de", "cup", "x", "yy", "pot"]) {
        back = back.replacen(&format!("\"{mask}\""), &format!("\"{original}\""), 1);
    }
    assert_eq!(back, payload);
}

#[test]
fn all_below_a_field_is_masked_and_twice_the_same_name_as_well() {
    let payload = r#"{"who":{"name":"ann","where":[{"zip":"10115"},"b"]},"x":"one","x":"two"}"#;
    // The two masks meet.
    let mut masks = masks(&["who", "who.name", "x"], 2);
    let masked = masks.payload(payload).expect("it can be masked");
    for original in ["ann", "10115", "one", "two"] {
        assert!(!masked.contains(original), "{original} in {masked}");
    }
    let values: Vec<u64> = masks.matched().expect("all").iter().map(|(_, values)| *values).collect();
    assert_eq!(values, [3, 1, 2]);
}

#[test]
fn the_same_value_has_the_same_mask_wherever_it_is_and_another_recording_another_one() {
    let of = |seed| {
        let mut masks = masks(&["customer", "items.owner", "uuid"], seed);
        let upper = UUID.to_uppercase();
        let first =
            masked(&mut masks, &json!({"customer": "c-17", "items": [{"owner": "c-18"}]}).to_string());
        let other = masked(
            &mut masks,
            &json!({"customer": "c-18", "items": [{"owner": "c-17"}], "uuid": UUID}).to_string(),
        );
        let third = masked(&mut masks, &json!({"uuid": upper, "customer": "c-17"}).to_string());
        assert_eq!(first["customer"], other["items"][0]["owner"]);
        assert_eq!(first["customer"], third["customer"]);
        assert_eq!(other["customer"], first["items"][0]["owner"]);
        assert_ne!(first["customer"], other["customer"]);
        assert_eq!(other["uuid"], third["uuid"], "a UUID is the same in either case");
        first["customer"].clone()
    };
    assert_eq!(of(1), of(1));
    assert_ne!(of(1), of(2));
}

#[test]
fn keys_and_headers_that_carry_a_masked_value_carry_its_mask() {
    let mut masks = masks(&["orderId", "user", "number", "quantity"], 3);
    let payload = json!({"orderId": UUID, "user": "u-1", "number": 123_456, "quantity": 1});
    let masked = masked(&mut masks, &payload.to_string());

    assert_eq!(masks.key(UUID), text(&masked["orderId"]));
    assert_eq!(masks.key("u-1"), text(&masked["user"]));
    assert_eq!(masks.key("1"), masked["quantity"].to_string());
    assert_eq!(masks.header(&format!("/orders/{UUID}?x")), format!("/orders/{}?x", text(&masked["orderId"])));
    assert_eq!(masks.header("u-1"), text(&masked["user"]));
    assert_eq!(masks.header("123456"), masked["number"].to_string());
    for by_chance in ["1", "bu-1b", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", ""] {
        assert_eq!(masks.header(by_chance), by_chance);
    }
}

#[test]
fn a_mask_without_a_value_is_named() {
    let mut masks = masks(&["user", "shipping.email", "nowhere"], 4);
    masked(&mut masks, r#"{"user": "u", "shipping": {"city": "x"}, "email": "e"}"#);
    let error = masks.matched().expect_err("two of them have none").to_string();
    assert!(error.contains("shipping.email, nowhere") && !error.contains("user"), "{error}");
    for bad in ["", ".", "a..b", "a."] {
        assert!(Masks::new(&[bad.to_owned()], StdRng::seed_from_u64(0)).is_err(), "{bad}");
    }
}

#[test]
fn what_is_nested_too_deeply_is_refused_and_never_written_unmasked() {
    let nested = |depth: usize| format!("{{\"a\":{}\"secret\"{}}}", "[".repeat(depth), "]".repeat(depth));
    let mut masks = masks(&["a"], 5);
    assert!(!masks.payload(&nested(100)).expect("it can be masked").contains("secret"));
    assert!(masks.payload(&nested(200)).is_err());
    assert!(masks.payload("{").is_err());
}

/// Any JSON with short names, so that paths meet it.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (-1e9..1e9).prop_map(|number: f64| Value::from(number)),
        "[a-c0-9é\"\\\\.-]{0,8}".prop_map(Value::from),
        any::<[u8; 16]>().prop_map(|bytes| Value::from(Uuid::from_bytes(bytes).to_string())),
    ];
    leaf.prop_recursive(4, 40, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[abc]", inner, 0..4)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// The leaves as they stand, and whether the path says that they are masked.
fn leaves(value: &Value, path: &[&str], found: &mut Vec<(bool, Value)>) {
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                let path = match path.split_first() {
                    Some((first, rest)) if first == name => rest,
                    // No member has this name.
                    Some(_) => &["-"],
                    None => path,
                };
                leaves(value, path, found);
            }
        }
        Value::Array(values) => values.iter().for_each(|value| leaves(value, path, found)),
        leaf => found.push((path.is_empty(), leaf.clone())),
    }
}

proptest! {
    #[test]
    fn whatever_the_payload_types_and_forms_stay_and_nothing_else_changes(
        payload in any_json(), path in prop::collection::vec("[abc]", 1..3), seed in any::<u64>(),
    ) {
        let mut masks = masks(&[&path.join(".")], seed);
        let before = payload.to_string();
        // As a reader sees it: serde_json reads a float's last digit in its own way.
        let payload: Value = serde_json::from_str(&before).expect("it is JSON");
        let masked = masks.payload(&before).expect("it can be masked");
        let masked: Value = serde_json::from_str(&masked).expect("it is JSON");
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        let (mut was, mut is) = (Vec::new(), Vec::new());
        leaves(&payload, &path, &mut was);
        leaves(&masked, &path, &mut is);
        prop_assert_eq!(was.len(), is.len());
        let mut seen: HashMap<String, Value> = HashMap::new();
        for ((masked_before, was), (masked_after, is)) in was.iter().zip(&is) {
            prop_assert_eq!(masked_before, masked_after);
            if !masked_before {
                prop_assert_eq!(was, is);
                continue;
            }
            match (was, is) {
                (Value::String(was), Value::String(is)) => {
                    prop_assert_eq!(was.chars().count(), is.chars().count());
                    prop_assert_eq!(Uuid::try_parse(was).is_ok() && was.len() == 36, Uuid::try_parse(is).is_ok() && is.len() == 36);
                }
                (Value::Number(was), Value::Number(is)) => {
                    prop_assert_eq!(was.is_f64(), is.is_f64());
                }
                (Value::Bool(_), Value::Bool(_)) | (Value::Null, Value::Null) => {}
                (was, is) => prop_assert!(false, "{} became {}", was, is),
            }
            let first = seen.entry(was.to_string()).or_insert_with(|| is.clone());
            prop_assert_eq!(&*first, is, "the same value, the same mask");
        }
    }
}
