//! Many letters, slowly: what a crash, a second operator and an interrupt leave behind.

use super::{Desk, header, new, redriven_from, results, text};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use outflow_tests::{long, until};
use rdkafka::Message;
use serde_json::Value;
use std::{
    collections::BTreeMap,
    process::{Output, Stdio},
    time::Duration,
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::process::{Child, Command};

const WHY: [&str; 3] = ["--yes", "--why", "the module is mended"];

impl Desk {
    /// Ten keys in turn, the versions of each in their order.
    async fn put_many(&self, letters: usize) {
        let many = (0..letters).map(|number| {
            let mut letter = new(&format!("k{}", number % 10));
            letter.headers.push(("aggregateVersion".to_owned(), (number / 10 + 1).to_string().into_bytes()));
            letter
        });
        self.put(many).await;
    }

    /// Begins to redrive everything, a few letters a second.
    fn begin(&self, rate: &str) -> Child {
        Command::new(outflow_stack::target_dir().join("outflow"))
            .args(["dlq", "redrive", "--topic", &self.topic, "--rate", rate, "--json", "-"])
            .args(WHY)
            .env("OUTFLOW_KAFKA_BROKERS", &self.brokers)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("it was built")
    }

    async fn until_sent(&self, letters: usize) {
        until("letters are sent", async || self.sent().await.len() >= letters).await;
    }

    /// Every letter was sent once and written down once, and each key's versions in their order.
    async fn assert_all_sent_once(&self, letters: usize) {
        let sent = self.sent().await;
        let mut from = redriven_from(&sent);
        from.sort_unstable();
        assert_eq!(from, (0..i64::try_from(letters).unwrap()).collect::<Vec<_>>());
        let mut audited: Vec<String> = self.audit().await.into_iter().map(|(id, _)| id).collect();
        audited.sort();
        let mut expected: Vec<String> = from.into_iter().map(|offset| self.id(offset)).collect();
        expected.sort();
        assert_eq!(audited, expected);
        let mut versions: BTreeMap<String, u64> = BTreeMap::new();
        for message in &sent {
            let version: u64 = header(message, "aggregateVersion").unwrap().parse().unwrap();
            let before = versions.insert(text(message.key()), version);
            assert!(
                before.is_none_or(|before| before < version),
                "{:?}: {version} after {before:?}",
                message.key()
            );
        }
    }
}

fn signal(child: &Child, signal: Signal) {
    let id = i32::try_from(child.id().expect("it runs")).unwrap();
    kill(Pid::from_raw(id), signal).expect("it is ours");
}

async fn end(child: Child) -> Output {
    tokio::time::timeout(Duration::from_secs(60), child.wait_with_output()).await.expect("it ends").unwrap()
}

fn report(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("no JSON: {output:?}"))
}

#[tokio::test]
async fn a_redrive_that_was_killed_goes_on_where_it_was() {
    let desk = Desk::start().await;
    desk.put_many(100).await;
    for sent in [3, 9] {
        let child = desk.begin("5/s");
        desk.until_sent(sent).await;
        signal(&child, Signal::SIGKILL);
        end(child).await;
    }
    let before = desk.sent().await.len();
    assert!((9..100).contains(&before), "killed in the middle: {before}");

    let rest = desk.json(0, &[&["redrive"], &WHY[..]].concat()).await;

    assert!(results(&rest).iter().all(|result| result.ends_with(": redriven")), "{}", rest["counts"]);
    desk.assert_all_sent_once(100).await;
}

#[tokio::test]
async fn a_second_operator_ends_the_work_of_the_first_who_is_told() {
    let desk = Desk::start().await;
    desk.put_many(100).await;
    let first = desk.begin("5/s");
    desk.until_sent(2).await;

    let second = desk.json(0, &[&["redrive"], &WHY[..]].concat()).await;
    let first = end(first).await;

    assert_eq!(first.status.code(), Some(1));
    let told = report(&first);
    let stopped = told["stopped"].as_str().expect("why it ended");
    assert!(stopped.contains("somebody else has begun"), "{stopped}");
    assert!(String::from_utf8_lossy(&first.stderr).contains("run the same again"));
    let count = |report: &Value, result: &str| report["counts"][result].as_u64().unwrap_or(0);
    assert_eq!(
        count(&told, "redriven") + count(&second, "redriven"),
        100,
        "{} {}",
        told["counts"],
        second["counts"]
    );
    assert_eq!(count(&told, "redriven") + count(&told, "not_reached") + count(&told, "uncertain"), 100);
    desk.assert_all_sent_once(100).await;
}

#[tokio::test]
async fn an_interrupt_ends_it_between_two_transactions() {
    let desk = Desk::start().await;
    desk.put_many(100).await;
    let child = desk.begin("5/s");
    desk.until_sent(2).await;

    signal(&child, Signal::SIGINT);
    let output = end(child).await;

    assert_eq!(output.status.code(), Some(1));
    let told = report(&output);
    assert_eq!(told["stopped"], "interrupted");
    let redriven = told["counts"]["redriven"].as_u64().unwrap();
    assert_eq!(told["counts"]["not_reached"].as_u64(), Some(100 - redriven));
    assert_eq!(desk.sent().await.len() as u64, redriven);
    desk.json(0, &[&["redrive"], &WHY[..]].concat()).await;
    desk.assert_all_sent_once(100).await;
}

/// By the audit's own times: however slow the machine is, no second holds more.
#[tokio::test]
async fn no_second_holds_more_letters_than_the_rate_allows() {
    let desk = Desk::start().await;
    desk.put_many(100).await;

    desk.json(0, &[&["redrive", "--rate", "40/s"], &WHY[..]].concat()).await;

    let when = |(_, entry): (String, Value)| {
        OffsetDateTime::parse(entry["when"].as_str().unwrap(), &Rfc3339).expect("a time")
    };
    let mut times: Vec<OffsetDateTime> = desk.audit().await.into_iter().map(when).collect();
    times.sort();
    assert_eq!(times.len(), 100);
    for (index, from) in times.iter().enumerate() {
        let within = times[index..].iter().take_while(|at| **at - *from < time::Duration::seconds(1)).count();
        // Those of a second, and of the transaction at its edge.
        assert!(within <= 40 + 4, "{within} within a second of {from}");
    }
}

#[tokio::test]
async fn many_letters_go_in_order_and_once() {
    let letters = if long() { 10_000 } else { 500 };
    let desk = Desk::start().await;
    desk.put_many(letters).await;

    let report = desk.json(0, &[&["redrive"], &WHY[..]].concat()).await;

    assert_eq!(report["counts"]["redriven"].as_u64(), Some(letters as u64));
    desk.assert_all_sent_once(letters).await;
    let again = desk.json(0, &[&["redrive"], &WHY[..]].concat()).await;
    assert_eq!(results(&again), [""; 0]);
}
