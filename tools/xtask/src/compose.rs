//! The services of `docker-compose.yml`, for those who have Docker.

use anyhow::{Context, anyhow, ensure};
use outflow_stack::{
    Existing,
    versions::{
        CLICKHOUSE_PORT, CLICKHOUSE_USER, HOST, KAFKA_PORT, MYSQL_ADMIN, MYSQL_DATABASE, MYSQL_PORT,
        MYSQL_USER,
    },
    workspace_root,
};
use std::collections::HashMap;
use tokio::process::Command;

/// Starts them, waits until all are healthy, and tells where they are. They stay up afterwards.
pub(crate) async fn up() -> anyhow::Result<Existing> {
    let root = workspace_root();
    let env_file = root.join(".env");
    let env: HashMap<String, String> =
        dotenvy::from_path_iter(&env_file).and_then(Iterator::collect).map_err(|error| {
            anyhow!("{} cannot be read ({error}): .env.example says how to make it", env_file.display())
        })?;
    let password = |name: &str| env.get(name).cloned().with_context(|| format!("{name} is not set in .env"));
    let existing = Existing {
        database_url: Some(mysql(MYSQL_USER, &password("MYSQL_PASSWORD")?)),
        database_admin_url: Some(mysql(MYSQL_ADMIN, &password("MYSQL_ROOT_PASSWORD")?)),
        kafka_brokers: Some(format!("{HOST}:{KAFKA_PORT}")),
        clickhouse_url: Some(format!("http://{HOST}:{CLICKHOUSE_PORT}")),
        clickhouse_user: Some(CLICKHOUSE_USER.to_owned()),
        clickhouse_password: Some(password("CLICKHOUSE_PASSWORD")?.into()),
        clickhouse_database: None,
    };
    let status = Command::new("docker")
        .args(["compose", "up", "--detach", "--wait"])
        .current_dir(&root)
        .status()
        .await
        .context("docker could not be run: install Docker with its compose plugin, or leave out --services compose")?;
    ensure!(
        status.success(),
        "docker compose up failed ({status}, its reason is above): it wants Docker's daemon and the compose plugin 2.24 \
         or newer; without --services compose no Docker is needed"
    );
    Ok(existing)
}

fn mysql(user: &str, password: &str) -> secrecy::SecretString {
    format!("mysql://{user}:{password}@{HOST}:{MYSQL_PORT}/{MYSQL_DATABASE}").into()
}
