//! A registry of a test's own, in a folder or on S3, and what a test does with it.

#[cfg(feature = "s3")]
use crate::s3::S3;
use crate::support::{artifact, engine, load, patched, test_guest};
#[cfg(feature = "s3")]
use outflow_transform::TrustedKeys;
use outflow_transform::{Active, Digest, Generation, Registry, Signed, SigningKey, Slot, Target};
use std::{fs, path::PathBuf, time::Instant};
use tempfile::TempDir;
use time::OffsetDateTime;

pub(crate) struct Shelf {
    pub(crate) registry: Registry,
    /// Either store keeps an object as a file of its name, below this folder.
    files: PathBuf,
    kept: Kept,
}

/// What goes when the test does.
enum Kept {
    Folder {
        _folder: TempDir,
    },
    #[cfg(feature = "s3")]
    S3(S3),
}

pub(crate) fn key() -> SigningKey {
    SigningKey::from_seed([7; 32])
}

pub(crate) fn signed() -> Signed {
    Signed { by: "tester".to_owned(), at: OffsetDateTime::UNIX_EPOCH, why: None }
}

/// Of the test guest, and of one like it that fills another table.
pub(crate) fn slots() -> [Slot; 2] {
    ["table_one", "table_two"].map(Slot::from)
}

impl Shelf {
    pub(crate) fn in_a_folder() -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        let files = folder.path().join("registry");
        let registry = Registry::open(&format!("file://{}", files.display()), key().public().into());
        let registry = registry.expect("the registry opens");
        Self { registry, files, kept: Kept::Folder { _folder: folder } }
    }

    #[cfg(feature = "s3")]
    pub(crate) fn on_s3() -> Self {
        let server = S3::start();
        let registry = open(&server, &[]).expect("the registry opens");
        Self { registry, files: server.files(), kept: Kept::S3(server) }
    }

    /// The same registry, as somebody opens it who trusts these keys.
    pub(crate) fn open_trusting(&self, keys: &str) -> Registry {
        let trusted = keys.parse().expect("they are keys");
        let opened = match &self.kept {
            Kept::Folder { .. } => Registry::open(&format!("file://{}", self.files.display()), trusted),
            #[cfg(feature = "s3")]
            Kept::S3(server) => open_trusting(server, &[], trusted),
        };
        opened.expect("the registry opens")
    }

    #[cfg(feature = "s3")]
    pub(crate) fn server(&mut self) -> &mut S3 {
        match &mut self.kept {
            Kept::S3(server) => server,
            Kept::Folder { .. } => panic!("this registry is in a folder"),
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.files.join(name)
    }

    pub(crate) fn artifact_path(&self, digest: &Digest, end: &str) -> PathBuf {
        self.path("artifacts").join(Target::THIS.key).join(format!("{digest}.{end}"))
    }

    /// Turns a bit in the middle of native code.
    pub(crate) fn damage(&self, digest: &Digest, end: &str) {
        let path = self.artifact_path(digest, end);
        let mut native = fs::read(&path).expect("it is there");
        let middle = native.len() / 2;
        native[middle] ^= 1;
        fs::write(&path, native).expect("it can be written");
    }

    pub(crate) async fn publish_by(&self, wasm: &[u8], key: &SigningKey) -> Digest {
        let module = load(&engine(), wasm).expect("the module loads");
        // What runs elsewhere is never loaded here: the same code stands for it.
        let artifacts: Vec<_> = Target::published().map(|target| (target, artifact(wasm))).collect();
        let now = OffsetDateTime::UNIX_EPOCH;
        self.registry.publish(wasm, &artifacts, module.schema(), key, now).await.expect("it is published");
        Digest::of(wasm)
    }

    pub(crate) async fn publish(&self, wasm: &[u8]) -> Digest {
        self.publish_by(wasm, &key()).await
    }

    pub(crate) async fn publish_two(&self) -> (Digest, Digest) {
        (self.publish(test_guest()).await, self.publish(&patched("note_id", "memo_id")).await)
    }

    pub(crate) async fn activate(&self, digest: &Digest) -> Generation {
        self.registry.activate(digest, None, signed()).await.expect("it is activated").generation
    }

    /// A pointer that no command wrote.
    pub(crate) fn forge(&self, number: u32, text: &str) {
        fs::write(self.path(&format!("pointers/{number:08}.json")), text).expect("the folder is there");
    }

    pub(crate) fn active(&self) -> Active {
        Active::new(engine(), self.registry.clone())
    }
}

/// A registry on a server; `other` settings stand before those that lead to it.
#[cfg(feature = "s3")]
pub(crate) fn open(
    server: &S3,
    other: &[(&str, &str)],
) -> Result<Registry, outflow_transform::RegistryError> {
    open_trusting(server, other, key().public().into())
}

#[cfg(feature = "s3")]
fn open_trusting(
    server: &S3,
    other: &[(&str, &str)],
    trusted: TrustedKeys,
) -> Result<Registry, outflow_transform::RegistryError> {
    let settings = server.settings();
    let mut settings: Vec<(&str, &str)> =
        settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
    settings.extend(other);
    Registry::open_with(&server.location(), &settings, trusted)
}

/// Generation and digest of the only active module.
pub(crate) async fn now_active(active: &Active, at: Instant) -> (u32, Digest) {
    let loaded = active.refresh(at).await.expect("a module is active");
    let [only] = &loaded[..] else { panic!("{loaded:?}") };
    (only.generation.get(), only.digest().clone())
}
