//! Where a benchmark runs: MySQL and Kafka of its own, set up as the stack sets them up, and a database a figure.

use super::{events, kafka::Topics};
use anyhow::{Context, ensure};
use nix::sys::statvfs::statvfs;
use outflow_stack::{Service, Settings, Stack, versions::MYSQL_USER, workspace_root};
use outflow_store::Store;
use secrecy::ExposeSecret;
use sqlx::{AssertSqlSafe, MySqlPool, mysql::MySqlPoolOptions};
use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use xtask::progress::Terminal;

/// What Debezium needs beside a look at the tables, and what nobody else does.
const REPLICATION: &str = "SELECT, RELOAD, SHOW DATABASES, REPLICATION SLAVE, REPLICATION CLIENT";

/// Pages of 16 kB that a quiet server may still hold changed.
const SETTLED_PAGES: u64 = 200;
const SETTLE_PATIENCE: Duration = Duration::from_secs(120);
const SETTLE_POLL: Duration = Duration::from_millis(250);

/// Services that run, with nothing in them yet.
pub(super) struct Site {
    stack: Stack,
    /// The application's URL without its database.
    server: String,
    admin: MySqlPool,
    folder: PathBuf,
    pub(super) brokers: String,
}

/// An empty outbox with the shop's schema around it.
pub(super) struct Database {
    pub(super) name: &'static str,
    pub(super) url: String,
    pub(super) pool: MySqlPool,
}

impl Site {
    /// A stack whose state belongs to the benchmarks alone.
    fn stack() -> Stack {
        Stack::new(Settings::isolated(workspace_root().join(".outflow/bench")))
    }

    pub(super) async fn start(progress: &Terminal) -> anyhow::Result<Self> {
        let stack = Self::stack();
        // What an earlier run has left must not decide this one.
        stack.reset().await?;
        let folder = contenders(&stack);
        if folder.exists() {
            std::fs::remove_dir_all(&folder).with_context(|| format!("removing {}", folder.display()))?;
        }
        std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        progress
            .track("starting MySQL and Kafka", async {
                let (mysql, kafka) = tokio::join!(stack.start(Service::Mysql), stack.start(Service::Kafka));
                mysql.and(kafka)
            })
            .await?;
        let mysql = stack.mysql()?.context("MySQL was just started")?;
        let brokers = stack.kafka()?.context("Kafka was just started")?.brokers;
        let url = mysql.url.expose_secret();
        let (server, _) = url.rsplit_once('/').context("the URL names a database")?;
        let admin = MySqlPool::connect(mysql.admin_url.expose_secret())
            .await
            .context("connecting as administrator")?;
        // Of our own making, with nothing from outside in it.
        sqlx::query(AssertSqlSafe(format!("GRANT {REPLICATION} ON *.* TO '{MYSQL_USER}'@'%'")))
            .execute(&admin)
            .await
            .context("granting what Debezium needs")?;
        Ok(Self { server: server.to_owned(), stack, admin, folder, brokers })
    }

    /// Stops the services and removes their data. Their logs stay beside the contenders'.
    pub(super) async fn clear() -> anyhow::Result<()> {
        let stack = Self::stack();
        stack.down().await?;
        let (logs, folder) = (stack.state().join("logs"), contenders(&stack));
        // A start that failed has made no folder for its run.
        if logs.exists() && folder.exists() && !folder.join("services").exists() {
            std::fs::rename(&logs, folder.join("services"))
                .with_context(|| format!("keeping {}", logs.display()))?;
        }
        stack.reset().await?;
        Ok(())
    }

    /// Waits until the server has written out what it holds changed: a figure must not pay for what was done before it.
    pub(super) async fn settle(&self, progress: &Terminal) -> anyhow::Result<()> {
        let settled = async {
            let deadline = Instant::now() + SETTLE_PATIENCE;
            loop {
                let (_, dirty): (String, String) =
                    sqlx::query_as("SHOW GLOBAL STATUS LIKE 'Innodb_buffer_pool_pages_dirty'")
                        .fetch_one(&self.admin)
                        .await
                        .context("asking for changed pages")?;
                if dirty.parse::<u64>()? <= SETTLED_PAGES || Instant::now() > deadline {
                    return Ok(());
                }
                tokio::time::sleep(SETTLE_POLL).await;
            }
        };
        progress.track("waiting until MySQL has written its pages", settled).await
    }

    /// An error where the disk has no room for so much.
    pub(super) fn ensure_room(&self, bytes: u64) -> anyhow::Result<()> {
        let disk = statvfs(self.stack.state()).context("asking for the disk's free space")?;
        let free = disk.blocks_available() * disk.fragment_size();
        ensure!(
            free >= bytes,
            "{} MB are free on the disk of {}, and {} MB are needed: make room, or leave this benchmark out",
            free / 1_000_000,
            self.stack.state().display(),
            bytes / 1_000_000
        );
        Ok(())
    }

    /// The administrator, for what a shop never does: to write without the binary log, or to delete a database.
    pub(super) fn admin(&self) -> &MySqlPool {
        &self.admin
    }

    /// Where contenders keep their files and logs. It outlives the run, to be looked into.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) fn installer(&self) -> &outflow_stack::Installer {
        self.stack.installer()
    }

    pub(super) fn relay_topics(&self) -> anyhow::Result<Topics> {
        Topics::of_relay(&self.brokers)
    }

    /// A database with the shop's schema and nothing in it.
    pub(super) async fn database(&self, name: &'static str) -> anyhow::Result<Database> {
        for statement in [
            format!("CREATE DATABASE {name}"),
            format!("GRANT ALL PRIVILEGES ON {name}.* TO '{MYSQL_USER}'@'%'"),
        ] {
            sqlx::query(AssertSqlSafe(statement))
                .execute(&self.admin)
                .await
                .with_context(|| format!("making the database {name}"))?;
        }
        let url = format!("{}/{name}", self.server);
        Store::new(&url)?.migrate().await?;
        let pool = MySqlPoolOptions::new()
            .max_connections(16)
            .test_before_acquire(false)
            .connect(&url)
            .await
            .with_context(|| format!("connecting to {name}"))?;
        Ok(Database { name, url, pool })
    }

    /// Deletes it with all its rows.
    pub(super) async fn drop(&self, database: Database) -> anyhow::Result<()> {
        database.pool.close().await;
        sqlx::query(AssertSqlSafe(format!("DROP DATABASE {}", database.name)))
            .execute(&self.admin)
            .await
            .with_context(|| format!("deleting the database {}", database.name))?;
        Ok(())
    }
}

impl Database {
    pub(super) async fn write_marker(&self) -> anyhow::Result<()> {
        events::write_marker(&self.pool).await
    }

    /// The newest row's id; 0 where there is none.
    pub(super) async fn last_id(&self) -> anyhow::Result<u64> {
        let id: Option<u64> = sqlx::query_scalar("SELECT MAX(id) FROM outbox").fetch_one(&self.pool).await?;
        Ok(id.unwrap_or(0))
    }
}

/// Where contenders keep their files and logs.
fn contenders(stack: &Stack) -> PathBuf {
    stack.state().join("contenders")
}
