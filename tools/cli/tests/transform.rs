//! `outflow transform` as scripts see it: exit codes, JSON keys, what stands on stdout.

use serde_json::Value;
use std::{path::Path, process::Command};
use tempfile::TempDir;

/// The command with a registry of its own and nothing from this machine's environment.
struct Cli {
    folder: TempDir,
}

impl Cli {
    fn new() -> Self {
        Self { folder: TempDir::new().expect("a temporary folder") }
    }

    /// Exit code, stdout, stderr.
    fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        let registry = format!("file://{}", self.folder.path().join("registry").display());
        let output = Command::new(env!("CARGO_BIN_EXE_outflow"))
            .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."))
            .arg("transform")
            .args(arguments)
            .env_remove("OUTFLOW_CLICKHOUSE_URL")
            .env("OUTFLOW_TRANSFORM_REGISTRY", registry)
            .env("USER", "tester")
            .output()
            .expect("outflow runs");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
        (output.status.code().expect("it exits"), text(output.stdout), text(output.stderr))
    }

    /// The JSON of a command that must exit with `code`.
    fn json(&self, code: i32, arguments: &[&str]) -> Value {
        let (found, stdout, stderr) = self.run(&[arguments, &["--json", "-"]].concat());
        assert_eq!(found, code, "{arguments:?}: {stderr}");
        serde_json::from_str(&stdout).expect("stdout is JSON")
    }
}

#[test]
fn a_transform_goes_from_source_to_rollback() {
    let cli = Cli::new();
    assert_eq!(cli.json(1, &["status"])["active"], Value::Null, "1 tells that nothing is active");

    let first = cli.json(0, &["publish", "order-analytics"]);
    let second = cli.json(0, &["publish", "order-analytics-banded"]);
    for key in ["digest", "name", "version", "bytes", "artifact_bytes", "compile_ms", "new_module"] {
        assert!(!first[key].is_null(), "{key} is missing in {first}");
    }
    let again = cli.json(0, &["publish", "order-analytics"]);
    assert_eq!((&again["digest"], &again["new_module"]), (&first["digest"], &Value::Bool(false)));

    let digest = |published: &Value| published["digest"].as_str().expect("a digest").to_owned();
    assert_eq!(cli.json(0, &["activate", &digest(&first)[..8]])["generation"], 1);
    let active = cli.json(0, &["activate", &digest(&second)]);
    assert_eq!((&active["generation"], &active["by"]), (&2.into(), &"tester".into()));
    let back = cli.json(0, &["rollback"]);
    assert_eq!((&back["kind"], &back["digest"]), (&"roll_back".into(), &first["digest"]));
    let status = cli.json(0, &["status"]);
    assert_eq!(status["active"], back);
    assert_eq!(status["history"].as_array().map(Vec::len), Some(3));
    assert_eq!(status["modules"].as_array().map(Vec::len), Some(2));
}

#[test]
fn what_is_no_transform_is_refused_with_1() {
    let cli = Cli::new();
    let file = cli.folder.path().join("note.wasm");
    std::fs::write(&file, "no module at all").expect("it can be written");
    let (code, stdout, stderr) = cli.run(&["publish", &file.display().to_string()]);
    assert_eq!((code, stdout.as_str()), (1, ""), "{stderr}");
    assert!(stderr.contains("refused"), "{stderr}");
    assert_eq!(cli.run(&["rollback"]).0, 1);
}

#[test]
fn what_can_not_run_exits_with_2_and_says_what_to_do() {
    let cli = Cli::new();
    for (arguments, advice) in [
        (vec!["publish", "no/such/file.wasm"], "give a component's path"),
        (vec!["publish", "no-such-guest"], "--transforms"),
        (vec!["activate", "0123"], "outflow transform status"),
        (vec!["status", "--registry", "http://host/x"], "--registry"),
        (vec!["frobnicate"], "--help"),
    ] {
        let (code, _, stderr) = cli.run(&arguments);
        assert_eq!(code, 2, "{arguments:?}: {stderr}");
        assert!(stderr.contains(advice), "{arguments:?}: {stderr}");
    }
}
