//! What is sent back, what is written down, and that nothing is done twice.

use super::{Desk, header, keys, new, read, redriven_from, results, text};
use outflow_broker::{letters::Origin, topics};
use rdkafka::{
    ClientConfig, Message,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
};
use serde_json::{Value, json};

const WHY: [&str; 3] = ["--yes", "--why", "the module is mended"];

#[tokio::test]
async fn a_redriven_record_is_the_one_that_was_given_up_whatever_is_in_it() {
    let desk = Desk::start().await;
    let mut binary = new("b");
    (binary.key, binary.value, binary.attempts) = (Some(vec![0xff]), Some(vec![0xfe, 0]), 3);
    let mut empty = new("");
    (empty.value, empty.by) = (Some(Vec::new()), None);
    let mut absent = new("");
    (absent.key, absent.value) = (None, None);
    let letters = [new("a"), binary, empty, absent];
    desk.put(letters.clone()).await;

    let report = desk.json(0, &[&["redrive", "--by", "ann"], &WHY[..]].concat()).await;

    assert_eq!(keys(&report), ["action", "counts", "dry_run", "items", "stopped", "who", "why"]);
    assert_eq!((&report["action"], &report["counts"]), (&json!("redrive"), &json!({"redriven": 4})));
    let expected =
        ["at", "attempts", "code", "first", "id", "key", "module", "result", "slot", "stage", "to", "topic"];
    assert_eq!(keys(&report["items"][0]), expected);
    let sent = desk.sent().await;
    assert_eq!(redriven_from(&sent), [0, 1, 2, 3]);
    for ((message, letter), offset) in sent.iter().zip(&letters).zip(100..) {
        assert_eq!((message.key(), message.payload()), (letter.key.as_deref(), letter.value.as_deref()));
        // What its function makes of it.
        let headers = rdkafka::message::Headers::iter(message.headers().unwrap());
        let mut headers = headers.map(|h| (h.key.to_owned(), h.value.unwrap().to_vec())).collect();
        let origin = Origin::take(message.topic(), message.partition(), message.offset(), &mut headers);
        assert_eq!(headers, letter.headers);
        let slot = letter.by.map(|(slot, _)| slot.to_owned());
        let (attempts, redriven_from) = (letter.attempts, Some(desk.id(offset - 100)));
        let expected = Origin { topic: &desk.topic, partition: 2, offset, attempts, slot, redriven_from };
        assert_eq!(origin, expected);
    }
    assert_eq!(header(&sent[0], "outflow-reason"), None, "it is no letter any more");
    let audit = desk.audit().await;
    assert_eq!(audit.iter().map(|(id, _)| id.clone()).collect::<Vec<_>>(), [0, 1, 2, 3].map(|o| desk.id(o)));
    let (_, entry) = &audit[0];
    assert_eq!(keys(entry), ["action", "letter_at", "result", "when", "who", "why"]);
    assert_eq!(
        (&entry["action"], &entry["who"], &entry["why"]),
        (&json!("redrive"), &json!("ann"), &json!(WHY[2]))
    );
    assert_eq!(entry["result"], json!(format!("{}/0/0", topics::retries(&desk.topic))));
    let shown = desk.json(0, &["show", &desk.id(0)]).await;
    assert_eq!((&shown["state"], &shown["audit"]), (&json!("redriven"), entry));
    let list = desk.json(0, &["list"]).await;
    assert_eq!((&list["causes"], &list["counts"]["redriven"]), (&json!([]), &json!(4)));
    assert!(read(&desk.brokers, &desk.letters()).await.len() == 4, "letters stay readable");
}

#[tokio::test]
async fn redriven_twice_is_sent_once() {
    let desk = Desk::start().await;
    desk.put(["a", "b", "c"].map(new)).await;
    let one = desk.id(1);

    let by_id = desk.json(0, &[&["redrive", one.as_str()], &WHY[..]].concat()).await;
    let rest = desk.json(0, &[&["redrive", "--code", "no_total"], &WHY[..]].concat()).await;
    let nothing = desk.json(0, &[&["redrive"], &WHY[..]].concat()).await;
    let again = desk.json(0, &[&["redrive", one.as_str()], &WHY[..]].concat()).await;
    let unknown = desk.json(1, &[&["redrive", desk.id(9).as_str()], &WHY[..]].concat()).await;

    assert_eq!(results(&by_id), ["1: redriven"]);
    assert_eq!(results(&rest), ["0: redriven", "2: redriven"]);
    assert_eq!(results(&nothing), [""; 0]);
    assert_eq!(results(&again), ["1: already_redriven"]);
    assert_eq!(again["items"][0]["to"], by_id["items"][0]["to"]);
    assert_eq!(results(&unknown), ["9: unknown"]);
    assert_eq!(redriven_from(&desk.sent().await), [1, 0, 2]);
    assert_eq!(desk.audit().await.len(), 3);
}

#[tokio::test]
async fn a_dry_run_changes_nothing_and_wants_no_reason() {
    let desk = Desk::start().await;
    desk.put(["a", "b"].map(new)).await;

    let redrive = desk.json(0, &["redrive", "--dry-run"]).await;
    let discard = desk.json(0, &["discard", "--dry-run"]).await;

    for (report, action) in [(redrive, "redrive"), (discard, "discard")] {
        assert_eq!(results(&report), ["0: planned", "1: planned"]);
        let told = (&report["action"], &report["dry_run"], &report["who"], &report["stopped"]);
        assert_eq!(told, (&json!(action), &json!(true), &Value::Null, &Value::Null));
    }
    assert!(desk.sent().await.is_empty() && desk.audit().await.is_empty());
    let text = desk.text(0, &["redrive", "--dry-run", "--topic", &desk.topic]).await;
    assert_eq!(text, "2 letters would be redriven\n");
}

#[tokio::test]
async fn what_is_discarded_stays_readable_and_is_never_sent() {
    let desk = Desk::start().await;
    desk.put(["a", "b"].map(new)).await;
    let first = desk.id(0);

    let discarded = desk.json(0, &[&["discard", first.as_str()], &WHY[..]].concat()).await;
    let again = desk.json(0, &[&["discard", first.as_str()], &WHY[..]].concat()).await;
    let redriven = desk.json(1, &[&["redrive", first.as_str(), &desk.id(1)], &WHY[..]].concat()).await;
    let late = desk.json(1, &[&["discard", desk.id(1).as_str()], &WHY[..]].concat()).await;

    assert_eq!(results(&discarded), ["0: discarded"]);
    assert_eq!(results(&again), ["0: already_discarded"]);
    assert_eq!(results(&redriven), ["0: already_discarded", "1: redriven"]);
    assert_eq!(results(&late), ["1: already_redriven"]);
    assert_eq!(redriven_from(&desk.sent().await), [1]);
    let shown = desk.json(0, &["show", &first]).await;
    assert_eq!((&shown["state"], &shown["audit"]["action"]), (&json!("discarded"), &json!("discard")));
    assert_eq!(shown["value"], json!({"text": r#"{"of": "a"}"#}));
}

#[tokio::test]
async fn nothing_is_done_without_a_selection_a_reason_and_a_yes() {
    let desk = Desk::start().await;
    desk.put([new("a")]).await;
    let topic = desk.topic.as_str();

    for (arguments, advice) in [
        (&["redrive", "--yes", "--why", "x"][..], "nothing is selected"),
        (&["discard", "--yes", "--why", "x"], "nothing is selected"),
        (&["redrive", "--topic", topic, "--yes"], "--why"),
        (&["redrive", "--topic", topic, "--yes", "--why", ""], "why is refused: wants 1 to 500 characters"),
        (&["redrive", "--topic", topic, "--why", "x"], "say --yes"),
        (&["discard", "--topic", topic, "--why", "x"], "say --yes"),
        (&["redrive", "--topic", topic, "--yes", "--dry-run"], "--dry-run"),
        (&["redrive", "--topic", topic, "--yes", "--why", "x", "--rate", "0/s"], "such as 50/s"),
        (&["redrive", "other.dlq/0/1", "--topic", topic, "--yes", "--why", "x"], "is none of"),
    ] {
        let refused = desk.refused(arguments).await;
        assert!(refused.contains(advice), "{arguments:?}: {refused}");
    }
    assert!(desk.sent().await.is_empty() && desk.audit().await.is_empty());
}

#[tokio::test]
async fn without_a_retry_topic_nobody_would_get_what_is_redriven() {
    let desk = Desk::start().await;
    desk.put([new("a")]).await;
    delete(&desk, &topics::retries(&desk.topic)).await;

    let refused = desk.refused(&["redrive", "--topic", &desk.topic, "--dry-run"]).await;

    assert!(refused.contains("outflow init"), "{refused}");
    assert_eq!(results(&desk.json(0, &[&["discard"], &WHY[..]].concat()).await), ["0: discarded"]);
}

#[tokio::test]
async fn letters_of_a_topic_that_was_made_anew_are_none_of_those_in_the_audit() {
    let desk = Desk::start().await;
    desk.put([new("a")]).await;
    desk.json(0, &[&["redrive"], &WHY[..]].concat()).await;
    delete(&desk, &desk.letters()).await;
    let spec = topics::TopicSpec { name: desk.letters(), partitions: 1 };
    outflow_tests::until("the topic is there again", async || {
        topics::ensure(&desk.brokers, std::slice::from_ref(&spec)).await.is_ok_and(|made| made.len() == 1)
    })
    .await;
    desk.put([new("b")]).await;

    let again = desk.json(0, &[&["redrive"], &WHY[..]].concat()).await;

    assert_eq!(results(&again), ["0: redriven"]);
    let sent = desk.sent().await;
    assert_eq!(sent.iter().map(|m| text(m.key())).collect::<Vec<_>>(), ["a", "b"]);
}

#[tokio::test]
async fn what_kafka_does_not_take_is_told_and_its_neighbours_go() {
    let desk = Desk::start().await;
    let retries = topics::retries(&desk.topic);
    delete(&desk, &retries).await;
    let small = NewTopic::new(&retries, 1, TopicReplication::Fixed(1)).set("max.message.bytes", "4000");
    outflow_tests::until("the topic is there again", async || {
        let made = admin(&desk).create_topics([&small], &AdminOptions::new()).await.unwrap();
        made[0].is_ok()
    })
    .await;
    let mut large = new("a");
    // Incompressible.
    large.value = Some((0..500).flat_map(|_| uuid::Uuid::new_v4().into_bytes()).collect());
    desk.put([new("b"), large, new("a"), new("c")]).await;

    let report = desk.json(1, &[&["redrive"], &WHY[..]].concat()).await;

    assert_eq!(report["stopped"], Value::Null);
    let expected = ["0: redriven", "1: refused", "2: held_by_earlier", "3: redriven"];
    assert_eq!(results(&report), expected);
    assert_eq!(report["items"][2]["earlier"], json!(desk.id(1)));
    assert_eq!(redriven_from(&desk.sent().await), [0, 3]);
    assert_eq!(desk.audit().await.len(), 2);
}

fn admin(desk: &Desk) -> AdminClient<DefaultClientContext> {
    ClientConfig::new().set("bootstrap.servers", &desk.brokers).create().unwrap()
}

/// Deletes a topic and waits until it is gone.
async fn delete(desk: &Desk, topic: &str) {
    let deleted = admin(desk).delete_topics(&[topic], &AdminOptions::new()).await.unwrap();
    deleted[0].as_ref().unwrap();
    let log = outflow_broker::letters::log::Log::new(&desk.brokers);
    outflow_tests::until("the topic is gone", async || {
        !log.topics().await.unwrap().iter().any(|name| name == topic)
    })
    .await;
}
