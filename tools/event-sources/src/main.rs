//! `event-sources`: plays a template's triggers in the foreground.

use anyhow::Context;
use clap::Parser;
use outflow_event_sources::{EventSources, Options};
use std::{
    collections::BTreeMap, io::IsTerminal, net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration,
};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Could not run: a bad argument, a broken template, a port that is taken.
const COULD_NOT_RUN: u8 = 2;

/// Plays what AWS triggers: schedules, Kafka batches and asynchronous invocations, as a SAM template says.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// SAM or CloudFormation template, YAML or JSON
    #[arg(long, default_value = "template.yaml")]
    template: PathBuf,
    /// Base URL of the functions' Invoke API (`cargo lambda watch`)
    #[arg(long, default_value = "http://127.0.0.1:9100")]
    functions: String,
    /// Kafka brokers, comma-separated
    #[arg(long, env = "OUTFLOW_KAFKA_BROKERS", default_value = "127.0.0.1:9092")]
    kafka: String,
    /// Where to take asynchronous invocations
    #[arg(long, default_value = "127.0.0.1:9101")]
    listen: SocketAddr,
    /// Only the triggers of these functions, comma-separated
    #[arg(long, value_delimiter = ',', value_name = "FUNCTION")]
    only: Vec<String>,
    /// A value for a parameter of the template; may be given several times
    #[arg(long, value_name = "NAME=VALUE", value_parser = parameter)]
    parameter: Vec<(String, String)>,
    /// The longest wait between two retries, milliseconds
    #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u64).range(1..))]
    max_backoff_ms: u64,
    /// How long to wait for a first answer, seconds; doubles up to the function's timeout while none comes
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    first_timeout_s: u64,
    /// Log as JSON lines
    #[arg(long)]
    json: bool,
}

fn parameter(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    if args.json {
        log.json().init();
    } else {
        log.init();
    }
    match play(args).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("event-sources: {error:#}");
            ExitCode::from(COULD_NOT_RUN)
        }
    }
}

async fn play(args: Args) -> anyhow::Result<()> {
    let parameters: BTreeMap<_, _> = args.parameter.into_iter().collect();
    let sources = EventSources::with_parameters(&args.template, &parameters)?.only(&args.only)?;
    let mut options = Options::new(&args.functions, &args.kafka);
    options.listen = Some(args.listen);
    options.backoff.most = Duration::from_millis(args.max_backoff_ms);
    options.first_timeout = Duration::from_secs(args.first_timeout_s);

    let mut terminate = signal(SignalKind::terminate()).context("cannot listen to SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen to Ctrl-C")?;
    let description = sources.describe();
    let running = sources.start(options).await?;
    print!("{description}");
    if let Some(address) = running.address() {
        println!("invoke    http://{address}/2015-03-31/functions/<function>/invocations");
    }
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping");
    running.stop().await;
    Ok(())
}
