//! `outflow outbox prune`, `pause` and `resume`: what concerns a whole group.

use super::{By, Group, confirm, explained, text, when};
use crate::output::{Finding, Json};
use clap::Args;
use outflow_outbox::operator::{PRUNE_ROWS, PauseChange, Prunable, Pruned};
use sqlx::MySqlPool;
use std::{
    io::{IsTerminal, Write},
    time::Duration,
};

#[derive(Debug, Args)]
pub(crate) struct PruneArgs {
    /// Keeps delivered rows that are younger: 7d, 12h, 30m.
    #[arg(long, value_name = "TIME", value_parser = when::duration)]
    keep: Duration,
    /// Rows a step: 1 to 10,000. Each step is a transaction of its own.
    #[arg(long, value_name = "N", default_value_t = PRUNE_ROWS)]
    rows: usize,
    /// Why; 1 to 500 characters, kept in the audit. [default: how long rows were kept]
    #[arg(long, value_name = "REASON")]
    why: Option<String>,
    #[command(flatten)]
    by: By,
    /// Counts what would go, and deletes nothing.
    #[arg(long, conflicts_with = "yes")]
    dry_run: bool,
    /// Deletes without asking.
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    group: Group,
    #[command(flatten)]
    json: Json,
}

#[derive(Debug, Args)]
pub(crate) struct PauseArgs {
    /// Why; 1 to 500 characters, shown as long as the pause lasts and kept in the audit.
    #[arg(long, value_name = "REASON", required_unless_present = "dry_run")]
    why: Option<String>,
    #[command(flatten)]
    by: By,
    /// Makes the group, before its relay has run for the first time.
    #[arg(long)]
    new_group: bool,
    /// Tells whether the group would be paused, and changes nothing.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    group: Group,
    #[command(flatten)]
    json: Json,
}

#[derive(Debug, Args)]
pub(crate) struct ResumeArgs {
    /// Why; 1 to 500 characters, kept in the audit.
    #[arg(long, value_name = "REASON", required_unless_present = "dry_run")]
    why: Option<String>,
    #[command(flatten)]
    by: By,
    /// Tells whether a pause would be ended, and changes nothing.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    group: Group,
    #[command(flatten)]
    json: Json,
}

pub(super) async fn prune(args: PruneArgs, pool: &MySqlPool) -> anyhow::Result<Finding> {
    let operator = args.group.operator(pool)?;
    let kept = text::milliseconds(u64::try_from(args.keep.as_millis()).unwrap_or(u64::MAX));
    let why = args.why.unwrap_or_else(|| format!("older than {kept}"));
    let signature = args.by.sign(&why)?;
    if args.dry_run {
        let prunable = operator.prunable(args.keep).await.map_err(explained)?;
        args.json.report(&prunable, describe_prunable(&prunable))?;
        return Ok(Finding::Fine);
    }
    if !args.yes {
        let prunable = operator.prunable(args.keep).await.map_err(explained)?;
        if prunable.rows == 0 {
            // What comes of age from here on, nobody was asked about.
            let nothing = Pruned { group: operator.group().to_owned(), ..Pruned::default() };
            args.json.report(
                &nothing,
                format!("nothing to delete{}", held_by_another(&prunable, operator.group())),
            )?;
            return Ok(Finding::Fine);
        }
        confirm(false, &format!("delete {} or more that were delivered", text::events(prunable.rows)))?;
    }
    let terminal = std::io::stderr().is_terminal();
    let progress = |pruned: &Pruned| {
        if terminal {
            let mut stderr = std::io::stderr();
            let _ = write!(stderr, "\r{} deleted", text::events(pruned.rows));
            let _ = stderr.flush();
        }
    };
    let pruned = operator.prune(args.keep, args.rows, &signature, progress).await;
    if terminal {
        eprintln!();
    }
    let pruned = pruned.map_err(explained)?;
    let left = operator.prunable(args.keep).await.map_err(explained)?;
    let line = format!(
        "{} deleted in {} steps, and {} checkpoints{}",
        text::events(pruned.rows),
        text::count(pruned.steps),
        text::count(pruned.checkpoints),
        held_by_another(&left, operator.group())
    );
    args.json.report(&pruned, line)?;
    Ok(Finding::Fine)
}

fn describe_prunable(prunable: &Prunable) -> String {
    let range = match (prunable.first_id, prunable.last_id) {
        (Some(first), Some(last)) => format!(", {first} to {last}"),
        _ => String::new(),
    };
    let held = prunable.held_by.as_deref().map_or_else(String::new, |group| held(prunable, group));
    format!("{} would be deleted{range}{held}", text::events(prunable.rows))
}

fn held(prunable: &Prunable, group: &str) -> String {
    format!("\nnothing from {} on: there is the position or the oldest gap of group {group}", prunable.below)
}

/// A group that nobody runs any more, or whose name was mistyped, keeps every row: whoever prunes has to hear of it.
fn held_by_another(prunable: &Prunable, own: &str) -> String {
    let another = prunable.held_by.as_deref().filter(|group| *group != own);
    another.map_or_else(String::new, |group| held(prunable, group))
}

pub(super) async fn pause(args: PauseArgs, pool: &MySqlPool) -> anyhow::Result<Finding> {
    let operator = args.group.operator(pool)?;
    let signature = args.by.sign_unless_dry(args.why.as_deref())?;
    let change = if args.dry_run {
        operator.would_pause(args.new_group).await
    } else {
        operator.pause(&signature, args.new_group).await
    };
    let change = change.map_err(explained)?;
    let line = match &change.pause {
        Some(pause) if !change.changed => format!(
            "group {} is paused already, since {} by {}: {}",
            change.group,
            text::moment(pause.at),
            pause.by,
            pause.reason
        ),
        _ if change.dry_run => format!("group {} would be paused", change.group),
        _ => format!(
            "group {} is paused, a relay at work ends within about a second; `outflow outbox resume` lets it go on",
            change.group
        ),
    };
    args.json.report(&change, line)?;
    Ok(Finding::Fine)
}

pub(super) async fn resume(args: ResumeArgs, pool: &MySqlPool) -> anyhow::Result<Finding> {
    let operator = args.group.operator(pool)?;
    let signature = args.by.sign_unless_dry(args.why.as_deref())?;
    let change = if args.dry_run { operator.would_resume().await } else { operator.resume(&signature).await };
    let change: PauseChange = change.map_err(explained)?;
    let line = match &change.pause {
        Some(pause) => format!(
            "group {} {}, it {} paused since {} by {}",
            change.group,
            if change.dry_run { "would go on" } else { "goes on" },
            if change.dry_run { "is" } else { "was" },
            text::moment(pause.at),
            pause.by
        ),
        None => format!("group {} is not paused", change.group),
    };
    args.json.report(&change, line)?;
    Ok(Finding::Fine)
}
