//! Plain HTTP, as `curl` and Grafana speak it: queries, settings, users, codes, compression.

use std::path::Path;

use reqwest::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::{Front, header};

/// URL parameters of a request.
type Parameters = &'static [(&'static str, &'static str)];

#[tokio::test]
async fn queries_come_in_the_body_in_the_url_and_in_both() {
    let front = Front::start().await;
    let get = |path: &str| {
        let request = reqwest::Client::new().get(format!("{}{path}", front.url));
        request.basic_auth("outflow", Some("writer's secret")).send()
    };
    assert_eq!(get("/ping").await.unwrap().text().await.unwrap(), "Ok.\n");
    assert_eq!(get("/").await.unwrap().text().await.unwrap(), "Ok.\n");
    assert_eq!(get("/replicas_status").await.unwrap().text().await.unwrap(), "Ok.\n");
    assert_eq!(get("/nothing").await.unwrap().status(), StatusCode::NOT_FOUND);
    assert_eq!(get("/?query=SELECT+1").await.unwrap().text().await.unwrap(), "1\n");
    assert_eq!(front.send(&[("query", "SELECT")], "2").await.text().await.unwrap(), "2\n");
    let response =
        front.send(&[("default_format", "JSONEachRow"), ("query_id", "q-7")], "SELECT 3 AS x").await;
    assert_eq!(header(&response, "x-clickhouse-format"), "JSONEachRow");
    assert_eq!(header(&response, "x-clickhouse-query-id"), "q-7");
    assert_eq!(header(&response, "x-clickhouse-timezone"), "UTC");
    assert!(header(&response, "x-clickhouse-summary").contains("\"read_rows\":\"1\""));
    assert_eq!(response.text().await.unwrap(), "{\"x\":3}\n");
    assert_eq!(front.ask("SELECT 4 AS x FORMAT CSVWithNames").await, "\"x\"\n4");

    front.ask("CREATE DATABASE d").await;
    let d = ("database", "d");
    front.send(&[d], "CREATE TABLE t (a Int32, b String DEFAULT 'b') ENGINE = MergeTree ORDER BY a").await;
    front.send(&[d], "INSERT INTO t (a) VALUES (1), (1 + 1);").await;
    let response =
        front.send(&[d, ("query", "INSERT INTO t FORMAT JSONEachRow")], "{\"a\":3}\n{\"a\":4}").await;
    assert!(header(&response, "x-clickhouse-summary").contains("\"written_rows\":\"2\""));
    front.send(&[d], "INSERT INTO t FORMAT CSV\n5,x\n6,y\n").await;
    front.send(&[d], "INSERT INTO t SELECT 7, 'z'").await;
    assert_eq!(
        front.ask("SELECT groupArray((a, b)) FROM (SELECT * FROM d.t ORDER BY a)").await,
        "[(1,'b'),(2,'b'),(3,'b'),(4,'b'),(5,'x'),(6,'y'),(7,'z')]"
    );
    let read = get("/?query=SELECT+count()+FROM+d.t").await.unwrap();
    assert_eq!(read.text().await.unwrap(), "7\n");
    for write in
        ["INSERT INTO d.t VALUES (9,'')", "DROP TABLE d.t", "INSERT INTO FUNCTION null('a Int8') SELECT 1"]
    {
        let request = reqwest::Client::new().get(&front.url).query(&[("query", write)]);
        let refused = request.basic_auth("outflow", Some("writer's secret")).send().await.unwrap();
        assert_eq!(header(&refused, "x-clickhouse-exception-code"), "164", "{write}");
    }
}

#[tokio::test]
async fn parameters_and_settings_stay_with_their_request() {
    let front = Front::start_with(&["--max-concurrent", "2"]).await;
    let sql = "SELECT {n: UInt8} + 1, {s: String}, getSetting('max_threads'), getSetting('max_block_size')";
    let parameters =
        [("param_n", "41"), ("param_s", "it''s\\t"), ("max_threads", "3"), ("max_block_size", "777")];
    assert_eq!(front.send(&parameters, sql).await.text().await.unwrap(), "42\tit\\'\\'s\\t\t3\t777\n");
    let plain = front.ask("SELECT getSetting('max_block_size'), currentDatabase()").await;
    assert_eq!(plain, "65409\tdefault");
    // Whatever a request does to its session ends with it, failed or not.
    front.send(&[("database", "system"), ("max_block_size", "5")], "SELECT throwIf(1)").await;
    front.ask("SET max_block_size = 9").await;
    front.ask("USE system").await;
    front.ask("CREATE TEMPORARY TABLE leftover (a Int8)").await;
    for _ in 0..6 {
        assert_eq!(front.ask("SELECT getSetting('max_block_size'), currentDatabase()").await, plain);
        let response = front.send(&[], "SELECT {n: UInt8}").await;
        assert_ne!(response.status(), StatusCode::OK, "a parameter leaked");
        assert_eq!(front.send(&[], "SELECT * FROM leftover").await.status(), StatusCode::NOT_FOUND);
    }
    assert_eq!(front.ask("SELECT timezone(), serverTimezone()").await, "UTC\tUTC");
    let tokyo = front.send(&[("session_timezone", "Asia/Tokyo")], "SELECT toHour(toDateTime(0))").await;
    assert_eq!(header(&tokyo, "x-clickhouse-timezone"), "Asia/Tokyo");
    assert_eq!(tokyo.text().await.unwrap(), "9\n");
    let quoted = front
        .send(&[("log_comment", "a', max_threads = 1, b = '\\")], "SELECT getSetting('log_comment')")
        .await;
    assert_eq!(quoted.text().await.unwrap(), "a\\', max_threads = 1, b = \\'\\\\\n");
}

#[tokio::test]
async fn users_log_in_by_header_basic_and_url() {
    let front = Front::start().await;
    let client = reqwest::Client::new();
    let post = || client.post(&front.url).body("SELECT 1");
    let by_header =
        post().header("X-ClickHouse-User", "outflow").header("X-ClickHouse-Key", "writer's secret");
    let by_basic = post().basic_auth("outflow", Some("writer's secret"));
    let by_url = post().query(&[("user", "outflow"), ("password", "writer's secret")]);
    for request in [by_header, by_basic, by_url] {
        assert_eq!(request.send().await.unwrap().text().await.unwrap(), "1\n");
    }
    let wrong = [
        (post().basic_auth("outflow", Some("x")), StatusCode::FORBIDDEN, "516"),
        (post().header("X-ClickHouse-User", "nobody"), StatusCode::FORBIDDEN, "516"),
        (post().query(&[("user", "grafana")]), StatusCode::FORBIDDEN, "516"),
        (post().header("Authorization", "Bearer x"), StatusCode::FORBIDDEN, "516"),
        (
            post().basic_auth("outflow", Some("writer's secret")).query(&[("user", "a")]),
            StatusCode::FORBIDDEN,
            "516",
        ),
        (post(), StatusCode::UNAUTHORIZED, "194"),
    ];
    for (request, status, code) in wrong {
        let response = request.send().await.unwrap();
        assert_eq!((response.status(), header(&response, "x-clickhouse-exception-code")), (status, code));
        assert!(response.text().await.unwrap().contains("Authentication failed") || code == "516");
    }
}

#[tokio::test]
async fn a_refusal_is_read_even_behind_a_long_body() {
    let front = Front::start().await;
    let request = reqwest::Client::new().post(&front.url).query(&[("query", "INSERT INTO t FORMAT CSV")]);
    let response =
        request.basic_auth("outflow", Some("x")).body(vec![b'1'; 20_000_000]).send().await.unwrap();
    assert_eq!(header(&response, "x-clickhouse-exception-code"), "516");
    let response = front.send(&[("query", "INSERT INTO nowhere FORMAT CSV")], vec![b'1'; 20_000_000]).await;
    assert_eq!(header(&response, "x-clickhouse-exception-code"), "60");
}

#[tokio::test]
async fn a_reader_reads_and_no_more() {
    let front = Front::start().await;
    front.ask("CREATE TABLE t (a Int32) ENGINE = MergeTree ORDER BY a").await;
    let reader = |parameters: &[(&str, &str)], sql: &'static str| {
        let request = reqwest::Client::new().post(&front.url).query(parameters).body(sql);
        let request = request.header("X-ClickHouse-User", "grafana").header("X-ClickHouse-Key", "reader");
        async move {
            let response = request.send().await.unwrap();
            let code = header(&response, "x-clickhouse-exception-code").to_owned();
            (code, response.text().await.unwrap())
        }
    };
    // Grafana sends settings with its queries; the user's own are there from the start.
    let (code, text) = reader(
        &[("max_execution_time", "60")],
        "SELECT count(), timezone(), getSetting('max_execution_time') FROM t",
    )
    .await;
    assert_eq!((code.as_str(), text.as_str()), ("", "0\tAsia/Tokyo\t60\n"));
    assert_eq!(reader(&[], "SHOW TABLES").await.1, "t\n");
    let refused: &[(Parameters, &'static str, &str)] = &[
        (&[], "INSERT INTO t VALUES (1)", "164"),
        (&[], "INSERT INTO t SELECT 1", "164"),
        (&[], "INSERT INTO FUNCTION file('/tmp/x.csv', 'CSV', 'a Int8') VALUES (1)", "164"),
        (&[], "CREATE TABLE u (a Int8) ENGINE = Memory", "164"),
        (&[], "DROP TABLE t", "164"),
        (&[], "SYSTEM STOP MERGES", "164"),
        (&[("readonly", "0")], "SELECT 1", "164"),
        (&[], "SELECT * FROM file('/etc/passwd', 'LineAsString')", "497"),
        (&[], "SELECT 1 INTO OUTFILE '/tmp/outflow-front-test'", "358"),
    ];
    for (parameters, sql, expected) in refused {
        let (code, text) = reader(parameters, sql).await;
        assert_eq!(code, *expected, "{sql}: {text}");
    }
    assert!(!Path::new("/tmp/outflow-front-test").exists());
    assert_eq!(front.ask("SELECT count() FROM t").await, "0");
}

#[tokio::test]
async fn exceptions_have_their_status_and_code() {
    let front = Front::start().await;
    front.ask("CREATE TABLE t (a Int32) ENGINE = MergeTree ORDER BY a").await;
    let cases: &[(Parameters, &'static str, u16, &str)] = &[
        (&[], "SELECT * FROM nowhere", 404, "60"),
        (&[("database", "nowhere")], "SELECT 1", 404, "81"),
        (&[], "SELEKT 1", 400, "62"),
        (&[], "", 400, "62"),
        (&[], "SELECT 1; SELECT 2", 400, "62"),
        (&[], "SELECT nothing", 404, "47"),
        (&[("no_such_setting", "1")], "SELECT 1", 404, "115"),
        (&[("a-b", "1")], "SELECT 1", 404, "115"),
        (&[("session_id", "1")], "SELECT 1", 501, "48"),
        (&[], "SELECT throwIf(1)", 500, "395"),
        (&[], "INSERT INTO nowhere VALUES (1)", 404, "60"),
        (&[], "INSERT INTO t FORMAT CSV\nx\n", 400, "117"),
        (&[], "INSERT INTO t FORMAT Nothing\nx", 404, "73"),
        (
            &[],
            "SELECT sleep(2) SETTINGS max_execution_time = 0.2, function_sleep_max_microseconds_per_block = 9000000",
            408,
            "159",
        ),
    ];
    for (parameters, sql, status, code) in cases {
        let response = front.send(parameters, *sql).await;
        let found = (response.status().as_u16(), header(&response, "x-clickhouse-exception-code").to_owned());
        let text = response.text().await.unwrap();
        assert_eq!(found, (*status, (*code).to_owned()), "{sql}: {text}");
        assert!(text.starts_with(&format!("Code: {code}. DB::Exception: ")), "{text}");
    }
    assert_eq!(front.ask("SELECT count() FROM t").await, "0");
    let long = front.send(&[], format!("SELECT 1 /*{}*/", "x".repeat(17 * 1024 * 1024))).await;
    assert_eq!((long.status().as_u16(), header(&long, "x-clickhouse-exception-code")), (413, "229"));
    let mut socket =
        tokio::net::TcpStream::connect(front.url.strip_prefix("http://").unwrap()).await.unwrap();
    let long = format!("GET /?query={} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", "x".repeat(70_000));
    socket.write_all(long.as_bytes()).await.unwrap();
    let mut status = [0; 12];
    socket.read_exact(&mut status).await.unwrap();
    assert_eq!(&status, b"HTTP/1.1 414");
}

#[tokio::test]
async fn native_compression_goes_both_ways() {
    let front = Front::start().await;
    front.ask("CREATE TABLE t (a UInt32) ENGINE = MergeTree ORDER BY a").await;
    let compressed = front.send(&[("compress", "1")], "SELECT number FROM numbers(3) FORMAT TSV").await;
    let bytes = compressed.bytes().await.unwrap();
    assert_eq!(bytes[16], 0x82);
    // What the server compressed it takes back: the framing is the same both ways.
    let insert = [("query", "INSERT INTO t FORMAT TSV"), ("decompress", "1")];
    let response = front.send(&insert, bytes.clone()).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(front.ask("SELECT sum(a), count() FROM t").await, "3\t3");
    let mut broken = bytes.to_vec();
    broken[2] ^= 1;
    for (body, code) in [
        (broken, "40"),
        (bytes[..bytes.len() - 1].to_vec(), "33"),
        (b"plain text, not compressed".to_vec(), "39"),
    ] {
        let response = front.send(&insert, body).await;
        assert_eq!(header(&response, "x-clickhouse-exception-code"), code);
    }
    assert_eq!(front.ask("SELECT count() FROM t").await, "3");
}

#[tokio::test]
async fn native_blocks_follow_the_clients_revision() {
    let front = Front::start().await;
    // clickhouse-go, and with it Grafana's plugin, reads blocks with their info and a byte behind each type.
    let revision = [("client_protocol_version", "54460"), ("default_format", "Native")];
    let response = front.send(&revision, "SELECT toUInt8(7) AS a, toLowCardinality('x') AS b").await;
    let mut expected = b"\x01\x00\x02\xff\xff\xff\xff\x00\x02\x01\x01a\x05UInt8\x00\x07".to_vec();
    expected.extend(b"\x01b\x16LowCardinality(String)\x00");
    let bytes = response.bytes().await.unwrap();
    assert_eq!(&bytes[..expected.len()], expected);
    let sql = "SELECT number, [toString(number)], map('k', toNullable(number)), tuple(number, toUUID('01a2075f-0d20-7128-8733-dc92aaf74582')), \
               CAST(1.5, 'Decimal(18, 2)'), toLowCardinality(toNullable('z')), now64(3, 'UTC') FROM numbers(200000)";
    let plain = front.send(&[("default_format", "Native")], sql).await.bytes().await.unwrap();
    let shaped = front.send(&revision, sql).await.bytes().await.unwrap();
    assert_eq!((shaped.len() - plain.len()) % (8 + 7), 0, "info for each block, a byte for each column");
    let json = front.send(&revision, "SELECT '{}'::JSON").await;
    assert_eq!(header(&json, "x-clickhouse-exception-code"), "48");
}
