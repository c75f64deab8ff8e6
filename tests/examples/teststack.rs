//! Scratch.
use outflow_stack::{Settings, Stack};
use xtask::{pipe::Pipe, progress::Terminal};
#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let stack = Stack::new(Settings::isolated(outflow_tests::test_state()));
    match std::env::args().nth(1).as_deref() {
        Some("up") => {
            stack.up(&Terminal::new()).await?;
        }
        Some("e2e") => {
            let own = outflow_stack::workspace_root().join(".outflow/e2e");
            Pipe::stop_everything(&Settings::isolated(own.clone())).await?;
            Stack::new(Settings::isolated(own)).reset().await?;
        }
        _ => {
            stack.down().await?;
        }
    }
    Ok(())
}
