//! Who is measured: the relay's own producer, and the same with one thing about it changed.

use crate::{
    Subject::{self, Batch, Compression, Fencing, InFlight, Linger},
    load::{CALL, TIMEOUT},
    transactions::Transactions,
};
use anyhow::ensure;
use outflow_broker::{OutboxPublisher, Producer};
use outflow_outbox::{OutboxEvent, Publisher};
use std::sync::Arc;
use tokio::task::JoinSet;

/// Calls of a thousand records under way while the relay drains, unless that is what is measured.
const CALLS_AT_ONCE: usize = 8;

#[derive(Clone, Debug)]
pub(crate) struct Contender {
    /// In which tables it stands, and as what.
    pub(crate) lines: &'static [(Subject, &'static str)],
    /// In place of the relay's own.
    settings: &'static [(&'static str, &'static str)],
    calls_at_once: usize,
    /// Each call is a transaction of its own.
    pub(crate) transactional: bool,
}

/// The relay's own first, in every table.
pub(crate) fn all() -> Vec<Contender> {
    let own = Contender {
        lines: &[
            (Fencing, "idempotent"),
            (Linger, "0"),
            (Compression, "lz4"),
            (Batch, "10,000 records"),
            (InFlight, "8 calls"),
        ],
        settings: &[],
        calls_at_once: CALLS_AT_ONCE,
        transactional: false,
    };
    let changed = |lines, settings| Contender { lines, settings, ..own.clone() };
    let calls = |lines, calls_at_once| Contender { lines, calls_at_once, ..own.clone() };
    vec![
        own.clone(),
        Contender { lines: &[(Fencing, "a transaction a batch")], transactional: true, ..own.clone() },
        changed(&[(Linger, "0.2 ms")], &[("linger.ms", "0.2")]),
        changed(&[(Linger, "1 ms")], &[("linger.ms", "1")]),
        changed(&[(Linger, "2 ms")], &[("linger.ms", "2")]),
        changed(&[(Compression, "none")], &[("compression.type", "none")]),
        changed(&[(Compression, "snappy")], &[("compression.type", "snappy")]),
        changed(&[(Compression, "gzip")], &[("compression.type", "gzip")]),
        changed(&[(Compression, "zstd")], &[("compression.type", "zstd")]),
        changed(&[(Batch, "500 records")], &[("batch.num.messages", "500")]),
        changed(&[(Batch, "2,000 records")], &[("batch.num.messages", "2000")]),
        calls(&[(InFlight, "1 call")], 1),
        calls(&[(InFlight, "4 calls")], 4),
        calls(&[(InFlight, "16 calls")], 16),
    ]
}

impl Contender {
    pub(crate) fn name(&self) -> String {
        let lines: Vec<String> =
            self.lines.iter().map(|(subject, line)| format!("{subject:?} {line}")).collect();
        lines.join(", ")
    }

    /// False where the client library was built without it.
    pub(crate) fn is_possible(&self, brokers: &str) -> bool {
        match Producer::connect_with(brokers, TIMEOUT, self.settings) {
            Ok(_) => true,
            Err(error) => {
                eprintln!("{} is left out: {:#}", self.name(), anyhow::Error::from(error));
                false
            }
        }
    }

    pub(crate) fn connect(&self, brokers: &str) -> anyhow::Result<Sender> {
        if self.transactional {
            return Ok(Sender::Transactions(Arc::new(Transactions::connect(brokers)?)));
        }
        let producer = Producer::connect_with(brokers, TIMEOUT, self.settings)?;
        let publisher = Arc::new(OutboxPublisher::new(producer, TIMEOUT));
        Ok(Sender::Publisher { publisher, calls_at_once: self.calls_at_once })
    }
}

/// What carries its records. Clones share it.
#[derive(Clone)]
pub(crate) enum Sender {
    Publisher { publisher: Arc<OutboxPublisher>, calls_at_once: usize },
    Transactions(Arc<Transactions>),
}

impl Sender {
    /// Everything as fast as it goes, in calls of a thousand: the next one begins when one of those under way is done. Of
    /// transactions a producer has one at a time.
    pub(crate) async fn drain(&self, events: &Arc<Vec<OutboxEvent>>) -> anyhow::Result<()> {
        let mut under_way: JoinSet<anyhow::Result<()>> = JoinSet::new();
        let (publisher, at_once) = match self {
            Self::Publisher { publisher, calls_at_once } => (publisher, *calls_at_once),
            Self::Transactions(transactions) => {
                let (transactions, events) = (Arc::clone(transactions), Arc::clone(events));
                let all = move || events.chunks(CALL).try_for_each(|call| transactions.send(call));
                return tokio::task::spawn_blocking(all).await?;
            }
        };
        for begin in (0..events.len()).step_by(CALL) {
            if under_way.len() == at_once
                && let Some(sent) = under_way.join_next().await
            {
                sent??;
            }
            let (publisher, events) = (Arc::clone(publisher), Arc::clone(events));
            under_way.spawn(async move {
                let end = (begin + CALL).min(events.len());
                publish(&publisher, &events[begin..end]).await
            });
        }
        while let Some(sent) = under_way.join_next().await {
            sent??;
        }
        Ok(())
    }

    /// Begins to send these together. Transactions are waited for, since the next one can't begin before.
    pub(crate) fn begin(
        &self,
        events: Vec<OutboxEvent>,
        runtime: &tokio::runtime::Handle,
    ) -> anyhow::Result<Option<tokio::task::JoinHandle<anyhow::Result<()>>>> {
        match self {
            Self::Publisher { publisher, .. } => {
                let publisher = Arc::clone(publisher);
                Ok(Some(runtime.spawn(async move { publish(&publisher, &events).await })))
            }
            Self::Transactions(transactions) => transactions.send(&events).map(|()| None),
        }
    }
}

async fn publish(publisher: &OutboxPublisher, events: &[OutboxEvent]) -> anyhow::Result<()> {
    ensure!(publisher.publish(events).await.iter().all(Result::is_ok), "an event was not confirmed");
    Ok(())
}
