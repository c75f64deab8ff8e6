//! `outflow outbox show`.

use super::{Group, explained, text};
use crate::output::{Finding, Json};
use outflow_outbox::operator::{EventRef, Fate, Neighbour, Parked, Shown};
use serde_json::{Value, json};
use sqlx::MySqlPool;
use std::fmt::Write;

#[derive(Debug, clap::Args)]
pub(crate) struct ShowArgs {
    /// The number of its row in the outbox, or its event id.
    event: EventRef,
    #[command(flatten)]
    group: Group,
    #[command(flatten)]
    json: Json,
}

pub(super) async fn run(args: ShowArgs, pool: &MySqlPool) -> anyhow::Result<Finding> {
    let operator = args.group.operator(pool)?;
    let Some(shown) = operator.show(args.event).await.map_err(explained)? else {
        let unknown =
            json!({"group": operator.group(), "event_id": args.event.to_string(), "fate": Fate::Unknown});
        let note = format!(
            "event {} is unknown: it is neither parked nor in the audit, nor among the rows written within 10 minutes of the time in its id",
            args.event
        );
        args.json.report(&unknown, note)?;
        return Ok(Finding::Wrong);
    };
    args.json.report(&shown, describe(&shown))?;
    Ok(if shown.fate == Fate::Unknown { Finding::Wrong } else { Finding::Fine })
}

fn describe(shown: &Shown) -> String {
    let mut table = text::table(&[]);
    let mut row = |name: &str, value: String| {
        table.add_row([name.to_owned(), value]);
    };
    row("id", shown.id.to_string());
    row("fate", fate(shown));
    if let Some(event) = &shown.event {
        row("event", format!("{} {}", event.event_type, event.event_id));
        row(
            "aggregate",
            format!("{} {}, version {}", event.aggregate_type, event.aggregate_id, event.aggregate_version),
        );
        row("written", text::moment(event.created_at));
        row("row", if shown.in_outbox { "still in the outbox" } else { "gone, this is a copy" }.to_owned());
        row("headers", event.headers.to_string());
        row("payload", event.payload.to_string());
    }
    let mut description = table.to_string();
    if let Some(parked) = &shown.parked {
        write!(description, "\n{}", describe_parked(parked)).expect("a string takes all");
    }
    for entry in &shown.audit {
        write!(
            description,
            "\n{}  {} by {}: {}",
            text::moment(entry.at),
            entry.action,
            entry.by,
            entry.reason
        )
        .expect("a string takes all");
    }
    description
}

fn fate(shown: &Shown) -> String {
    match shown.fate {
        Fate::Delivered => match shown.delivered_at {
            Some(at) => format!("delivered, by {} at the latest", text::moment(at)),
            None => "delivered".to_owned(),
        },
        Fate::Parked => "parked".to_owned(),
        Fate::InGap => "not delivered yet: it has appeared in a gap, a relay's next page takes it".to_owned(),
        Fate::Undelivered => "not delivered yet: it is behind the position".to_owned(),
        Fate::Discarded => "discarded".to_owned(),
        Fate::Pruned => "no row: it was delivered and pruned, or never committed".to_owned(),
        Fate::NotVisible => "no row: its transaction is open, or was rolled back".to_owned(),
        Fate::RolledBack => "no row: its transaction was rolled back".to_owned(),
        Fate::Unknown => "unknown: no row has this id yet".to_owned(),
    }
}

fn describe_parked(parked: &Parked) -> String {
    let standing = &parked.standing;
    let mut text = format!(
        "\n{} since {}, attempts: {}, {}",
        standing.state.as_str(),
        text::moment(standing.parked_at),
        standing.attempts,
        text::cause(standing.cause.as_deref())
    );
    if let Some(next) = standing.next_attempt_at {
        write!(text, ", due {}", text::moment(next)).expect("a string takes all");
    }
    if let Some(Value::Array(history)) = Some(&standing.history).filter(|history| **history != json!([])) {
        let mut table = text::table(&["attempt", "cause", "error"]);
        for attempt in history {
            let field = |name: &str| attempt[name].as_str().unwrap_or_default().to_owned();
            table.add_row([field("at"), field("cause"), field("error")]);
        }
        write!(text, "\n{table}").expect("a string takes all");
    }
    for (side, neighbours) in [("before it", &parked.ahead), ("behind it", &parked.behind)] {
        let listed: Vec<String> = neighbours.iter().map(neighbour).collect();
        if !listed.is_empty() {
            write!(text, "\n{side}: {}", listed.join(", ")).expect("a string takes all");
        }
    }
    let untold = parked.behind_count.saturating_sub(parked.behind.len() as u64);
    if untold > 0 {
        write!(text, " and {} more", text::count(untold)).expect("a string takes all");
    }
    text
}

fn neighbour(neighbour: &Neighbour) -> String {
    format!(
        "{} (version {}, {}, {})",
        neighbour.id,
        neighbour.aggregate_version,
        neighbour.event_type,
        neighbour.state.as_str()
    )
}
