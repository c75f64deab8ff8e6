//! `outflow dlq show`.

use super::text::{self, Bytes};
use crate::{
    outbox::text as common,
    output::{Finding, Json},
};
use outflow_broker::letters::{
    audit::{Action, Entry, History},
    letter::{Cause, Letter, LetterId},
    log::Log,
};
use serde::Serialize;
use serde_json::json;
use std::fmt::Write;
use time::OffsetDateTime;

#[derive(Debug, clap::Args)]
pub(crate) struct ShowArgs {
    /// topic/partition/offset, as `list` gives an example.
    id: LetterId,
    #[command(flatten)]
    json: Json,
}

/// The result; its keys are a contract.
#[derive(Debug, Serialize)]
struct Shown<'a> {
    id: &'a LetterId,
    /// open, redriven or discarded.
    state: &'static str,
    #[serde(with = "time::serde::rfc3339")]
    at: OffsetDateTime,
    #[serde(flatten)]
    cause: &'a Cause,
    reason: &'a str,
    /// Where the record was first: topic/partition/offset.
    first: Option<String>,
    attempts: u32,
    redriven_from: Option<&'a str>,
    key: Bytes<'a>,
    value: Bytes<'a>,
    headers: Vec<Header<'a>>,
    audit: Option<&'a Entry>,
}

#[derive(Debug, Serialize)]
struct Header<'a> {
    name: &'a str,
    value: Bytes<'a>,
}

pub(super) async fn run(args: ShowArgs, log: &Log) -> anyhow::Result<Finding> {
    let Some(letter) = log.letter(&args.id).await? else {
        let unknown = json!({"id": args.id, "state": "unknown"});
        args.json.report(&unknown, format!("there is no dead letter {}, or not any more", args.id))?;
        return Ok(Finding::Wrong);
    };
    let history = History::read(log, &args.id.topic).await?;
    let shown = shown(&letter, history.of(&letter.head));
    args.json.report(&shown, describe(&shown, letter.value.as_deref()))?;
    Ok(Finding::Fine)
}

fn shown<'a>(letter: &'a Letter, audit: Option<&'a Entry>) -> Shown<'a> {
    let head = &letter.head;
    let header =
        |(name, value): &'a (String, Option<Vec<u8>>)| Header { name, value: Bytes(value.as_deref()) };
    Shown {
        id: &head.id,
        state: match audit.map(|entry| entry.action) {
            None => "open",
            Some(Action::Redrive) => "redriven",
            Some(Action::Discard) => "discarded",
        },
        at: head.at,
        cause: &head.cause,
        reason: &head.reason,
        first: head.first.as_ref().map(ToString::to_string),
        attempts: head.attempts,
        redriven_from: head.redriven_from.as_deref(),
        key: Bytes(head.key.as_deref()),
        value: Bytes(letter.value.as_deref()),
        headers: letter.headers.iter().map(header).collect(),
        audit,
    }
}

fn describe(shown: &Shown<'_>, value: Option<&[u8]>) -> String {
    let mut table = common::table(&[]);
    let mut row = |name: &str, value: &str| {
        table.add_row([name, value]);
    };
    row("letter", &shown.id.to_string());
    row("put aside", &common::moment(shown.at));
    row("stage", &shown.cause.stage);
    row("code", &shown.cause.code);
    row("reason", shown.reason);
    if let Some(slot) = &shown.cause.slot {
        row("transform", slot);
    }
    if let Some(module) = &shown.cause.module {
        row("module", module);
    }
    row("record", shown.first.as_deref().unwrap_or("unknown"));
    row("attempts", &shown.attempts.to_string());
    if let Some(before) = shown.redriven_from {
        row("redriven from", before);
    }
    row("state", shown.state);
    if let Some(entry) = shown.audit {
        let done = format!("{} by {}: {}", common::moment(entry.when), entry.who, entry.why);
        row("done", &done);
        row("result", &entry.result);
    }
    row("key", &shown.key.to_string());
    for header in &shown.headers {
        row(&format!("header {}", header.name), &header.value.to_string());
    }
    let mut description = table.to_string();
    write!(description, "\n{}", text::value(value)).expect("a string takes all");
    description
}
