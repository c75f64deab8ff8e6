//! Who may publish native code: ed25519 signatures over module, engine and artifact together.

use crate::{Digest, aot::Parts};
use ed25519_dalek::{Signature, Signer, VerifyingKey};
use std::{fmt, str::FromStr};

/// Signs what is published. Its 32 bytes are kept as 64 hex digits.
#[derive(Clone)]
pub struct SigningKey(ed25519_dalek::SigningKey);

/// The public half: who may be trusted. As text it is 64 hex digits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PublicKey(VerifyingKey);

/// The keys that a function loads native code of. As text they are separated by commas.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustedKeys(Vec<PublicKey>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("a key is 64 hex digits")]
    Text,
    #[error("it is no ed25519 key")]
    Key,
    #[error("no key is given")]
    None,
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SigningKey").field(&self.public()).finish()
    }
}

impl SigningKey {
    /// From 32 random bytes.
    pub fn from_seed(seed: [u8; 32]) -> Self {
        Self(ed25519_dalek::SigningKey::from_bytes(&seed))
    }

    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key())
    }

    /// The secret, as it is kept in a file.
    pub fn to_hex(&self) -> String {
        hex::encode(self.0.to_bytes())
    }

    pub(crate) fn sign(&self, module: &Digest, engine: &str, parts: &Parts) -> String {
        hex::encode(self.0.sign(&statement(module, engine, parts)).to_bytes())
    }
}

impl FromStr for SigningKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        bytes(text).map(Self::from_seed)
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        VerifyingKey::from_bytes(&bytes(text)?).map(Self).map_err(|_| KeyError::Key)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0.to_bytes()))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for TrustedKeys {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let keys: Vec<PublicKey> = text
            .split(',')
            .map(str::trim)
            .filter(|key| !key.is_empty())
            .map(str::parse)
            .collect::<Result<_, _>>()?;
        if keys.is_empty() { Err(KeyError::None) } else { Ok(Self(keys)) }
    }
}

impl From<PublicKey> for TrustedKeys {
    fn from(key: PublicKey) -> Self {
        Self(vec![key])
    }
}

impl TrustedKeys {
    pub(crate) fn contains(&self, key: &PublicKey) -> bool {
        self.0.iter().any(|trusted| trusted.0 == key.0)
    }

    /// Whether one of them signed for exactly this.
    pub(crate) fn vouch(&self, signature: &str, module: &Digest, engine: &str, parts: &Parts) -> bool {
        let mut signed = [0; Signature::BYTE_SIZE];
        if hex::decode_to_slice(signature, &mut signed).is_err() {
            return false;
        }
        let (signature, statement) = (Signature::from_bytes(&signed), statement(module, engine, parts));
        self.0.iter().any(|key| key.0.verify_strict(&statement, &signature).is_ok())
    }
}

/// What is signed: nothing of it can be exchanged for that of another module, engine or artifact.
fn statement(module: &Digest, engine: &str, parts: &Parts) -> Vec<u8> {
    let Parts { fast, metered } = parts;
    format!("outflow transform artifact 1\n{module}\n{engine}\n{fast}\n{metered}\n").into_bytes()
}

fn bytes(text: &str) -> Result<[u8; 32], KeyError> {
    let mut bytes = [0; 32];
    hex::decode_to_slice(text.trim(), &mut bytes).map_err(|_| KeyError::Text)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_for_one_module_engine_and_artifact_by_one_key() {
        let key = SigningKey::from_seed([7; 32]);
        let digest = |text: &str| Digest::of(text.as_bytes());
        let parts = Parts { fast: digest("fast"), metered: digest("metered") };
        let signature = key.sign(&digest("module"), "engine", &parts);
        let trusted: TrustedKeys = key.public().to_string().parse().expect("it is a key");
        let others: TrustedKeys = SigningKey::from_seed([8; 32]).public().into();
        let exchanged = Parts { fast: parts.metered.clone(), metered: parts.fast.clone() };

        let both: TrustedKeys = format!("{},{}", SigningKey::from_seed([8; 32]).public(), key.public())
            .parse()
            .expect("they are keys");

        assert!(trusted.vouch(&signature, &digest("module"), "engine", &parts));
        assert!(both.vouch(&signature, &digest("module"), "engine", &parts), "the second key is as good");
        assert!(!both.vouch(&signature, &digest("another"), "engine", &parts));
        assert!(!others.vouch(&signature, &digest("module"), "engine", &parts));
        assert!(!trusted.vouch(&signature, &digest("another"), "engine", &parts));
        assert!(!trusted.vouch(&signature, &digest("module"), "another", &parts));
        assert!(!trusted.vouch(&signature, &digest("module"), "engine", &exchanged));
        assert!(!trusted.vouch("", &digest("module"), "engine", &parts));
        assert!(!trusted.vouch(&signature[2..], &digest("module"), "engine", &parts));
    }

    #[test]
    fn keys_survive_their_text_and_nothing_else_is_one() {
        let key = SigningKey::from_seed([9; 32]);
        assert_eq!(key.to_hex().parse::<SigningKey>().expect("it is a key").public(), key.public());
        let two = format!("{}, {}", key.public(), SigningKey::from_seed([1; 32]).public());
        assert_eq!(two.parse::<TrustedKeys>().expect("they are keys").0.len(), 2);
        assert_eq!("".parse::<TrustedKeys>(), Err(KeyError::None));
        assert_eq!("12".parse::<TrustedKeys>(), Err(KeyError::Text));
        assert_eq!("x".repeat(64).parse::<PublicKey>(), Err(KeyError::Text));
        assert!(!format!("{key:?}").contains(&key.to_hex()), "a secret is never printed");
    }
}
