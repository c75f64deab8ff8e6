//! Real events from Kafka as fixtures of a guest, with what must not leave the pipe masked.
//!
//! Nothing unmasked is written anywhere, and nothing at all where a mask matches no field.

mod mask;

use super::source;
use anyhow::{Context, bail, ensure};
use clap::Args;
use mask::Masks;
use outflow_broker::{
    letters::log::{Log, Start},
    tail::Arrived,
};
use outflow_transform::{
    Module,
    fixture::{self, FixtureEvent},
};
use rand::{SeedableRng, rngs::StdRng};
use serde::Serialize;
use serde_json::value::RawValue;
use std::{collections::HashSet, path::Path};

#[derive(Debug, Args)]
pub(super) struct RecordArgs {
    /// Records events of this topic into events.jsonl, then writes the outcomes as --update does.
    #[arg(long = "record", value_name = "TOPIC", conflicts_with = "update")]
    pub(super) topic: Option<String>,
    /// How many at most.
    #[arg(long, value_name = "N", default_value_t = 20, requires = "topic",
          value_parser = clap::value_parser!(u32).range(1..=10_000))]
    records: u32,
    /// Where to begin: beginning, a time (2026-11-23T07:00:00Z), or 2h for two hours ago. It ends where the topic ends now.
    #[arg(long, value_name = "PLACE", default_value = "beginning", requires = "topic", value_parser = source::past)]
    from: Start,
    /// A type of events; may be given several times. [default: those that the module maps]
    #[arg(long = "event-type", value_name = "TYPE", requires = "topic")]
    event_types: Vec<String>,
    /// A field of the payload whose values are masked, such as customer_id, shipping.email or, in a list, items.name; may be
    /// given several times.
    #[arg(long = "mask", value_name = "FIELD", requires = "topic")]
    masks: Vec<String>,
    /// Adds to the events that are there.
    #[arg(long, requires = "topic", conflicts_with = "replace")]
    pub(super) append: bool,
    /// Takes the place of the events that are there.
    #[arg(long, requires = "topic")]
    replace: bool,
}

/// What a recording did.
#[derive(Debug, Serialize)]
pub(super) struct Recorded {
    topic: String,
    events: usize,
    mode: Mode,
    /// Records that were passed over.
    passed_over: PassedOver,
    /// How many values each mask had.
    masked: Vec<Masked>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Mode {
    /// There were no events before.
    New,
    Appended,
    Replaced,
}

#[derive(Debug, Default, Serialize)]
struct PassedOver {
    other_types: u64,
    /// No event is in them, or one that a line can't hold.
    unreadable: u64,
    /// Their event is among the fixtures.
    already_there: u64,
}

#[derive(Debug, Serialize)]
struct Masked {
    field: String,
    values: u64,
}

impl RecordArgs {
    /// Whether there are events that this recording would go with or replace.
    ///
    /// # Errors
    /// Where there are some, and nothing was said about them.
    pub(super) fn existing(&self, events: &Path) -> anyhow::Result<Vec<FixtureEvent>> {
        let text = match std::fs::read_to_string(events) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error).with_context(|| format!("reading {}", events.display())),
        };
        ensure!(
            self.append || self.replace || text.trim().is_empty(),
            "{} holds events already: say --append or --replace",
            events.display()
        );
        if self.replace {
            return Ok(Vec::new());
        }
        fixture::read(&text).with_context(|| format!("in {}", events.display()))
    }

    /// Reads, masks and writes.
    pub(super) async fn run(
        &self,
        topic: &str,
        module: &Module,
        existing: &[FixtureEvent],
        path: &Path,
    ) -> anyhow::Result<Recorded> {
        let mut masks = Masks::new(&self.masks, StdRng::from_os_rng())?;
        let there: HashSet<&str> = existing.iter().map(|event| event.id.as_str()).collect();
        let (mut events, passed_over) = self.read(&source::kafka()?, topic, module, &there).await?;
        // As they came to be, whatever the partition that was read first.
        events.sort_by_key(|event| event.occurred_at);
        for event in &mut events {
            let masked = masks
                .payload(event.payload.get())
                .with_context(|| format!("the payload of event {} can't be masked", event.id))?;
            event.payload = RawValue::from_string(masked).context("a masked payload is JSON")?;
        }
        let masked = masks.matched()?;
        // Only now is every masked value known.
        for event in &mut events {
            event.aggregate_id = masks.key(&event.aggregate_id);
            for (_, value) in &mut event.headers {
                *value = masks.header(&String::from_utf8_lossy(value)).into_bytes();
            }
        }
        let mode = match (path.exists(), self.replace, existing.is_empty()) {
            (true, true, _) => Mode::Replaced,
            (_, _, false) => Mode::Appended,
            _ => Mode::New,
        };
        let lines = existing.iter().chain(&events).map(|event| event.to_line() + "\n");
        write(path, &lines.collect::<String>())?;
        let masked = masked.into_iter().map(|(field, values)| Masked { field, values }).collect();
        Ok(Recorded { topic: topic.to_owned(), events: events.len(), mode, passed_over, masked })
    }

    async fn read(
        &self,
        log: &Log,
        topic: &str,
        module: &Module,
        there: &HashSet<&str>,
    ) -> anyhow::Result<(Vec<FixtureEvent>, PassedOver)> {
        let wanted = match self.event_types.as_slice() {
            [] => &module.schema().event_types,
            wanted => wanted,
        };
        let bounds = log.bounds_from(topic, self.from).await?;
        let Some(mut reader) = log.read(topic, bounds).await? else { bail!("there is no topic {topic}") };
        let (mut events, mut passed_over) = (Vec::new(), PassedOver::default());
        while events.len() < self.records as usize
            && let Some(message) = reader.next().await?
        {
            let arrived = source::first_life(Arrived::of(&message));
            let Ok(event) = source::record(&arrived).event() else {
                passed_over.unreadable += 1;
                continue;
            };
            if !wanted.iter().any(|wanted| wanted == event.event_type) {
                passed_over.other_types += 1;
            } else if there.contains(event.id) || events.iter().any(|seen: &FixtureEvent| seen.id == event.id)
            {
                passed_over.already_there += 1;
            } else if let Some(event) = FixtureEvent::of(&event, |name| module.reads_header(name)) {
                events.push(event);
            } else {
                passed_over.unreadable += 1;
            }
        }
        ensure!(
            !events.is_empty(),
            "{topic} has no new event of {} there: passed over were {} of other types, {} without an event and {} that are \
             recorded already",
            wanted.join(", "),
            passed_over.other_types,
            passed_over.unreadable,
            passed_over.already_there
        );
        Ok((events, passed_over))
    }
}

/// Whole or not at all.
fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    }
    let unfinished = path.with_extension(format!("jsonl.{}", std::process::id()));
    std::fs::write(&unfinished, text).with_context(|| format!("writing {}", unfinished.display()))?;
    std::fs::rename(&unfinished, path).with_context(|| format!("writing {}", path.display()))
}

impl Recorded {
    /// For people, in a line.
    pub(super) fn describe(&self, path: &Path) -> String {
        let done = match self.mode {
            Mode::New => "recorded into",
            Mode::Appended => "appended to",
            Mode::Replaced => "in place of those before in",
        };
        let masked: Vec<String> =
            self.masked.iter().map(|Masked { field, values }| format!("{field} ({values} values)")).collect();
        let masked = if masked.is_empty() { "nothing".to_owned() } else { masked.join(", ") };
        format!("{} events of {} {done} {}, masked: {masked}", self.events, self.topic, path.display())
    }
}
