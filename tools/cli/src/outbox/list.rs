//! `outflow outbox list`, and which parked events an operator means.

use super::{Group, explained, text, when};
use crate::output::{Finding, Json};
use clap::Args;
use comfy_table::Table;
use outflow_outbox::operator::{
    Cause, DEFAULT_LISTED, EventRef, Failure, FailureState, Failures, Filter, Page,
};
use serde::Serialize;
use sqlx::MySqlPool;
use time::OffsetDateTime;

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    conditions: Conditions,
    /// Groups them by what went wrong, instead of listing each.
    #[arg(long, conflicts_with_all = ["limit", "after"])]
    by_cause: bool,
    /// At most so many: 1 to 1,000.
    #[arg(long, value_name = "N", default_value_t = DEFAULT_LISTED)]
    limit: u64,
    /// Goes on behind this row, where the part before ended.
    #[arg(long, value_name = "ID", default_value_t = 0, hide_default_value = true)]
    after: u64,
    #[command(flatten)]
    group: Group,
    #[command(flatten)]
    json: Json,
}

/// Parked events that fit all of these.
#[derive(Debug, Args)]
pub(super) struct Conditions {
    /// How they stand: retry, waiting or dead.
    #[arg(long, value_name = "STATE")]
    state: Option<FailureState>,
    /// What went wrong, such as message_too_large.
    #[arg(long, value_name = "CAUSE")]
    cause: Option<String>,
    /// Their aggregate's type, such as Order.
    #[arg(long, value_name = "TYPE")]
    aggregate_type: Option<String>,
    /// Their aggregate.
    #[arg(long, value_name = "ID")]
    aggregate_id: Option<String>,
    /// Their own type, such as OrderCreated.
    #[arg(long, value_name = "TYPE")]
    event_type: Option<String>,
    /// Parked at this time or later: 2026-11-23T07:00:00Z, 2026-11-23 (UTC), or 2h for two hours ago.
    #[arg(long, value_name = "T", value_parser = when::moment)]
    from: Option<OffsetDateTime>,
    /// Parked before this time.
    #[arg(long, value_name = "T", value_parser = when::moment)]
    to: Option<OffsetDateTime>,
}

impl Conditions {
    pub(super) fn filter(self, events: Vec<EventRef>) -> Filter {
        Filter {
            events,
            state: self.state,
            cause: self.cause,
            aggregate_type: self.aggregate_type,
            aggregate_id: self.aggregate_id,
            event_type: self.event_type,
            parked_from: self.from,
            parked_to: self.to,
        }
    }
}

/// The result with `--by-cause`; its keys are a contract.
#[derive(Debug, Serialize)]
struct Causes<'a> {
    group: &'a str,
    causes: Vec<Cause>,
}

pub(super) async fn run(args: ListArgs, pool: &MySqlPool) -> anyhow::Result<Finding> {
    let operator = args.group.operator(pool)?;
    let filter = args.conditions.filter(Vec::new());
    if args.by_cause {
        let causes = operator.causes(&filter).await.map_err(explained)?;
        let table = causes_table(&causes);
        args.json.report(&Causes { group: operator.group(), causes }, table)?;
        return Ok(Finding::Fine);
    }
    let page = Page { limit: args.limit, after: args.after };
    let list = operator.list(&filter, page).await.map_err(explained)?;
    args.json.report(&list, page_text(&list))?;
    Ok(Finding::Fine)
}

fn page_text(list: &Failures) -> String {
    if list.failures.is_empty() {
        return "nothing is parked that fits".to_owned();
    }
    let mut table =
        text::table(&["id", "aggregate", "version", "event", "state", "attempts", "next", "cause", "error"]);
    for failure in &list.failures {
        table.add_row(row(failure));
    }
    match list.next_after {
        Some(after) => format!("{table}\nthere are more: --after {after}"),
        None => table.to_string(),
    }
}

fn row(failure: &Failure) -> [String; 9] {
    let waits = failure.state == FailureState::Waiting;
    let cause = if waits {
        format!("waits for {}", failure.head_id)
    } else {
        text::cause(failure.cause.as_deref()).to_owned()
    };
    [
        failure.id.to_string(),
        format!("{} {}", failure.aggregate_type, failure.aggregate_id),
        failure.aggregate_version.to_string(),
        failure.event_type.clone(),
        failure.state.as_str().to_owned(),
        failure.attempts.to_string(),
        failure.next_attempt_at.filter(|_| !waits).map_or_else(String::new, text::moment),
        cause,
        text::shortened(failure.last_error.as_deref()),
    ]
}

pub(super) fn causes_table(causes: &[Cause]) -> String {
    if causes.is_empty() {
        return "nothing is parked that fits".to_owned();
    }
    let mut table: Table = text::table(&[
        "cause", "events", "retry", "dead", "waiting", "attempts", "first", "last", "example", "error",
    ]);
    for cause in causes {
        table.add_row([
            text::cause(cause.cause.as_deref()).to_owned(),
            text::count(cause.events),
            text::count(cause.retry),
            text::count(cause.dead),
            text::count(cause.waiting),
            if cause.min_attempts == cause.max_attempts {
                cause.max_attempts.to_string()
            } else {
                format!("{} to {}", cause.min_attempts, cause.max_attempts)
            },
            text::moment(cause.first_seen_at),
            text::moment(cause.last_seen_at),
            cause.example_id.to_string(),
            text::shortened(cause.example_error.as_deref()),
        ]);
    }
    table.to_string()
}
