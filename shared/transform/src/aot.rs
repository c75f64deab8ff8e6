//! Loading native code: the one place of this crate with `unsafe`.

use crate::{Digest, engine::Engine};
use bytes::Bytes;
use std::{fs::File, io, os::unix::fs::FileExt, sync::Arc};
use wasmtime::component::Component;

/// Native code of a module, as the publisher made it: for usual batches, and, counting instructions, for suspect records.
///
/// It can only be had from the compiler in this process, or from [`crate::Registry::artifact`], where a trusted key has
/// signed for its bytes.
#[derive(Clone)]
pub struct Artifact {
    fast: Bytes,
    metered: Metered,
}

impl std::fmt::Debug for Artifact {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Artifact").field("fast", &self.fast.len()).finish_non_exhaustive()
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
        let signed = Digest::of(&metered);
        Self { fast: fast.into(), metered: Metered { code: Code::Here(metered.into()), signed } }
    }

    /// The bytes, if those of usual batches are the ones that were signed for; the others are looked at before they are used.
    pub(crate) fn verified(fast: Bytes, metered: Code, signed: Parts) -> Option<Self> {
        let metered = Metered { code: metered, signed: signed.metered };
        (Digest::of(&fast) == signed.fast).then_some(Self { fast, metered })
    }

    /// With both parts in memory and held against what was signed; None where the second one is not that.
    pub(crate) fn whole(self) -> Option<Self> {
        let code = Code::Here(self.metered.verified().ok()?);
        Some(Self { metered: Metered { code, ..self.metered }, ..self })
    }

    pub(crate) fn metered(&self) -> Metered {
        self.metered.clone()
    }

    /// Native code that counts nothing, and that counts instructions.
    ///
    /// # Errors
    /// Where the second is in a file that can't be read.
    pub fn bytes(&self) -> io::Result<[Bytes; 2]> {
        Ok([self.fast.clone(), self.metered.code.read()?])
    }
}

/// An object of the registry: its bytes, or the open file that has them.
#[derive(Clone)]
pub(crate) enum Code {
    Here(Bytes),
    InFile(Arc<File>),
}

impl Code {
    pub(crate) fn read(&self) -> io::Result<Bytes> {
        match self {
            Self::Here(code) => Ok(code.clone()),
            Self::InFile(file) => {
                let mut code = vec![0; usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX)];
                file.read_exact_at(&mut code, 0)?;
                Ok(code.into())
            }
        }
    }
}

/// The part that counts instructions, kept until a record is suspect. It is read and held against what was signed only then:
/// a module would take a third longer to load.
#[derive(Clone)]
pub(crate) struct Metered {
    code: Code,
    signed: Digest,
}

impl Metered {
    fn verified(&self) -> io::Result<Bytes> {
        let code = self.code.read()?;
        if Digest::of(&code) == self.signed {
            Ok(code)
        } else {
            Err(io::Error::other("its bytes are not those that were signed for: publish it again"))
        }
    }
}

/// The component of usual batches. wasmtime checks version, target and configuration here, and refuses what doesn't suit
/// this engine.
pub(crate) fn fast(engine: &Engine, artifact: &Artifact) -> wasmtime::Result<Component> {
    deserialize(engine.fast(), &artifact.fast)
}

/// The component that counts instructions; as [`fast`], and refuses what was not signed for.
pub(crate) fn metered(engine: &Engine, metered: &Metered) -> wasmtime::Result<Component> {
    deserialize(engine.metered(), &metered.verified()?)
}

#[allow(unsafe_code)]
fn deserialize(engine: &wasmtime::Engine, code: &[u8]) -> wasmtime::Result<Component> {
    // SAFETY: deserialize runs whatever native code it is given, so the bytes must be the unchanged output of
    // wasmtime's compiler. `Artifact`, and `Metered` out of it, is built in two places only: by the compiler in this process, or from
    // the registry after a trusted key's signature over module, engine and both digests was verified. The bytes
    // matched these digests: `Artifact::verified` looked at the one, `Metered::verified` has just looked at the other.
    unsafe { Component::deserialize(engine, code) }
}
