//! Loading native code: the one place of this crate with `unsafe`.

use crate::{Digest, engine::Engine};
use wasmtime::component::Component;

/// Native code of a module, as the publisher made it.
///
/// It can only be had from the compiler in this process, or from [`crate::Registry::artifact`], which holds
/// its bytes against the digest that the publisher wrote down.
#[derive(Clone)]
pub struct Artifact {
    bytes: Vec<u8>,
    digest: Digest,
}

impl std::fmt::Debug for Artifact {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Artifact").field("digest", &self.digest).field("bytes", &self.bytes.len()).finish()
    }
}

impl Artifact {
    /// Fresh from the compiler.
    #[cfg(feature = "compile")]
    pub(crate) fn compiled(bytes: Vec<u8>) -> Self {
        Self { digest: Digest::of(&bytes), bytes }
    }

    /// The bytes, if they are the ones that were published under `expected`.
    pub(crate) fn verified(bytes: Vec<u8>, expected: &Digest) -> Option<Self> {
        let digest = Digest::of(&bytes);
        (digest == *expected).then_some(Self { bytes, digest })
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// SHA-256 of the native code, not of the module.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }
}

/// wasmtime checks version, target and configuration here, and refuses what doesn't suit this engine.
#[allow(unsafe_code)]
pub(crate) fn component(engine: &Engine, artifact: &Artifact) -> wasmtime::Result<Component> {
    // SAFETY: deserialize runs whatever native code it is given, so the bytes must be the unchanged output of
    // wasmtime's compiler. `Artifact` is built in two places only: by the compiler in this process, or from
    // the registry after its bytes matched the SHA-256 that `publish` recorded beside them. Whoever can write
    // the registry is trusted as whoever deploys the function is; a signature is to narrow that down.
    unsafe { Component::deserialize(engine.wasmtime(), &artifact.bytes) }
}
