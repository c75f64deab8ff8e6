//! Where the services answer, and as whom.

use anyhow::Context;
use secrecy::{ExposeSecret, SecretString};

use crate::secrets::Secrets;
use crate::settings::Existing;
use crate::versions::{
    CLICKHOUSE_DATABASE, CLICKHOUSE_READER, CLICKHOUSE_USER, HOST, MYSQL_ADMIN, MYSQL_DATABASE, MYSQL_USER,
};

/// All a function, a test or the operator's command needs to reach the services.
#[derive(Debug, Clone)]
pub struct Endpoints {
    /// MySQL.
    pub mysql: Mysql,
    /// Kafka.
    pub kafka: Kafka,
    /// ClickHouse.
    pub clickhouse: Clickhouse,
}

/// MySQL's address, as the application and as its administrator.
#[derive(Debug, Clone)]
pub struct Mysql {
    /// `mysql://user:password@host:port/shop`, the application's user.
    pub url: SecretString,
    /// The same as administrator: may make databases and users.
    pub admin_url: SecretString,
}

/// Kafka's address.
#[derive(Debug, Clone)]
pub struct Kafka {
    /// A comma-separated list of `host:port`.
    pub brokers: String,
}

/// ClickHouse's HTTP address and users.
#[derive(Debug, Clone)]
pub struct Clickhouse {
    /// `http://host:port`.
    pub url: String,
    /// The database of the figures.
    pub database: String,
    /// The loader's user.
    pub user: String,
    /// The loader's password.
    pub password: SecretString,
    /// The dashboards' user and password; none where ClickHouse isn't ours to add users to.
    pub reader: Option<(String, SecretString)>,
}

impl Endpoints {
    /// The variables that the functions and the operator's command read. They hold passwords.
    pub fn env(&self) -> Vec<(String, String)> {
        [
            ("OUTFLOW_DATABASE_URL", self.mysql.url.expose_secret()),
            ("OUTFLOW_KAFKA_BROKERS", self.kafka.brokers.as_str()),
            ("OUTFLOW_CLICKHOUSE_URL", self.clickhouse.url.as_str()),
            ("OUTFLOW_CLICKHOUSE_USER", self.clickhouse.user.as_str()),
            ("OUTFLOW_CLICKHOUSE_PASSWORD", self.clickhouse.password.expose_secret()),
            ("OUTFLOW_CLICKHOUSE_DATABASE", self.clickhouse.database.as_str()),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec()
    }

    /// MySQL's URL as administrator.
    pub fn admin_database_url(&self) -> &SecretString {
        &self.mysql.admin_url
    }
}

impl Mysql {
    pub(crate) fn own(port: u16, secrets: &Secrets) -> Self {
        let url = |user: &str, password: &str| {
            SecretString::from(format!("mysql://{user}:{password}@{HOST}:{port}/{MYSQL_DATABASE}"))
        };
        Self { url: url(MYSQL_USER, &secrets.mysql_app), admin_url: url(MYSQL_ADMIN, &secrets.mysql_admin) }
    }

    pub(crate) fn existing(existing: &Existing) -> Option<Self> {
        let url = existing.database_url.clone()?;
        let admin_url = existing.database_admin_url.clone().unwrap_or_else(|| url.clone());
        Some(Self { url, admin_url })
    }
}

impl Kafka {
    pub(crate) fn own(port: u16) -> Self {
        Self { brokers: format!("{HOST}:{port}") }
    }

    pub(crate) fn existing(existing: &Existing) -> Option<Self> {
        Some(Self { brokers: existing.kafka_brokers.clone()? })
    }
}

impl Clickhouse {
    pub(crate) fn own(port: u16, secrets: &Secrets) -> Self {
        Self {
            url: format!("http://{HOST}:{port}"),
            database: CLICKHOUSE_DATABASE.to_owned(),
            user: CLICKHOUSE_USER.to_owned(),
            password: secrets.clickhouse_writer.clone().into(),
            reader: Some((CLICKHOUSE_READER.to_owned(), secrets.clickhouse_reader.clone().into())),
        }
    }

    pub(crate) fn existing(existing: &Existing) -> Option<Self> {
        Some(Self {
            url: existing.clickhouse_url.clone()?.trim_end_matches('/').to_owned(),
            database: existing.clickhouse_database.clone().unwrap_or_else(|| CLICKHOUSE_DATABASE.to_owned()),
            user: existing.clickhouse_user.clone().unwrap_or_else(|| CLICKHOUSE_USER.to_owned()),
            password: existing.clickhouse_password.clone().unwrap_or_default(),
            reader: None,
        })
    }
}

/// A URL or `host:port` without user and password, for people to read.
pub(crate) fn shown(address: &str) -> String {
    match reqwest::Url::parse(address) {
        Ok(mut url) if url.has_host() => {
            // Both fail only for URLs that can't have them, and then there is nothing to hide.
            let _ = url.set_password(None);
            let _ = url.set_username("");
            url.as_str().trim_end_matches('/').to_owned()
        }
        _ => address.to_owned(),
    }
}

/// The port of this machine that an address means; none for other machines.
pub(crate) fn local_port(address: &str) -> anyhow::Result<Option<u16>> {
    let with_scheme = if address.contains("://") { address.to_owned() } else { format!("tcp://{address}") };
    // The error of a URL that holds a password must not show it.
    let url =
        reqwest::Url::parse(&with_scheme).context("an OUTFLOW_… variable holds no URL and no host:port")?;
    let local = matches!(url.host_str(), Some("127.0.0.1" | "localhost" | "[::1]"));
    let port = url.port_or_known_default().or(match url.scheme() {
        "mysql" => Some(crate::versions::MYSQL_PORT),
        _ => None,
    });
    Ok(port.filter(|_| local))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_not_shown() {
        assert_eq!(shown("mysql://outflow:secret@127.0.0.1:3306/shop"), "mysql://127.0.0.1:3306/shop");
        assert_eq!(shown("http://u:p@h:8123/"), "http://h:8123");
        assert_eq!(shown("127.0.0.1:9092"), "127.0.0.1:9092");
    }

    #[test]
    fn local_ports_are_told_from_others() {
        assert_eq!(local_port("mysql://u:p@localhost/shop").unwrap(), Some(3306));
        assert_eq!(local_port("mysql://u:p@db.example/shop").unwrap(), None);
        assert_eq!(local_port("127.0.0.1:9092").unwrap(), Some(9092));
        assert_eq!(local_port("http://127.0.0.1:8124").unwrap(), Some(8124));
        assert!(local_port("not a url at all").is_err());
    }
}
