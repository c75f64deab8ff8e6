//! A guest's crate to start from: it builds and passes its own fixture at once.

use super::Sources;
use crate::output::{Finding, Json};
use anyhow::{Context, ensure};
use clap::Args;
use serde::Serialize;
use std::path::{Path, PathBuf};

#[derive(Debug, Args)]
pub(crate) struct NewArgs {
    /// The crate's name, such as `order-countries`: lower-case letters, digits and dashes.
    name: String,
    #[command(flatten)]
    sources: Sources,
    #[command(flatten)]
    json: Json,
}

#[derive(Serialize)]
struct Made<'a> {
    name: &'a str,
    path: PathBuf,
    files: Vec<&'static str>,
}

/// Path and text; `NAME` is the crate's.
const FILES: [(&str, &str); 4] = [
    ("Cargo.toml", include_str!("new/Cargo.toml.txt")),
    ("src/lib.rs", include_str!("new/lib.rs.txt")),
    ("fixtures/events.jsonl", include_str!("new/events.jsonl")),
    ("fixtures/outcomes.jsonl", include_str!("new/outcomes.jsonl")),
];
const MAX_NAME: usize = 64;

pub(crate) fn run(args: &NewArgs) -> anyhow::Result<Finding> {
    let (name, transforms) = (args.name.as_str(), args.sources.transforms.as_path());
    ensure!(
        name.len() <= MAX_NAME
            && name.starts_with(|c: char| c.is_ascii_lowercase())
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'),
        "'{name}' is no name for a guest: lower-case letters, digits and dashes are, at most {MAX_NAME}"
    );
    let workspace = transforms.join("Cargo.toml");
    let manifest = std::fs::read_to_string(&workspace)
        .with_context(|| format!("reading {}; --transforms names another workspace", workspace.display()))?;
    let folder = transforms.join(name);
    ensure!(!folder.exists(), "{} is there already: give another name", folder.display());
    let manifest = with_member(&manifest, name).with_context(|| {
        format!("{} has no list `members` that a line can be added to", workspace.display())
    })?;
    for (path, text) in FILES {
        write(&folder.join(path), &text.replace("NAME", name))?;
    }
    // Last: until then nothing refers to what might be half there.
    write(&workspace, &manifest)?;
    let made = Made { name, path: folder.clone(), files: FILES.map(|(path, _)| path).to_vec() };
    let next = format!(
        "{}\nnext: edit src/lib.rs, then `outflow transform test {name}` and `outflow transform publish {name}`",
        folder.display()
    );
    args.json.report(&made, next)?;
    Ok(Finding::Fine)
}

/// The manifest with one member more, sorted in.
fn with_member(manifest: &str, name: &str) -> Option<String> {
    let mut document: toml_edit::DocumentMut = manifest.parse().ok()?;
    let members = document.get_mut("workspace")?.get_mut("members")?.as_array_mut()?;
    let at = members.iter().position(|member| member.as_str() > Some(name)).unwrap_or(members.len());
    members.insert(at, name);
    if let Some(added) = members.get_mut(at) {
        added.decor_mut().set_prefix("\n    ");
    }
    Some(document.to_string())
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    }
    std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_sorted_in_and_the_rest_of_the_manifest_stays() {
        let manifest = "# guests\n[workspace]\nmembers = [\n    \"a\",\n    \"c\",\n]\n";
        assert_eq!(
            with_member(manifest, "b").as_deref(),
            Some("# guests\n[workspace]\nmembers = [\n    \"a\",\n    \"b\",\n    \"c\",\n]\n")
        );
        assert_eq!(with_member("[workspace]\n", "b"), None);
    }
}
