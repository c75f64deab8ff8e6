//! Migrations of ClickHouse: the files of `clickhouse/`, embedded, applied in order, recorded, safe to run again.

use crate::{config::Config, error::AnalyticsError, sql};
use clickhouse::{Client, Row, sql::Identifier};
use outflow_columns::ColumnType;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// In order. A file once released never changes; a change is a new file.
const MIGRATIONS: [Migration; 7] = [
    Migration { name: "0001_database", text: include_str!("../../../clickhouse/0001_database.sql") },
    Migration {
        name: "0002_orders_analytics",
        text: include_str!("../../../clickhouse/0002_orders_analytics.sql"),
    },
    Migration {
        name: "0003_sales_history",
        text: include_str!("../../../clickhouse/0003_sales_history.sql"),
    },
    Migration { name: "0004_sales_views", text: include_str!("../../../clickhouse/0004_sales_views.sql") },
    Migration {
        name: "0005_order_items_analytics",
        text: include_str!("../../../clickhouse/0005_order_items_analytics.sql"),
    },
    Migration {
        name: "0006_inventory_analytics",
        text: include_str!("../../../clickhouse/0006_inventory_analytics.sql"),
    },
    Migration {
        name: "0007_canary_orders",
        text: include_str!("../../../clickhouse/0007_canary_orders.sql"),
    },
];
/// The shop's, where nothing was ever said.
const DEFAULT_TIME_ZONE: &str = "UTC";
const TIME_ZONE: &str = "time_zone";
const DATABASE: &str = "database";

struct Migration {
    name: &'static str,
    text: &'static str,
}

impl Migration {
    /// Of the file as it stands, before placeholders are filled in.
    fn digest(&self) -> String {
        hex::encode(Sha256::digest(self.text))
    }

    /// Such a file only replaces views, and is applied again when the zone changes. So are all behind it: they may have
    /// replaced one of those views in their turn.
    fn depends_on_time_zone(&self) -> bool {
        self.text.contains("'${time_zone}'")
    }
}

/// A row of `schema_migrations`: what was applied, from which text, in which zone.
#[derive(Debug, Row, Serialize, Deserialize)]
struct Recorded {
    name: String,
    digest: String,
    time_zone: String,
}

/// What [`Schema::apply`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Names of the migrations that ran, in order.
    pub ran: Vec<&'static str>,
    /// Those that had run before.
    pub already: usize,
    /// The shop's zone: hours and days of the served views.
    pub time_zone: String,
}

/// The schema of one database.
#[derive(Clone, Debug)]
pub struct Schema {
    database: String,
    /// Has no database set: the first migration creates it.
    client: ClientDebug,
}

/// The crate's client prints its whole configuration, password included.
#[derive(Clone)]
pub(crate) struct ClientDebug(pub(crate) Client);

impl std::fmt::Debug for ClientDebug {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Client")
    }
}

impl Schema {
    /// # Errors
    /// Where the database's name is not a plain identifier.
    pub fn new(config: &Config) -> Result<Self, AnalyticsError> {
        Ok(Self {
            database: config.clickhouse_database.clone(),
            client: ClientDebug(config.client_without_database()?),
        })
    }

    /// Adds a column that rows need not bring: those that are there, and those of modules that don't know it, have the
    /// type's default. Safe to repeat; never changes a column that is there.
    ///
    /// # Errors
    /// Whatever ClickHouse answers.
    pub async fn add_column(
        &self,
        table: &str,
        column: &str,
        data_type: ColumnType,
    ) -> Result<(), AnalyticsError> {
        // A type can't be bound: what stands here was parsed, and is written anew. Its own default is told explicitly: a
        // loader sees by it that the column may be missing.
        let text = format!(
            "ALTER TABLE ?.? ADD COLUMN IF NOT EXISTS ? {data_type} DEFAULT defaultValueOfTypeName(?)"
        );
        let [database, table, column] = [self.database.as_str(), table, column].map(Identifier);
        let query = self.client.0.query(&text).bind(database).bind(table).bind(column);
        let query = query.bind(data_type.to_string());
        let added = query.execute().await;
        added.map_err(|source| AnalyticsError::Query { operation: "add a column", source })
    }

    /// Brings the database up to date. `time_zone` is the shop's IANA zone; None keeps the one in use (UTC at first).
    /// Safe to repeat, also after a run that was cut: each statement does nothing where its work is done.
    ///
    /// # Errors
    /// An unknown zone, a migration that was changed after it had been applied, and whatever ClickHouse answers.
    pub async fn apply(&self, time_zone: Option<&str>) -> Result<Applied, AnalyticsError> {
        if let Some(zone) = time_zone {
            self.check_time_zone(zone).await?;
        }
        self.create_record().await?;
        let recorded = self.recorded().await?;
        let in_use = recorded.iter().map(|r| r.time_zone.as_str()).find(|zone| !zone.is_empty());
        let time_zone = time_zone.or(in_use).unwrap_or(DEFAULT_TIME_ZONE).to_owned();
        let mut applied = Applied { ran: Vec::new(), already: 0, time_zone };
        let mut follows_zone = false;
        for migration in &MIGRATIONS {
            let before = recorded.iter().find(|r| r.name == migration.name);
            if let Some(before) = before
                && before.digest != migration.digest()
            {
                return Err(AnalyticsError::MigrationChanged {
                    name: migration.name,
                    applied: before.digest.clone(),
                    now: migration.digest(),
                });
            }
            follows_zone |= migration.depends_on_time_zone();
            let zone = if follows_zone { applied.time_zone.as_str() } else { "" };
            if before.is_some_and(|before| before.time_zone == zone) {
                applied.already += 1;
            } else {
                self.run(migration, zone).await?;
                applied.ran.push(migration.name);
            }
        }
        Ok(applied)
    }

    /// The shop's zone, as the views were made with.
    ///
    /// # Errors
    /// Where the schema was never applied, or ClickHouse does not answer.
    pub async fn time_zone(&self) -> Result<String, AnalyticsError> {
        let recorded = self.recorded().await.map_err(|error| match error.code() {
            // UNKNOWN_TABLE, UNKNOWN_DATABASE
            Some(60 | 81) => AnalyticsError::NotInitialized { database: self.database.clone() },
            _ => error,
        })?;
        let zone = recorded.into_iter().map(|r| r.time_zone).find(|zone| !zone.is_empty());
        zone.ok_or_else(|| AnalyticsError::NotInitialized { database: self.database.clone() })
    }

    async fn run(&self, migration: &Migration, zone: &str) -> Result<(), AnalyticsError> {
        let text = sql::fill(migration.text, &[(DATABASE, &self.database), (TIME_ZONE, zone)]);
        for (index, statement) in sql::statements(&text).iter().enumerate() {
            self.client.0.query_raw(statement).execute().await.map_err(|source| AnalyticsError::Migrate {
                name: migration.name,
                statement: index + 1,
                source,
            })?;
        }
        let record = format!(
            "INSERT INTO {}.schema_migrations (name, digest, time_zone) VALUES (?, ?, ?)",
            self.database
        );
        let query = self.client.0.query(&record).with_setting("async_insert", "0");
        query
            .bind(migration.name)
            .bind(migration.digest())
            .bind(zone)
            .execute()
            .await
            .map_err(query_error("record a migration"))
    }

    async fn create_record(&self) -> Result<(), AnalyticsError> {
        for statement in [
            format!("CREATE DATABASE IF NOT EXISTS {}", self.database),
            format!(
                "CREATE TABLE IF NOT EXISTS {}.schema_migrations (name String, digest String, time_zone String, \
                 applied_at DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC')) \
                 ENGINE = ReplacingMergeTree(applied_at) ORDER BY name",
                self.database
            ),
        ] {
            self.client
                .0
                .query_raw(&statement)
                .execute()
                .await
                .map_err(query_error("create the record of migrations"))?;
        }
        Ok(())
    }

    async fn recorded(&self) -> Result<Vec<Recorded>, AnalyticsError> {
        let query = format!(
            "SELECT name, digest, time_zone FROM {}.schema_migrations FINAL ORDER BY name",
            self.database
        );
        self.client.0.query(&query).fetch_all().await.map_err(query_error("read the record of migrations"))
    }

    /// The zone stands in the views' text: only a name that ClickHouse itself lists may.
    async fn check_time_zone(&self, zone: &str) -> Result<(), AnalyticsError> {
        let query =
            self.client.0.query("SELECT count() FROM system.time_zones WHERE time_zone = ?").bind(zone);
        let found: u64 = query.fetch_one().await.map_err(query_error("look up the time zone"))?;
        if found == 0 { Err(AnalyticsError::TimeZone { zone: zone.to_owned() }) } else { Ok(()) }
    }
}

pub(crate) fn query_error(
    operation: &'static str,
) -> impl FnOnce(clickhouse::error::Error) -> AnalyticsError {
    move |source| AnalyticsError::Query { operation, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_the_folder_is_embedded_once_and_in_order() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../clickhouse");
        let mut files: Vec<String> = std::fs::read_dir(folder)
            .expect("the folder is there")
            .filter_map(|entry| entry.expect("it can be read").file_name().into_string().ok())
            .filter_map(|name| name.strip_suffix(".sql").map(str::to_owned))
            .collect();
        files.sort();

        assert_eq!(MIGRATIONS.map(|m| m.name.to_owned()).to_vec(), files);
    }

    #[test]
    fn every_statement_can_run_twice() {
        for migration in &MIGRATIONS {
            for statement in sql::statements(migration.text) {
                let repeatable =
                    statement.contains("IF NOT EXISTS") || statement.starts_with("CREATE OR REPLACE VIEW");
                assert!(repeatable, "{}: {statement}", migration.name);
                // What depends on the zone runs again when it changes, so it may only replace views.
                let views =
                    !statement.contains("${time_zone}") || statement.starts_with("CREATE OR REPLACE VIEW");
                assert!(views, "{}: {statement}", migration.name);
            }
        }
    }
}
