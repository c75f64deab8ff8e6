//! A relay as a plain process: for whoever has no Lambda, and for `cargo xtask bench`, which measures this one.
//!
//! Prints one JSON line a report, unless it tells what the last one told. SIGTERM, Ctrl-C or the end of its time (`--for`)
//! ends it within some seconds, with nothing left in the producer and the lease given back.

use clap::Parser;
use outflow_broker::{OutboxPublisher, Producer};
use outflow_outbox::{Relay, RelaySettings, Report};
use std::{
    io::Write,
    time::{Duration, Instant},
};
use tokio::signal::unix::{SignalKind, signal};

/// How long the relay goes on before it looks whether it shall end.
const SLICE: Duration = Duration::from_secs(5);
/// After the last event the relay polls on every few milliseconds for so long, then it only looks once in a while.
const IDLE: Duration = Duration::from_millis(500);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// A single drain may take as long as it takes.
const FAR: Duration = Duration::from_secs(24 * 3_600);
/// How long to wait after a failure: a database or a broker that is away is not asked all the time.
const PAUSE: Duration = Duration::from_secs(1);

/// Carries events from the outbox in MySQL to Kafka
#[derive(Debug, Parser)]
struct Args {
    /// `mysql://user:password@host:port/name`
    #[arg(long, env = "OUTFLOW_DATABASE_URL", hide_env_values = true)]
    database_url: String,
    /// `host:port`, comma separated
    #[arg(long, env = "OUTFLOW_KAFKA_BROKERS")]
    kafka_brokers: String,
    /// Whose position it is
    #[arg(long, default_value = "default")]
    group: String,
    /// How long a relay that has died keeps the others waiting; longer than a delivery by what emptying the producer takes
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 15_000)]
    lease_ms: u64,
    /// How long a batch may be on its way
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 10_000)]
    delivery_timeout_ms: u64,
    /// How long an id is missing before it can be declared dead
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 10_000)]
    gap_grace_ms: u64,
    /// Ends after so many seconds
    #[arg(long = "for", value_name = "SECONDS", default_value_t = u64::MAX)]
    seconds: u64,
    /// Carries what waits now, then ends
    #[arg(long)]
    once: bool,
}

// The main thread and one beside it, which takes in rows while the main one makes records of those before: about 15 % more
// events/s than without it. With more of them answers of MySQL and Kafka would only be carried from one to another.
#[tokio::main(worker_threads = 1)]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    tracing_subscriber::fmt().with_max_level(tracing::Level::WARN).with_writer(std::io::stderr).init();
    let delivery_timeout = Duration::from_millis(args.delivery_timeout_ms);
    let producer = Producer::connect(&args.kafka_brokers, delivery_timeout)?;
    let publisher = OutboxPublisher::new(producer, delivery_timeout);
    let settings = RelaySettings {
        group: args.group,
        lease: Duration::from_millis(args.lease_ms),
        gap_grace: Duration::from_millis(args.gap_grace_ms),
        ..RelaySettings::default()
    };
    let relay = Relay::new(&args.database_url, publisher, settings)?;
    if args.once {
        return print(&relay.drain(Instant::now() + FAR).await?);
    }
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let stop = async {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            () = tokio::time::sleep(Duration::from_secs(args.seconds)) => {}
        }
    };
    let mut stop = std::pin::pin!(stop);
    let (mut is_ending, mut last) = (false, None);
    while !is_ending {
        let mut slice = std::pin::pin!(relay.run(Instant::now() + SLICE, IDLE));
        // Never dropped half way: the relay ends by itself, empties its producer and gives its lease back.
        let outcome = loop {
            tokio::select! {
                outcome = &mut slice => break outcome,
                () = &mut stop, if !is_ending => is_ending = true,
            }
        };
        let pause = match outcome {
            Ok(report) => {
                if last.as_ref() != Some(&report) {
                    print(&report)?;
                }
                let pause = if report.published == 0 { LOOK_EVERY } else { Duration::ZERO };
                last = Some(report);
                pause
            }
            Err(error) if is_ending => return Err(error.into()),
            Err(error) => {
                eprintln!("{:#}", anyhow::Error::from(error));
                PAUSE
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = &mut stop, if !is_ending => is_ending = true,
        }
    }
    Ok(())
}

fn print(report: &Report) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, report)?;
    writeln!(out)?;
    Ok(())
}
