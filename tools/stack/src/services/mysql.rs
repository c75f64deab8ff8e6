//! MySQL: made once, then started on its data folder, durable and small.

use std::path::Path;
use std::str::FromStr;

use anyhow::Context;
use secrecy::{ExposeSecret, SecretString};
use sqlx::mysql::MySqlConnectOptions;
use sqlx::{ConnectOptions, Connection};

use super::{Service, Site};
use crate::install::mysql::Mysqld;
use crate::process::Launch;
use crate::secrets::write_private;
use crate::versions::{HOST, MYSQL_ADMIN, MYSQL_DATABASE, MYSQL_USER};

/// Makes the data folder if it isn't there, and says how to start.
pub(crate) async fn prepare(site: &Site<'_>, mysqld: &Mysqld) -> anyhow::Result<Launch> {
    let data = site.layout.data(Service::Mysql);
    if !data.exists() {
        initialize(site, mysqld, &data).await?;
    }
    // A server that was killed leaves it, and the next one gives up as long as the pid in it is somebody's: that of its
    // own remains, for a moment, or of another process since. What keeps two servers apart is InnoDB's lock on its files.
    match std::fs::remove_file(data.join("mysql.sock.lock")) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).context("could not remove the lock that a killed MySQL has left");
        }
        _ => {}
    }
    let users = site.layout.run().join("mysql-users.sql");
    write_private(&users, statements(site).as_bytes())?;
    let mut launch = mysqld
        .launch(&data)
        .arg(format!("--bind-address={HOST}"))
        .arg(format!("--port={}", site.port))
        .arg(flag("--datadir", &data))
        .arg(flag("--init-file", &users));
    launch = launch.args([
        // Relative to the data folder: a socket's whole path may have 107 bytes, a state folder's may not fit.
        "--socket=mysql.sock",
        "--mysqlx=OFF",
        "--skip-name-resolve",
        "--default-time-zone=+00:00",
        // Half of the memory would be the rule on a machine of its own; here it shares a laptop.
        "--innodb-buffer-pool-size=1G",
        "--innodb-log-buffer-size=8M",
        "--max-connections=200",
        // Its counters take 250 MB, half of the whole server. SHOW STATUS and INNODB_TRX work without.
        "--performance-schema=OFF",
        // What is committed is on the disk: losing nothing starts here. Both are defaults, and stay so.
        "--innodb-flush-log-at-trx-commit=1",
        "--sync-binlog=1",
    ]);
    Ok(launch)
}

/// Holds the state folder's secrets against the server: run at each start, before it takes connections, so
/// that the administrator without a password is never reachable.
fn statements(site: &Site<'_>) -> String {
    let mut sql = String::from("SET SESSION sql_log_bin = 0;\n");
    sql += &format!("CREATE DATABASE IF NOT EXISTS `{MYSQL_DATABASE}`;\n");
    // The whole server listens on 127.0.0.1 alone, and names aren't resolved: '%' is this machine.
    for (user, password) in [(MYSQL_ADMIN, &site.secrets.mysql_admin), (MYSQL_USER, &site.secrets.mysql_app)]
    {
        sql += &format!("CREATE USER IF NOT EXISTS '{user}'@'%' IDENTIFIED BY '{password}';\n");
        sql += &format!("ALTER USER '{user}'@'%' IDENTIFIED BY '{password}';\n");
    }
    let admin = &site.secrets.mysql_admin;
    sql += &format!("ALTER USER '{MYSQL_ADMIN}'@'localhost' IDENTIFIED BY '{admin}';\n");
    sql += &format!("GRANT ALL PRIVILEGES ON *.* TO '{MYSQL_ADMIN}'@'%' WITH GRANT OPTION;\n");
    sql += &format!("GRANT ALL PRIVILEGES ON `{MYSQL_DATABASE}`.* TO '{MYSQL_USER}'@'%';\n");
    sql += &format!("GRANT PROCESS ON *.* TO '{MYSQL_USER}'@'%';\n");
    sql
}

/// A data folder is there whole or not at all: it is made under another name.
async fn initialize(site: &Site<'_>, mysqld: &Mysqld, data: &Path) -> anyhow::Result<()> {
    let partial = data.with_extension("partial");
    if partial.exists() {
        std::fs::remove_dir_all(&partial)
            .with_context(|| format!("could not remove the unfinished {}", partial.display()))?;
    }
    std::fs::create_dir_all(&partial).with_context(|| format!("could not make {}", partial.display()))?;
    mysqld
        .launch(&partial)
        .arg("--initialize-insecure")
        .arg(flag("--datadir", &partial))
        .run("making MySQL's data folder", &site.layout.log(Service::Mysql))
        .await?;
    std::fs::rename(&partial, data).with_context(|| format!("could not put {} in place", data.display()))
}

/// Logs in and has a query answered.
pub(crate) async fn probe(url: &SecretString) -> anyhow::Result<()> {
    let options = MySqlConnectOptions::from_str(url.expose_secret()).context("no MySQL URL")?;
    let mut connection = options.disable_statement_logging().connect().await?;
    sqlx::query("SELECT 1").execute(&mut connection).await?;
    connection.close().await?;
    Ok(())
}

fn flag(name: &str, path: &Path) -> std::ffi::OsString {
    let mut flag = std::ffi::OsString::from(name);
    flag.push("=");
    flag.push(path);
    flag
}
