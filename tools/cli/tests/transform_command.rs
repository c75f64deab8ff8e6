//! `outflow transform` as scripts see it: exit codes, JSON keys, what stands on stdout.

use outflow_tests::copy_guests;
use outflow_transform::Target;
use serde_json::Value;
use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};
use tempfile::TempDir;

/// The command with a registry of its own and nothing from this machine's environment.
struct Cli {
    folder: TempDir,
}

impl Cli {
    /// With a signing key that the registry trusts.
    fn new() -> Self {
        let cli = Self { folder: TempDir::new().expect("a temporary folder") };
        let key = cli.key().display().to_string();
        let made = cli.json(0, &["key", "--new", &key]);
        let public = made["public_key"].as_str().expect("a public key");
        std::fs::write(cli.folder.path().join("trusted"), public).expect("it can be written");
        cli
    }

    fn key(&self) -> PathBuf {
        self.folder.path().join("transform.key")
    }

    /// The guests' workspace in a folder of this test's own.
    fn copy_of_transforms(&self) -> PathBuf {
        let checkout = self.folder.path().join("checkout");
        copy_guests(&checkout).expect("it can be copied");
        checkout.join("transforms")
    }

    /// Exit code, stdout, stderr.
    fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        self.run_with(&[], arguments)
    }

    /// As [`Cli::run`], with more variables.
    fn run_with(&self, env: &[(&str, &str)], arguments: &[&str]) -> (i32, String, String) {
        let registry = format!("file://{}", self.folder.path().join("registry").display());
        let output = Command::new(env!("CARGO_BIN_EXE_outflow"))
            .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."))
            .arg("transform")
            .args(arguments)
            .env_remove("OUTFLOW_CLICKHOUSE_URL")
            .env_remove("OUTFLOW_KAFKA_BROKERS")
            .env("OUTFLOW_TRANSFORM_REGISTRY", registry)
            .env("OUTFLOW_TRANSFORM_SIGNING_KEY", self.key())
            .env("OUTFLOW_TRANSFORM_TRUSTED_KEYS", self.trusted())
            .stdin(Stdio::null())
            .env("USER", "tester")
            .env_remove("CLICOLOR_FORCE")
            .envs(env.iter().copied())
            .output()
            .expect("outflow runs");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
        (output.status.code().expect("it exits"), text(output.stdout), text(output.stderr))
    }

    fn trusted(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("trusted")).unwrap_or_default()
    }

    /// The JSON of a command that must exit with `code`.
    fn json(&self, code: i32, arguments: &[&str]) -> Value {
        let (found, stdout, stderr) = self.run(&[arguments, &["--json", "-"]].concat());
        assert_eq!(found, code, "{arguments:?}: {stderr}");
        serde_json::from_str(&stdout).expect("stdout is JSON")
    }
}

fn digest(published: &Value) -> String {
    published["digest"].as_str().expect("a digest").to_owned()
}

#[test]
fn a_transform_goes_from_source_to_rollback() {
    let cli = Cli::new();
    assert_eq!(
        cli.json(1, &["status"])["active"],
        Value::Array(Vec::new()),
        "1 tells that nothing is active"
    );

    let first = cli.json(0, &["publish", "order-analytics"]);
    let second = cli.json(0, &["publish", "order-analytics-banded"]);
    for key in
        ["digest", "name", "version", "bytes", "artifact_bytes", "compile_ms", "new_module", "fixture_events"]
    {
        assert!(!first[key].is_null(), "{key} is missing in {first}");
    }
    for target in Target::LAMBDA {
        for published in [&first, &second] {
            let made = published["new_artifacts"].as_array().expect("engines");
            assert!(made.contains(&target.key.into()), "{} is missing in {published}", target.key);
        }
    }
    let again = cli.json(0, &["publish", "order-analytics"]);
    assert_eq!((&again["digest"], &again["new_module"]), (&first["digest"], &Value::Bool(false)));
    assert_eq!(again["new_artifacts"], Value::Array(Vec::new()));

    assert_eq!(cli.json(0, &["activate", &digest(&first)[..8]])["generation"], 1);
    let active = cli.json(0, &["activate", &digest(&second), "--why", "bands are wanted"]);
    assert_eq!((&active["generation"], &active["by"]), (&2.into(), &"tester".into()));
    assert_eq!((&active["slot"], &active["why"]), (&"orders_analytics".into(), &"bands are wanted".into()));
    let items = cli.json(0, &["publish", "order-items-analytics"]);
    assert_eq!(cli.json(0, &["activate", &digest(&items)])["slot"], "order_items_analytics");

    let (code, _, stderr) = cli.run(&["rollback"]);
    assert_eq!(code, 2, "two are active: {stderr}");
    assert!(stderr.contains("--slot"), "{stderr}");
    let back = cli.json(0, &["rollback", "--slot", "orders_analytics"]);
    assert_eq!((&back["kind"], &back["digest"]), (&"roll_back".into(), &first["digest"]));
    let status = cli.json(0, &["status"]);
    assert_eq!(status["active"].as_array().map(Vec::len), Some(2));
    assert_eq!(status["active"][1]["digest"], first["digest"]);
    assert_eq!(status["active"][1]["stats"]["records"], 0);
    assert_eq!(status["history"].as_array().map(Vec::len), Some(4));
    assert_eq!(status["modules"].as_array().map(Vec::len), Some(3));

    assert_eq!(cli.run(&["deactivate", "--slot", "order_items_analytics"]).0, 1, "nobody can be asked");
    let gone = cli.json(0, &["deactivate", "--slot", "order_items_analytics", "--yes"]);
    assert_eq!((&gone["kind"], &gone["digest"]), (&"deactivate".into(), &Value::Null));
}

#[test]
fn a_new_guest_builds_and_passes_its_fixture_at_once_and_a_change_shows() {
    let cli = Cli::new();
    let transforms = cli.copy_of_transforms();
    let at = ["--transforms", &transforms.display().to_string()];
    let made = cli.json(0, &["new", "order-notes", at[0], at[1]]);
    assert_eq!(made["name"], "order-notes");
    let tested = cli.json(0, &["test", "order-notes", at[0], at[1]]);
    assert_eq!((&tested["events"], &tested["different"]), (&2.into(), &0.into()));
    assert_eq!(cli.run(&["new", "order-notes", at[0], at[1]]).0, 2, "it is there already");

    let source = transforms.join("order-notes/src/lib.rs");
    let text = std::fs::read_to_string(&source).expect("it was written");
    std::fs::write(&source, text.replace("\"all\"", "\"every\"")).expect("it can be written");
    let (code, stdout, _) = cli.run(&["test", "order-notes", at[0], at[1]]);
    assert_eq!(code, 1);
    assert!(stdout.contains(r#"row 1, order_band: "all" → "every""#), "{stdout}");
    assert!(!stdout.contains('\x1b'), "no terminal shows it: {stdout}");
    let (_, coloured, _) = cli.run_with(&[("CLICOLOR_FORCE", "1")], &["test", "order-notes", at[0], at[1]]);
    for line in [
        "\x1b[31m  - {\"rows\"",
        "\x1b[32m  + {\"rows\"",
        "\x1b[33mrow 1, order_band: \"all\" → \"every\"\x1b[0m",
    ] {
        assert!(coloured.contains(line), "{line:?} is missing in {coloured:?}");
    }
    let (code, _, stderr) = cli.run(&["publish", "order-notes", at[0], at[1]]);
    assert_eq!(code, 1, "{stderr}");
    assert!(stderr.contains("does not pass its own fixtures"), "{stderr}");

    assert_eq!(cli.json(0, &["test", "order-notes", at[0], at[1], "--update"])["updated"], true);
    let published = cli.json(0, &["publish", "order-notes", at[0], at[1]]);
    assert_eq!(published["fixture_events"], 2);
    cli.json(0, &["activate", &digest(&published)]);
    let bench = cli.json(0, &["bench", "order-notes", at[0], at[1], "--seconds", "1"]);
    let [candidate, active] = &bench["figures"].as_array().expect("figures")[..] else { panic!("{bench}") };
    assert_eq!((&candidate["which"], &active["which"]), (&"candidate".into(), &"active".into()));
    assert_eq!(
        candidate["instructions_per_record"], active["instructions_per_record"],
        "it is the same module"
    );
    for key in ["ns_per_record", "ns_per_instance"] {
        assert!(candidate[key].as_u64() > Some(0), "{key} in {candidate}");
    }
}

#[test]
fn a_candidate_and_a_recording_need_kafka() {
    let cli = Cli::new();
    let published = digest(&cli.json(0, &["publish", "order-analytics"]));
    let fixtures = cli.folder.path().join("fixtures");
    let test = ["test", "order-analytics", "--record", "t", "--fixtures", &fixtures.display().to_string()];
    for arguments in [&["shadow", &published][..], &test] {
        let (code, _, stderr) = cli.run(arguments);
        assert_eq!(code, 2, "{arguments:?}: {stderr}");
        assert!(stderr.contains("OUTFLOW_KAFKA_BROKERS is missing"), "{arguments:?}: {stderr}");
    }
    assert!(!fixtures.exists());
}

/// The record is signed by nobody: whoever can write the registry could have columns added by it, or a slot taken.
#[test]
fn a_record_that_is_not_the_modules_own_word_is_refused_until_it_is_published_again() {
    let cli = Cli::new();
    let published = cli.json(0, &["publish", "order-analytics"]);
    let record = cli.folder.path().join(format!("registry/modules/{}.json", digest(&published)));
    let text = std::fs::read_to_string(&record).expect("it was written");
    for (own, forged) in [
        ("\"UUID\"", "\"UUID, DROP COLUMN order_band, ADD COLUMN z UInt8\""),
        ("\"order_band\"", "\"order_band String, DROP COLUMN status, ADD COLUMN z\""),
        ("\"orders_analytics\"", "\"order_items_analytics\""),
        ("\"OrderCreated\"", "\"OrderPaid\""),
    ] {
        assert!(text.contains(own), "{text}");
        std::fs::write(&record, text.replace(own, forged)).expect("it can be written");
        let (code, stdout, stderr) = cli.run(&["activate", &digest(&published), "--yes"]);
        assert_eq!((code, stdout.as_str()), (1, ""), "{forged}: {stderr}");
        assert!(stderr.contains("is not what the module says of itself"), "{forged}: {stderr}");
        assert!(!cli.folder.path().join("registry/pointers").exists(), "{forged}");
    }

    assert_eq!(cli.json(0, &["publish", "order-analytics"])["new_module"], false);
    assert_eq!(cli.json(0, &["activate", &digest(&published)])["slot"], "orders_analytics");
}

#[test]
fn a_key_is_made_once_and_only_its_public_half_is_told() {
    let cli = Cli::new();
    let key = cli.key().display().to_string();
    assert_eq!(cli.json(0, &["key"])["public_key"], cli.trusted().as_str());
    let secret = std::fs::read_to_string(cli.key()).expect("it was made");
    let (code, stdout, stderr) = cli.run(&["key", "--new", &key]);
    assert_eq!(code, 2, "never over another one");
    assert!(!format!("{stdout}{stderr}").contains(secret.trim()));
    assert_eq!(std::fs::read_to_string(cli.key()).expect("it is there"), secret);
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

    // Functions would not load what they trust nobody for, and one that did would lose it at its next start.
    let stranger = cli.folder.path().join("stranger.key").display().to_string();
    cli.json(0, &["key", "--new", &stranger]);
    let (code, stdout, stderr) = cli.run(&["publish", "order-analytics", "--key", &stranger]);
    assert_eq!((code, stdout.as_str()), (1, ""), "{stderr}");
    assert!(stderr.contains("none of OUTFLOW_TRANSFORM_TRUSTED_KEYS"), "{stderr}");
    assert!(!cli.folder.path().join("registry/artifacts").exists());
}

#[test]
fn what_can_not_run_exits_with_2_and_says_what_to_do() {
    let cli = Cli::new();
    for (arguments, advice) in [
        (vec!["publish", "no/such/file.wasm"], "give a component's path"),
        (vec!["publish", "no-such-guest"], "--transforms"),
        (vec!["activate", "0123"], "outflow transform status"),
        (vec!["status", "--registry", "http://host/x"], "--registry"),
        (vec!["new", "Order Notes"], "lower-case letters"),
        (vec!["test", "test-guest"], "--fixtures"),
        (vec!["publish", "order-analytics", "--key", "no-such-file"], "outflow transform key --new"),
        (vec!["status", "--trusted-keys", "12"], "64 hex digits"),
        (vec!["shadow", "0123"], "outflow transform status"),
        (vec!["shadow", "0123", "--from", "middle"], "or beginning, or end"),
        (vec!["shadow", "0123", "--records", "0"], "--records"),
        (vec!["test", "order-analytics", "--append"], "--record"),
        (vec!["test", "order-analytics", "--record", "t", "--update"], "--update"),
        (vec!["activate", "0123", "--judge-from", "1000", "--judge-to", "10"], "--judge-to"),
        (vec!["activate", "0123", "--judge-from", "0"], "--judge-from"),
        (vec!["status", "--json", "no/such/folder/file"], "the folder no/such/folder is not there"),
        (vec!["status", "--json", "tools"], "it is a folder"),
        (vec!["frobnicate"], "--help"),
    ] {
        let (code, _, stderr) = cli.run(&arguments);
        assert_eq!(code, 2, "{arguments:?}: {stderr}");
        assert!(stderr.contains(advice), "{arguments:?}: {stderr}");
    }
}
