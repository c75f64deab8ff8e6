//! `outflow dlq …`: the records that a function gave up, and what an operator does about them.
//!
//! The broker's crate does the work; here are arguments, questions and tables.

mod change;
mod list;
mod show;
mod text;

use crate::{outbox::when, output::Finding};
use clap::{Args, Subcommand};
use outflow_broker::{
    letters::{letter::LetterId, log::Log, plan::Filter},
    topics,
};
use serde::Deserialize;
use std::collections::BTreeSet;
use time::OffsetDateTime;

#[derive(Debug, Subcommand)]
pub(crate) enum DlqCommand {
    /// Groups dead letters by what went wrong: topic, stage, code and module.
    List(list::ListArgs),
    /// Shows a dead letter: its record, why and by whom it was given up, what was done with it. Exits 1 where there is none.
    Show(show::ShowArgs),
    /// Sends dead letters back to the function that gave them up, and to no other reader. Safe to repeat. Exits 1 where
    /// one that was meant stays.
    Redrive(change::RedriveArgs),
    /// Gives dead letters up for good; they stay readable. Exits 1 where one that was meant stays open.
    Discard(change::DiscardArgs),
}

pub(crate) async fn run(command: DlqCommand) -> anyhow::Result<Finding> {
    let config: Config = outflow_telemetry::config::from_env()?;
    let log = Log::new(config.kafka_brokers);
    match command {
        DlqCommand::List(args) => list::run(args, &log).await,
        DlqCommand::Show(args) => show::run(args, &log).await,
        DlqCommand::Redrive(args) => change::redrive(args, &log).await,
        DlqCommand::Discard(args) => change::discard(args, &log).await,
    }
}

/// Where Kafka is, from the environment.
#[derive(Debug, Deserialize)]
struct Config {
    /// `OUTFLOW_KAFKA_BROKERS`: `host:port`, comma separated.
    kafka_brokers: String,
}

/// Dead letters that fit all of these.
#[derive(Debug, Args)]
struct Conditions {
    /// Of this topic, such as order.events; without it, of all.
    #[arg(long, value_name = "TOPIC")]
    topic: Option<String>,
    /// Where they were given up: decode, slot, module, trap, row, load, event-source or connect.
    #[arg(long, value_name = "STAGE")]
    stage: Option<String>,
    /// What was wrong, as `list` shows it.
    #[arg(long, value_name = "CODE")]
    code: Option<String>,
    /// The module that rejected them: its digest, or the beginning of it.
    #[arg(long, value_name = "DIGEST")]
    module: Option<String>,
    /// The transform that rejected them, whichever of its modules was active.
    #[arg(long, value_name = "SLOT")]
    slot: Option<String>,
    /// Put aside at this time or later: 2026-11-23T07:00:00Z, 2026-11-23 (UTC), or 2h for two hours ago.
    #[arg(long, value_name = "T", value_parser = when::moment)]
    since: Option<OffsetDateTime>,
    /// Put aside before this time.
    #[arg(long, value_name = "T", value_parser = when::moment)]
    until: Option<OffsetDateTime>,
}

impl Conditions {
    /// The topics that may hold such letters, and what they must be like.
    async fn resolve(self, ids: Vec<LetterId>, log: &Log) -> anyhow::Result<(Vec<String>, Filter)> {
        let Self { topic, stage, code, module, slot, since, until } = self;
        let ids: BTreeSet<LetterId> = ids.into_iter().collect();
        let topics = if ids.is_empty() {
            log.letter_topics(topic.as_deref()).await?
        } else {
            ids.iter().map(|id| id.topic.clone()).collect::<BTreeSet<_>>().into_iter().collect()
        };
        if let Some(topic) = topic {
            let wanted = topics::source(&topic);
            if let Some(other) = ids.iter().find(|id| topics::source(&id.topic) != wanted) {
                anyhow::bail!("{other} is none of {topic}");
            }
            if topics.is_empty() {
                let known = log.letter_topics(None).await?.join(", ");
                anyhow::bail!("there are no dead letters of {topic}; there are {known}");
            }
        }
        Ok((topics, Filter { ids, stage, code, module, slot, since, until }))
    }
}
