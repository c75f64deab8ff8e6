//! One librdkafka client and the calls that share it: a call hands over records, waits for every report, and takes back
//! what was not reported in time.
//!
//! A report costs one atomic store and one count: no channel and no future a record, which is where a producer that
//! answers each record by itself spends its time.
//!
//! Must not: know what a failure means, or send anything twice.

use rdkafka::{
    ClientConfig, ClientContext,
    error::{KafkaError, RDKafkaErrorCode},
    message::DeliveryResult,
    producer::{BaseRecord, Producer as _, ProducerContext, PurgeConfig, ThreadedProducer},
    types::RDKafkaRespErr,
};
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{sync::Notify, time::Instant};

/// How long a client that was emptied may take to hand back its last reports.
pub(crate) const PURGE_TIMEOUT: Duration = Duration::from_secs(2);
/// Between two looks at a queue that is full: short against a delivery, long against a spin.
const FULL_QUEUE_PAUSE: Duration = Duration::from_millis(5);

/// A record as the client takes it; it copies what it is shown.
pub(crate) type Outgoing<'a> = BaseRecord<'a, [u8], [u8]>;

/// Why a record was not confirmed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The client did not take it into its queue.
    Refused(KafkaError),
    /// The client gave it up, or the broker answered with this.
    Unconfirmed(RDKafkaErrorCode),
    /// No report came in time, so it was taken back.
    TakenBack {
        /// No broker could be reached when that was last tried.
        unreachable: bool,
    },
    /// An earlier record of the call was refused.
    Abandoned,
}

/// What becomes of the records behind one that the client refuses to take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AfterRefusal {
    GoOn,
    /// They may be later versions of the same thing.
    Abandon,
}

/// The clients of one producer: one for each size of batch that was asked for, made when it is first needed.
pub(crate) struct Clients {
    config: ClientConfig,
    by_batch: Mutex<BTreeMap<usize, Arc<Client>>>,
}

impl Clients {
    pub(crate) fn new(config: ClientConfig) -> Self {
        Self { config, by_batch: Mutex::default() }
    }

    pub(crate) fn config(&self) -> &ClientConfig {
        &self.config
    }

    /// The client whose batches hold at most so many bytes, or one record. Another one than before where that was
    /// emptied or has given up: an idempotent client may then refuse to go on.
    pub(crate) fn get(&self, batch_bytes: usize) -> Result<Arc<Client>, KafkaError> {
        let mut clients = self.by_batch.lock().expect("no holder of this lock panics");
        let known = clients.get(&batch_bytes);
        if let Some(client) = known.filter(|client| !client.spent.load(Ordering::Relaxed)) {
            return Ok(Arc::clone(client));
        }
        let mut config = self.config.clone();
        config.set("batch.size", batch_bytes.to_string());
        match (Client::connect(&config), known) {
            (Ok(fresh), _) => {
                let fresh = Arc::new(fresh);
                if let Some(old) = clients.insert(batch_bytes, Arc::clone(&fresh)) {
                    // Its end waits for its thread.
                    tokio::task::spawn_blocking(move || drop(old));
                }
                Ok(fresh)
            }
            // The settings were good once, so this is the machine's trouble; the old client goes on.
            (Err(error), Some(old)) => {
                tracing::error!(%error, "kafka client could not be replaced after a failure");
                Ok(Arc::clone(old))
            }
            (Err(error), None) => Err(error),
        }
    }
}

pub(crate) struct Client {
    producer: ThreadedProducer<Reports>,
    /// It was emptied, or told of an error that it does not survive.
    spent: AtomicBool,
}

impl Client {
    fn connect(config: &ClientConfig) -> Result<Self, KafkaError> {
        Ok(Self { producer: config.create_with_context(Reports::default())?, spent: AtomicBool::new(false) })
    }

    /// Hands over all records and waits for every report, at most until `deadline`; result i belongs to record i.
    ///
    /// At the deadline the client is emptied, of other calls' records too. So nothing of a call is left in the client
    /// when it returns, or when it is dropped.
    pub(crate) async fn send<'a>(
        &self,
        records: impl ExactSizeIterator<Item = Outgoing<'a>>,
        deadline: Instant,
        after_refusal: AfterRefusal,
    ) -> Vec<Result<(), Failure>> {
        let count = records.len();
        let call = Arc::new(Call::new(count));
        let mut refusals: BTreeMap<usize, KafkaError> = BTreeMap::new();
        let mut abandoned_from = count;
        let mut guard = Unfinished { client: self, call: &call };
        for (index, record) in records.enumerate() {
            if after_refusal == AfterRefusal::Abandon && !refusals.is_empty() {
                abandoned_from = index;
                call.leave_out(count - index);
                break;
            }
            if let Err(error) =
                self.enqueue(record, Ticket { call: Arc::clone(&call), index }, deadline).await
            {
                call.leave_out(1);
                refusals.insert(index, error);
            }
        }
        if tokio::time::timeout_at(deadline, call.settled()).await.is_err() {
            guard.take_back().await;
        }
        let taken_back = || Failure::TakenBack {
            unreachable: self.producer.client().context().unreachable.load(Ordering::Relaxed),
        };
        (0..count)
            .map(|index| match call.report(index) {
                Some(RDKafkaErrorCode::NoError) => Ok(()),
                Some(RDKafkaErrorCode::PurgeQueue | RDKafkaErrorCode::PurgeInflight) => Err(taken_back()),
                Some(code) => {
                    if code == RDKafkaErrorCode::Fatal {
                        self.spent.store(true, Ordering::Relaxed);
                    }
                    Err(Failure::Unconfirmed(code))
                }
                None if index >= abandoned_from => Err(Failure::Abandoned),
                None => Err(refusals.remove(&index).map_or_else(taken_back, Failure::Refused)),
            })
            .collect()
    }

    /// Puts one record into the queue; where that is full, waits until it has room or the time is over.
    async fn enqueue(
        &self,
        record: Outgoing<'_>,
        ticket: Ticket,
        deadline: Instant,
    ) -> Result<(), KafkaError> {
        let BaseRecord { topic, partition, payload, key, timestamp, headers, delivery_opaque: () } = record;
        let delivery_opaque = Box::new(ticket);
        let mut record = BaseRecord { topic, partition, payload, key, timestamp, headers, delivery_opaque };
        loop {
            match self.producer.send(record) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), again))
                    if Instant::now() < deadline =>
                {
                    record = again;
                    tokio::time::sleep(FULL_QUEUE_PAUSE).await;
                }
                Err((error, _)) => {
                    if error.rdkafka_error_code() == Some(RDKafkaErrorCode::Fatal) {
                        self.spent.store(true, Ordering::Relaxed);
                    }
                    return Err(error);
                }
            }
        }
    }
}

/// What the reports of one call come to.
#[derive(Debug)]
struct Call {
    /// A code of librdkafka for each record: 0 is a confirmation.
    reports: Box<[AtomicI32]>,
    waiting: AtomicUsize,
    settled: Notify,
}

impl Call {
    /// No code of librdkafka.
    const NONE: i32 = i32::MIN;

    fn new(records: usize) -> Self {
        Self {
            reports: (0..records).map(|_| AtomicI32::new(Self::NONE)).collect(),
            waiting: AtomicUsize::new(records),
            settled: Notify::new(),
        }
    }

    /// So many records will have no report.
    fn leave_out(&self, records: usize) {
        if self.waiting.fetch_sub(records, Ordering::AcqRel) == records {
            self.settled.notify_one();
        }
    }

    fn is_settled(&self) -> bool {
        self.waiting.load(Ordering::Acquire) == 0
    }

    /// Waits for the last report.
    async fn settled(&self) {
        while !self.is_settled() {
            self.settled.notified().await;
        }
    }

    fn report(&self, index: usize) -> Option<RDKafkaErrorCode> {
        let code = self.reports[index].load(Ordering::Relaxed);
        RDKafkaRespErr::try_from(code).ok().map(RDKafkaErrorCode::from)
    }
}

/// Goes with a record into the client, and comes back with its report.
struct Ticket {
    call: Arc<Call>,
    index: usize,
}

/// What the client calls back.
#[derive(Default)]
struct Reports {
    unreachable: AtomicBool,
}

impl ClientContext for Reports {
    fn error(&self, error: KafkaError, reason: &str) {
        if let Some(RDKafkaErrorCode::AllBrokersDown | RDKafkaErrorCode::Resolve) = error.rdkafka_error_code()
        {
            self.unreachable.store(true, Ordering::Relaxed);
        }
        tracing::warn!(%error, reason, "kafka client is in trouble");
    }
}

impl ProducerContext for Reports {
    type DeliveryOpaque = Box<Ticket>;

    fn delivery(&self, result: &DeliveryResult<'_>, ticket: Self::DeliveryOpaque) {
        let code = match result {
            Ok(_) => RDKafkaErrorCode::NoError,
            Err((error, _)) => error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail),
        };
        if code == RDKafkaErrorCode::NoError && self.unreachable.load(Ordering::Relaxed) {
            self.unreachable.store(false, Ordering::Relaxed);
        }
        ticket.call.reports[ticket.index].store(code as i32, Ordering::Relaxed);
        ticket.call.leave_out(1);
    }
}

/// Takes a call's records back where it ends before its last report: in time, or because its future was dropped.
struct Unfinished<'a> {
    client: &'a Client,
    call: &'a Call,
}

impl Unfinished<'_> {
    async fn take_back(&mut self) {
        self.client.spent.store(true, Ordering::Relaxed);
        let producer = self.client.producer.clone();
        // It waits for the client's threads.
        let emptied = tokio::task::spawn_blocking(move || {
            producer.purge(PurgeConfig::default().queue().inflight());
        });
        let reported = async {
            emptied.await.ok();
            self.call.settled().await;
        };
        if tokio::time::timeout(PURGE_TIMEOUT, reported).await.is_err() {
            tracing::warn!("kafka client did not hand back all reports after it was emptied");
        }
    }
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if !self.call.is_settled() {
            self.client.spent.store(true, Ordering::Relaxed);
            self.client.producer.purge(PurgeConfig::default().queue().inflight().non_blocking());
        }
    }
}
