//! Fixtures: events in, rows out, and what differs.

use super::{
    Sources,
    build::{Component, component, fixtures_of},
    progress::Step,
    record::{RecordArgs, Recorded},
    refused,
};
use crate::output::{Finding, Json};
use anyhow::{Context, ensure};
use clap::Args;
use console::style;
use outflow_transform::{Digest, Engine, Event, Generation, Limits, Module, Stamp, Target, compile, fixture};
use serde::Serialize;
use std::{fmt::Write, path::Path};

#[derive(Debug, Args)]
pub(crate) struct TestArgs {
    /// The guest's package, or the path of a component.
    module: String,
    /// The folder with events.jsonl and outcomes.jsonl; by default `fixtures` beside the guest's source.
    #[arg(long, value_name = "DIR")]
    fixtures: Option<std::path::PathBuf>,
    /// Writes the outcomes as they are now, for reading and committing.
    #[arg(long)]
    update: bool,
    #[command(flatten)]
    record: RecordArgs,
    #[command(flatten)]
    sources: Sources,
    #[command(flatten)]
    json: Json,
}

/// What a fixture's run has shown.
#[derive(Debug, Default, Serialize)]
pub(super) struct Report {
    pub(super) events: usize,
    pub(super) different: usize,
    pub(super) differences: Vec<Difference>,
    /// Outcomes written by `--update`.
    updated: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    recorded: Option<Recorded>,
}

#[derive(Debug, Serialize)]
pub(super) struct Difference {
    /// Line of both files, from 1.
    line: usize,
    expected: String,
    found: String,
}

/// Differences that are kept and shown.
const SHOWN: usize = 20;
const EVENTS: &str = "events.jsonl";
const OUTCOMES: &str = "outcomes.jsonl";

pub(crate) async fn run(args: &TestArgs) -> anyhow::Result<Finding> {
    let Some(component) = component(&args.module, &args.sources)? else { return Ok(Finding::Wrong) };
    let Component { name, wasm, fixtures } = component;
    // A recording makes the folder.
    let fixtures =
        fixtures.or_else(|| args.record.topic.as_ref().and(fixtures_of(&args.module, &args.sources)));
    let folder = args.fixtures.clone().or(fixtures).with_context(|| {
        format!("{name} has no folder `fixtures`: make one with {EVENTS}, or name another with --fixtures")
    })?;
    let module = match load(&wasm) {
        Ok(module) => module,
        Err(error) => return Ok(refused(name, &error)),
    };
    let mut recorded = None;
    if let Some(topic) = &args.record.topic {
        let events = folder.join(EVENTS);
        let existing = args.record.existing(&events)?;
        if !existing.is_empty() {
            // Else --append would take differences for well that nobody has looked at.
            let mut before = check(&module, &folder, false)?;
            if before.different > 0 {
                before.differences.truncate(SHOWN);
                eprintln!("outflow: nothing was recorded, the events that are there come first:");
                args.json.report(&before, text(&before))?;
                return Ok(Finding::Wrong);
            }
        }
        let done = args.record.run(topic, &module, &existing, &events).await?;
        eprintln!("outflow: {}", done.describe(&events));
        recorded = Some(done);
    }
    let mut report = check(&module, &folder, args.update || recorded.is_some())?;
    report.recorded = recorded;
    report.differences.truncate(SHOWN);
    args.json.report(&report, text(&report))?;
    Ok(if report.different == 0 { Finding::Fine } else { Finding::Wrong })
}

/// Compiled for this machine and loaded, as a function would.
pub(super) fn load(wasm: &[u8]) -> anyhow::Result<Module> {
    let _step = Step::begin("compiling for this machine");
    let artifact = compile::compile(Target::THIS, wasm)?;
    let engine = Engine::new(Limits::default())?;
    Ok(Module::load(&engine, Digest::of(wasm), &artifact)?)
}

/// Rows of fixtures carry the same stamp each time; it is left out of what is compared.
pub(super) fn stamp() -> Stamp {
    Stamp { generation: Generation::FIRST, transformed_at_us: 0 }
}

/// Runs the events of a folder and holds the outcomes against the ones beside them.
pub(super) fn check(module: &Module, folder: &Path, update: bool) -> anyhow::Result<Report> {
    let events = folder.join(EVENTS);
    let text = std::fs::read_to_string(&events).with_context(|| format!("reading {}", events.display()))?;
    let events = fixture::read(&text).with_context(|| format!("in {}", events.display()))?;
    ensure!(
        !events.is_empty(),
        "{} holds no event: a test of nothing proves nothing",
        folder.join(EVENTS).display()
    );
    let batch: Vec<Event<'_>> = events.iter().map(fixture::FixtureEvent::event).collect();
    let ran = module.run(&batch, stamp());
    if let Some(unfinished) = ran.unfinished {
        anyhow::bail!("line {} was not decided: {}", unfinished.from + 1, unfinished.reason);
    }
    let found: Vec<String> = ran.outcomes.iter().map(fixture::outcome_line).collect();
    let path = folder.join(OUTCOMES);
    let expected = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
    };
    let expected: Vec<&str> = expected.lines().collect();
    let mut report = Report { events: events.len(), ..Report::default() };
    for line in 0..found.len().max(expected.len()) {
        let [expected, found] = [expected.get(line).copied(), found.get(line).map(String::as_str)]
            .map(|text| text.unwrap_or_default().to_owned());
        if expected != found {
            report.differences.push(Difference { line: line + 1, expected, found });
        }
    }
    report.different = report.differences.len();
    if update && report.different > 0 {
        let text: String = found.iter().map(|line| format!("{line}\n")).collect();
        std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        (report.updated, report.different) = (true, 0);
    }
    Ok(report)
}

/// For people: each difference, what is gone in red and what is new in green where a terminal shows it.
pub(super) fn text(report: &Report) -> String {
    let Report { events, different, differences, updated, .. } = report;
    if *updated {
        return format!(
            "{events} events, {} outcomes written anew: read them before you commit them",
            differences.len()
        );
    }
    if *different == 0 {
        return format!("{events} events, all as expected");
    }
    let mut text = String::new();
    for Difference { line, expected, found } in differences {
        let expected_line = style(format!("  - {expected}")).red();
        let found_line = style(format!("  + {found}")).green();
        writeln!(text, "line {line}\n{expected_line}\n{found_line}").expect("a string takes all");
        for change in changes(expected, found) {
            writeln!(text, "    {}", style(change).yellow()).expect("a string takes all");
        }
    }
    format!("{text}{events} events, {different} not as expected; `--update` takes them as they are now")
}

/// Which cells of a row are others, by name, where both lines are rows.
fn changes(expected: &str, found: &str) -> Vec<String> {
    let rows = |line: &str| -> Option<Vec<serde_json::Map<String, serde_json::Value>>> {
        let line: serde_json::Value = serde_json::from_str(line).ok()?;
        line["rows"].as_array()?.iter().map(|row| row["row"].as_object().cloned()).collect()
    };
    let (Some(expected), Some(found)) = (rows(expected), rows(found)) else { return Vec::new() };
    let mut changes = Vec::new();
    for (row, (before, after)) in expected.iter().zip(&found).enumerate() {
        let names: std::collections::BTreeSet<&String> = before.keys().chain(after.keys()).collect();
        for name in names {
            let [was, is] =
                [before, after].map(|row| row.get(name).map_or("absent".to_owned(), ToString::to_string));
            if was != is {
                changes.push(format!("row {}, {name}: {was} → {is}", row + 1));
            }
        }
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_told_by_its_cells() {
        let line = |band: &str| format!(r#"{{"rows":[{{"table":"t","row":{{"a":1,"band":"{band}"}}}}]}}"#);
        assert_eq!(changes(&line("all"), &line("small")), ["row 1, band: \"all\" → \"small\""]);
        assert!(changes("\"skip\"", &line("all")).is_empty());
        assert!(changes("", "").is_empty());
    }
}
