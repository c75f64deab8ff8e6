//! Debezium's MySQL connector with its outbox router, in a standalone Kafka Connect: the peer.
//!
//! It is set up as its documentation says and tuned as far as it goes: docs/benchmarks.md tells each setting and why.

use super::{
    kafka::Topics,
    process::Process,
    site::{Database, Site},
};
use anyhow::{Context, ensure};
use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use tokio::process::Command;
use xtask::progress::Terminal;

/// A JVM, its plugins and a connector: some 10 s on a quiet machine.
const START_PATIENCE: Duration = Duration::from_secs(180);
const POLL: Duration = Duration::from_millis(250);

/// Installed and set up for one database.
pub(super) struct Debezium {
    installed: outflow_stack::Debezium,
    folder: PathBuf,
    log: PathBuf,
    pub(super) topics: Topics,
}

/// What it is tuned for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Tuning {
    /// A backlog: large batches, and a garbage collector that wastes no time.
    Throughput,
    /// A steady trickle: it asks each 5 ms. All else is as Kafka Connect has it, which waits 5 ms for more to send.
    Polling,
    /// The same, and what it has is sent at once.
    PollingAndSending,
}

impl Debezium {
    pub(super) async fn install(site: &Site, progress: &Terminal) -> anyhow::Result<Self> {
        let installed = site.installer().debezium(progress).await?;
        Ok(Self {
            installed,
            folder: site.folder().to_owned(),
            log: site.folder().join("debezium.log"),
            topics: Topics::of_debezium(&site.brokers)?,
        })
    }

    /// Lets it begin here: it forgets what it knew, starts without a snapshot, and runs until a row has come through. Only
    /// then does it store a place in the binary log.
    pub(super) async fn begin_here(
        &self,
        site: &Site,
        database: &Database,
        tuning: Tuning,
    ) -> anyhow::Result<Process> {
        for file in [self.offsets(), self.history()] {
            if file.exists() {
                std::fs::remove_file(&file).with_context(|| format!("removing {}", file.display()))?;
            }
        }
        self.topics.fresh().await?;
        let mut process = self.start(site, database, tuning)?;
        let deadline = Instant::now() + START_PATIENCE;
        while self.topics.count().await? == 0 {
            process.check()?;
            ensure!(
                Instant::now() < deadline,
                "Debezium carried nothing within {} s, its log is {}",
                START_PATIENCE.as_secs(),
                self.log.display()
            );
            // Again and again: a row written before it looks at the binary log is not carried.
            database.write_marker().await?;
            tokio::time::sleep(POLL).await;
        }
        Ok(process)
    }

    /// Starts it at the place that it has stored.
    pub(super) fn start(&self, site: &Site, database: &Database, tuning: Tuning) -> anyhow::Result<Process> {
        let worker = self.folder.join("debezium-worker.properties");
        let connector = self.folder.join("debezium-connector.properties");
        let log4j = self.folder.join("debezium-log4j2.properties");
        write(&worker, &self.worker(site, tuning)?)?;
        write(&connector, &self.connector(database, tuning)?)?;
        write(&log4j, LOG4J)?;
        let mut java = Command::new(&self.installed.java);
        java.arg("-cp").arg(&self.installed.classpath).args(tuning.java());
        java.arg(format!("-Dlog4j2.configurationFile={}", log4j.display()))
            .arg("org.apache.kafka.connect.cli.ConnectStandalone")
            .args([worker, connector])
            .current_dir(&self.folder);
        Process::start("Debezium", java, &self.log)
    }

    /// Keeps its stored place under another name.
    pub(super) fn keep_place(&self) -> anyhow::Result<()> {
        for file in [self.offsets(), self.history()] {
            std::fs::copy(&file, file.with_extension("kept"))
                .with_context(|| format!("Debezium stored no {}", file.display()))?;
        }
        Ok(())
    }

    /// Lets it begin once more at the place that was kept.
    pub(super) fn return_to_place(&self) -> anyhow::Result<()> {
        for file in [self.offsets(), self.history()] {
            std::fs::copy(file.with_extension("kept"), &file)
                .with_context(|| format!("putting {} back", file.display()))?;
        }
        Ok(())
    }

    fn offsets(&self) -> PathBuf {
        self.folder.join("debezium-offsets.dat")
    }

    fn history(&self) -> PathBuf {
        self.folder.join("debezium-history.dat")
    }

    fn worker(&self, site: &Site, tuning: Tuning) -> anyhow::Result<String> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let (brokers, plugins, offsets) =
            (&site.brokers, self.installed.plugins.display(), self.offsets().display().to_string());
        let producer = tuning.producer();
        Ok(format!(
            "\
bootstrap.servers={brokers}
plugin.path={plugins}
plugin.discovery=only_scan
listeners=http://127.0.0.1:{port}
offset.storage.file.filename={offsets}
offset.flush.interval.ms=10000
key.converter=org.apache.kafka.connect.storage.StringConverter
value.converter=org.apache.kafka.connect.storage.StringConverter
header.converter=org.apache.kafka.connect.storage.StringConverter
producer.acks=all
producer.enable.idempotence=true
producer.max.in.flight.requests.per.connection=5
producer.compression.type=lz4
{producer}"
        ))
    }

    fn connector(&self, database: &Database, tuning: Tuning) -> anyhow::Result<String> {
        let url = reqwest::Url::parse(&database.url).context("a database's URL")?;
        let (host, port) = (url.host_str().context("a host")?, url.port().context("a port")?);
        let (user, password) = (url.username(), url.password().context("a password")?);
        let (name, history) = (database.name, self.history().display().to_string());
        let reading = tuning.reading();
        Ok(format!(
            "\
name=outbox
connector.class=io.debezium.connector.mysql.MySqlConnector
tasks.max=1
topic.prefix=bench
database.hostname={host}
database.port={port}
database.user={user}
database.password={password}
database.server.id=4242
database.ssl.mode=disabled
driver.allowPublicKeyRetrieval=true
database.include.list={name}
table.include.list={name}.outbox
snapshot.mode=no_data
snapshot.locking.mode=none
include.schema.changes=false
tombstones.on.delete=false
schema.history.internal=io.debezium.storage.file.history.FileSchemaHistory
schema.history.internal.file.filename={history}
schema.history.internal.store.only.captured.tables.ddl=true
transforms=outbox
transforms.outbox.type=io.debezium.transforms.outbox.EventRouter
transforms.outbox.table.field.event.id=event_id
transforms.outbox.table.field.event.key=aggregate_id
transforms.outbox.table.field.event.payload=payload
transforms.outbox.route.by.field=aggregate_type
transforms.outbox.route.topic.replacement=${{routedByValue}}.events
transforms.outbox.table.fields.additional.placement=\
event_type:header:eventType,aggregate_type:header:aggregateType,aggregate_version:header:aggregateVersion,\
event_type:header:ce_type,created_at:header:ce_time,headers:header
{reading}"
        ))
    }
}

impl Tuning {
    fn java(self) -> &'static [&'static str] {
        match self {
            Self::Throughput => &["-Xms1g", "-Xmx1g", "-XX:+UseParallelGC"],
            Self::Polling | Self::PollingAndSending => {
                &["-Xms1g", "-Xmx1g", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=5"]
            }
        }
    }

    /// Both directions of Connect: what a batch holds, and how long it waits.
    fn producer(self) -> &'static str {
        match self {
            Self::Throughput => {
                "producer.linger.ms=20\nproducer.batch.size=524288\nproducer.buffer.memory=134217728\n"
            }
            Self::Polling => "",
            Self::PollingAndSending => "producer.linger.ms=0\n",
        }
    }

    fn reading(self) -> &'static str {
        match self {
            Self::Throughput => "poll.interval.ms=5\nmax.batch.size=16384\nmax.queue.size=65536\n",
            Self::Polling | Self::PollingAndSending => "poll.interval.ms=5\n",
        }
    }
}

const LOG4J: &str = "\
rootLogger.level = WARN
rootLogger.appenderRef.out.ref = out
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d{ISO8601}{UTC} %p %m (%c{1})%n%throwable
# It says so of each event that its own statistics have no room for, and that would cost it time.
logger.statistics.name = io.debezium.metrics.stats.MeasurementCollector
logger.statistics.level = ERROR
";

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(path, text).with_context(|| format!("could not write {}", path.display()))
}
