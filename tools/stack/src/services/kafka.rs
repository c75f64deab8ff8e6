//! Kafka: one KRaft node, broker and controller in one JVM.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::Rng;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};

use super::{Service, Site};
use crate::install::kafka::Kafka;
use crate::process::Launch;
use crate::versions::HOST;

/// The log goes to stdout, which is the service's log file.
const LOG4J: &str = "\
rootLogger.level = INFO
rootLogger.appenderRef.out.ref = out
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d{ISO8601}{UTC} %p %m (%c{1})%n%throwable
";

/// The broker's heap. Records pass through the page cache, not through the heap.
const HEAP: &str = "-Xmx512m";

/// Formats the data folder if it isn't there, and says how to start.
pub(crate) async fn prepare(site: &Site<'_>, kafka: &Kafka) -> anyhow::Result<Launch> {
    let run = site.layout.run();
    let log4j = run.join("kafka-log4j2.properties");
    std::fs::write(&log4j, LOG4J).with_context(|| format!("could not write {}", log4j.display()))?;
    let data = site.layout.data(Service::Kafka);
    if !data.exists() {
        format(site, kafka, &data, &log4j).await?;
    }
    let config = run.join("kafka.properties");
    write_properties(&config, site, &data)?;
    Ok(java(kafka, &run, &log4j)
        .args([HEAP, "-Xms128m", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20"])
        .args(["-XX:+ExitOnOutOfMemoryError", "-Djava.awt.headless=true", "kafka.Kafka"])
        .arg(config))
}

/// A data folder is there whole or not at all: it is formatted under another name.
async fn format(site: &Site<'_>, kafka: &Kafka, data: &Path, log4j: &Path) -> anyhow::Result<()> {
    let partial = data.with_extension("partial");
    if partial.exists() {
        std::fs::remove_dir_all(&partial)
            .with_context(|| format!("could not remove the unfinished {}", partial.display()))?;
    }
    let run = site.layout.run();
    let config = run.join("kafka-format.properties");
    write_properties(&config, site, &partial)?;
    java(kafka, &run, log4j)
        .args(["-Xmx128m", "-XX:TieredStopAtLevel=1", "kafka.tools.StorageTool", "format", "-t"])
        .arg(cluster_id(rand::rng().random()))
        .arg("-c")
        .arg(config)
        .run("formatting Kafka's data folder", &site.layout.log(Service::Kafka))
        .await?;
    std::fs::rename(&partial, data).with_context(|| format!("could not put {} in place", data.display()))
}

/// A cluster's id as Kafka writes it. Its tools would take a `-` in front for one of their flags.
fn cluster_id(mut random: [u8; 16]) -> String {
    random[0] &= 0x7f;
    URL_SAFE_NO_PAD.encode(random)
}

fn java(kafka: &Kafka, cwd: &Path, log4j: &Path) -> Launch {
    let mut log4j_flag = std::ffi::OsString::from("-Dlog4j2.configurationFile=");
    log4j_flag.push(log4j);
    Launch::new(&kafka.java, cwd).arg("-cp").arg(&kafka.classpath).arg(log4j_flag)
}

fn write_properties(path: &Path, site: &Site<'_>, data: &Path) -> anyhow::Result<()> {
    let data = data.to_str().context("Kafka wants a data folder whose path is UTF-8")?;
    std::fs::write(path, properties(site.port, site.internal_port, data))
        .with_context(|| format!("could not write {}", path.display()))
}

fn properties(port: u16, controller: u16, data: &str) -> String {
    // In a Java properties file a backslash starts an escape.
    let data = data.replace('\\', "\\\\");
    format!(
        "\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@{HOST}:{controller}
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://{HOST}:{port},CONTROLLER://{HOST}:{controller}
advertised.listeners=PLAINTEXT://{HOST}:{port}
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={data}
# A topic that nobody made on purpose is a mistake in a name.
auto.create.topics.enable=false
# One node holds every replica there is.
default.replication.factor=1
min.insync.replicas=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=4
# A broker that was killed is let in again when its old session is over: 9 s by default, for nothing where
# nobody else could take over. Shorter than 3 s would take a busy laptop for a dead one.
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
# How often an idle controller writes to the disk to show that it is there; 500 by default.
metadata.max.idle.interval.ms=5000
# There is one member, or a few, that start at once: waiting for more only costs time.
group.initial.rebalance.delay.ms=0
"
    )
}

/// Asks for the cluster's metadata; a broker that answers with itself in it takes records.
pub(crate) async fn probe(brokers: &str) -> anyhow::Result<()> {
    /// A broker that needs longer to answer isn't ready.
    const ANSWER: Duration = Duration::from_secs(2);
    let brokers = brokers.to_owned();
    let ask = move || -> anyhow::Result<()> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", &brokers)
            .set("log_level", "0")
            .create()
            .context("the Kafka client could not be made")?;
        let metadata = consumer.fetch_metadata(None, ANSWER).context("Kafka did not answer")?;
        anyhow::ensure!(!metadata.brokers().is_empty(), "Kafka answered, and has no broker yet");
        Ok(())
    };
    tokio::task::spawn_blocking(ask).await?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_listener_is_on_this_machine_alone() {
        let text = properties(19092, 19093, "/data");
        for line in text.lines().filter(|line| line.contains("listeners=") || line.contains("voters=")) {
            assert!(line.contains("127.0.0.1:"), "{line}");
            assert!(!line.contains("0.0.0.0"), "{line}");
        }
        assert!(text.contains("advertised.listeners=PLAINTEXT://127.0.0.1:19092\n"), "{text}");
        assert!(text.contains("auto.create.topics.enable=false\n"), "{text}");
    }
    #[test]
    fn a_cluster_id_is_never_taken_for_a_flag() {
        for first in 0..=u8::MAX {
            let id = cluster_id([first; 16]);
            assert!(!id.starts_with('-') && id.len() == 22, "{id}");
        }
    }
}
