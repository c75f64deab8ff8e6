//! The services: how each is configured, and which query proves that it works.

pub(crate) mod clickhouse;
pub(crate) mod kafka;
pub(crate) mod mysql;

use std::fmt;
use std::time::Duration;

use clap::ValueEnum;
use serde::Serialize;

use crate::ports::Ports;
use crate::secrets::Secrets;
use crate::state::Layout;
use crate::versions::{CLICKHOUSE_SERVICE, KAFKA_SERVICE, MYSQL_SERVICE};

/// One of the services.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Service {
    /// The shop's database.
    Mysql,
    /// The events' broker.
    Kafka,
    /// The figures' database.
    Clickhouse,
}

impl Service {
    /// All of them, in the order in which data flows.
    pub const ALL: [Self; 3] = [Self::Mysql, Self::Kafka, Self::Clickhouse];

    /// Its name in files, in `docker-compose.yml` and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mysql => MYSQL_SERVICE,
            Self::Kafka => KAFKA_SERVICE,
            Self::Clickhouse => CLICKHOUSE_SERVICE,
        }
    }

    /// How long it may take to end by itself after SIGTERM: InnoDB and the broker write out what they hold.
    pub(crate) fn grace(self) -> Duration {
        match self {
            Self::Mysql | Self::Kafka => Duration::from_secs(30),
            Self::Clickhouse => Duration::from_secs(15),
        }
    }

    pub(crate) fn usual_port(self, ports: &Ports) -> u16 {
        match self {
            Self::Mysql => ports.mysql,
            Self::Kafka => ports.kafka,
            Self::Clickhouse => ports.clickhouse,
        }
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What a service is given to start with.
#[derive(Debug)]
pub(crate) struct Site<'a> {
    pub layout: &'a Layout,
    pub secrets: &'a Secrets,
    /// The port for its clients.
    pub port: u16,
    /// The port for itself alone; only Kafka has one.
    pub internal_port: u16,
}
