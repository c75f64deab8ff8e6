//! The compiler's WASM target, which `rust-toolchain.toml` names.

use super::{Installer, step};
use crate::process::Launch;
use crate::progress::{Progress, track};
use crate::settings::workspace_root;
use crate::versions::WASM_TARGET;

impl Installer {
    /// Makes sure that the workspace's toolchain compiles to WASM.
    pub async fn wasm_target(&self, progress: &(dyn Progress + Sync)) -> anyhow::Result<()> {
        let rustc = self.system("rustc")?;
        // Asked in the workspace, where rust-toolchain.toml picks the toolchain.
        let mut command = tokio::process::Command::new(&rustc);
        command.args(["--print", "target-libdir", "--target", WASM_TARGET]).current_dir(workspace_root());
        let output = command.output().await?;
        let folder = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        if output.status.success() && std::path::Path::new(&folder).is_dir() {
            return Ok(());
        }
        let Some(rustup) = self.search.program("rustup") else {
            anyhow::bail!("{} can't compile to {WASM_TARGET}: install that target", rustc.display());
        };
        let log = self.log("rustup")?;
        let add = Launch::new(rustup, workspace_root()).args(["target", "add", WASM_TARGET]);
        track(progress, &format!("installing {WASM_TARGET}"), step("rustup target add", add, &log)).await
    }
}
