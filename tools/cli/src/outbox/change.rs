//! `outflow outbox retry` and `discard`.

use super::{By, Group, confirm, explained, list::Conditions, text};
use crate::output::{Finding, Json};
use anyhow::bail;
use clap::Args;
use outflow_outbox::operator::{
    Discard, Discarded, DiscardedEvent, EventRef, Filter, OperatorError, OrderBreak, Retried, Skipped,
};
use sqlx::MySqlPool;
use std::fmt::Write;

/// Which parked events are meant: what fits everything given.
#[derive(Debug, Args)]
struct Selection {
    /// Events, by the numbers of their rows or by their event ids; at most 1,000.
    #[arg(value_name = "EVENT")]
    events: Vec<EventRef>,
    #[command(flatten)]
    conditions: Conditions,
    /// Everything that is parked, where nothing else is said.
    #[arg(long)]
    all: bool,
}

impl Selection {
    fn filter(self) -> (Filter, bool) {
        (self.conditions.filter(self.events), self.all)
    }
}

#[derive(Debug, Args)]
pub(crate) struct RetryArgs {
    #[command(flatten)]
    selection: Selection,
    /// Why; 1 to 500 characters, kept in the audit.
    #[arg(long, value_name = "REASON", required_unless_present = "dry_run")]
    why: Option<String>,
    #[command(flatten)]
    by: By,
    /// Tells what would be tried again, and changes nothing.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    group: Group,
    #[command(flatten)]
    json: Json,
}

#[derive(Debug, Args)]
pub(crate) struct DiscardArgs {
    #[command(flatten)]
    selection: Selection,
    /// With each event, everything of its aggregate that waits behind it. Enough by itself where version 1 is among that
    /// and nothing more of the aggregate stands in the outbox.
    #[arg(long)]
    whole_aggregate: bool,
    /// Accepts that readers miss versions of an aggregate, and get later ones without them.
    #[arg(long)]
    breaks_order: bool,
    /// Why; 1 to 500 characters, kept in the audit.
    #[arg(long, value_name = "REASON", required_unless_present = "dry_run")]
    why: Option<String>,
    #[command(flatten)]
    by: By,
    /// Tells what would be discarded, and changes nothing.
    #[arg(long, conflicts_with = "yes")]
    dry_run: bool,
    /// Discards without asking.
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    group: Group,
    #[command(flatten)]
    json: Json,
}

pub(super) async fn retry(args: RetryArgs, pool: &MySqlPool) -> anyhow::Result<Finding> {
    let operator = args.group.operator(pool)?;
    let signature = args.by.sign_unless_dry(args.why.as_deref())?;
    let (filter, all) = args.selection.filter();
    let retried = operator.retry(&filter, all, &signature, args.dry_run).await.map_err(selected)?;
    args.json.report(&retried, describe_retried(&retried))?;
    Ok(finding(&retried.skipped))
}

pub(super) async fn discard(args: DiscardArgs, pool: &MySqlPool) -> anyhow::Result<Finding> {
    let operator = args.group.operator(pool)?;
    let signature = args.by.sign_unless_dry(args.why.as_deref())?;
    let (filter, all) = args.selection.filter();
    let mut discard = Discard {
        filter,
        all,
        whole_aggregate: args.whole_aggregate,
        breaks_order: args.breaks_order,
        dry_run: true,
    };
    let planned = operator.discard(&discard, &signature).await.map_err(selected)?;
    if args.dry_run || planned.events.is_empty() {
        args.json.report(&planned, describe_discarded(&planned))?;
        return Ok(finding(&planned.skipped));
    }
    if planned.broken > 0 && !args.breaks_order {
        eprintln!("{}", describe_discarded(&planned));
        bail!(
            "not done: the order of {} of {} aggregates would be broken, or could be by their next event; {}",
            text::count(planned.broken),
            text::count(planned.events.len() as u64),
            ways_out(args.whole_aggregate, &planned)
        );
    }
    if !args.yes {
        eprintln!("{}", describe_discarded(&planned));
    }
    confirm(args.yes, &format!("discard {} for good", text::events(planned.discarded)))?;
    discard.dry_run = false;
    let discarded = operator.discard(&discard, &signature).await.map_err(selected)?;
    args.json.report(&discarded, describe_discarded(&discarded))?;
    Ok(finding(&discarded.skipped))
}

/// How a discard that was refused can be had, or made harmless.
fn ways_out(whole_aggregate: bool, planned: &Discarded) -> String {
    let mut ways = "say --breaks-order if their readers can bear it".to_owned();
    if !whole_aggregate {
        ways += ", or --whole-aggregate where all of each is to go";
    } else if planned.events.iter().any(|event| event.followed_by > 0) {
        ways +=
            "; what stands in the outbox waits behind them, and goes with them, once a relay has reached it";
    }
    ways
}

/// A person who has named nothing is told how to.
fn selected(error: OperatorError) -> anyhow::Error {
    match error {
        OperatorError::NothingSelected => anyhow::anyhow!(
            "{error}: give EVENT…, --cause, --state, --aggregate-type, --aggregate-id, --event-type, --from, --to, or --all"
        ),
        OperatorError::Database { .. } => {
            explained(error).context("it may be done in part: `outflow outbox audit` tells how far it came")
        }
        error => explained(error),
    }
}

fn finding(skipped: &[Skipped]) -> Finding {
    if skipped.is_empty() { Finding::Fine } else { Finding::Wrong }
}

fn describe_retried(retried: &Retried) -> String {
    let mut text = String::new();
    if !retried.events.is_empty() {
        let mut table =
            text::table(&["id", "aggregate", "version", "event", "was", "attempts", "cause", "behind"]);
        for event in &retried.events {
            table.add_row([
                event.id.to_string(),
                format!("{} {}", event.aggregate_type, event.aggregate_id),
                event.aggregate_version.to_string(),
                event.event_type.clone(),
                event.was.as_str().to_owned(),
                event.attempts.to_string(),
                text::cause(event.cause.as_deref()).to_owned(),
                event.behind.to_string(),
            ]);
        }
        writeln!(text, "{table}").expect("a string takes all");
    }
    let done = if retried.dry_run { "would be tried again" } else { "tried again from now on" };
    write!(text, "{} {done}", text::events(retried.events.len() as u64)).expect("a string takes all");
    text + &text::skipped(&retried.skipped) + more(retried.more)
}

fn describe_discarded(discarded: &Discarded) -> String {
    let mut text = String::new();
    if !discarded.events.is_empty() {
        let mut table = text::table(&["id", "aggregate", "version", "event", "cause", "with it", "order"]);
        for event in &discarded.events {
            table.add_row([
                event.id.to_string(),
                format!("{} {}", event.aggregate_type, event.aggregate_id),
                event.aggregate_version.to_string(),
                event.event_type.clone(),
                text::cause(event.cause.as_deref()).to_owned(),
                event.with_it.to_string(),
                order(event),
            ]);
        }
        writeln!(text, "{table}").expect("a string takes all");
    }
    let done = if discarded.dry_run { "would be discarded" } else { "discarded" };
    write!(text, "{} {done}", text::events(discarded.discarded)).expect("a string takes all");
    if discarded.broken > 0 {
        write!(
            text,
            ", the order of {} aggregates broken now or by their next event",
            text::count(discarded.broken)
        )
        .expect("a string takes all");
    }
    if discarded.discarded > 0 {
        text += "; whatever is written to the same aggregates later follows without them";
    }
    text + &text::skipped(&discarded.skipped) + more(discarded.more)
}

/// What it does to the order of the aggregate, as far as that is known.
fn order(event: &DiscardedEvent) -> String {
    match event.breaks_order {
        Some(OrderBreak::LaterFollow) => {
            format!("broken: {} later follow without it", text::count(event.followed_by))
        }
        Some(OrderBreak::VersionMissing) => {
            format!("broken: readers never get version {}", event.aggregate_version)
        }
        Some(OrderBreak::LaterMayFollow) => "broken by its next event, none is written yet".to_owned(),
        None => "readers have nothing of it".to_owned(),
    }
}

fn more(more: bool) -> &'static str {
    if more { "\nthere are more, 10,000 are changed at once: run it again" } else { "" }
}
