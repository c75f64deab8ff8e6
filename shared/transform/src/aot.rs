//! Loading native code: the one place of this crate with `unsafe`.

use crate::{Digest, engine::Engine};
use bytes::Bytes;
use wasmtime::component::Component;

/// Native code of a module, as the publisher made it: for usual batches, and, counting instructions, for suspect records.
///
/// It can only be had from the compiler in this process, or from [`crate::Registry::artifact`], where a trusted key has
/// signed for its bytes.
#[derive(Clone)]
pub struct Artifact {
    fast: Bytes,
    metered: Bytes,
}

impl std::fmt::Debug for Artifact {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Artifact")
            .field("fast", &self.fast.len())
            .field("metered", &self.metered.len())
            .finish()
    }
}

/// SHA-256 of each part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Parts {
    pub(crate) fast: Digest,
    pub(crate) metered: Digest,
}

impl Artifact {
    /// Fresh from the compiler.
    #[cfg(feature = "compile")]
    pub(crate) fn compiled(fast: Vec<u8>, metered: Vec<u8>) -> Self {
        Self { fast: fast.into(), metered: metered.into() }
    }

    /// The bytes, if they are the ones that were signed for.
    pub(crate) fn verified(fast: Bytes, metered: Bytes, signed: &Parts) -> Option<Self> {
        let artifact = Self { fast, metered };
        (artifact.parts() == *signed).then_some(artifact)
    }

    pub(crate) fn parts(&self) -> Parts {
        Parts { fast: Digest::of(&self.fast), metered: Digest::of(&self.metered) }
    }

    pub(crate) fn metered(&self) -> Metered {
        Metered(self.metered.clone())
    }

    /// Native code that counts nothing, and that counts instructions.
    pub fn bytes(&self) -> [&[u8]; 2] {
        [&self.fast, &self.metered]
    }
}

/// The part that counts instructions, kept until a record is suspect.
#[derive(Clone)]
pub(crate) struct Metered(Bytes);

/// The component of usual batches. wasmtime checks version, target and configuration here, and refuses what doesn't suit
/// this engine.
pub(crate) fn fast(engine: &Engine, artifact: &Artifact) -> wasmtime::Result<Component> {
    deserialize(engine.fast(), &artifact.fast)
}

/// The component that counts instructions; as [`fast`].
pub(crate) fn metered(engine: &Engine, Metered(code): &Metered) -> wasmtime::Result<Component> {
    deserialize(engine.metered(), code)
}

#[allow(unsafe_code)]
fn deserialize(engine: &wasmtime::Engine, code: &[u8]) -> wasmtime::Result<Component> {
    // SAFETY: deserialize runs whatever native code it is given, so the bytes must be the unchanged output of
    // wasmtime's compiler. `Artifact`, and `Metered` out of it, is built in two places only: by the compiler in this process, or from
    // the registry after a trusted key's signature over module, engine and both digests was verified, and the bytes
    // matched these digests.
    unsafe { Component::deserialize(engine, code) }
}
