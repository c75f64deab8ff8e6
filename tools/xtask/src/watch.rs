//! `cargo xtask watch`: the whole pipe in the foreground.

use crate::interrupt::interrupted;
use outflow_stack::{Settings, SystemLock, versions::FUNCTIONS_PORT};
use std::{process::ExitCode, time::Duration};
use xtask::{pipe::Pipe, progress::Terminal};

/// How often the processes are looked at.
const LOOK: Duration = Duration::from_millis(500);

pub(crate) async fn run() -> anyhow::Result<ExitCode> {
    let settings = Settings::workspace()?;
    let _lock = SystemLock::acquire(&settings.state)?;
    let progress = Terminal::new();
    let outcome = tokio::select! {
        outcome = serve(settings.clone(), &progress) => outcome,
        interrupted = interrupted() => interrupted,
    };
    eprintln!("stopping …");
    Pipe::stop_everything(&settings).await?;
    outcome.map(|()| ExitCode::SUCCESS)
}

/// Runs until a process ends by itself.
async fn serve(settings: Settings, progress: &Terminal) -> anyhow::Result<()> {
    let mut pipe = Pipe::start(settings, FUNCTIONS_PORT, progress).await?;
    let url = &pipe.system.functions_url;
    println!("orders      curl -i {url}/orders -H 'content-type: application/json' -d '{ORDER}'");
    println!("functions   {url}/2015-03-31/functions/NAME/invocations");
    println!("events      {} (asynchronous invocations)", pipe.system.events_url);
    println!("clickhouse  {} (cargo outflow verify compares it with MySQL)", pipe.endpoints.clickhouse.url);
    println!("logs        {}", pipe.system.logs().map(|log| log.display().to_string()).join(" "));
    println!("Ctrl-C stops all of it; data stays for the next start");
    loop {
        pipe.system.check()?;
        tokio::time::sleep(LOOK).await;
    }
}

const ORDER: &str = r#"{"userId": "u-1", "items": [{"productId": "p-001", "quantity": 2}]}"#;
