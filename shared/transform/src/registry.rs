//! Where modules live, and which one is active: a local folder or an S3 bucket, one code path.
//!
//! ```text
//! modules/<sha256>.wasm                    the component, immutable
//! modules/<sha256>.json                    what it says of itself: `ModuleInfo`
//! artifacts/<engine key>/<sha256>.cwasm    native code of that module for one engine
//! artifacts/<engine key>/<sha256>.json     `ArtifactInfo`: SHA-256 of the native code
//! pointers/<number, 8 digits>.json         `Pointer`; the highest number is active, and is the generation
//! ```
//! A pointer is created with a condition (it must not exist), so of two people who activate at once one is
//! told. Local folders know no conditional update, which is why pointers are numbered and never changed.

mod records;
mod url;

use crate::{Artifact, Digest, ENGINE_KEY, Generation, InvalidGeneration, Schema};
use bytes::Bytes;
use futures_util::TryStreamExt;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, path::Path};
use records::ArtifactInfo;
use serde::{Serialize, de::DeserializeOwned};
use std::sync::Arc;
use time::OffsetDateTime;

pub use records::{ModuleInfo, Pointer, PointerKind};

/// Digits of a pointer's file name: the largest generation has 8.
const POINTER_DIGITS: usize = 8;

#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    #[error("'{url}' is no registry: {reason}")]
    Open { url: String, reason: String },
    #[error("{path} could not be read from the registry")]
    Read {
        path: String,
        #[source]
        source: object_store::Error,
    },
    #[error("{path} could not be written to the registry")]
    Write {
        path: String,
        #[source]
        source: object_store::Error,
    },
    #[error("{path} in the registry can't be understood")]
    Parse {
        path: String,
        #[source]
        source: serde_json::Error,
    },
    #[error("{path} in the registry is damaged: its bytes don't match its digest")]
    Damaged { path: String },
    #[error("{path} speaks of {found}")]
    Mismatch { path: String, found: String },
    #[error("module {digest} was never published here")]
    UnknownModule { digest: String },
    #[error(
        "module {digest} has no native code for {ENGINE_KEY}; publish it again with this release of outflow"
    )]
    NoArtifact { digest: Digest },
    #[error("'{prefix}' is the beginning of {count} digests; give more of it")]
    Ambiguous { prefix: String, count: usize },
    #[error(
        "someone else activated a module at this moment (generation {generation}); look at `status` and try again"
    )]
    Conflict { generation: Generation },
    #[error("there is no earlier module to go back to")]
    NothingToRollBackTo,
    #[error("the registry has used up its generations")]
    Exhausted(#[source] InvalidGeneration),
}

/// What `publish` did.
#[derive(Debug)]
pub struct Published {
    pub info: ModuleInfo,
    /// False where the same bytes were already there.
    pub new_module: bool,
    pub new_artifact: bool,
}

/// A registry of modules.
#[derive(Clone)]
pub struct Registry {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    location: String,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Registry").field(&self.location).finish()
    }
}

impl Registry {
    /// Opens `file:///absolute/folder`, a plain folder, or `s3://bucket/prefix` (feature `s3`; region and
    /// credentials from AWS's usual variables). A local folder is made where it is missing.
    pub fn open(location: &str) -> Result<Self, RegistryError> {
        let (store, prefix) = url::open(location)?;
        Ok(Self { store, prefix, location: location.to_owned() })
    }

    /// As it was given to [`Registry::open`].
    pub fn location(&self) -> &str {
        &self.location
    }

    /// Stores a module with its native code; both may be there already. The caller has loaded the module.
    pub async fn publish(
        &self,
        wasm: &[u8],
        artifact: &Artifact,
        schema: &Schema,
        now: OffsetDateTime,
    ) -> Result<Published, RegistryError> {
        let digest = Digest::of(wasm);
        let info = ModuleInfo::new(digest.clone(), schema, wasm.len(), now);
        let module = self.path("modules", &format!("{digest}.wasm"));
        let new_module = match self.read_if_there(&module).await? {
            Some(stored) if Digest::of(&stored) == digest => false,
            // Absent, or torn by whatever happened to the store: these bytes are the right ones.
            _ => self.write(&module, wasm.to_vec(), PutMode::Overwrite).await.map(|()| true)?,
        };
        let path = self.path("modules", &format!("{digest}.json"));
        if new_module || self.read_json::<ModuleInfo>(&path).await.is_err() {
            self.write_json(&path, &info, PutMode::Overwrite).await?;
        }
        let new_artifact = match self.artifact(&digest).await {
            Ok(_) => false,
            Err(_) => {
                let record = ArtifactInfo::new(digest.clone(), artifact, now);
                let [code, about] = self.artifact_paths(&digest);
                self.write(&code, artifact.bytes().to_vec(), PutMode::Overwrite).await?;
                self.write_json(&about, &record, PutMode::Overwrite).await?;
                true
            }
        };
        Ok(Published { info, new_module, new_artifact })
    }

    /// Every published module, newest first.
    pub async fn modules(&self) -> Result<Vec<ModuleInfo>, RegistryError> {
        let mut modules = Vec::new();
        for name in self.list("modules").await? {
            if name.ends_with(".json") {
                modules.push(self.read_json::<ModuleInfo>(&self.path("modules", &name)).await?);
            }
        }
        modules.sort_by(|a, b| b.published_at.cmp(&a.published_at).then(a.digest.cmp(&b.digest)));
        Ok(modules)
    }

    /// The module whose digest begins with `prefix`.
    pub async fn find(&self, prefix: &str) -> Result<ModuleInfo, RegistryError> {
        let names = self.list("modules").await?;
        let mut found: Vec<&str> = names
            .iter()
            .filter_map(|name| name.strip_suffix(".wasm"))
            .filter(|digest| !prefix.is_empty() && digest.starts_with(prefix))
            .collect();
        match (found.pop(), found.len()) {
            (Some(digest), 0) => {
                let path = self.path("modules", &format!("{digest}.json"));
                let info: ModuleInfo = self.read_json(&path).await?;
                same(&path, digest, info.digest.as_str())?;
                Ok(info)
            }
            (Some(_), more) => Err(RegistryError::Ambiguous { prefix: prefix.to_owned(), count: more + 1 }),
            (None, _) => Err(RegistryError::UnknownModule { digest: prefix.to_owned() }),
        }
    }

    /// The native code of a module for this engine, held against its recorded digest.
    pub async fn artifact(&self, digest: &Digest) -> Result<Artifact, RegistryError> {
        let [code, about] = self.artifact_paths(digest);
        let missing = || RegistryError::NoArtifact { digest: digest.clone() };
        let Some(record) = self.read_if_there(&about).await? else { return Err(missing()) };
        let record: ArtifactInfo = parse(&about, &record)?;
        same(&about, digest.as_str(), record.module.as_str())?;
        same(&about, ENGINE_KEY, &record.engine)?;
        let Some(bytes) = self.read_if_there(&code).await? else { return Err(missing()) };
        Artifact::verified(bytes.to_vec(), &record.artifact)
            .ok_or_else(|| RegistryError::Damaged { path: code.to_string() })
    }

    /// The numbers of all pointers, lowest first. Their contents aren't read: this is the cheap question that
    /// each invocation asks.
    pub async fn generations(&self) -> Result<Vec<Generation>, RegistryError> {
        let mut generations: Vec<Generation> = self
            .list("pointers")
            .await?
            .iter()
            .filter_map(|name| Generation::new(name.strip_suffix(".json")?.parse().ok()?).ok())
            .collect();
        generations.sort_unstable();
        Ok(generations)
    }

    /// One pointer.
    pub async fn pointer(&self, generation: Generation) -> Result<Pointer, RegistryError> {
        let path = self.pointer_path(generation);
        let pointer: Pointer = self.read_json(&path).await?;
        same(&path, &generation.to_string(), &pointer.generation.to_string())?;
        Ok(pointer)
    }

    /// Makes a published module the active one, from each function's next batch on.
    ///
    /// # Errors
    /// [`RegistryError::Conflict`] where another activation won; [`RegistryError::UnknownModule`] and
    /// [`RegistryError::NoArtifact`] where the module can't run. Nothing is changed then.
    pub async fn activate(
        &self,
        digest: &Digest,
        by: &str,
        now: OffsetDateTime,
    ) -> Result<Pointer, RegistryError> {
        let last = self.generations().await?.last().copied();
        self.point(last, digest, by, now, PointerKind::Activate).await
    }

    /// Goes back to the module that was active before the present one, under a new generation, so that its
    /// rows beat those that the bad module wrote.
    pub async fn roll_back(&self, by: &str, now: OffsetDateTime) -> Result<Pointer, RegistryError> {
        let generations = self.generations().await?;
        let mut bad: Option<Digest> = None;
        for &generation in generations.iter().rev() {
            let digest = match (self.pointer(generation).await, &bad) {
                (Ok(pointer), None) => {
                    bad = Some(pointer.digest);
                    continue;
                }
                (Ok(pointer), Some(bad)) if pointer.digest != *bad => pointer.digest,
                (Ok(_), Some(_)) => continue,
                // An unreadable pointer never became active: behind it is the one that is.
                (Err(_), _) => continue,
            };
            return self.point(generations.last().copied(), &digest, by, now, PointerKind::RollBack).await;
        }
        Err(RegistryError::NothingToRollBackTo)
    }

    async fn point(
        &self,
        last: Option<Generation>,
        digest: &Digest,
        by: &str,
        now: OffsetDateTime,
        kind: PointerKind,
    ) -> Result<Pointer, RegistryError> {
        let info = self.find(digest.as_str()).await?;
        self.artifact(digest).await?;
        let generation = match last {
            Some(last) => last.next().map_err(RegistryError::Exhausted)?,
            None => Generation::FIRST,
        };
        let pointer = Pointer::new(generation, &info, by, now, kind);
        match self.write_json(&self.pointer_path(generation), &pointer, PutMode::Create).await {
            Ok(()) => Ok(pointer),
            Err(RegistryError::Write { source: object_store::Error::AlreadyExists { .. }, .. }) => {
                Err(RegistryError::Conflict { generation })
            }
            Err(other) => Err(other),
        }
    }

    fn path(&self, folder: &str, name: &str) -> Path {
        self.prefix.clone().join(folder).join(name)
    }

    fn pointer_path(&self, generation: Generation) -> Path {
        self.path("pointers", &format!("{:0POINTER_DIGITS$}.json", generation.get()))
    }

    fn artifact_paths(&self, digest: &Digest) -> [Path; 2] {
        let folder = self.prefix.clone().join("artifacts").join(ENGINE_KEY);
        [folder.clone().join(format!("{digest}.cwasm")), folder.join(format!("{digest}.json"))]
    }

    /// File names directly in a folder; none where the folder isn't there yet.
    async fn list(&self, folder: &str) -> Result<Vec<String>, RegistryError> {
        let path = self.prefix.clone().join(folder);
        self.store
            .list(Some(&path))
            .map_ok(|object| object.location.filename().unwrap_or_default().to_owned())
            .try_collect()
            .await
            .map_err(|source| RegistryError::Read { path: path.to_string(), source })
    }

    async fn read(&self, path: &Path) -> Result<Bytes, RegistryError> {
        let read = async { self.store.get(path).await?.bytes().await };
        read.await.map_err(|source| RegistryError::Read { path: path.to_string(), source })
    }

    async fn read_if_there(&self, path: &Path) -> Result<Option<Bytes>, RegistryError> {
        match self.read(path).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(RegistryError::Read { source: object_store::Error::NotFound { .. }, .. }) => Ok(None),
            Err(other) => Err(other),
        }
    }

    async fn read_json<T: DeserializeOwned>(&self, path: &Path) -> Result<T, RegistryError> {
        parse(path, &self.read(path).await?)
    }

    async fn write(&self, path: &Path, bytes: Vec<u8>, mode: PutMode) -> Result<(), RegistryError> {
        let put = self.store.put_opts(path, bytes.into(), mode.into()).await;
        put.map(|_| ()).map_err(|source| RegistryError::Write { path: path.to_string(), source })
    }

    async fn write_json(
        &self,
        path: &Path,
        value: &impl Serialize,
        mode: PutMode,
    ) -> Result<(), RegistryError> {
        let mut text = serde_json::to_vec_pretty(value).expect("records are plain data");
        text.push(b'\n');
        self.write(path, text, mode).await
    }
}

fn parse<T: DeserializeOwned>(path: &Path, bytes: &[u8]) -> Result<T, RegistryError> {
    serde_json::from_slice(bytes).map_err(|source| RegistryError::Parse { path: path.to_string(), source })
}

fn same(path: &Path, expected: &str, found: &str) -> Result<(), RegistryError> {
    if expected == found {
        return Ok(());
    }
    Err(RegistryError::Mismatch { path: path.to_string(), found: found.to_owned() })
}
