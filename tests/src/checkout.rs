//! The sources of the guests in a folder of a test's own, which may change them.

use anyhow::Context;
use outflow_stack::workspace_root;
use std::path::Path;

/// Copies the guests and what they are built from into `checkout`, as git would: without what was built or installed there.
///
/// # Errors
/// Where a file can't be read or written.
pub fn copy_guests(checkout: &Path) -> anyhow::Result<()> {
    let root = workspace_root();
    for folder in ["transforms", "shared/transform-sdk"] {
        copy_folder(&root.join(folder), &checkout.join(folder))?;
    }
    // The guests' workspace reads the versions of its packages from the one around it.
    for file in ["Cargo.toml", "Cargo.lock"] {
        copy_file(&root.join(file), &checkout.join(file))?;
    }
    Ok(())
}

fn copy_folder(from: &Path, to: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(to).with_context(|| format!("making {}", to.display()))?;
    for entry in std::fs::read_dir(from).with_context(|| format!("reading {}", from.display()))? {
        let entry = entry?;
        let (path, name) = (entry.path(), entry.file_name());
        match path.is_dir() {
            true if name == "target" || name == "node_modules" => {}
            true => copy_folder(&path, &to.join(name))?,
            false => copy_file(&path, &to.join(name))?,
        }
    }
    Ok(())
}

fn copy_file(from: &Path, to: &Path) -> anyhow::Result<()> {
    std::fs::copy(from, to)
        .with_context(|| format!("copying {} to {}", from.display(), to.display()))
        .map(drop)
}
