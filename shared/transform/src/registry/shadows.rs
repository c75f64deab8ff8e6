//! Reports of candidates that ran beside what was active: numbered, each module's own, never changed.

use super::{Registry, RegistryError, parse};
use crate::Digest;
use object_store::PutMode;
use serde::{Serialize, de::DeserializeOwned};

impl Registry {
    /// Keeps a report of a candidate beside its module, under the next number, which is returned.
    ///
    /// # Errors
    /// Where the registry can't be listed or written.
    pub async fn put_shadow_report(
        &self,
        digest: &Digest,
        report: &impl Serialize,
    ) -> Result<u32, RegistryError> {
        let mut number = self.shadow_reports(digest).await?.last().map_or(1, |last| last + 1);
        loop {
            let path = self.path("shadows", digest.as_str()).join(format!("{number}.json"));
            match self.write_json(&path, report, PutMode::Create).await {
                Ok(()) => return Ok(number),
                // Somebody else tries the same module at this moment: theirs stays.
                Err(RegistryError::Write { source: object_store::Error::AlreadyExists { .. }, .. }) => {
                    number += 1;
                }
                Err(other) => return Err(other),
            }
        }
    }

    /// The numbers of a candidate's reports, lowest first.
    ///
    /// # Errors
    /// Where the registry can't be listed.
    pub async fn shadow_reports(&self, digest: &Digest) -> Result<Vec<u32>, RegistryError> {
        let names = self.list(&format!("shadows/{digest}")).await?;
        let mut numbers: Vec<u32> =
            names.iter().filter_map(|name| name.strip_suffix(".json")?.parse().ok()).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// One report of a candidate; None where there is none of this number.
    ///
    /// # Errors
    /// Where it can't be read or understood.
    pub async fn shadow_report<T: DeserializeOwned>(
        &self,
        digest: &Digest,
        number: u32,
    ) -> Result<Option<T>, RegistryError> {
        let path = self.path("shadows", digest.as_str()).join(format!("{number}.json"));
        self.read_if_there(&path).await?.map(|text| parse(&path, &text)).transpose()
    }
}
