//! `clickhouse-front` as its clients meet it: the official `clickhouse` crate, and plain HTTP.
//!
//! The engine is the real one: `OUTFLOW_CHDB_LIB`, or what the stack installs.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use clickhouse::{Client, Compression, Row};
use outflow_stack::{Installer, Quiet, Settings};
use reqwest::{Response, StatusCode};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

const USERS: &str = r#"[
    {"name": "outflow", "password": "writer's secret"},
    {"name": "grafana", "password": "reader", "readonly": true, "settings": {"session_timezone": "Asia/Tokyo"}}
]"#;
/// A row of `numbers`: two 64-bit integers and a string of 32 bytes, in RowBinary.
const ROW: usize = 49;

struct Front {
    folder: TempDir,
    library: PathBuf,
    child: Child,
    url: String,
}

impl Front {
    async fn start() -> Self {
        Self::start_with(&[]).await
    }

    async fn start_with(arguments: &[&str]) -> Self {
        let library = library().await;
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("users.json"), USERS).unwrap();
        let (child, url) = spawn(&library, folder.path(), arguments);
        Self { folder, library, child, url }
    }

    /// Starts it again on the same data, after it was stopped.
    fn restart(&mut self) {
        (self.child, self.url) = spawn(&self.library, self.folder.path(), &[]);
    }

    fn signal(&mut self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
        self.child.wait().unwrap();
    }

    /// Sends a query as the writer; `parameters` go into the URL.
    async fn send(&self, parameters: &[(&str, &str)], body: impl Into<reqwest::Body>) -> Response {
        let request = reqwest::Client::new().post(&self.url).query(parameters);
        request.basic_auth("outflow", Some("writer's secret")).body(body).send().await.unwrap()
    }

    /// The text of an answer that must be a success.
    async fn ask(&self, sql: &str) -> String {
        let response = self.send(&[], sql.to_owned()).await;
        let status = response.status();
        let text = response.text().await.unwrap();
        assert_eq!(status, StatusCode::OK, "{sql}: {text}");
        text.trim_end().to_owned()
    }

    fn client(&self) -> Client {
        Client::default().with_url(&self.url).with_user("outflow").with_password("writer's secret")
    }

    /// The process's highest resident memory so far, in KiB.
    fn peak(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn library() -> PathBuf {
    match std::env::var_os("OUTFLOW_CHDB_LIB") {
        Some(path) => path.into(),
        None => Installer::new(&Settings::workspace().unwrap()).libchdb(&Quiet).await.unwrap(),
    }
}

fn spawn(library: &Path, folder: &Path, arguments: &[&str]) -> (Child, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_clickhouse-front"))
        .arg("--lib")
        .arg(library)
        .arg("--data")
        .arg(folder.join("data"))
        .arg("--users")
        .arg(folder.join("users.json"))
        .args(["--listen", "127.0.0.1:0"])
        .args(arguments)
        .env("RUST_LOG", "warn")
        .env("TZ", "America/New_York")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let url = line.trim().rsplit(' ').next().unwrap_or_default().to_owned();
    assert!(url.starts_with("http://127.0.0.1:"), "the front did not start: {line:?}");
    (child, url)
}

fn header<'r>(response: &'r Response, name: &str) -> &'r str {
    response.headers().get(name).map_or("", |value| value.to_str().unwrap())
}

async fn until(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(15);
    while !done().await {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[derive(Debug, Clone, PartialEq, Row, Serialize, Deserialize)]
struct Sale {
    id: u64,
    status: String,
    #[serde(with = "clickhouse::serde::time::datetime64::millis")]
    at: time::OffsetDateTime,
    cents: Option<i64>,
}

fn sales(count: u64) -> Vec<Sale> {
    (0..count)
        .map(|id| Sale {
            id,
            status: if id % 2 == 0 { "PENDING".to_owned() } else { "PAID '\\\t".to_owned() },
            at: time::OffsetDateTime::from_unix_timestamp(1_700_000_000 + i64::try_from(id).unwrap())
                .unwrap(),
            cents: (id % 3 != 0).then_some(i64::try_from(id).unwrap() * 7),
        })
        .collect()
}

#[tokio::test]
async fn the_official_crate_inserts_and_reads() {
    let front = Front::start().await;
    front.ask("CREATE DATABASE shop").await;
    let create = "CREATE TABLE sales (id UInt64, status LowCardinality(String), at DateTime64(3, 'UTC'), \
                  cents Nullable(Int64), loaded_at DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC')) \
                  ENGINE = MergeTree ORDER BY id PARTITION BY toYYYYMM(at)";
    let sent = sales(20_000);
    for compression in [Compression::Lz4, Compression::None] {
        let client = front.client().with_database("shop").with_compression(compression);
        client.query("DROP TABLE IF EXISTS sales").execute().await.unwrap();
        client.query(create).execute().await.unwrap();
        let insert = client.insert::<Sale>("sales").await.unwrap();
        let mut insert =
            insert.with_setting("async_insert", "0").with_setting("insert_deduplication_token", "t-1");
        for sale in &sent {
            insert.write(sale).await.unwrap();
        }
        insert.end().await.unwrap();
        let read = client.query("SELECT ?fields FROM sales ORDER BY id").fetch_all::<Sale>().await.unwrap();
        assert!(read == sent, "rows differ with {compression:?}");
        // One batch is one part: the real server's count for one block in one partition.
        let parts = client.query("SELECT count() FROM system.parts WHERE table = 'sales' AND active");
        assert_eq!(parts.fetch_one::<u64>().await.unwrap(), 1);
        let none =
            client.query("SELECT ?fields FROM sales WHERE id > ?").bind(1_000_000).fetch_optional::<Sale>();
        assert_eq!(none.await.unwrap(), None);
        let bound = client.query("SELECT count() FROM sales WHERE status = {status: String}");
        assert_eq!(bound.param("status", "PAID '\\\t").fetch_one::<u64>().await.unwrap(), 10_000);
        let unvalidated = client.clone().with_validation(false);
        assert_eq!(unvalidated.query("SELECT count() FROM sales").fetch_one::<u64>().await.unwrap(), 20_000);
        let missing = client.query("SELECT * FROM nowhere").execute().await.unwrap_err();
        assert!(missing.to_string().contains("Code: 60"), "{missing}");
    }
}

#[tokio::test]
async fn the_official_crate_streams_a_big_result() {
    let front = Front::start().await;
    // The first result sizes the engine's pools.
    front.ask("SELECT number, repeat('x', 64) FROM numbers(500000)").await;
    let before = front.peak();
    for compression in [Compression::Lz4, Compression::None] {
        let client = front.client().with_compression(compression);
        let query = "SELECT number, repeat('x', 64) FROM numbers(1500000)";
        let mut rows = client.query(query).fetch::<(u64, String)>().unwrap();
        let mut next = 0;
        while let Some((number, _)) = rows.next().await.unwrap() {
            assert_eq!(number, next);
            next += 1;
        }
        assert_eq!(next, 1_500_000);
    }
    let grown = front.peak() - before;
    assert!(grown < 64 * 1024, "results of 110 MB took {grown} KiB");
}

#[tokio::test]
async fn an_error_amid_a_result_reaches_the_client() {
    let front = Front::start().await;
    let sql = "SELECT throwIf(number = 900000, 'far too late') FROM numbers(1000000) SETTINGS max_block_size = 10000";
    for compression in [Compression::Lz4, Compression::None] {
        let client = front.client().with_compression(compression);
        let error = client.query(sql).fetch_all::<u8>().await.unwrap_err();
        assert!(error.to_string().contains("far too late"), "{error}");
    }
    let response = front.send(&[], sql).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(header(&response, "x-clickhouse-exception-tag").len(), 16);
    assert!(response.bytes().await.is_err(), "a broken result must not look whole");
    let waited = front.send(&[("wait_end_of_query", "1")], sql).await;
    assert_eq!(waited.status(), StatusCode::INTERNAL_SERVER_ERROR);
}

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
    let refused: &[(&[(&str, &str)], &'static str, &str)] = &[
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
    let cases: &[(&[(&str, &str)], &'static str, u16, &str)] = &[
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
        let query = [("query", "INSERT INTO numbers FORMAT RowBinary"), ("async_insert", "0")];
        let response = front.send(&query, reqwest::Body::wrap_stream(body)).await;
        assert_eq!(response.status(), StatusCode::OK, "{}", response.text().await.unwrap());
    };
    insert(120).await;
    let (before, started) = (front.peak(), Instant::now());
    insert(210).await;
    let (grown, took) = (front.peak() - before, started.elapsed());
    println!("206 MB inserted in {took:?}, the peak of {before} KiB grew by {grown} KiB");
    assert_eq!(front.ask("SELECT count() FROM numbers").await, (330 * 20_000).to_string());
    // Three to four blocks of 1,048,449 rows are in the air at most; the second body is 206 MB.
    assert!(grown < 160 * 1024, "206 MB more took {grown} KiB more");
}

#[tokio::test]
async fn a_body_that_breaks_off_inserts_nothing() {
    use tokio::io::AsyncWriteExt;
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
