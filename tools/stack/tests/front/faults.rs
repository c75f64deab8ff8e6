//! What must hold when things get big, break off, stop or are killed.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use clickhouse::Row;
use reqwest::StatusCode;
use serde::Serialize;
use tokio::io::AsyncWriteExt;

use crate::harness::{Front, until};

/// A row of `numbers`: two 64-bit integers and a string of 32 bytes, in RowBinary.
const ROW: usize = 49;

#[tokio::test]
async fn a_long_insert_takes_bounded_memory() {
    let front = Front::start().await;
    front
        .ask("CREATE TABLE numbers (a UInt64, b UInt64, s String) ENGINE = MergeTree ORDER BY tuple()")
        .await;
    let mut chunk = Vec::new();
    for number in 0..20_000_u64 {
        chunk.extend(number.to_le_bytes());
        chunk.extend((number * 7).to_le_bytes());
        chunk.push(32);
        chunk.extend([b'x'; 32]);
    }
    assert_eq!(chunk.len(), 20_000 * ROW);
    let chunk = bytes::Bytes::from(chunk);
    let insert = async |chunks: usize| {
        let body = futures_util::stream::iter(vec![Ok::<_, std::convert::Infallible>(chunk.clone()); chunks]);
        // Blocks of 3 MB instead of 51 MB: it is the body's way that is measured.
        let query = [
            ("query", "INSERT INTO numbers FORMAT RowBinary"),
            ("async_insert", "0"),
            ("max_insert_block_size", "65536"),
            ("min_insert_block_size_rows", "65536"),
        ];
        let response = front.send(&query, reqwest::Body::wrap_stream(body)).await;
        assert_eq!(response.status(), StatusCode::OK, "{}", response.text().await.unwrap());
    };
    // Merges take memory by the parts they read.
    front.ask("SYSTEM STOP MERGES numbers").await;
    insert(50).await;
    let (before, started) = (front.peak(), Instant::now());
    insert(420).await;
    let (grown, took) = (front.peak() - before, started.elapsed());
    println!("412 MB inserted in {took:?}, the peak of {before} KiB grew by {grown} KiB");
    assert_eq!(front.ask("SELECT count() FROM numbers").await, (470 * 20_000).to_string());
    assert!(grown < 100 * 1024, "a body of 412 MB took {grown} KiB more than one of 49 MB");
}

#[tokio::test]
async fn a_body_that_breaks_off_inserts_nothing() {
    let front = Front::start().await;
    front.ask("CREATE TABLE t (a UInt32) ENGINE = MergeTree ORDER BY a").await;
    let address = front.url.strip_prefix("http://").unwrap();
    let head = "POST /?query=INSERT+INTO+t+FORMAT+CSV&user=outflow&password=writer%27s+secret HTTP/1.1\r\nHost: x\r\n";
    for (framing, body) in [
        ("Content-Length: 5000\r\n\r\n", "1\n2\n3\n"),
        ("Transfer-Encoding: chunked\r\n\r\n", "6\r\n1\n2\n3\n\r\n"),
    ] {
        let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
        socket.write_all(format!("{head}{framing}{body}").as_bytes()).await.unwrap();
        until("the insert has begun", async || {
            front.ask("SELECT count() FROM system.processes WHERE query LIKE 'INSERT INTO t%'").await == "1"
        })
        .await;
        drop(socket);
        until("the insert is given up", async || {
            front.ask("SELECT count() FROM system.processes WHERE query LIKE 'INSERT INTO t%'").await == "0"
        })
        .await;
        assert_eq!(front.ask("SELECT count() FROM t").await, "0", "{framing}");
    }
    // The crate's insert that is dropped before its end.
    let client = front.client();
    #[derive(Row, Serialize)]
    struct Number {
        a: u32,
    }
    let mut insert = client.insert::<Number>("t").await.unwrap();
    for a in 0..200_000 {
        insert.write(&Number { a }).await.unwrap();
    }
    drop(insert);
    until("the insert is given up", async || {
        front.ask("SELECT count() FROM system.processes WHERE query LIKE 'INSERT INTO%'").await == "0"
    })
    .await;
    assert_eq!(front.ask("SELECT count() FROM t").await, "0");
}

#[tokio::test]
async fn queries_run_side_by_side_and_wait_beyond_the_bound() {
    let front = Front::start_with(&["--max-concurrent", "4"]).await;
    let started = Instant::now();
    let slow = (0..8).map(|_| front.ask("SELECT sleep(0.5)"));
    let answers = futures_util::future::join_all(slow).await;
    assert!(answers.iter().all(|answer| answer == "0"));
    let took = started.elapsed();
    assert!(took >= Duration::from_secs(1), "more than 4 ran at once: {took:?}");
    assert!(took < Duration::from_secs(3), "they ran one after another: {took:?}");
}

#[tokio::test]
async fn data_and_refreshable_views_outlive_restart_and_kill() {
    let mut front = Front::start().await;
    front.ask("CREATE DATABASE analytics").await;
    front.ask("CREATE TABLE analytics.t (a UInt64) ENGINE = MergeTree ORDER BY a SETTINGS non_replicated_deduplication_window = 100").await;
    front
        .ask("CREATE MATERIALIZED VIEW analytics.v REFRESH EVERY 1 SECOND (rows UInt64) ENGINE = MergeTree ORDER BY rows AS SELECT count() AS rows FROM analytics.t")
        .await;
    for (token, signal) in [("first", "TERM"), ("second", "KILL")] {
        for _ in 0..2 {
            let once = [("insert_deduplication_token", token), ("async_insert", "0")];
            let response =
                front.send(&once, "INSERT INTO analytics.t SELECT number FROM numbers(1000)").await;
            assert_eq!(response.status(), StatusCode::OK);
            let once = [("insert_deduplication_token", &*format!("{token} streamed")), ("async_insert", "0")];
            let response = front.send(&once, "INSERT INTO analytics.t VALUES (1), (2)").await;
            assert_eq!(response.status(), StatusCode::OK);
        }
        let started = Instant::now();
        front.signal(signal);
        assert!(started.elapsed() < Duration::from_secs(5), "{signal} took {:?}", started.elapsed());
        front.restart();
    }
    assert_eq!(front.ask("SELECT count() FROM analytics.t").await, "2004");
    until("the view is refreshed after the restart", async || {
        front.ask("SELECT max(rows) FROM analytics.v").await == "2004"
    })
    .await;
    front.ask("INSERT INTO analytics.t VALUES (1)").await;
    until("the view goes on", async || front.ask("SELECT max(rows) FROM analytics.v").await == "2005").await;
    assert_eq!(front.ask("SELECT exception FROM system.view_refreshes WHERE view = 'v'").await, "");
}

#[tokio::test]
async fn what_is_wrong_at_the_start_is_said() {
    let front = Front::start().await;
    let (users, data) = (front.folder.path().join("users.json"), front.folder.path().join("data"));
    let refused = |users: &Path, data: &Path| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_clickhouse-front"));
        command.arg("--lib").arg(&front.library).arg("--data").arg(data).arg("--users").arg(users);
        let output = command.args(["--listen", "127.0.0.1:0"]).output().unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(refused(&users, &data).contains("in use by another clickhouse-front"));
    let bad = front.folder.path().join("bad.json");
    for (text, message) in [
        (r#"[{"name": "a", "password": ""}]"#, "empty name or password"),
        (r#"[{"name": "a", "password": "x"}, {"name": "a", "password": "y"}]"#, "is there twice"),
        (r#"[{"name": "a", "password": "x", "read_only": true}]"#, "not a JSON array"),
    ] {
        std::fs::write(&bad, text).unwrap();
        assert!(refused(&bad, &front.folder.path().join("other")).contains(message), "{message}");
    }
}

#[tokio::test]
async fn sigterm_lets_a_running_query_finish() {
    let mut front = Front::start().await;
    front.ask("SELECT 1").await;
    let pid = front.child.id().to_string();
    let running = front.ask("SELECT sleep(1.5)");
    let stop = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert!(Command::new("kill").args(["-s", "TERM", &pid]).status().unwrap().success());
    };
    assert_eq!(tokio::join!(running, stop).0, "0");
    assert!(front.child.wait().unwrap().success());
}
