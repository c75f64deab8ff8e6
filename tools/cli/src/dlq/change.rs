//! `outflow dlq redrive` and `discard`.

use super::{
    Conditions,
    text::{self, Bytes},
};
use crate::{
    outbox::{By, confirm, text as common},
    output::{Finding, Json},
};
use anyhow::{Context, ensure};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use outflow_broker::{
    letters::{
        LetterError,
        audit::Action,
        desk::Desk,
        letter::{Cause, LetterId},
        log::{Bounds, Log},
        plan::{Filter, Item, Policy, Verdict},
        work::{Order, Pace, carry_out, select},
    },
    topics,
};
use serde::Serialize;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt::Write,
    io::IsTerminal,
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};
use time::OffsetDateTime;

/// Lines about letters that stay; the JSON has all.
const LISTED: usize = 20;

/// Which letters are meant, and who wants what with them.
#[derive(Debug, Args)]
struct Wish {
    /// Letters, as topic/partition/offset.
    #[arg(value_name = "ID")]
    ids: Vec<LetterId>,
    #[command(flatten)]
    conditions: Conditions,
    /// Every open letter, where nothing else is said.
    #[arg(long)]
    all: bool,
    /// Why; 1 to 500 characters, kept in the audit.
    #[arg(long, value_name = "REASON", required_unless_present = "dry_run")]
    why: Option<String>,
    #[command(flatten)]
    by: By,
    /// Tells what would be done, and changes nothing.
    #[arg(long, conflicts_with = "yes")]
    dry_run: bool,
    /// Does not ask.
    #[arg(long)]
    yes: bool,
    /// At most so many letters a second, such as 50/s; without it as fast as it goes.
    #[arg(long, value_name = "N/s", value_parser = rate)]
    rate: Option<NonZeroU32>,
    #[command(flatten)]
    json: Json,
}

#[derive(Debug, Args)]
pub(crate) struct RedriveArgs {
    #[command(flatten)]
    wish: Wish,
    /// A record that was given up so often stays, unless --force is said.
    #[arg(long, value_name = "N", env = "OUTFLOW_DLQ_MAX_ATTEMPTS", default_value_t = 5)]
    max_attempts: u32,
    /// Also sends records that keep coming back.
    #[arg(long)]
    force: bool,
    /// Also sends letters although an earlier one of their key stays.
    #[arg(long)]
    out_of_order: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DiscardArgs {
    #[command(flatten)]
    wish: Wish,
}

fn rate(text: &str) -> anyhow::Result<NonZeroU32> {
    text.strip_suffix("/s").unwrap_or(text).parse().context("write how many letters a second, such as 50/s")
}

/// The result; its keys are a contract.
#[derive(Debug, Serialize)]
struct Report {
    action: Action,
    dry_run: bool,
    who: Option<String>,
    why: Option<String>,
    items: Vec<Line>,
    /// How often each result is among them.
    counts: BTreeMap<&'static str, u64>,
    /// Why it ended early.
    stopped: Option<String>,
}

/// A letter that was meant.
#[derive(Debug, Serialize)]
struct Line {
    id: LetterId,
    #[serde(flatten)]
    verdict: Verdict,
    #[serde(flatten)]
    letter: Option<Told>,
}

#[derive(Debug, Serialize)]
struct Told {
    #[serde(with = "time::serde::rfc3339")]
    at: OffsetDateTime,
    #[serde(flatten)]
    cause: Cause,
    attempts: u32,
    first: Option<String>,
    key: serde_json::Value,
}

impl Line {
    fn new(item: Item) -> Self {
        let letter = item.head.map(|head| Told {
            at: head.at,
            attempts: head.attempts,
            first: head.first.as_ref().map(ToString::to_string),
            key: serde_json::json!(Bytes(head.key.as_deref())),
            cause: head.cause,
        });
        Self { id: item.id, verdict: item.verdict, letter }
    }
}

pub(super) async fn redrive(args: RedriveArgs, log: &Log) -> anyhow::Result<Finding> {
    let RedriveArgs { wish, max_attempts, force, out_of_order } = args;
    change(Action::Redrive, wish, Policy { max_attempts, force, out_of_order }, log).await
}

pub(super) async fn discard(args: DiscardArgs, log: &Log) -> anyhow::Result<Finding> {
    let everything = Policy { max_attempts: u32::MAX, force: true, out_of_order: true };
    change(Action::Discard, args.wish, everything, log).await
}

async fn change(action: Action, wish: Wish, policy: Policy, log: &Log) -> anyhow::Result<Finding> {
    let Wish { ids, conditions, all, why, by, dry_run, yes, rate, json } = wish;
    let signature = why.as_deref().map(|why| by.sign(why)).transpose()?;
    let whole_topic = conditions.topic.is_some();
    let (topics, filter) = conditions.resolve(ids, log).await?;
    ensure!(
        all || whole_topic || !filter.is_empty(),
        "nothing is selected: give ID…, --topic, --stage, --code, --module, --slot, --since, --until, or --all"
    );
    let mut parts = Vec::with_capacity(topics.len());
    for topic in topics {
        let (items, bounds) = select(log, &topic, action, &filter, policy, None).await?;
        parts.push(Part { topic, items, bounds });
    }
    let planned = parts.iter().map(Part::planned).sum::<u64>();
    let mut stopped = None;
    if let Some(by) = signature.as_ref().filter(|_| !dry_run && planned > 0) {
        if !yes {
            eprintln!("{}", preview(action, &parts));
        }
        let verb = verb(action);
        confirm(yes, &format!("{verb} {}", text::letters(planned)))?;
        let pace = rate.map_or(Pace::UNLIMITED, Pace::per_second);
        let stop = interrupted();
        let bar = progress(planned, verb);
        let order = Order { action, policy, by, pace, stop: &stop };
        for part in &mut parts {
            if let Err(error) = part.carry_out(log, &order, &bar).await {
                stopped = Some(error);
                break;
            }
            if stop.load(Ordering::Relaxed) {
                stopped = Some(anyhow::anyhow!("interrupted"));
                break;
            }
        }
        bar.finish_and_clear();
        if stopped.is_some() {
            parts.iter_mut().for_each(Part::give_up);
        }
    }
    let items: Vec<Item> = parts.into_iter().flat_map(|part| part.items).collect();
    let well = items.iter().all(|item| item.verdict.is_well(action));
    let mut counts = BTreeMap::new();
    for item in &items {
        *counts.entry(item.verdict.name()).or_insert(0) += 1;
    }
    let stopped = stopped.map(|error| format!("{error:#}"));
    if let Some(reason) = &stopped {
        eprintln!("outflow: stopped: {reason}; what is not done yet is open, run the same again");
    }
    let report = Report {
        action,
        dry_run,
        who: signature.as_ref().map(|signature| signature.by().to_owned()),
        why: signature.as_ref().map(|signature| signature.why().to_owned()),
        items: items.into_iter().map(Line::new).collect(),
        counts,
        stopped,
    };
    json.report(&report, describe(&report))?;
    Ok(if well && report.stopped.is_none() { Finding::Fine } else { Finding::Wrong })
}

/// What is meant of one topic of dead letters.
struct Part {
    topic: String,
    items: Vec<Item>,
    bounds: Bounds,
}

impl Part {
    fn planned(&self) -> u64 {
        self.items.iter().filter(|item| item.verdict == Verdict::Planned).count() as u64
    }

    /// Takes the desk and looks again: what somebody else has done meanwhile is done.
    async fn carry_out(
        &mut self,
        log: &Log,
        order: &Order<'_>,
        bar: &ProgressBar,
    ) -> Result<(), anyhow::Error> {
        let planned = self.items.iter().filter(|item| item.verdict == Verdict::Planned);
        let ids: BTreeSet<LetterId> = planned.map(|item| item.id.clone()).collect();
        if ids.is_empty() {
            return Ok(());
        }
        let desk = Desk::take(log, topics::source(&self.topic)).await?;
        let again = Filter { ids, ..Filter::default() };
        let bounds = Some(self.bounds.clone());
        let (mut items, _) = select(log, &self.topic, order.action, &again, order.policy, bounds).await?;
        let done: Result<(), LetterError> =
            carry_out(log, &desk, &mut items, order, |letters| bar.inc(letters)).await;
        let mut found: HashMap<LetterId, Verdict> =
            items.into_iter().map(|item| (item.id, item.verdict)).collect();
        for item in &mut self.items {
            if let Some(verdict) = found.remove(&item.id) {
                item.verdict = verdict;
            }
        }
        Ok(done?)
    }

    /// Work stopped: what was not begun stays.
    fn give_up(&mut self) {
        for item in self.items.iter_mut().filter(|item| item.verdict == Verdict::Planned) {
            item.verdict = Verdict::NotReached;
        }
    }
}

/// Set once somebody asks us to end: the transaction under way is finished first.
fn interrupted() -> Arc<AtomicBool> {
    let stop = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&stop);
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            asked.store(true, Ordering::Relaxed);
        }
    });
    stop
}

/// On a terminal alone.
fn progress(letters: u64, verb: &str) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{msg} {bar:30} {pos}/{len} {per_sec} {eta}");
    ProgressBar::new(letters)
        .with_style(style.expect("the template is well formed"))
        .with_message(verb.to_owned())
}

fn verb(action: Action) -> &'static str {
    match action {
        Action::Redrive => "redrive",
        Action::Discard => "discard",
    }
}

/// What a person is asked about.
fn preview(action: Action, parts: &[Part]) -> String {
    let mut causes: BTreeMap<&Cause, u64> = BTreeMap::new();
    let items = parts.iter().flat_map(|part| &part.items);
    let planned = items.filter(|item| item.verdict == Verdict::Planned);
    for head in planned.filter_map(|item| item.head.as_ref()) {
        *causes.entry(&head.cause).or_default() += 1;
    }
    let mut table = common::table(&["topic", "stage", "code", "transform", "module", verb(action)]);
    for (cause, letters) in causes {
        table.add_row([
            &cause.topic,
            &cause.stage,
            &cause.code,
            cause.slot.as_deref().unwrap_or("-"),
            text::module(cause),
            &common::count(letters),
        ]);
    }
    table.to_string()
}

fn describe(report: &Report) -> String {
    let mut description = String::new();
    let stay = |line: &&Line| !line.verdict.is_well(report.action);
    for Line { id, verdict, .. } in report.items.iter().filter(stay).take(LISTED) {
        writeln!(description, "{id}: {}", because(verdict)).expect("a string takes all");
    }
    let more = report.items.iter().filter(stay).count().saturating_sub(LISTED);
    if more > 0 {
        writeln!(description, "and {}", text::letters(more as u64)).expect("a string takes all");
    }
    if report.items.is_empty() {
        description.push_str("no open letter fits: ");
    }
    let of = |result: &str| report.counts.get(result).copied().unwrap_or(0);
    let done = match report.action {
        Action::Redrive if report.dry_run => format!("{} would be redriven", text::letters(of("planned"))),
        Action::Discard if report.dry_run => format!("{} would be discarded", text::letters(of("planned"))),
        Action::Redrive => format!("{} redriven", text::letters(of("redriven"))),
        Action::Discard => format!("{} discarded", text::letters(of("discarded"))),
    };
    description.push_str(&done);
    for (result, count) in
        report.counts.iter().filter(|(result, _)| !["planned", "redriven", "discarded"].contains(result))
    {
        write!(description, ", {count} {}", result.replace('_', " ")).expect("a string takes all");
    }
    description
}

/// For people, with what they can do about it.
fn because(verdict: &Verdict) -> String {
    match verdict {
        Verdict::HeldByEarlier { earlier } => {
            format!(
                "stays behind {earlier}, an earlier one of its key: redrive or discard that too, or say --out-of-order"
            )
        }
        Verdict::TooManyAttempts => {
            "stays, its record keeps coming back: mend the cause and say --force, or discard it".to_owned()
        }
        Verdict::DoesNotFit => "does not fit the other conditions".to_owned(),
        Verdict::Unknown => "there is no such dead letter, or not any more".to_owned(),
        Verdict::Refused { reason } => format!("kafka does not take it: {reason}"),
        Verdict::NotReached => "not reached, it is open".to_owned(),
        Verdict::Uncertain => "perhaps done: run the same again to find out".to_owned(),
        Verdict::AlreadyRedriven { to, who, when } => format!("was redriven to {to} by {who} at {when}"),
        Verdict::AlreadyDiscarded { who, when } => format!("was discarded by {who} at {when}"),
        Verdict::Planned | Verdict::Redriven { .. } | Verdict::Discarded => "done".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_written_with_or_without_its_unit() {
        assert_eq!([rate("50/s"), rate("7")].map(|rate| rate.expect("a rate").get()), [50, 7]);
        for wrong in ["0", "0/s", "-1", "fast", "1/m", ""] {
            assert!(rate(wrong).is_err(), "{wrong}");
        }
    }
}
