//! A front of its own for each test: a free port, an empty folder, the real engine.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use clickhouse::Client;
use outflow_stack::{Installer, Quiet, Settings};
use reqwest::{Response, StatusCode};
use tempfile::TempDir;

const USERS: &str = r#"[
    {"name": "outflow", "password": "writer's secret"},
    {"name": "grafana", "password": "reader", "readonly": true, "settings": {"session_timezone": "Asia/Tokyo"}}
]"#;

pub(crate) struct Front {
    pub(crate) folder: TempDir,
    pub(crate) library: PathBuf,
    pub(crate) child: Child,
    pub(crate) url: String,
}

impl Front {
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    pub(crate) async fn start_with(arguments: &[&str]) -> Self {
        let library = library().await;
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("users.json"), USERS).unwrap();
        let (child, url) = spawn(&library, folder.path(), arguments);
        Self { folder, library, child, url }
    }

    /// Starts it again on the same data, after it was stopped.
    pub(crate) fn restart(&mut self) {
        (self.child, self.url) = spawn(&self.library, self.folder.path(), &[]);
    }

    pub(crate) fn signal(&mut self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
        self.child.wait().unwrap();
    }

    /// Sends a query as the writer; `parameters` go into the URL.
    pub(crate) async fn send(&self, parameters: &[(&str, &str)], body: impl Into<reqwest::Body>) -> Response {
        let request = reqwest::Client::new().post(&self.url).query(parameters);
        request.basic_auth("outflow", Some("writer's secret")).body(body).send().await.unwrap()
    }

    /// The text of an answer that must be a success.
    pub(crate) async fn ask(&self, sql: &str) -> String {
        let response = self.send(&[], sql.to_owned()).await;
        let status = response.status();
        let text = response.text().await.unwrap();
        assert_eq!(status, StatusCode::OK, "{sql}: {text}");
        text.trim_end().to_owned()
    }

    pub(crate) fn client(&self) -> Client {
        Client::default().with_url(&self.url).with_user("outflow").with_password("writer's secret")
    }

    /// The process's highest resident memory so far, in KiB.
    pub(crate) fn peak(&self) -> u64 {
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

pub(crate) fn header<'r>(response: &'r Response, name: &str) -> &'r str {
    response.headers().get(name).map_or("", |value| value.to_str().unwrap())
}

pub(crate) async fn until(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(15);
    while !done().await {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
