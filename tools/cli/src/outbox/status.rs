//! `outflow outbox status`.

use super::{explained, text, when};
use crate::output::{Finding, Json};
use outflow_outbox::operator::{Bounds, GroupStatus, Operator, Problem};
use serde::Serialize;
use sqlx::MySqlPool;
use std::{fmt::Write, time::Duration};

#[derive(Debug, clap::Args)]
pub(crate) struct StatusArgs {
    /// This relay group alone; without it, all of them.
    #[arg(long, value_name = "NAME")]
    group: Option<String>,
    /// Exits 1 where an undelivered event is older.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = when::duration)]
    max_age: Duration,
    /// The relay's bound of open gaps.
    #[arg(long, value_name = "N", default_value_t = Bounds::default().max_gaps)]
    max_gaps: u64,
    /// The relay's bound of parked aggregates.
    #[arg(long, value_name = "N", default_value_t = Bounds::default().max_parked)]
    max_parked: u64,
    #[command(flatten)]
    json: Json,
}

/// The result; its keys are a contract.
#[derive(Debug, Serialize)]
struct Report {
    groups: Vec<Group>,
}

#[derive(Debug, Serialize)]
struct Group {
    #[serde(flatten)]
    status: GroupStatus,
    /// Empty where all is well.
    problems: Vec<Problem>,
}

pub(super) async fn run(args: StatusArgs, pool: &MySqlPool) -> anyhow::Result<Finding> {
    let bounds = Bounds { max_gaps: args.max_gaps, max_parked: args.max_parked, max_age: args.max_age };
    let names = match args.group {
        Some(name) => vec![name],
        None => Operator::groups(pool).await.map_err(explained)?,
    };
    let mut groups = Vec::with_capacity(names.len());
    for name in names {
        let status = Operator::new(pool.clone(), name)?.status().await.map_err(explained)?;
        groups.push(Group { problems: status.problems(&bounds), status });
    }
    let report = Report { groups };
    args.json.report(&report, page(&report.groups))?;
    let fine = report.groups.iter().all(|group| group.problems.is_empty());
    Ok(if fine { Finding::Fine } else { Finding::Wrong })
}

fn page(groups: &[Group]) -> String {
    if groups.is_empty() {
        return "there is no relay group yet: a relay's first run makes one".to_owned();
    }
    groups.iter().map(describe).collect::<Vec<_>>().join("\n\n")
}

fn describe(group: &Group) -> String {
    let Group { status, problems } = group;
    let mut table = text::table(&[]);
    let mut row = |name: &str, value: String| {
        table.add_row([name.to_owned(), value]);
    };
    row("group", status.group.clone());
    let last = status.last_id.map_or_else(|| "an empty outbox".to_owned(), text::count);
    row("position", format!("{} of {last}", text::count(status.position)));
    let oldest = status
        .oldest_age_ms
        .map_or_else(String::new, |age| format!(", the oldest {} old", text::milliseconds(age)));
    row(
        "backlog",
        match status.backlog {
            0 => "none".to_owned(),
            backlog => format!("about {}{oldest}", text::events(backlog)),
        },
    );
    row("gaps", gaps(status));
    row("lease", lease(status));
    row(
        "paused",
        match &status.paused {
            Some(pause) => format!("since {} by {}: {}", text::moment(pause.at), pause.by, pause.reason),
            None => "no".to_owned(),
        },
    );
    row("parked", parked(status));
    row("kept", format!("about {} that are delivered", text::events(status.kept)));
    row(
        "checkpoint",
        match &status.checkpoint {
            Some(checkpoint) => {
                format!("{}, {} ago", text::count(checkpoint.position), text::milliseconds(checkpoint.age_ms))
            }
            None => "none yet".to_owned(),
        },
    );
    let mut description = table.to_string();
    if !status.parked.causes.is_empty() {
        write!(description, "\n\n{}", super::list::causes_table(&status.parked.causes))
            .expect("a string takes all");
    }
    for problem in problems {
        write!(description, "\nwrong: {problem}").expect("a string takes all");
    }
    description
}

fn gaps(status: &GroupStatus) -> String {
    let gaps = &status.gaps;
    match gaps.oldest_age_ms {
        Some(age) => format!(
            "{} open, {} ids, the oldest since {}",
            text::count(gaps.ranges),
            text::count(gaps.ids),
            text::milliseconds(age)
        ),
        None => "none".to_owned(),
    }
}

fn lease(status: &GroupStatus) -> String {
    let lease = &status.lease;
    let token = format!("fencing token {}", lease.fencing_token);
    match (&lease.owner, lease.remaining_ms) {
        (Some(owner), Some(remaining)) => {
            format!("held by {owner} for {} more, {token}", text::milliseconds(remaining))
        }
        (Some(owner), None) => format!("over, {owner} has not given it back; {token}"),
        (None, _) => format!("free, {token}"),
    }
}

fn parked(status: &GroupStatus) -> String {
    let parked = &status.parked;
    if parked.aggregates == 0 && parked.waiting == 0 {
        return "none".to_owned();
    }
    let mut line = format!(
        "{} aggregates: {} to retry ({} due), {} dead, {} waiting",
        text::count(parked.aggregates),
        text::count(parked.retry),
        text::count(parked.due),
        text::count(parked.dead),
        text::count(parked.waiting)
    );
    if let Some(next) = parked.next_attempt_at {
        write!(line, "; next attempt {}", text::moment(next)).expect("a string takes all");
    }
    line
}
