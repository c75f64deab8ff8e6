//! A run that somebody watches on a terminal, and stops by Ctrl-C.

use super::{BACKLOG, FIRST, WAYWARD};
use crate::transforms::{TIMEOUT, Workbench, order};
use nix::{
    pty::{Winsize, openpty},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use outflow_broker::{letters::log::Log, topics};
use outflow_tests::until;
use rdkafka::Message;
use serde_json::{Value, json};
use std::{
    fs::File,
    io::Read,
    process::Stdio,
    sync::{Arc, Mutex},
};
use tokio::process::Command;

impl Workbench {
    /// Exit code and report of a run that somebody stops by Ctrl-C as soon as its terminal shows `sign`.
    async fn stopped(&self, digest: &str, sign: &str) -> (Option<i32>, Value) {
        let size = Winsize { ws_row: 24, ws_col: 120, ws_xpixel: 0, ws_ypixel: 0 };
        let terminal = openpty(&size, None).unwrap();
        let run = ["shadow", digest, "--topic", &self.topic];
        let child = Command::new(self.outflow.program())
            .args([&["transform"], &run[..], &BACKLOG, &["--json", "-"]].concat())
            .envs(self.outflow.env())
            .stdout(Stdio::piped())
            .stderr(terminal.slave)
            .kill_on_drop(true)
            .spawn()
            .expect("it was built");
        let screen = Arc::new(Mutex::new(String::new()));
        let (mut master, shown) = (File::from(terminal.master), screen.clone());
        std::thread::spawn(move || {
            let mut bytes = [0; 4_096];
            // An error is the end: nobody writes to the terminal any more.
            while let Ok(read @ 1..) = master.read(&mut bytes) {
                shown.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..read]));
            }
        });
        until(&format!("the terminal shows {sign}"), async || screen.lock().unwrap().contains(sign)).await;
        let id = i32::try_from(child.id().expect("it runs")).unwrap();
        kill(Pid::from_raw(id), Signal::SIGINT).expect("it is ours");
        let output = tokio::time::timeout(TIMEOUT, child.wait_with_output()).await.expect("it ends").unwrap();
        let report = serde_json::from_slice(&output.stdout);
        (output.status.code(), report.unwrap_or_else(|_| panic!("no JSON: {}", screen.lock().unwrap())))
    }

    /// The values of all records of a topic; None where there is no such topic.
    async fn values(&self, topic: &str) -> Option<Vec<String>> {
        let mut reader = Log::new(&self.brokers).read(topic, None).await.unwrap()?;
        let mut values = Vec::new();
        while let Some(message) = reader.next().await.unwrap() {
            values.push(String::from_utf8_lossy(message.payload().unwrap_or_default()).into_owned());
        }
        Some(values)
    }
}

#[tokio::test]
async fn ctrl_c_ends_it_with_what_was_found_by_then_and_no_row_is_written() {
    let bench = Workbench::start().await;
    let active = bench.activate(FIRST).await;
    let candidate = bench.outflow.publish(WAYWARD).await.unwrap();

    let (code, report) = bench.stopped(&candidate, " 0 records ").await;
    assert_eq!((code, &report["ended"], &report["number"]), (Some(0), &json!("interrupted"), &Value::Null));
    assert!(!bench.registry("shadows").exists(), "nothing was compared");

    bench.send(["u-1", "band", "reject", "panic"].map(order)).await;
    let (code, report) = bench.stopped(&candidate, " 4 records 3 differ ").await;
    assert_eq!((code, &report["ended"], &report["number"]), (Some(1), &json!("interrupted"), &json!(1)));
    assert_eq!(report["records"], json!({"compared": 4, "same": 1, "different": 3}));
    assert_eq!((&report["apart"]["seen"], &report["columns"][0]["rows"]), (&json!(4), &json!(1)));
    let mut kept = bench.kept(&candidate, 1);
    kept["number"] = json!(1);
    assert_eq!(kept, report);

    let (code, report) = bench.stopped(&active, " 4 records 0 differ ").await;
    assert_eq!((code, &report["ended"], &report["number"]), (Some(0), &json!("interrupted"), &json!(1)));
    assert_eq!(report["summary"], "4 records, no difference");

    let rows = bench.values("orders_analytics").await.unwrap_or_default();
    assert!(!rows.iter().any(|row| row.contains(&candidate)), "the candidate has written rows");
    assert_eq!(bench.values(&topics::dead_letters(&bench.topic)).await, None);
    assert_eq!(bench.values(&bench.topic).await.map(|events| events.len()), Some(4));
    let status = bench.json(0, &["status"]).await;
    assert_eq!(
        (status["active"].as_array().map(Vec::len), &status["active"][0]["digest"]),
        (Some(1), &json!(active))
    );
    assert_eq!(status["history"].as_array().map(Vec::len), Some(1));
}
