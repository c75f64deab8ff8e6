//! The generated passwords of one stack. Nothing has a default one.

use std::fs::{File, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use anyhow::Context;
use rand::Rng;
use rand::distr::Alphanumeric;
use serde::{Deserialize, Serialize};

/// 32 letters and digits carry 190 bits. Letters and digits alone, so that a password can stand in a URL,
/// in SQL and in XML as it is.
const LENGTH: usize = 32;

/// Only the owner may read what is secret.
const OWNER_ONLY: u32 = 0o600;

/// One password for each user of the services.
#[derive(Clone, Serialize, Deserialize, PartialEq, Eq)]
pub(crate) struct Secrets {
    /// MySQL's administrator.
    pub mysql_admin: String,
    /// The application in MySQL.
    pub mysql_app: String,
    /// The loader in ClickHouse.
    pub clickhouse_writer: String,
    /// The dashboards in ClickHouse.
    pub clickhouse_reader: String,
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secrets").finish_non_exhaustive()
    }
}

impl Secrets {
    fn generate() -> Self {
        Self {
            mysql_admin: password(),
            mysql_app: password(),
            clickhouse_writer: password(),
            clickhouse_reader: password(),
        }
    }

    /// The secrets in `path`; none if there is no such file.
    pub(crate) fn load(path: &Path) -> anyhow::Result<Option<Self>> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("could not read {}", path.display())),
        };
        // Someone may have copied or edited it: the next reader finds it closed again.
        std::fs::set_permissions(path, Permissions::from_mode(OWNER_ONLY))
            .with_context(|| format!("could not close {} to others", path.display()))?;
        let secrets = serde_json::from_str(&text).with_context(|| {
            format!(
                "{} is not a secrets file: delete it and run `cargo xtask stack up` again",
                path.display()
            )
        })?;
        Ok(Some(secrets))
    }

    /// The secrets in `path`, generated at the first call.
    pub(crate) fn load_or_generate(path: &Path) -> anyhow::Result<Self> {
        if let Some(secrets) = Self::load(path)? {
            return Ok(secrets);
        }
        let secrets = Self::generate();
        write_private(path, &serde_json::to_vec_pretty(&secrets)?)?;
        Ok(secrets)
    }
}

/// The key that this stack's transforms are signed with: 64 hex digits in `path`, generated at the first call.
///
/// Returns its public half, which the functions trust.
pub(crate) fn transform_key(path: &Path) -> anyhow::Result<String> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let text = format!("{}\n", hex::encode(rand::rng().random::<[u8; 32]>()));
            write_private(path, text.as_bytes())?;
            text
        }
        Err(error) => return Err(error).with_context(|| format!("could not read {}", path.display())),
    };
    let mut seed = [0; 32];
    hex::decode_to_slice(text.trim(), &mut seed).with_context(|| {
        format!("{} is no key: delete it, and publish the transforms again", path.display())
    })?;
    Ok(hex::encode(ed25519_dalek::SigningKey::from_bytes(&seed).verifying_key().to_bytes()))
}

/// Writes a file that only its owner can read, whole or not at all.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let partial = path.with_extension("partial");
    let write = || -> std::io::Result<()> {
        if partial.exists() {
            std::fs::remove_file(&partial)?;
        }
        let mut file: File =
            OpenOptions::new().write(true).create_new(true).mode(OWNER_ONLY).open(&partial)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&partial, path)
    };
    write().with_context(|| format!("could not write {}", path.display()))
}

fn password() -> String {
    rand::rng().sample_iter(Alphanumeric).take(LENGTH).map(char::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn generated_once_and_closed_to_others() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secrets.json");
        let first = Secrets::load_or_generate(&path).unwrap();
        assert_eq!(mode(&path), 0o600);
        assert_eq!(first.mysql_app.len(), LENGTH);
        assert_ne!(first.mysql_app, first.mysql_admin);
        std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        assert!(Secrets::load_or_generate(&path).unwrap() == first);
        assert_eq!(mode(&path), 0o600);
    }

    #[test]
    fn a_broken_file_is_an_error_that_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secrets.json");
        std::fs::write(&path, "{}").unwrap();
        let error = Secrets::load_or_generate(&path).unwrap_err().to_string();
        assert!(error.contains("delete it"), "{error}");
    }

    #[test]
    fn the_key_of_transforms_is_generated_once_and_closed_to_others() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("transform.key");
        let public = transform_key(&path).unwrap();
        assert_eq!((public.len(), mode(&path)), (64, 0o600));
        assert_eq!(transform_key(&path).unwrap(), public);
        assert_ne!(std::fs::read_to_string(&path).unwrap().trim(), public);
        std::fs::write(&path, "no key").unwrap();
        assert!(transform_key(&path).unwrap_err().to_string().contains("delete it"));
    }

    #[test]
    fn they_are_not_shown() {
        let dir = tempfile::tempdir().unwrap();
        let secrets = Secrets::load_or_generate(&dir.path().join("secrets.json")).unwrap();
        assert!(!format!("{secrets:?}").contains(&secrets.mysql_app));
    }
}
