//! `outflow dlq list`.

use super::{Conditions, text};
use crate::{
    outbox::text as common,
    output::{Finding, Json},
};
use clap::ValueEnum;
use outflow_broker::letters::{
    census::{Census, Counts, Group, State},
    log::Log,
};
use serde::Serialize;

#[derive(Debug, clap::Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    conditions: Conditions,
    /// How they stand.
    #[arg(long, value_enum, default_value_t = Standing::Open)]
    state: Standing,
    #[command(flatten)]
    json: Json,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Standing {
    /// Nothing was done with them yet.
    Open,
    Redriven,
    Discarded,
    All,
}

/// The result; its keys are a contract.
#[derive(Debug, Serialize)]
struct Report {
    topics: Vec<String>,
    causes: Vec<Group>,
    /// All that fit, in whatever state.
    counts: Counts,
}

pub(super) async fn run(args: ListArgs, log: &Log) -> anyhow::Result<Finding> {
    let (topics, filter) = args.conditions.resolve(Vec::new(), log).await?;
    let state = match args.state {
        Standing::Open => Some(State::Open),
        Standing::Redriven => Some(State::Redriven),
        Standing::Discarded => Some(State::Discarded),
        Standing::All => None,
    };
    let mut census = Census::default();
    for topic in &topics {
        census.take(log, topic, &filter, state).await?;
    }
    let counts = census.counts;
    let report = Report { topics, causes: census.groups(), counts };
    args.json.report(&report, describe(&report))?;
    Ok(Finding::Fine)
}

fn describe(report: &Report) -> String {
    let Counts { open, redriven, discarded } = report.counts;
    let counts = format!("{} open, {redriven} redriven, {discarded} discarded", text::letters(open));
    if report.causes.is_empty() {
        return format!("no dead letter fits\n{counts}");
    }
    let mut table = common::table(&[
        "topic",
        "stage",
        "code",
        "transform",
        "module",
        "letters",
        "first",
        "last",
        "attempts",
        "example",
        "reason",
    ]);
    for group in &report.causes {
        let cause = &group.cause;
        table.add_row([
            cause.topic.clone(),
            cause.stage.clone(),
            cause.code.clone(),
            cause.slot.clone().unwrap_or_else(|| "-".to_owned()),
            text::module(cause).to_owned(),
            common::count(group.letters),
            common::moment(group.first_seen),
            common::moment(group.last_seen),
            format!("up to {}", group.max_attempts),
            group.example.to_string(),
            common::shortened(Some(&group.example_reason)),
        ]);
    }
    format!("{table}\n{counts}")
}
