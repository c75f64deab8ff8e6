//! `outflow outbox audit`.

use super::{Group, explained, text, when};
use crate::output::{Finding, Json};
use outflow_outbox::operator::{AuditEntry, AuditFilter, DEFAULT_LISTED, Page};
use serde::Serialize;
use sqlx::MySqlPool;
use time::OffsetDateTime;

#[derive(Debug, clap::Args)]
pub(crate) struct AuditArgs {
    /// One kind alone.
    #[arg(long, value_name = "ACTION", value_parser = ["retry", "discard", "prune", "pause", "resume"])]
    action: Option<String>,
    /// What was done to this row of the outbox.
    #[arg(long, value_name = "ID")]
    id: Option<u64>,
    /// Done at this time or later: 2026-11-23T07:00:00Z, 2026-11-23 (UTC), or 2h for two hours ago.
    #[arg(long, value_name = "T", value_parser = when::moment)]
    from: Option<OffsetDateTime>,
    /// Done before this time.
    #[arg(long, value_name = "T", value_parser = when::moment)]
    to: Option<OffsetDateTime>,
    /// At most so many: 1 to 1,000.
    #[arg(long, value_name = "N", default_value_t = DEFAULT_LISTED)]
    limit: u64,
    /// Goes on behind the entry of this number, where the part before ended.
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    after: u64,
    #[command(flatten)]
    group: Group,
    #[command(flatten)]
    json: Json,
}

/// The result; its keys are a contract.
#[derive(Debug, Serialize)]
struct Report<'a> {
    group: &'a str,
    entries: &'a [AuditEntry],
}

pub(super) async fn run(args: AuditArgs, pool: &MySqlPool) -> anyhow::Result<Finding> {
    let operator = args.group.operator(pool)?;
    let filter = AuditFilter { action: args.action, outbox_id: args.id, from: args.from, to: args.to };
    let page = Page { limit: args.limit, after: args.after };
    let entries = operator.audit(&filter, page).await.map_err(explained)?;
    args.json.report(&Report { group: operator.group(), entries: &entries }, table(&entries))?;
    Ok(Finding::Fine)
}

fn table(entries: &[AuditEntry]) -> String {
    if entries.is_empty() {
        return "nothing was done that fits".to_owned();
    }
    let mut table = text::table(&["entry", "when", "who", "what", "event", "why"]);
    for entry in entries {
        table.add_row([
            entry.id.to_string(),
            text::moment(entry.at),
            entry.by.clone(),
            entry.action.clone(),
            entry.outbox_id.map_or_else(|| "the group".to_owned(), |id| id.to_string()),
            entry.reason.clone(),
        ]);
    }
    table.to_string()
}
