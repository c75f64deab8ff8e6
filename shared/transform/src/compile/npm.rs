//! A guest that brings its own tools: npm installs what its lock file names, and its script `build` makes the component.
//!
//! Such a guest is a folder with a `package.json`. `npm run build -- FILE` writes the component to that file; in which
//! language, and with what, is the guest's own affair.

use super::CompileError;
use crate::Digest;
use std::{
    fs::{self, File},
    io::{Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// What npm installs from, and where it does.
const LOCK: &str = "package-lock.json";
const INSTALLED: &str = "node_modules";
/// A copy of the lock file that the folder around it was installed from: it is written last.
const MARKER: &str = "outflow-installed-from.json";

/// Whether the folder is such a guest's.
pub(super) fn is_guest(folder: &Path) -> bool {
    folder.join("package.json").is_file()
}

/// Builds the guest in `folder`, and returns the path of its component, `NAME.wasm` in `components`.
///
/// What is built stays until a file of the guest changes: a snapshot of a JavaScript engine has other bytes, and so
/// another digest, each time that it is taken.
pub(super) fn build(folder: &Path, name: &str, components: &Path) -> Result<PathBuf, CompileError> {
    let path = components.join(format!("{name}.wasm"));
    let beside = |extension: &str| components.join(format!("{name}.{extension}"));
    // npm empties its folder before it fills it: of two builds at once, one waits.
    let turn = beside("turn");
    let turn_file = File::create(&turn).map_err(failed(&turn, "made"))?;
    turn_file.lock().map_err(failed(&turn, "locked"))?;

    let (sources, built_from) = (sources(folder)?, beside("sources"));
    if path.is_file() && fs::read_to_string(&built_from).is_ok_and(|text| text == sources.as_str()) {
        return Ok(path);
    }
    let npm = Npm { name, folder, log: beside("log") };
    File::create(&npm.log).map_err(failed(&npm.log, "made"))?;
    npm.install()?;
    let unfinished = beside("unfinished.wasm");
    npm.run(&["run", "build", "--"], Some(&unfinished))?;
    fs::rename(&unfinished, &path).map_err(failed(&unfinished, "found after the build"))?;
    fs::write(&built_from, sources.as_str()).map_err(failed(&built_from, "written"))?;
    Ok(path)
}

/// One digest for all files that the component is made from: the guest's own, and the interface beside it.
fn sources(folder: &Path) -> Result<Digest, CompileError> {
    let mut files = Vec::new();
    let mut folders: Vec<PathBuf> = vec![folder.to_owned(), folder.join("../wit")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).map_err(failed(&folder, "read"))? {
            let entry = entry.map_err(failed(&folder, "read"))?;
            let path = entry.path();
            // What npm installs is told by the lock file, and fixtures don't reach the component.
            if entry.file_name() == INSTALLED || entry.file_name() == "fixtures" {
                continue;
            }
            let is_folder = fs::metadata(&path).map_err(failed(&path, "read"))?.is_dir();
            if is_folder { folders.push(path) } else { files.push(path) }
        }
    }
    files.sort_unstable();
    let mut lines = String::new();
    for file in files {
        let bytes = fs::read(&file).map_err(failed(&file, "read"))?;
        lines.push_str(&format!("{} {}\n", Digest::of(&bytes), file.display()));
    }
    Ok(Digest::of(lines.as_bytes()))
}

struct Npm<'a> {
    name: &'a str,
    folder: &'a Path,
    log: PathBuf,
}

impl Npm<'_> {
    /// Needs the network where the lock file is new here, and then no more.
    fn install(&self) -> Result<(), CompileError> {
        let lock = self.folder.join(LOCK);
        let wanted = fs::read(&lock).map_err(failed(&lock, "read"))?;
        let marker = self.folder.join(INSTALLED).join(MARKER);
        if fs::read(&marker).is_ok_and(|installed| installed == wanted) {
            return Ok(());
        }
        self.run(&["ci", "--ignore-scripts", "--no-audit", "--no-fund"], None)?;
        let folder = self.folder.join(INSTALLED);
        // npm makes none where there is nothing to install.
        fs::create_dir_all(&folder).map_err(failed(&folder, "made"))?;
        fs::write(&marker, wanted).map_err(failed(&marker, "written"))
    }

    fn run(&self, args: &[&str], file: Option<&Path>) -> Result<(), CompileError> {
        let open = || File::options().append(true).open(&self.log).map_err(failed(&self.log, "written"));
        let status = Command::new("npm")
            .current_dir(self.folder)
            .args(args)
            .args(file)
            .stdin(Stdio::null())
            .stdout(open()?)
            .stderr(open()?)
            .status()
            .map_err(CompileError::Npm)?;
        if status.success() {
            return Ok(());
        }
        Err(CompileError::NpmBuild {
            name: self.name.to_owned(),
            log: self.log.clone(),
            end: end_of(&self.log).unwrap_or_default(),
        })
    }
}

/// Its last 2,000 bytes: a stack trace and what stands before it.
fn end_of(log: &Path) -> std::io::Result<String> {
    let mut file = File::open(log)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(2_000)))?;
    let mut end = Vec::new();
    file.read_to_end(&mut end)?;
    Ok(String::from_utf8_lossy(&end).trim().to_owned())
}

fn failed(path: &Path, action: &'static str) -> impl FnOnce(std::io::Error) -> CompileError + use<> {
    let path = path.to_owned();
    move |source| CompileError::File { path, action, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A guest without dependencies, so that npm needs no network; its script writes another file each time.
    fn guest(build: &str) -> tempfile::TempDir {
        let transforms = tempfile::tempdir().expect("a folder");
        let folder = transforms.path().join("guest");
        for made in [folder.join("src"), transforms.path().join("wit"), transforms.path().join("components")]
        {
            fs::create_dir_all(made).expect("a folder");
        }
        let package = format!(r#"{{"name":"guest","version":"1.0.0","scripts":{{"build":"{build}"}}}}"#);
        fs::write(folder.join("package.json"), package).expect("written");
        let lock = r#"{"name":"guest","version":"1.0.0","lockfileVersion":3,"packages":{"":{"name":"guest","version":"1.0.0"}}}"#;
        fs::write(folder.join(LOCK), lock).expect("written");
        fs::write(folder.join("src/guest.js"), "1").expect("written");
        transforms
    }

    fn built(transforms: &Path) -> Result<Vec<u8>, CompileError> {
        let path = build(&transforms.join("guest"), "guest", &transforms.join("components"))?;
        Ok(fs::read(path).expect("the component is there"))
    }

    #[test]
    fn a_component_stays_until_a_source_changes() {
        let transforms = guest("(cat src/guest.js && node -p 'process.hrtime.bigint()') >");
        let transforms = transforms.path();
        assert!(is_guest(&transforms.join("guest")));
        let first = built(transforms).expect("it builds");
        assert_eq!(built(transforms).expect("it is there"), first);
        fs::write(transforms.join("guest/src/guest.js"), "2").expect("written");
        let second = built(transforms).expect("it builds");
        assert_eq!([first[0], second[0]], *b"12");
        fs::write(transforms.join("wit/transform.wit"), "package outflow:transform;").expect("written");
        assert_ne!(built(transforms).expect("it builds"), second);
    }

    #[test]
    fn a_build_that_fails_says_what_npm_said_and_leaves_nothing_new() {
        let transforms = guest("cat src/absent.js >");
        let error = built(transforms.path()).expect_err("there is no such file").to_string();
        assert!(error.contains("src/absent.js") && error.contains("guest.log"), "{error}");
        assert!(!transforms.path().join("components/guest.wasm").exists());
    }
}
