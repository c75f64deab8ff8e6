//! Holds the layering that ARCHITECTURE.md draws: who may depend on whom, who may be unsafe, how small a
//! function's main is. Asks cargo, so that a feature or a crate's crate counts as much as a line in a manifest.

use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::Command,
};

/// Crates that speak to AWS, to Kafka or to a database, by the beginning of their names.
const OUTSIDE_WORLD: [&str; 8] =
    ["aws", "lambda", "rdkafka", "sqlx", "mysql", "clickhouse", "reqwest", "hyper"];

/// A list of column types: the one thing below the ground floor, which a host and a loader must have in common.
const COLUMNS: &str = "outflow-columns";

/// What each library may import of ours. Those that import nothing but the list of column types can be lifted out, tests
/// included; the others may lean on tools in their tests.
const MAY_IMPORT: [(&str, &[&str]); 11] = [
    (COLUMNS, &[]),
    ("outflow-domain", &[]),
    ("outflow-outbox", &[]),
    ("outflow-transform", &[COLUMNS]),
    ("outflow-transform-sdk", &[]),
    ("outflow-telemetry", &[]),
    ("outflow-kafka-batch", &[]),
    ("outflow-nudge", &[]),
    ("outflow-store", &["outflow-domain", "outflow-outbox"]),
    ("outflow-broker", &["outflow-outbox", "outflow-telemetry"]),
    ("outflow-analytics", &["outflow-telemetry", COLUMNS]),
];

/// The only files in which `unsafe` may be written: calls into libchdb, loading compiled modules, and a payload as text.
const MAY_BE_UNSAFE: [&str; 3] =
    ["tools/stack/src/front/chdb.rs", "shared/transform/src/aot.rs", "shared/transform-sdk/src/packed.rs"];
/// Where wit-bindgen's macro puts unsafe code that nobody writes by hand: the guest's side of the WIT.
const GENERATED_UNSAFE: [&str; 2] =
    ["shared/transform-sdk/src/bindings.rs", "shared/transform-sdk/src/lib.rs"];

/// What turns WASM into machine code. (wasmtime's runtime shares some small crates named cranelift-… with them.)
const COMPILERS: [&str; 4] =
    ["cranelift-codegen", "wasmtime-internal-cranelift", "wasmtime-internal-winch", "winch-codegen"];

/// What tests alone need, and a TLS library that would come beside ring.
const FOR_TESTS: [&str; 5] = ["s3s", "s3s-fs", "proptest", "tempfile", "aws-lc-sys"];

/// The feature of `outflow-outbox` that only tests turn on.
const WITHOUT_LOCK: &str = "write-without-lock";

/// Plays AWS on a laptop: it alone beside the functions has to know what AWS's events look like.
const PLAYS_AWS: &str = "outflow-event-sources";

/// A function's main sets up and runs; what it does is in its handler.
const MAIN_LINES: usize = 40;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the workspace")
}

fn cargo(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO"))
        .current_dir(root())
        .args(arguments)
        .arg("--locked")
        .output()
        .expect("cargo runs this test, so it can be run");
    assert!(output.status.success(), "cargo {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("cargo prints UTF-8")
}

/// A workspace member: its folder from the root, and what it is built with, and what its tests add to that.
struct Member {
    folder: PathBuf,
    dependencies: BTreeSet<String>,
    for_tests: BTreeSet<String>,
}

fn members() -> BTreeMap<String, Member> {
    let metadata: Value = serde_json::from_str(&cargo(&["metadata", "--format-version=1", "--no-deps"]))
        .expect("cargo prints JSON");
    let text = |value: &Value| value.as_str().expect("a string in cargo's metadata").to_owned();
    let member = |package: &Value| {
        let manifest = PathBuf::from(text(&package["manifest_path"]));
        let folder = manifest.parent().and_then(|folder| folder.strip_prefix(root()).ok());
        let named = package["dependencies"].as_array().expect("a list of dependencies");
        let (for_tests, built_with): (Vec<_>, Vec<_>) =
            named.iter().partition(|named| named["kind"] == "dev");
        let names = |named: Vec<&Value>| named.into_iter().map(|named| text(&named["name"])).collect();
        Member {
            folder: folder.expect("members lie under the root").to_owned(),
            dependencies: names(built_with),
            for_tests: names(for_tests),
        }
    };
    let packages = metadata["packages"].as_array().expect("a list of packages");
    packages.iter().map(|package| (text(&package["name"]), member(package))).collect()
}

/// Every crate that a package is built with on this machine, dev-dependencies left out.
fn tree(package: &[&str]) -> BTreeSet<String> {
    let mut arguments = vec!["tree", "--edges=normal", "--prefix=none", "--format={p}"];
    arguments.extend(package);
    cargo(&arguments).lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

fn under<'a>(
    members: &'a BTreeMap<String, Member>,
    top: &'a str,
) -> impl Iterator<Item = (&'a String, &'a Member)> {
    members.iter().filter(move |(_, member)| member.folder.starts_with(top))
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a folder of the workspace") {
        let path = entry.expect("a folder's entry").path();
        if path.is_dir() && !path.ends_with("target") {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn libraries_import_only_what_is_below_them() {
    let members = members();
    for (name, _) in under(&members, "shared") {
        assert!(
            MAY_IMPORT.iter().any(|(known, _)| known == name),
            "{name} is new: give it a floor in this test"
        );
    }
    for (name, allowed) in MAY_IMPORT {
        let member = &members[name];
        let is_ground = allowed.iter().all(|allowed| *allowed == COLUMNS);
        let for_tests = member.for_tests.iter().filter(|_| is_ground);
        let imported = member.dependencies.iter().chain(for_tests);
        for dependency in imported.filter(|dependency| members.contains_key(*dependency)) {
            assert!(allowed.contains(&dependency.as_str()), "{name} imports {dependency}");
        }
    }
}

#[test]
fn what_can_be_lifted_out_carries_nothing_of_the_shop() {
    let members = members();
    assert_eq!(tree(&["-p", COLUMNS]).into_iter().filter(|name| members.contains_key(name)).count(), 1);
    for package in ["outflow-outbox", "outflow-transform"] {
        let ours: Vec<_> = tree(&["-p", package])
            .into_iter()
            .filter(|name| name != package && name != COLUMNS && members.contains_key(name))
            .collect();
        assert_eq!(ours, [""; 0], "{package} carries {ours:?}");
    }
}

#[test]
fn the_domain_knows_no_outside_world() {
    for name in tree(&["-p", "outflow-domain"]) {
        assert!(
            !OUTSIDE_WORLD.iter().any(|prefix| name.starts_with(prefix)),
            "outflow-domain carries {name}"
        );
        assert_ne!(name, "tokio", "outflow-domain waits for nothing");
    }
}

#[test]
fn functions_share_libraries_and_nothing_else() {
    let members = members();
    assert!(under(&members, "functions").count() >= 4);
    for (name, member) in under(&members, "functions") {
        for dependency in &member.dependencies {
            let Some(ours) = members.get(dependency) else { continue };
            assert!(ours.folder.starts_with("shared"), "{name} imports {dependency}");
        }
    }
}

#[test]
fn aws_stops_at_the_functions() {
    let members = members();
    for top in ["shared", "tools", "tests"] {
        for (name, member) in under(&members, top).filter(|(name, _)| *name != PLAYS_AWS) {
            let aws = member
                .dependencies
                .iter()
                .find(|name| name.starts_with("lambda_") || name.starts_with("aws_lambda"));
            assert_eq!(aws, None, "{name} knows AWS's types");
        }
    }
}

#[test]
fn no_function_carries_a_compiler() {
    // `cargo lambda watch` builds the default members together, with their features united.
    for build in [&["-p", "transform-events"][..], &[][..]] {
        let compiler: Vec<_> =
            tree(build).into_iter().filter(|name| COMPILERS.contains(&name.as_str())).collect();
        assert_eq!(compiler, [""; 0], "cargo tree {build:?}");
    }
    // The operator's command compiles modules: so these are the names to look for.
    assert!(tree(&["-p", "outflow-cli"]).contains(COMPILERS[0]));
}

#[test]
fn no_function_carries_what_tests_need() {
    // As it is deployed: its registry is on S3.
    for build in [&["-p", "transform-events", "--features", "s3"][..], &[][..]] {
        let carried: Vec<_> =
            tree(build).into_iter().filter(|name| FOR_TESTS.contains(&name.as_str())).collect();
        assert_eq!(carried, [""; 0], "cargo tree {build:?}");
    }
}

#[test]
fn nothing_but_a_test_can_write_an_event_without_its_aggregates_lock() {
    let can = |build: &[&str]| {
        let tree = ["tree", "--edges=normal", "--prefix=none", "--format={p} {f}"];
        let crates = cargo(&[&tree[..], build].concat());
        let outbox = crates.lines().find(|line| line.starts_with("outflow-outbox "));
        outbox.expect("it carries the outbox").contains(WITHOUT_LOCK)
    };
    for build in [&[][..], &["-p", "outflow-cli"], &["-p", "outflow-broker", "--all-features"]] {
        assert!(!can(build), "cargo tree {build:?}");
    }
    assert!(can(&["-p", "outflow-tests"]));
}

#[test]
fn a_function_is_one_small_main_with_an_example_event() {
    for (name, member) in under(&members(), "functions") {
        let folder = root().join(&member.folder);
        let main = std::fs::read_to_string(folder.join("src/main.rs")).expect("a function has a main.rs");
        let lines = main.lines().count();
        assert!(lines <= MAIN_LINES, "{name}'s main.rs has {lines} lines, more than {MAIN_LINES}");
        for file in ["context.rs", "handler.rs", "error.rs"] {
            assert!(folder.join("src").join(file).is_file(), "{name} has no src/{file}");
        }
        let events = std::fs::read_dir(folder.join("events")).map(|entries| {
            entries
                .filter_map(Result::ok)
                .map(|entry| entry.path())
                .filter(|path| path.extension().is_some_and(|e| e == "json"))
                .collect::<Vec<_>>()
        });
        let events = events.unwrap_or_default();
        assert!(!events.is_empty(), "{name} has no events/*.json to invoke it with");
        for event in events {
            let text = std::fs::read_to_string(&event).expect("a readable event");
            serde_json::from_str::<Value>(&text)
                .unwrap_or_else(|error| panic!("{}: {error}", event.display()));
        }
    }
}

#[test]
fn unsafe_is_written_in_three_files_and_each_time_with_its_reason() {
    let mut files = Vec::new();
    for top in ["functions", "shared", "tools", "tests"] {
        sources(&root().join(top), &mut files);
    }
    for file in files {
        let path = file.strip_prefix(root()).expect("under the root");
        if path.ends_with("tests/integration/layering.rs") {
            continue;
        }
        let text = std::fs::read_to_string(&file).expect("a readable source");
        let lines: Vec<&str> = text.lines().map(str::trim_start).collect();
        let allowed = MAY_BE_UNSAFE.iter().any(|allowed| path == Path::new(allowed));
        for (index, line) in lines.iter().enumerate() {
            if line.starts_with("//") {
                continue;
            }
            let lifts = line.contains("allow(unsafe_code") || line.contains("expect(unsafe_code");
            assert!(
                !lifts || allowed || GENERATED_UNSAFE.iter().any(|generated| path == Path::new(generated)),
                "{}:{} allows unsafe code",
                path.display(),
                index + 1
            );
            if line.contains("unsafe {") || line.starts_with("unsafe impl") {
                // The reason stands right above the block or above the statement that it is part of.
                let above = &lines[index.saturating_sub(8)..=index];
                assert!(
                    above.iter().any(|line| line.contains("SAFETY")),
                    "{}:{} is unsafe without a SAFETY comment",
                    path.display(),
                    index + 1
                );
            }
        }
    }
}
