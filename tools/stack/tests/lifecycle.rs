//! The real services, each test in a state folder of its own, with the tools of the workspace.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant};

use outflow_stack::{Ports, Quiet, Service, ServiceStatus, Settings, Stack, is_free};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use secrecy::ExposeSecret;
use sqlx::{Connection, MySqlConnection};

/// A start on data that is there already: the promise of `stack up`.
const SECOND_UP: Duration = Duration::from_secs(15);

/// Stops its services when a test ends, however it ends.
struct Guard {
    stack: Stack,
    _state: tempfile::TempDir,
}

impl Guard {
    fn new(change: impl FnOnce(&mut Settings)) -> Self {
        let state = tempfile::tempdir().unwrap();
        let mut settings = Settings::isolated(state.path());
        // Cargo has built it for this test; asking it again would wait for whatever else it builds.
        settings.search.clickhouse_front = Some(env!("CARGO_BIN_EXE_clickhouse-front").into());
        change(&mut settings);
        Self { stack: Stack::new(settings), _state: state }
    }

    fn state(&self) -> &Path {
        self._state.path()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let stack = &self.stack;
        std::thread::scope(|scope| {
            let down = || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(stack.down()).unwrap();
            };
            scope.spawn(down).join().unwrap();
        });
    }
}

async fn mysql(url: &secrecy::SecretString) -> MySqlConnection {
    MySqlConnection::connect(url.expose_secret()).await.unwrap()
}

async fn clickhouse(stack: &Stack, user: &str, password: &str, sql: &str) -> (u16, String) {
    let url = stack.endpoints().unwrap().clickhouse.url;
    let request = reqwest::Client::new().post(url).basic_auth(user, Some(password)).body(sql.to_owned());
    let answer = request.send().await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap().trim().to_owned())
}

fn topics(brokers: &str) -> Vec<String> {
    let consumer: BaseConsumer = ClientConfig::new().set("bootstrap.servers", brokers).create().unwrap();
    let metadata = consumer.fetch_metadata(None, Duration::from_secs(10)).unwrap();
    metadata.topics().iter().map(|topic| topic.name().to_owned()).collect()
}

fn pids(status: &[ServiceStatus]) -> Vec<Option<u32>> {
    status.iter().map(|service| service.pid).collect()
}

#[tokio::test]
async fn services_start_answer_survive_and_end() {
    let guard = Guard::new(|_| {});
    let stack = &guard.stack;
    assert!(stack.endpoints().is_err(), "nothing is up yet");

    let endpoints = stack.up(&Quiet).await.unwrap();
    let first = stack.status().await.unwrap();
    assert!(first.iter().all(|service| service.ready && service.pid.is_some()), "{first:?}");
    for service in &first {
        assert!(service.log.metadata().unwrap().len() > 0, "{} logs nothing", service.name);
        assert!(!service.url.as_ref().unwrap().contains('@'), "{service:?} shows its user");
    }
    let env = endpoints.env();
    assert!(env.iter().all(|(name, value)| name.starts_with("OUTFLOW_") && !value.is_empty()));

    // Each keeps something, to be found again below.
    let mut app = mysql(&endpoints.mysql.url).await;
    sqlx::query("CREATE TABLE kept (id INT PRIMARY KEY)").execute(&mut app).await.unwrap();
    sqlx::query("INSERT INTO kept VALUES (1), (2)").execute(&mut app).await.unwrap();
    sqlx::query("SELECT COUNT(*) FROM information_schema.INNODB_TRX").execute(&mut app).await.unwrap();
    assert!(sqlx::query("CREATE DATABASE elsewhere").execute(&mut app).await.is_err(), "the app is no admin");
    let mut admin = mysql(endpoints.admin_database_url()).await;
    sqlx::query("CREATE DATABASE elsewhere").execute(&mut admin).await.unwrap();
    let no_password = endpoints
        .admin_database_url()
        .expose_secret()
        .replace(endpoints.admin_database_url().expose_secret().split([':', '@']).nth(2).unwrap(), "");
    assert!(MySqlConnection::connect(&no_password).await.is_err(), "root got in without a password");

    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", &endpoints.kafka.brokers).create().unwrap();
    let topic = NewTopic::new("kept", 2, TopicReplication::Fixed(1));
    admin.create_topics([&topic], &AdminOptions::new()).await.unwrap()[0].as_ref().unwrap();

    let (user, password) = (endpoints.clickhouse.user.clone(), endpoints.clickhouse.password.clone());
    let writer = async |sql: &str| clickhouse(stack, &user, password.expose_secret(), sql).await;
    assert_eq!(writer("CREATE TABLE kept (id UInt32) ENGINE = MergeTree ORDER BY id").await.0, 200);
    assert_eq!(writer("INSERT INTO kept VALUES (1), (2), (3)").await.0, 200);
    let (reader, reader_password) = endpoints.clickhouse.reader.clone().unwrap();
    let reader = async |sql: &str| clickhouse(stack, &reader, reader_password.expose_secret(), sql).await;
    assert_eq!(reader("SELECT count() FROM kept").await, (200, "3".to_owned()));
    assert_ne!(reader("DROP TABLE kept").await.0, 200, "the reader may write");
    assert_ne!(clickhouse(stack, "default", "", "SELECT 1").await.0, 200, "there is a default user");

    // A second `up` finds all of it running.
    stack.up(&Quiet).await.unwrap();
    assert_eq!(pids(&stack.status().await.unwrap()), pids(&first), "a running service was started again");

    // SIGKILL, and each comes back on its port with what it had.
    for service in Service::ALL {
        stack.kill(service).await.unwrap();
        assert!(stack.kill(service).await.is_err(), "{service} was killed twice");
    }
    assert!(stack.status().await.unwrap().iter().all(|service| !service.ready && service.pid.is_none()));
    let start = Instant::now();
    let again = stack.up(&Quiet).await.unwrap();
    assert!(start.elapsed() < SECOND_UP, "up again took {:?}", start.elapsed());
    assert_eq!(again.env(), env, "an address or a password changed");
    let mut app = mysql(&again.mysql.url).await;
    let kept: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM kept").fetch_one(&mut app).await.unwrap();
    assert_eq!(kept, 2);
    assert!(topics(&again.kafka.brokers).contains(&"kept".to_owned()));
    assert_eq!(writer("SELECT count() FROM kept").await, (200, "3".to_owned()));

    // Down leaves no process and no port; reset leaves no data.
    assert_eq!(stack.down().await.unwrap(), Service::ALL);
    for service in &first {
        assert!(is_free(service.port.unwrap()), "{} still listens", service.name);
    }
    assert!(stack.down().await.unwrap().is_empty());
    let removed = stack.reset().await.unwrap();
    assert!(removed.files > 0 && removed.stopped == 0, "{removed:?}");
    assert!(!guard.state().join("data").exists() && !guard.state().join("secrets.json").exists());
}

#[tokio::test]
async fn a_service_that_dies_while_starting_shows_the_end_of_its_log() {
    let guard = Guard::new(|_| {});
    let data = guard.state().join("data/mysql");
    std::fs::create_dir_all(&data).unwrap();
    std::fs::write(data.join("ibdata1"), "not a tablespace").unwrap();
    let error = format!("{:#}", guard.stack.start(Service::Mysql).await.unwrap_err());
    assert!(error.contains("mysql ended while it was starting"), "{error}");
    assert!(error.contains("logs/mysql.log") && error.contains("[ERROR]"), "{error}");
    let status = guard.stack.status().await.unwrap();
    assert!(status.iter().all(|service| !service.ready && service.pid.is_none()), "{status:?}");
}

#[tokio::test]
async fn a_port_that_is_taken_is_passed_over_and_one_that_was_used_is_kept() {
    let holder = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let held = holder.local_addr().unwrap().port();
    let guard = Guard::new(|settings| settings.ports = Ports { clickhouse: held, ..Ports::ANY });
    let port = async || guard.stack.status().await.unwrap()[2].port.unwrap();
    guard.stack.start(Service::Clickhouse).await.unwrap();
    let next = port().await;
    assert!(next > held, "{held} was held, and {next} was taken");
    drop(holder);
    assert!(guard.stack.stop(Service::Clickhouse).await.unwrap());
    guard.stack.start(Service::Clickhouse).await.unwrap();
    assert_eq!(port().await, next, "the port of the last start is free and was not taken again");
}

#[tokio::test]
async fn two_at_once_start_one_process() {
    let guard = Guard::new(|_| {});
    let mut settings = Settings::isolated(guard.state());
    settings.search.clickhouse_front = Some(env!("CARGO_BIN_EXE_clickhouse-front").into());
    let other = Stack::new(settings);
    let (a, b) = tokio::join!(guard.stack.start(Service::Clickhouse), other.start(Service::Clickhouse));
    a.unwrap();
    b.unwrap();
    let (a, b) = (guard.stack.status().await.unwrap(), other.status().await.unwrap());
    assert_eq!(pids(&a), pids(&b));
    assert!(a[2].ready && b[2].ready);
}

#[tokio::test]
async fn what_the_configuration_points_at_is_used_and_never_stopped() {
    let guard = Guard::new(|_| {});
    guard.stack.start(Service::Clickhouse).await.unwrap();
    let running = guard.stack.clickhouse().unwrap().unwrap();

    let second = Guard::new(|settings| {
        settings.existing.clickhouse_url = Some(running.url.clone());
        settings.existing.clickhouse_user = Some(running.user.clone());
        settings.existing.clickhouse_password = Some(running.password.clone());
    });
    second.stack.start(Service::Clickhouse).await.unwrap();
    let status = second.stack.status().await.unwrap().remove(2);
    assert!(status.ready && status.pid.is_none(), "{status:?}");
    assert_eq!(status.url.as_deref(), Some(running.url.as_str()));
    assert!(second.stack.kill(Service::Clickhouse).await.is_err(), "someone else's process was killed");
    assert!(second.stack.down().await.unwrap().is_empty());
    assert!(guard.stack.status().await.unwrap()[2].ready, "someone else's process was stopped");
}
