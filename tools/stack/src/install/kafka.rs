//! Kafka's broker: the distribution in `KAFKA_HOME`, else its jars from Maven Central.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::apt::{JAVA, MAVEN};
use super::{Installer, output_of, step, version, write};
use crate::process::Launch;
use crate::progress::Progress;
use crate::versions::{JAVA_OLDEST_MAJOR, KAFKA, KAFKA_OLDEST_MAJOR};

const POM: &str = include_str!("kafka/pom.xml");

/// A broker that runs here.
#[derive(Debug, Clone)]
pub(crate) struct Kafka {
    pub java: PathBuf,
    pub classpath: OsString,
}

impl Installer {
    /// Finds or installs Kafka, and a Java that runs it.
    pub(crate) async fn kafka(&self, progress: &(dyn Progress + Sync)) -> anyhow::Result<Kafka> {
        let jars = match self.kafka_home(progress) {
            Some(jars) => jars,
            None => self.kafka_jars(progress).await?,
        };
        let java = self.java(progress).await?;
        Ok(Kafka { java, classpath: jars.join("*").into() })
    }

    fn kafka_home(&self, progress: &(dyn Progress + Sync)) -> Option<PathBuf> {
        let jars = self.search.kafka_home.as_ref()?.join("libs");
        match broker_version(&jars) {
            Some(found) if found.0 >= KAFKA_OLDEST_MAJOR => Some(jars),
            Some(found) => {
                progress.note(&format!(
                    "KAFKA_HOME is not taken: {}.{} is older than {KAFKA_OLDEST_MAJOR}.0",
                    found.0, found.1
                ));
                None
            }
            None => {
                progress.note(&format!("KAFKA_HOME is not taken: no Kafka in {}", jars.display()));
                None
            }
        }
    }

    async fn kafka_jars(&self, progress: &(dyn Progress + Sync)) -> anyhow::Result<PathBuf> {
        let folder = self
            .folder(&format!("kafka-{KAFKA}"), POM, progress, async |partial, log| {
                self.need(&[JAVA, MAVEN], progress).await?;
                write(&partial.join("pom.xml"), POM)?;
                // `-C`: a jar whose checksum is wrong fails the installation.
                let copy = Launch::new(self.system("mvn")?, &partial).args([
                    "-B",
                    "-C",
                    "-ntp",
                    "dependency:copy-dependencies",
                    "-DincludeScope=runtime",
                    "-DoutputDirectory=libs",
                ]);
                step("fetching Kafka's jars with Maven", copy, &log).await?;
                broker_version(&partial.join("libs")).context("Maven brought no Kafka").map(|_| ())
            })
            .await?;
        Ok(folder.join("libs"))
    }

    pub(super) async fn java(&self, progress: &(dyn Progress + Sync)) -> anyhow::Result<PathBuf> {
        let home =
            self.search.java_home.as_ref().map(|home| home.join("bin/java")).filter(|java| java.exists());
        let java = match home {
            Some(java) => java,
            None => {
                self.need(&[JAVA], progress).await?;
                self.system("java")?
            }
        };
        let text = output_of(&java, &["-version"]).await.unwrap_or_default();
        let found = version::first(&text).map(|version| version.0);
        anyhow::ensure!(
            found.is_some_and(|major| major >= JAVA_OLDEST_MAJOR),
            "Kafka {KAFKA} needs Java {JAVA_OLDEST_MAJOR} or newer, and {} says {:?}: install \
             default-jre-headless or point JAVA_HOME at a newer one",
            java.display(),
            text.lines().next().unwrap_or_default()
        );
        Ok(java)
    }
}

/// The version of the broker whose jars lie here.
fn broker_version(jars: &Path) -> Option<(u32, u32, u32)> {
    std::fs::read_dir(jars).ok()?.flatten().find_map(|entry| {
        let name = entry.file_name();
        version::first(name.to_str()?.strip_prefix("kafka_2.13-")?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pom_names_the_pinned_version() {
        assert!(
            POM.contains(&format!("<artifactId>kafka_2.13</artifactId>\n      <version>{KAFKA}</version>"))
        );
    }

    #[test]
    fn a_distribution_is_known_by_its_broker_jar() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(broker_version(dir.path()), None);
        std::fs::write(dir.path().join("kafka-clients-4.4.0.jar"), "").unwrap();
        assert_eq!(broker_version(dir.path()), None);
        std::fs::write(dir.path().join("kafka_2.13-3.9.1.jar"), "").unwrap();
        assert_eq!(broker_version(dir.path()), Some((3, 9, 1)));
    }
}
