//! Where modules live, and which ones are active: a local folder or an S3 bucket, one code path.
//!
//! ```text
//! modules/<sha256>.wasm                          the component, immutable
//! modules/<sha256>.json                          what it says of itself: `ModuleInfo`
//! artifacts/<engine key>/<sha256>.cwasm          native code of that module for one engine
//! artifacts/<engine key>/<sha256>.metered.cwasm  the same, counting instructions
//! artifacts/<engine key>/<sha256>.json           `ArtifactInfo`: digests of both, and a signature
//! pointers/<number, 8 digits>.json               `Pointer`: a change, and all that is active after it
//! stats/<generation>/<instance>.json             `Stats` of one process of the function
//! shadows/<sha256>/<number>.json                 a report of the module as a candidate beside the active one
//! ```
//! A pointer is created with a condition (it must not exist), so of two people who activate at once one is
//! told. Local folders know no conditional update, which is why pointers are numbered and never changed.

mod pointers;
mod records;
mod shadows;
mod url;

use crate::{
    Artifact, Digest, Generation, InvalidGeneration, PublicKey, Schema, SigningKey, Target, TrustedKeys,
    aot::{Code, Parts},
};
use bytes::Bytes;
use futures_util::{TryStreamExt, future::try_join_all};
use object_store::{GetResultPayload, ObjectStore, ObjectStoreExt, PutMode, path::Path};
use records::ArtifactInfo;
use serde::{Serialize, de::DeserializeOwned};
use std::sync::Arc;
use time::OffsetDateTime;

pub use pointers::Signed;
pub use records::{
    ActiveTransform, Change, ChangeKind, ModuleInfo, Pointer, RejectLimit, Slot, Stats, TableInfo,
};

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
    #[error(
        "{path} in the registry is damaged: its bytes don't match its digest; `outflow transform publish` mends it"
    )]
    Damaged { path: String },
    #[error("{path} speaks of {found}")]
    Mismatch { path: String, found: String },
    #[error("module {digest} was never published here")]
    UnknownModule { digest: String },
    #[error(
        "module {digest} has no native code for {engine}; publish it again with this release: `outflow transform publish`"
    )]
    NoArtifact { digest: Digest, engine: &'static str },
    #[error(
        "{path} is not signed by a trusted key (it names {signed_by}): publish the module with one that \
         OUTFLOW_TRANSFORM_TRUSTED_KEYS lists, by `outflow transform publish`"
    )]
    Untrusted { path: String, signed_by: String },
    #[error("'{prefix}' is the beginning of {count} digests; give more of it")]
    Ambiguous { prefix: String, count: usize },
    #[error(
        "someone else changed what is active at this moment (generation {generation}); look at `outflow transform status` and try again"
    )]
    Conflict { generation: Generation },
    #[error("table {table} is filled by the active transform of {slot}: deactivate that one first")]
    TableTaken { table: String, slot: Slot },
    #[error("nothing is active in {slot}")]
    NotActive { slot: Slot },
    #[error("generation {expected} of {slot} is not active any more, {found} is")]
    Superseded { slot: Slot, expected: Generation, found: Generation },
    #[error("there is no earlier module of {slot} to go back to")]
    NothingToRollBackTo { slot: Slot },
    #[error("several transforms are active: say which one with --slot ({slots})")]
    WhichSlot { slots: String },
    #[error("no transform is active")]
    NoneActive,
    #[error("the registry has used up its generations")]
    Exhausted(#[source] InvalidGeneration),
}

/// What `publish` did.
#[derive(Debug)]
pub struct Published {
    pub info: ModuleInfo,
    /// False where the same bytes were already there.
    pub new_module: bool,
    /// Targets whose native code is new or signed anew.
    pub new_artifacts: Vec<&'static str>,
}

/// A registry of modules.
#[derive(Clone)]
pub struct Registry {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    location: String,
    trusted: TrustedKeys,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry").field("location", &self.location).field("trusted", &self.trusted).finish()
    }
}

impl Registry {
    /// Opens `file:///absolute/folder`, a plain folder, or `s3://bucket/prefix` (feature `s3`; credentials, region and
    /// endpoint from AWS's usual variables). A local folder is made where it is missing; a bucket is asked for nothing yet.
    ///
    /// Native code is taken from it only if one of the `trusted` keys signed for it.
    ///
    /// # Errors
    /// Where the location is none.
    pub fn open(location: &str, trusted: TrustedKeys) -> Result<Self, RegistryError> {
        Self::open_with(location, &[], trusted)
    }

    /// As [`Registry::open`], for a caller that knows the store better than the environment does: `settings` have the names
    /// of AWS's variables, such as `AWS_ENDPOINT_URL`, and come before those. A folder needs none.
    ///
    /// # Errors
    /// As there, and where S3 knows no such setting.
    pub fn open_with(
        location: &str,
        settings: &[(&str, &str)],
        trusted: TrustedKeys,
    ) -> Result<Self, RegistryError> {
        let (store, prefix) = url::open(location, settings)?;
        Ok(Self { store, prefix, location: location.to_owned(), trusted })
    }

    /// As it was given to [`Registry::open`].
    pub fn location(&self) -> &str {
        &self.location
    }

    /// Whether what this key signs is loaded.
    pub fn trusts(&self, key: &PublicKey) -> bool {
        self.trusted.contains(key)
    }

    /// Stores a module with its native code, signed; all of it may be there already. The caller has loaded the module.
    ///
    /// # Errors
    /// Where the registry can't be read or written. What was written by then does no harm.
    pub async fn publish(
        &self,
        wasm: &[u8],
        artifacts: &[(Target, Artifact)],
        schema: &Schema,
        key: &SigningKey,
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
        let recorded = self.read_json::<ModuleInfo>(&path).await;
        if new_module || !recorded.is_ok_and(|recorded| recorded.is_of(schema)) {
            self.write_json(&path, &info, PutMode::Overwrite).await?;
        }
        let signer = TrustedKeys::from(key.public());
        let mut new_artifacts = Vec::new();
        for (target, artifact) in artifacts {
            let published = self.signed_artifact(&digest, *target, &signer).await;
            if published.is_ok_and(|artifact| artifact.whole().is_some()) {
                continue;
            }
            let [fast_path, metered_path, about_path] = self.artifact_paths(&digest, *target);
            let [fast, metered] = artifact.bytes().map_err(|error| unreadable(&metered_path, error))?;
            let parts = Parts { fast: Digest::of(&fast), metered: Digest::of(&metered) };
            let signed = (key.public(), key.sign(&digest, target.key, &parts));
            let sizes = (parts, [fast.len(), metered.len()]);
            let about = ArtifactInfo::new(digest.clone(), *target, sizes, signed, now);
            self.write(&fast_path, fast.to_vec(), PutMode::Overwrite).await?;
            self.write(&metered_path, metered.to_vec(), PutMode::Overwrite).await?;
            self.write_json(&about_path, &about, PutMode::Overwrite).await?;
            new_artifacts.push(target.key);
        }
        Ok(Published { info, new_module, new_artifacts })
    }

    /// Every published module, newest first.
    ///
    /// # Errors
    /// Where one of them can't be read.
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
    ///
    /// # Errors
    /// Where there is none, or there are several.
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

    /// The component itself, held against its digest.
    ///
    /// # Errors
    /// Where it is not there, or damaged.
    pub async fn module(&self, digest: &Digest) -> Result<Vec<u8>, RegistryError> {
        let path = self.path("modules", &format!("{digest}.wasm"));
        let missing = || RegistryError::UnknownModule { digest: digest.to_string() };
        let wasm = self.read_if_there(&path).await?.ok_or_else(missing)?;
        if Digest::of(&wasm) != *digest {
            return Err(RegistryError::Damaged { path: path.to_string() });
        }
        Ok(wasm.to_vec())
    }

    /// The native code of a module for a target, signed by a trusted key, for loading it here. The half that counts
    /// instructions is held against the signature when it is first needed, which most modules never come to.
    ///
    /// # Errors
    /// Where there is none, nobody trusted signed for it, or its bytes are not the signed ones.
    pub async fn artifact(&self, digest: &Digest, target: Target) -> Result<Artifact, RegistryError> {
        self.signed_artifact(digest, target, &self.trusted).await
    }

    async fn signed_artifact(
        &self,
        digest: &Digest,
        target: Target,
        trusted: &TrustedKeys,
    ) -> Result<Artifact, RegistryError> {
        let [fast, metered, about] = self.artifact_paths(digest, target);
        let missing = || RegistryError::NoArtifact { digest: digest.clone(), engine: target.key };
        // At once: each is a question of its own to the store.
        let opened = try_join_all([&about, &fast, &metered].map(|path| self.open_if_there(path))).await?;
        let [Some(record), Some(code), Some(counting)] = &opened[..] else { return Err(missing()) };
        let record = record.read().map_err(|error| unreadable(&about, error))?;
        let code = code.read().map_err(|error| unreadable(&fast, error))?;
        let record: ArtifactInfo = parse(&about, &record)?;
        same(&about, digest.as_str(), record.module.as_str())?;
        same(&about, target.key, &record.engine)?;
        let parts = record.parts();
        if !trusted.vouch(&record.signature, digest, target.key, &parts) {
            return Err(RegistryError::Untrusted { path: about.to_string(), signed_by: record.signed_by });
        }
        Artifact::verified(code, counting.clone(), parts)
            .ok_or_else(|| RegistryError::Damaged { path: fast.to_string() })
    }

    /// As [`Registry::artifact`], with both halves held against the signature.
    ///
    /// # Errors
    /// As [`Registry::artifact`].
    pub async fn whole_artifact(&self, digest: &Digest, target: Target) -> Result<Artifact, RegistryError> {
        let [_, metered, _] = self.artifact_paths(digest, target);
        let whole = self.artifact(digest, target).await?.whole();
        whole.ok_or_else(|| RegistryError::Damaged { path: metered.to_string() })
    }

    /// Replaces what this process has told of an activation.
    ///
    /// # Errors
    /// Where the registry can't be written.
    pub async fn put_stats(
        &self,
        generation: Generation,
        instance: &str,
        stats: &Stats,
    ) -> Result<(), RegistryError> {
        let path = self.path("stats", &generation.to_string()).join(format!("{instance}.json"));
        self.write_json(&path, stats, PutMode::Overwrite).await
    }

    /// What all processes together have told of an activation.
    ///
    /// # Errors
    /// Where the registry can't be read.
    pub async fn stats(&self, generation: Generation) -> Result<Stats, RegistryError> {
        let folder = format!("stats/{generation}");
        let mut sum = Stats::default();
        for name in self.list(&folder).await? {
            let path = self.path("stats", &generation.to_string()).join(name);
            // Another process may be writing it at this moment.
            if let Ok(stats) = self.read_json::<Stats>(&path).await {
                sum += stats;
            }
        }
        Ok(sum)
    }

    fn path(&self, folder: &str, name: &str) -> Path {
        self.prefix.clone().join(folder).join(name)
    }

    fn artifact_paths(&self, digest: &Digest, target: Target) -> [Path; 3] {
        let folder = self.prefix.clone().join("artifacts").join(target.key);
        ["cwasm", "metered.cwasm", "json"].map(|end| folder.clone().join(format!("{digest}.{end}")))
    }

    /// File names below a folder; none where the folder isn't there yet.
    async fn list(&self, folder: &str) -> Result<Vec<String>, RegistryError> {
        let path = folder.split('/').fold(self.prefix.clone(), |path, part| path.join(part));
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
        if_there(self.read(path).await)
    }

    /// A file is opened, and read when somebody wants it; an object of another store is read now.
    async fn open_if_there(&self, path: &Path) -> Result<Option<Code>, RegistryError> {
        let open = async {
            let found = self.store.get(path).await?;
            Ok(match found.payload {
                GetResultPayload::File(file, _) => Code::InFile(Arc::new(file)),
                GetResultPayload::Stream(_) => Code::Here(found.bytes().await?),
            })
        };
        if_there(open.await.map_err(|source| RegistryError::Read { path: path.to_string(), source }))
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

fn if_there<T>(read: Result<T, RegistryError>) -> Result<Option<T>, RegistryError> {
    match read {
        Ok(found) => Ok(Some(found)),
        Err(RegistryError::Read { source: object_store::Error::NotFound { .. }, .. }) => Ok(None),
        Err(other) => Err(other),
    }
}

fn unreadable(path: &Path, error: std::io::Error) -> RegistryError {
    let source = object_store::Error::Generic { store: "file", source: Box::new(error) };
    RegistryError::Read { path: path.to_string(), source }
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
