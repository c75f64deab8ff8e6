//! Plays what AWS triggers on a laptop: schedules, Kafka batches and asynchronous invocations.
//!
//! What to play is read from the template that deploys, so that one file says what triggers what. The functions run
//! elsewhere, under `cargo lambda watch` or anything else that speaks Lambda's Invoke API.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use outflow_event_sources::{EventSources, Options};
//!
//! let sources = EventSources::from_template("template.yaml")?;
//! let options = Options::new("http://127.0.0.1:9100", "127.0.0.1:9092");
//! sources.run(options, async { tokio::signal::ctrl_c().await.unwrap_or_default() }).await?;
//! # Ok(())
//! # }
//! ```

mod batch;
mod event;
mod invocations;
mod invoke;
mod kafka;
mod schedule;
mod stop;
pub mod template;

pub use batch::Backoff;

use invocations::Invocations;
use invoke::{Invoker, Patience};
use std::{collections::BTreeMap, fmt::Write, net::SocketAddr, path::Path, time::Duration};
use template::{Function, Template, TemplateError};
use tokio::{net::TcpListener, task::JoinSet};
use tracing::warn;

/// A running invocation may take so long once a stop is asked for; the whole stop takes under ten seconds.
const GRACE: Duration = Duration::from_secs(7);

/// After the grace: the last commit and leaving the consumer groups.
const CLOSING: Duration = Duration::from_secs(2);

/// Why nothing could be played.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Template(#[from] TemplateError),
    #[error("the template has no function {name}: it has {known}")]
    UnknownFunction { name: String, known: String },
    #[error("cannot listen on {address}: choose another with --listen")]
    Listen { address: SocketAddr, source: std::io::Error },
}

/// Where things are, and how patient to be.
#[derive(Clone, Debug)]
pub struct Options {
    /// Base URL of the Lambda Invoke API that the functions run under.
    pub functions: String,
    /// Brokers as `host:port`, comma-separated.
    pub kafka: String,
    /// Where to offer asynchronous invocations; None leaves them out. Port 0 takes a free one.
    pub listen: Option<SocketAddr>,
    /// Wait before a retry.
    pub backoff: Backoff,
    /// How long to wait for a first answer; doubles up to the function's own timeout while none comes.
    pub first_timeout: Duration,
    /// Wait before the first retry of an asynchronous event, twice that before the second.
    pub async_retry_delay: Duration,
}

impl Options {
    pub fn new(functions: &str, kafka: &str) -> Self {
        Self {
            functions: functions.to_owned(),
            kafka: kafka.to_owned(),
            listen: None,
            backoff: Backoff { first: Duration::from_millis(200), most: Duration::from_secs(5) },
            first_timeout: Duration::from_secs(5),
            async_retry_delay: Duration::from_secs(1),
        }
    }
}

/// What a template triggers, ready to be played.
#[derive(Clone, Debug)]
pub struct EventSources {
    template: Template,
}

impl EventSources {
    /// Reads a template with its parameters' defaults.
    ///
    /// # Errors
    /// If the template cannot be read or a trigger in it is wrong.
    pub fn from_template(path: impl AsRef<Path>) -> Result<Self, Error> {
        Self::with_parameters(path, &BTreeMap::new())
    }

    /// As [`EventSources::from_template`], with values for some of the template's parameters.
    ///
    /// # Errors
    /// Also for a parameter that the template does not declare.
    pub fn with_parameters(
        path: impl AsRef<Path>,
        parameters: &BTreeMap<String, String>,
    ) -> Result<Self, Error> {
        Ok(Self { template: Template::read(path.as_ref(), parameters)? })
    }

    /// The triggers of a template that was read already.
    pub fn new(template: Template) -> Self {
        Self { template }
    }

    /// What was read.
    pub fn template(&self) -> &Template {
        &self.template
    }

    /// Keeps only the triggers of these functions; none named keeps all.
    ///
    /// # Errors
    /// For a name that the template does not have.
    pub fn only(mut self, functions: &[String]) -> Result<Self, Error> {
        if functions.is_empty() {
            return Ok(self);
        }
        if let Some(name) = functions.iter().find(|name| self.template.function(name).is_none()) {
            let known: Vec<&str> = self.template.functions.iter().map(|f| f.name.as_str()).collect();
            return Err(Error::UnknownFunction { name: name.clone(), known: known.join(", ") });
        }
        let kept = |name: &String| functions.contains(name);
        self.template.functions.retain(|function| kept(&function.name));
        self.template.schedules.retain(|schedule| kept(&schedule.function));
        self.template.mappings.retain(|mapping| kept(&mapping.function));
        Ok(self)
    }

    /// One line a source, for people.
    pub fn describe(&self) -> String {
        let mut lines = String::new();
        let off = |enabled: bool| if enabled { "" } else { ", disabled" };
        for schedule in &self.template.schedules {
            let input = schedule.input.as_ref().map(|input| format!(" with {input}")).unwrap_or_default();
            let _ = writeln!(
                lines,
                "schedule  {} -> {}: each {:?}{input}{}",
                schedule.expression,
                schedule.function,
                schedule.every,
                off(schedule.enabled)
            );
        }
        for mapping in &self.template.mappings {
            let retries = mapping.max_retries.map_or("without end".into(), |n| format!("up to {n} times"));
            let aside = mapping.on_failure.as_ref().map_or("dropped".into(), |t| format!("to {t}"));
            let _ = writeln!(
                lines,
                "kafka     {} -> {}: {} records or {:?}, group {}, retried {retries}, then {aside}{}",
                mapping.topic,
                mapping.function,
                mapping.batch_size,
                mapping.window,
                mapping.group,
                off(mapping.enabled)
            );
        }
        for note in &self.template.notes {
            let _ = writeln!(lines, "note      {note}");
        }
        lines
    }

    /// Plays until `shutdown` ends, then stops within ten seconds.
    ///
    /// # Errors
    /// If it cannot listen. Kafka or functions that are away are waited for.
    pub async fn run(self, options: Options, shutdown: impl Future<Output = ()>) -> Result<(), Error> {
        let running = self.start(options).await?;
        shutdown.await;
        running.stop().await;
        Ok(())
    }

    /// Starts all sources on the current Tokio runtime.
    ///
    /// # Errors
    /// If it cannot listen.
    pub async fn start(self, options: Options) -> Result<Running, Error> {
        let Template { functions, schedules, mappings, .. } = self.template;
        let invoker = Invoker::new(&options.functions, &functions);
        let patience = |name: &str| {
            let function = functions.iter().find(|function| function.name == name);
            function.map(|function: &Function| Patience::new(options.first_timeout, function))
        };
        let (stopper, stop) = stop::channel();
        let mut tasks = JoinSet::new();
        let mut address = None;
        if let Some(listen) = options.listen {
            let listen_error = |source| Error::Listen { address: listen, source };
            let listener = TcpListener::bind(listen).await.map_err(listen_error)?;
            address = Some(listener.local_addr().map_err(listen_error)?);
            let api = Invocations::new(
                &functions,
                invoker.clone(),
                options.first_timeout,
                options.backoff,
                options.async_retry_delay,
                GRACE,
            );
            let router = api.router();
            let mut until = stop.clone();
            tasks.spawn(async move {
                let served = axum::serve(listener, router)
                    .with_graceful_shutdown(async move { until.asked().await })
                    .await;
                if let Err(error) = served {
                    warn!(%error, "the invoke API has ended");
                }
            });
            tasks.spawn(api.work(stop.clone()));
        }
        for schedule in schedules.into_iter().filter(|schedule| schedule.enabled) {
            let Some(patience) = patience(&schedule.function) else { continue };
            tasks.spawn(schedule::run(schedule, invoker.clone(), patience, GRACE, stop.clone()));
        }
        for mapping in mappings.into_iter().filter(|mapping| mapping.enabled) {
            let Some(patience) = patience(&mapping.function) else { continue };
            let runner = kafka::Runner {
                patience,
                mapping,
                brokers: options.kafka.clone(),
                invoker: invoker.clone(),
                backoff: options.backoff,
                grace: GRACE,
            };
            tasks.spawn(runner.run(stop.clone()));
        }
        Ok(Running { stopper, tasks, address })
    }
}

/// Sources at work. Dropped without [`Running::stop`], they end at once.
#[derive(Debug)]
pub struct Running {
    stopper: stop::Stopper,
    tasks: JoinSet<()>,
    address: Option<SocketAddr>,
}

impl Running {
    /// Where asynchronous invocations are taken.
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// Stops polling, lets running invocations end, commits. Under ten seconds.
    pub async fn stop(mut self) {
        self.stopper.stop();
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(GRACE + CLOSING, ended).await.is_err() {
            warn!("some sources did not end in time, leaving them");
            self.tasks.abort_all();
        }
    }
}
