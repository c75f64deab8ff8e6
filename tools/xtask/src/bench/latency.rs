//! From a commit's return to a reader in Kafka, at a steady rate: polled, and by the schedule alone.

use super::{
    Contender, Scale,
    debezium::{Debezium, Tuning},
    entry::{Entry, median, micros_each, millis_of},
    relay::Relay,
    site::{Database, Site},
    steady::{self, Latencies, Pace},
};
use std::{convert::Infallible, time::Duration};
use tokio::time::MissedTickBehavior;
use xtask::progress::Terminal;

/// A shop's busy hour, in events a second.
const RATE: u64 = 600;
/// Few enough that a call finds an end of its work: at more, each goes on until the next one comes.
const SCHEDULED_RATE: u64 = 10;
/// What the schedule calls the relay by.
const SCHEDULE: Duration = Duration::from_secs(5);

/// The peer as it is when somebody asks for less latency, and as it is when he looks for all of it.
const DEBEZIUM: [(&str, Tuning); 2] =
    [("debezium", Tuning::Polling), ("debezium_linger_0", Tuning::PollingAndSending)];

/// An entry, its unit and its figures.
type Figure = (&'static str, &'static str, fn(&Rounds) -> Vec<f64>);

const FIGURES: [Figure; 3] = [
    ("relay.latency_p50", "ms", |rounds| rounds.p50.clone()),
    ("relay.latency_p99", "ms", |rounds| rounds.p99.clone()),
    ("relay.cpu_per_event", "us", |rounds| rounds.cpu.clone()),
];

/// One contender's figures, one a round.
#[derive(Default)]
struct Rounds {
    p50: Vec<f64>,
    p99: Vec<f64>,
    cpu: Vec<f64>,
}

impl Rounds {
    fn add(&mut self, latencies: &Latencies) {
        self.p50.push(millis_of(latencies.percentile(50)));
        self.p99.push(millis_of(latencies.percentile(99)));
        self.cpu.push(micros_each(latencies.cpu, latencies.count()));
    }
}

/// The relay goes on all the time, and so does Debezium, which asks the server each 5 ms.
pub(super) async fn run(
    site: &Site,
    relay: &Relay,
    without: &[Contender],
    scale: Scale,
    progress: &Terminal,
) -> anyhow::Result<Vec<Entry>> {
    let pace = match scale.quick {
        true => Pace { rate: RATE, warm_up: Duration::from_secs(2), measured: Duration::from_secs(4) },
        false => Pace { rate: RATE, warm_up: Duration::from_secs(20), measured: Duration::from_secs(30) },
    };
    let database = site.database("bench_latency").await?;
    relay.once(site, &database).await?;
    let debezium = match without.contains(&Contender::Debezium) {
        true => None,
        false => Some(Debezium::install(site, progress).await?),
    };
    let topics = site.relay_topics()?;
    let mut ours = Rounds::default();
    let mut theirs = DEBEZIUM.map(|(name, tuning)| (name, tuning, Rounds::default()));
    for round in 1..=scale.rounds(3) {
        let name = |who: &str| format!("{RATE} events/s, round {round}: {who}");
        relay.rewind(&database, database.last_id().await?).await?;
        let measured = async {
            topics.fresh().await?;
            let mut process = relay.start(site, &database)?;
            let latencies = steady::run(&topics, &database, pace, Some(&mut process)).await?;
            process.stop().await?;
            Ok(latencies)
        };
        ours.add(&progress.track(&name("relay"), measured).await?);
        let Some(debezium) = &debezium else { continue };
        for (who, tuning, rounds) in &mut theirs {
            let measured = async {
                let mut process = debezium.begin_here(site, &database, *tuning).await?;
                let latencies = steady::run(&debezium.topics, &database, pace, Some(&mut process)).await?;
                process.stop().await?;
                Ok(latencies)
            };
            rounds.add(&progress.track(&name(who), measured).await?);
        }
    }
    site.drop(database).await?;
    let mut entries = Vec::new();
    for (entry, unit, figures) in FIGURES {
        let value = median(figures(&ours));
        if debezium.is_none() {
            entries.push(Entry::alone(entry, value, unit));
            continue;
        }
        for (who, _, rounds) in &theirs {
            entries.push(Entry::against(entry, value, unit, who, median(figures(rounds))));
        }
    }
    Ok(entries)
}

/// Nobody nudges: the relay is called each 5 s, carries what waits, and ends.
pub(super) async fn scheduled(
    site: &Site,
    relay: &Relay,
    scale: Scale,
    progress: &Terminal,
) -> anyhow::Result<Vec<Entry>> {
    let measured = if scale.quick { SCHEDULE } else { SCHEDULE * 12 };
    let pace = Pace { rate: SCHEDULED_RATE, warm_up: SCHEDULE, measured };
    let database = site.database("bench_scheduled").await?;
    let topics = site.relay_topics()?;
    topics.fresh().await?;
    let both = async {
        tokio::select! {
            latencies = steady::run(&topics, &database, pace, None) => latencies,
            ended = call_by_schedule(site, relay, &database) => match ended {
                Err(error) => Err(error),
            },
        }
    };
    let latencies = progress.track(&format!("{SCHEDULED_RATE} events/s, called each 5 s"), both).await?;
    site.drop(database).await?;
    Ok(vec![Entry::alone("relay.latency_scheduled_p99", millis_of(latencies.percentile(99)), "ms")])
}

/// As EventBridge does: the next call comes at its time, whatever became of the last one.
async fn call_by_schedule(site: &Site, relay: &Relay, database: &Database) -> anyhow::Result<Infallible> {
    let mut tick = tokio::time::interval(SCHEDULE);
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tick.tick().await;
        relay.once(site, database).await?;
    }
}
