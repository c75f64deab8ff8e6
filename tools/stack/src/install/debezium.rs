//! Debezium's MySQL connector and a Kafka Connect that runs it, from Maven Central: the peer in the benchmarks.

use std::ffi::OsString;
use std::path::PathBuf;

use super::apt::{JAVA, MAVEN};
use super::{Installer, step, write};
use crate::process::Launch;
use crate::progress::Progress;
use crate::versions::{CONNECT, DEBEZIUM};

const POM: &str = include_str!("debezium/pom.xml");

/// A Kafka Connect with Debezium in its plugins. Its client library is its own, beside the broker's.
#[derive(Debug, Clone)]
pub struct Debezium {
    /// The Java that runs it.
    pub java: PathBuf,
    /// Kafka Connect's jars.
    pub classpath: OsString,
    /// What goes into `plugin.path`.
    pub plugins: PathBuf,
}

impl Installer {
    /// Finds or installs Debezium.
    pub async fn debezium(&self, progress: &(dyn Progress + Sync)) -> anyhow::Result<Debezium> {
        let folder = self
            .folder(&format!("debezium-{DEBEZIUM}"), POM, progress, async |partial, log| {
                self.need(&[JAVA, MAVEN], progress).await?;
                write(&partial.join("pom.xml"), POM)?;
                // `-C`: an archive whose checksum is wrong fails the installation.
                let fetch = Launch::new(self.system("mvn")?, &partial).args([
                    "-B",
                    "-C",
                    "-ntp",
                    "generate-resources",
                ]);
                step("fetching Debezium and Kafka Connect with Maven", fetch, &log).await?;
                for expected in [
                    format!("libs/connect-runtime-{CONNECT}.jar"),
                    format!("plugins/debezium-connector-mysql/debezium-connector-mysql-{DEBEZIUM}.jar"),
                ] {
                    anyhow::ensure!(partial.join(&expected).is_file(), "Maven brought no {expected}");
                }
                Ok(())
            })
            .await?;
        let java = self.java(progress).await?;
        Ok(Debezium { java, classpath: folder.join("libs/*").into(), plugins: folder.join("plugins") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pom_names_the_pinned_versions() {
        for (artifact, version) in [("connect-runtime", CONNECT), ("debezium-connector-mysql", DEBEZIUM)] {
            let named = POM.split_once(&format!("<artifactId>{artifact}</artifactId>")).unwrap().1;
            assert!(named.trim_start().starts_with(&format!("<version>{version}</version>")), "{artifact}");
        }
    }
}
