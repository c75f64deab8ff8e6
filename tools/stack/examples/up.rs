//! Starts a stack in a folder of its own and prints its environment for a shell:
//! `eval "$(cargo run -q -p outflow-stack --example up -- /tmp/a-stack)"`. With `--down` it stops that stack.

use std::path::PathBuf;

use anyhow::Context;
use outflow_stack::{Lines, Ports, Settings, Stack};
use secrecy::ExposeSecret;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut args = std::env::args_os().skip(1);
    let state = PathBuf::from(args.next().context("usage: up STATE_DIR [--down]")?);
    let stack = Stack::new(Settings { ports: Ports::USUAL, ..Settings::isolated(state) });
    if args.next().is_some_and(|flag| flag == "--down") {
        stack.down().await?;
        return Ok(());
    }
    let result = stack.up(&Lines).await;
    let mut env = Vec::new();
    // Each for itself: with one service down, the others are still of use.
    if let Some(mysql) = stack.mysql()? {
        env.push(("DATABASE_URL", mysql.url.expose_secret().to_owned()));
        env.push(("DATABASE_ADMIN_URL", mysql.admin_url.expose_secret().to_owned()));
    }
    if let Some(kafka) = stack.kafka()? {
        env.push(("KAFKA_BROKERS", kafka.brokers));
    }
    if let Some(clickhouse) = stack.clickhouse()? {
        env.push(("CLICKHOUSE_URL", clickhouse.url));
        env.push(("CLICKHOUSE_USER", clickhouse.user));
        env.push(("CLICKHOUSE_PASSWORD", clickhouse.password.expose_secret().to_owned()));
        env.push(("CLICKHOUSE_DATABASE", clickhouse.database));
    }
    for (name, value) in env {
        println!("export OUTFLOW_{name}='{value}'");
    }
    result.map(|_| ())
}
