//! One Kafka event source mapping at work: polls, batches, invokes, commits.
//!
//! A single task a mapping. It goes on polling while the function works, so that the group keeps its partitions, and
//! has one invocation under way at a time, as the one local instance has.
//!
//! Must not: decide about failures; `batch` does.

mod consumer;
mod destination;

use crate::{
    batch::{Backoff, Batch, Discard, Queues, Settled, Work},
    invoke::{Invoker, Outcome, Patience},
    stop::Stop,
    template::Mapping,
};
use bytes::Bytes;
use consumer::{Consumer, Notice};
use destination::Destination;
use std::{
    collections::{BTreeMap, BTreeSet},
    future::pending,
    pin::Pin,
    time::{Duration, Instant},
};
use time::OffsetDateTime;
use tracing::{debug, error, info, warn};

/// A commit that the broker refused is tried again so often.
const COMMIT_RETRY: Duration = Duration::from_secs(1);

/// The same trouble is told again so often.
const REMIND: Duration = Duration::from_secs(10);

/// What a mapping needs to run.
pub(crate) struct Runner {
    pub(crate) mapping: Mapping,
    pub(crate) brokers: String,
    pub(crate) invoker: Invoker,
    pub(crate) patience: Patience,
    pub(crate) backoff: Backoff,
    /// How long a running invocation may take once a stop is asked for.
    pub(crate) grace: Duration,
}

/// The outcome of the work under way.
enum Done {
    Invoked(Batch, Outcome, Patience, Duration),
    Discarded(Discard, Result<(), String>),
}

type Running = Pin<Box<dyn Future<Output = Done> + Send>>;

impl Runner {
    /// Runs until `stop`; comes back from whatever Kafka does meanwhile.
    pub(crate) async fn run(self, mut stop: Stop) {
        loop {
            let consumer = match Consumer::connect(&self.mapping, &self.brokers) {
                Ok(consumer) => consumer,
                Err(error) => {
                    error!(mapping = self.mapping.name, error, "consumer could not be made, trying again");
                    tokio::select! {
                        () = tokio::time::sleep(REMIND) => continue,
                        () = stop.asked() => return,
                    }
                }
            };
            let stopped = Session::new(&self, consumer).run(&mut stop).await;
            if stopped {
                return;
            }
            warn!(mapping = self.mapping.name, "consumer failed for good, making a new one");
        }
    }
}

/// The life of one consumer.
struct Session<'a> {
    runner: &'a Runner,
    consumer: Consumer,
    destination: Destination,
    queues: Queues,
    patience: Patience,
    paused: BTreeSet<i32>,
    /// Delivered, and not yet handed to the broker.
    uncommitted: BTreeMap<i32, i64>,
    commit_again: Option<Instant>,
    trouble: Reminder,
    /// Kafka's own troubles: they alternate between several texts.
    kafka_trouble: Reminder,
    /// The function could not be reached when it was last called.
    unavailable: bool,
}

impl<'a> Session<'a> {
    fn new(runner: &'a Runner, consumer: Consumer) -> Self {
        Self {
            consumer,
            destination: Destination::new(&runner.mapping, &runner.brokers),
            queues: Queues::new(runner.mapping.clone(), &runner.brokers, runner.backoff),
            patience: runner.patience.clone(),
            paused: BTreeSet::new(),
            uncommitted: BTreeMap::new(),
            commit_again: None,
            trouble: Reminder::default(),
            kafka_trouble: Reminder::default(),
            unavailable: false,
            runner,
        }
    }

    /// True if a stop was asked for, false if the consumer is of no more use.
    async fn run(mut self, stop: &mut Stop) -> bool {
        let mut running: Option<Running> = None;
        let stopped = loop {
            self.take_notices();
            self.commit();
            let mut wake = self.commit_again;
            if running.is_none() {
                match self.queues.next(Instant::now(), now_ms()) {
                    Work::Invoke(batch) => running = Some(self.invoke(batch)),
                    Work::Discard(discard) => running = Some(self.discard(discard)),
                    Work::Wait(until) => wake = earlier(wake, until),
                }
                self.resume();
            }
            tokio::select! {
                biased;
                () = stop.asked() => break true,
                done = settled(&mut running) => {
                    running = None;
                    self.settle(done);
                }
                received = self.consumer.receive() => match received {
                    // What the callbacks reported comes first: it is older than the record.
                    Ok(message) => {
                        self.take_notices();
                        if self.kafka_trouble.is_over() {
                            info!(mapping = self.name(), "kafka answers again");
                        }
                        let partition = message.partition;
                        if self.queues.push(message, Instant::now()) && self.paused.insert(partition) {
                            self.consumer.pause(partition);
                        }
                    }
                    Err(error) if self.consumer.is_dead() => {
                        error!(mapping = self.name(), error, "consumer lost");
                        break false;
                    }
                    Err(error) => self.tell(&error),
                },
                () = sleep_until(wake) => {}
            }
        };
        if let Some(running) = running {
            match tokio::time::timeout(self.runner.grace, running).await {
                Ok(done) => self.settle(done),
                Err(_) => warn!(
                    mapping = self.name(),
                    "invocation still runs, leaving it: its records come again at the next start"
                ),
            }
        }
        self.take_notices();
        let name = self.runner.mapping.name.clone();
        let (consumer, uncommitted) = (self.consumer, self.uncommitted);
        let closed = tokio::task::spawn_blocking(move || consumer.close(&uncommitted)).await;
        if let Ok(Err(error)) = closed {
            warn!(mapping = name, error, "last commit failed: some records come again at the next start");
        }
        stopped
    }

    fn name(&self) -> &'a str {
        &self.runner.mapping.name
    }

    fn invoke(&self, mut batch: Batch) -> Running {
        let invoker = self.runner.invoker.clone();
        let function = self.runner.mapping.function.clone();
        let mut patience = self.patience.clone();
        let payload = Bytes::from(std::mem::take(&mut batch.payload));
        Box::pin(async move {
            let started = Instant::now();
            let outcome = invoker.invoke(&function, payload, &mut patience).await;
            Done::Invoked(batch, outcome, patience, started.elapsed())
        })
    }

    fn discard(&self, discard: Discard) -> Running {
        let destination = self.destination.clone();
        Box::pin(async move {
            let kept = destination.keep(&discard).await;
            Done::Discarded(discard, kept)
        })
    }

    fn settle(&mut self, done: Done) {
        let now = Instant::now();
        let settled = match done {
            Done::Invoked(batch, outcome, patience, took) => {
                self.patience = patience;
                let settled = self.queues.settle(&batch, outcome, now, rand::random);
                self.tell_invocation(&batch, &settled, took);
                settled
            }
            Done::Discarded(discard, kept) => {
                let first = discard.messages.first().map(|message| message.offset);
                let (partition, records) = (discard.partition, discard.messages.len());
                let condition = discard.condition.as_str();
                let target = self.runner.mapping.on_failure.as_deref();
                match (&kept, target) {
                    (Ok(()), Some(target)) => warn!(
                        mapping = self.name(),
                        partition, first, records, condition, target, "records put aside"
                    ),
                    (Ok(()), None) => error!(
                        mapping = self.name(),
                        partition,
                        first,
                        records,
                        condition,
                        "records dropped, as the mapping names no on-failure destination"
                    ),
                    (Err(error), _) => error!(
                        mapping = self.name(),
                        partition,
                        first,
                        records,
                        condition,
                        target,
                        error,
                        "on-failure destination refuses, trying again"
                    ),
                }
                self.queues.settle_discard(&discard, kept.is_ok(), now, rand::random())
            }
        };
        for (partition, next) in settled.progress {
            self.uncommitted.insert(partition, next);
        }
        self.commit_again = None;
    }

    fn tell_invocation(&mut self, batch: &Batch, settled: &Settled, took: Duration) {
        let name = self.runner.mapping.name.as_str();
        let (function, records) = (self.runner.mapping.function.as_str(), batch.records);
        let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        if let Some(why) = &settled.unavailable {
            self.unavailable = true;
            if self.trouble.is_new(why) {
                warn!(mapping = name, function, records, took_ms, why, "function out of reach, trying again");
            }
            return;
        }
        if std::mem::take(&mut self.unavailable) {
            info!(mapping = name, function, "function answers again");
        }
        self.trouble = Reminder::default();
        for (partition, offset, in_row) in &settled.retried {
            let error = settled.error.as_ref().map(|e| format!("{}: {}", e.error_type, e.error_message));
            warn!(
                mapping = name,
                function, partition, offset, in_row, error, "records failed, trying again from here"
            );
        }
        debug!(mapping = name, function, records, took_ms, delivered = settled.progress.len(), "invoked");
    }

    fn tell(&mut self, error: &str) {
        if self.kafka_trouble.is_new("") {
            warn!(mapping = self.name(), topic = self.runner.mapping.topic, error, "waiting for kafka");
        }
    }

    fn take_notices(&mut self) {
        for notice in self.consumer.notices() {
            match notice {
                Notice::Assigned(partitions) => {
                    info!(mapping = self.name(), topic = self.runner.mapping.topic, ?partitions, "assigned");
                    self.queues.assign(&partitions);
                    // The client keeps a pause across assignments; the new queue is empty and waits for records.
                    for partition in partitions {
                        if self.paused.remove(&partition) {
                            self.consumer.resume(partition);
                        }
                    }
                }
                Notice::Revoked(partitions) => {
                    info!(mapping = self.name(), topic = self.runner.mapping.topic, ?partitions, "revoked");
                    self.queues.revoke(&partitions);
                    self.uncommitted.retain(|partition, _| !partitions.contains(partition));
                }
                Notice::CommitFailed(offsets, error) => {
                    if self.kafka_trouble.is_new("") {
                        warn!(mapping = self.name(), error, "commit failed, trying again");
                    }
                    for (partition, next) in offsets {
                        if self.queues.owns(partition) {
                            let offset = self.uncommitted.entry(partition).or_insert(next);
                            *offset = next.max(*offset);
                        }
                    }
                    self.commit_again = Some(Instant::now() + COMMIT_RETRY);
                }
            }
        }
    }

    /// Hands delivered offsets to the broker, unless it has just refused some.
    fn commit(&mut self) {
        let waiting = self.commit_again.is_some_and(|until| until > Instant::now());
        if self.uncommitted.is_empty() || waiting {
            return;
        }
        match self.consumer.commit(&self.uncommitted) {
            Ok(()) => {
                self.uncommitted.clear();
                self.commit_again = None;
            }
            Err(error) => {
                self.tell(&error);
                self.commit_again = Some(Instant::now() + COMMIT_RETRY);
            }
        }
    }

    fn resume(&mut self) {
        let room: Vec<i32> = self.paused.iter().copied().filter(|p| self.queues.has_room(*p)).collect();
        for partition in room {
            self.paused.remove(&partition);
            self.consumer.resume(partition);
        }
    }
}

/// Says whether a trouble is worth a line: when it is a new one, and now and then while it lasts.
#[derive(Default)]
pub(crate) struct Reminder {
    last: Option<(String, Instant)>,
}

impl Reminder {
    pub(crate) fn is_new(&mut self, trouble: &str) -> bool {
        let now = Instant::now();
        if self.last.as_ref().is_some_and(|(last, at)| last == trouble && *at + REMIND > now) {
            return false;
        }
        self.last = Some((trouble.to_owned(), now));
        true
    }

    /// Forgets; true if there was a trouble to forget.
    pub(crate) fn is_over(&mut self) -> bool {
        self.last.take().is_some()
    }
}

async fn settled(running: &mut Option<Running>) -> Done {
    match running {
        Some(running) => running.await,
        None => pending().await,
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => pending().await,
    }
}

fn earlier(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

fn now_ms() -> i64 {
    i64::try_from(OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX)
}
