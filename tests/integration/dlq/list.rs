//! `list` and `show`.

use super::{Desk, keys, new};
use outflow_broker::Record;
use serde_json::{Value, json};

#[tokio::test]
async fn letters_are_grouped_by_what_went_wrong() {
    let desk = Desk::start().await;
    let mut decode = new("c");
    (decode.stage, decode.code, decode.by) = ("decode", "not_json", None);
    let mut items = new("a");
    items.by = Some(("order_items", "ff00"));
    let mut again = new("b");
    again.attempts = 3;
    desk.put([new("a"), again, decode, items]).await;
    let aside = [("lambda-condition", "RetriesExhausted"), ("lambda-source-topic", &desk.topic)];
    let headers = aside.map(|(name, value)| (name.to_owned(), value.as_bytes().to_vec())).to_vec();
    desk.send(vec![Record { topic: desk.letters(), key: None, payload: None, headers }]).await;

    let list = desk.json(0, &["list"]).await;

    assert_eq!(keys(&list), ["causes", "counts", "topics"]);
    assert_eq!(list["topics"], json!([desk.letters()]));
    assert_eq!(list["counts"], json!({"open": 5, "redriven": 0, "discarded": 0}));
    let causes = list["causes"].as_array().unwrap();
    let expected = [
        "code",
        "example",
        "example_reason",
        "first_seen",
        "last_seen",
        "letters",
        "max_attempts",
        "module",
        "slot",
        "stage",
        "topic",
    ];
    assert_eq!(keys(&causes[0]), expected);
    let mut told: Vec<_> = causes
        .iter()
        .map(|cause| {
            let text = |name: &str| cause[name].as_str().unwrap_or("-").to_owned();
            let example = text("example").rsplit('/').next().unwrap().to_owned();
            let numbers = format!("{} up to {}", cause["letters"], cause["max_attempts"]);
            [text("stage"), text("code"), text("slot"), text("module"), numbers, example].join(" ")
        })
        .collect();
    // The largest first; the others in no order of importance.
    assert_eq!(told.remove(0), "module no_total orders_analytics ab12cd34ef56789 2 up to 3 1");
    told.sort();
    let expected = [
        "decode not_json - - 1 up to 1 2",
        "event-source RetriesExhausted - - 1 up to 1 4",
        "module no_total order_items ff00 1 up to 1 3",
    ];
    assert_eq!(told, expected);
    assert!(causes[0]["first_seen"].as_str() <= causes[0]["last_seen"].as_str());
    let text = desk.text(0, &["list", "--topic", &desk.topic]).await;
    assert!(
        text.contains("ab12cd34ef56 ") && text.ends_with("5 letters open, 0 redriven, 0 discarded\n"),
        "{text}"
    );
    assert!(desk.text(0, &["list"]).await.contains(&desk.topic), "without --topic all of them");
}

#[tokio::test]
async fn each_condition_selects() {
    let desk = Desk::start().await;
    let mut decode = new("c");
    (decode.stage, decode.code, decode.by) = ("decode", "not_json", None);
    desk.put([new("a"), new("b"), decode]).await;
    let seen = desk.json(0, &["show", &desk.id(0)]).await;
    let at = seen["at"].as_str().unwrap();

    for (conditions, letters) in [
        (&["--stage", "module"][..], 2),
        (&["--stage", "trap"], 0),
        (&["--code", "not_json"], 1),
        (&["--module", "ab12cd"], 2),
        (&["--module", "b12cd"], 0),
        (&["--slot", "orders_analytics"], 2),
        (&["--stage", "decode", "--slot", "orders_analytics"], 0),
        (&["--since", "1h"], 3),
        (&["--until", "1h"], 0),
        (&["--since", at], 3),
        (&["--until", at], 0),
        (&["--state", "redriven"], 0),
        (&["--state", "all"], 3),
    ] {
        let list = desk.json(0, &[&["list"], conditions].concat()).await;
        let found: u64 =
            list["causes"].as_array().unwrap().iter().map(|cause| cause["letters"].as_u64().unwrap()).sum();
        assert_eq!(found, letters, "{conditions:?}");
    }
    for (arguments, advice) in [
        (&["list", "--topic", "nowhere"][..], "there are no dead letters of nowhere; there are"),
        (&["list", "--since", "yesterday"], "--since"),
        (&["list", "--state", "lost"], "possible values"),
        (&["show", "17"], "write topic/partition/offset"),
    ] {
        let refused = desk.refused(arguments).await;
        assert!(refused.contains(advice), "{arguments:?}: {refused}");
    }
}

#[tokio::test]
async fn a_letter_is_shown_whole_whatever_is_in_it() {
    let desk = Desk::start().await;
    let mut binary = new("b");
    (binary.key, binary.value) = (Some(vec![0xff]), Some(vec![0xfe, 0]));
    binary.headers.push(("signature".to_owned(), vec![0x80]));
    let mut empty = new("");
    empty.value = Some(Vec::new());
    let mut absent = new("");
    (absent.key, absent.value) = (None, None);
    desk.put([new("a"), binary, empty, absent]).await;

    let text = desk.json(0, &["show", &desk.id(0)]).await;
    let binary = desk.json(0, &["show", &desk.id(1)]).await;
    let empty = desk.json(0, &["show", &desk.id(2)]).await;
    let absent = desk.json(0, &["show", &desk.id(3)]).await;
    let unknown = desk.json(1, &["show", &desk.id(4)]).await;

    let expected = [
        "at",
        "attempts",
        "audit",
        "code",
        "first",
        "headers",
        "id",
        "key",
        "module",
        "reason",
        "redriven_from",
        "slot",
        "stage",
        "state",
        "topic",
        "value",
    ];
    assert_eq!(keys(&text), expected);
    assert_eq!((&text["key"], &text["value"]), (&json!({"text": "a"}), &json!({"text": r#"{"of": "a"}"#})));
    assert_eq!(text["headers"], json!([{"name": "eventType", "value": {"text": "OrderCreated"}}]));
    assert_eq!((&text["first"], &text["state"]), (&json!(format!("{}/2/100", desk.topic)), &json!("open")));
    assert_eq!((&text["audit"], &text["reason"]), (&Value::Null, &json!("it was so")));
    assert_eq!((&binary["key"], &binary["value"]), (&json!({"base64": "/w=="}), &json!({"base64": "/gA="})));
    assert_eq!(binary["headers"][1]["value"], json!({"base64": "gA=="}));
    assert_eq!((&empty["key"], &empty["value"]), (&json!({"text": ""}), &json!({"text": ""})));
    assert_eq!((&absent["key"], &absent["value"]), (&Value::Null, &Value::Null));
    assert_eq!(unknown["state"], "unknown");
    let page = desk.text(0, &["show", &desk.id(0)]).await;
    assert!(page.contains("header eventType") && page.ends_with("{\n  \"of\": \"a\"\n}\n"), "{page}");
}
