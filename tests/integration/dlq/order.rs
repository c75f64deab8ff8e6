//! Order within a key, and records that keep coming back.

use super::{Desk, New, new, redriven_from, results};

const WHY: [&str; 3] = ["--yes", "--why", "the module is mended"];

fn with(key: &str, code: &'static str, attempts: u32) -> New {
    New { code, attempts, ..new(key) }
}

#[tokio::test]
async fn a_letter_waits_for_an_earlier_one_of_its_key_unless_told_otherwise() {
    let desk = Desk::start().await;
    let other = |key| New { by: Some(("order_items", "ff00")), ..with(key, "b", 1) };
    desk.put([with("k", "a", 1), with("k", "b", 1), with("l", "b", 1), other("k"), with("k", "b", 1)]).await;
    let by_code = [&["redrive", "--code", "b"], &WHY[..]].concat();

    let held = desk.json(1, &by_code).await;
    let text = desk.text(1, &[&by_code[..], &["--topic", &desk.topic]].concat()).await;
    let first = desk.json(0, &[&["redrive", "--code", "a"], &WHY[..]].concat()).await;
    let free = desk.json(0, &by_code).await;

    let expected = ["1: held_by_earlier", "2: redriven", "3: redriven", "4: held_by_earlier"];
    assert_eq!(results(&held), expected);
    assert_eq!(held["items"][0]["earlier"], desk.id(0));
    assert!(text.contains("--out-of-order") && text.contains("2 held by earlier"), "{text}");
    assert_eq!(results(&first), ["0: redriven"]);
    assert_eq!(results(&free), ["1: redriven", "4: redriven"]);
    assert_eq!(redriven_from(&desk.sent().await), [2, 3, 0, 1, 4]);
}

#[tokio::test]
async fn out_of_order_is_for_those_who_say_so() {
    let desk = Desk::start().await;
    desk.put([with("k", "a", 1), with("k", "b", 1)]).await;

    let sent = desk.json(0, &[&["redrive", "--code", "b", "--out-of-order"], &WHY[..]].concat()).await;

    assert_eq!(results(&sent), ["1: redriven"]);
}

#[tokio::test]
async fn a_record_that_keeps_coming_back_stays_unless_it_is_forced() {
    let desk = Desk::start().await;
    desk.put([with("k", "a", 4), with("l", "a", 5), with("l", "a", 1), with("m", "a", 9)]).await;

    let stayed = desk.json(1, &[&["redrive"], &WHY[..]].concat()).await;
    let raised = desk.json(1, &[&["redrive", "--max-attempts", "9"], &WHY[..]].concat()).await;
    let forced = desk.json(0, &[&["redrive", "--force"], &WHY[..]].concat()).await;

    let expected = ["0: redriven", "1: too_many_attempts", "2: held_by_earlier", "3: too_many_attempts"];
    assert_eq!(results(&stayed), expected);
    assert_eq!(results(&raised), ["1: redriven", "2: redriven", "3: too_many_attempts"]);
    assert_eq!(results(&forced), ["3: redriven"]);
}
