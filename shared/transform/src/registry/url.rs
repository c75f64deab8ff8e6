//! From a location to a store.

use super::RegistryError;
use object_store::{ObjectStore, local::LocalFileSystem, path::Path};
use std::sync::Arc;
#[cfg(feature = "s3")]
use std::time::Duration;

type Opened = (Arc<dyn ObjectStore>, Path);

pub(super) fn open(location: &str, settings: &[(&str, &str)]) -> Result<Opened, RegistryError> {
    let failed = |reason: String| RegistryError::Open { url: location.to_owned(), reason };
    match location.split_once("://") {
        Some(("s3", rest)) => s3(rest, settings).map_err(failed),
        Some(("file", folder)) if folder.starts_with('/') => local(folder).map_err(failed),
        Some(("file", _)) => {
            Err(failed("a file:// location is absolute, such as file:///var/registry".into()))
        }
        Some((scheme, _)) => Err(failed(format!("'{scheme}' is neither file nor s3"))),
        None if location.is_empty() => Err(failed("it is empty".to_owned())),
        None => local(location).map_err(failed),
    }
}

fn local(folder: &str) -> Result<Opened, String> {
    std::fs::create_dir_all(folder).map_err(|e| format!("{folder} can't be made: {e}"))?;
    let store = LocalFileSystem::new_with_prefix(folder).map_err(|e| e.to_string())?;
    Ok((Arc::new(store), Path::default()))
}

/// A batch waits while its function asks the registry, and the function has a minute: a store that fails is given up long
/// before, and the last good transform goes on. The client's own habit is to ask for three minutes.
#[cfg(feature = "s3")]
const PATIENCE: object_store::RetryConfig = object_store::RetryConfig {
    backoff: object_store::BackoffConfig {
        init_backoff: Duration::from_millis(100),
        max_backoff: Duration::from_secs(1),
        base: 2.0,
    },
    max_retries: 3,
    retry_timeout: Duration::from_secs(10),
};

#[cfg(feature = "s3")]
fn s3(rest: &str, settings: &[(&str, &str)]) -> Result<Opened, String> {
    use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, S3ConditionalPut};
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    if bucket.is_empty() {
        return Err("an s3:// location names a bucket, such as s3://bucket/prefix".to_owned());
    }
    // The client takes the process's TLS library, and there may be none yet. One that the process has chosen stays.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut builder = AmazonS3Builder::from_env();
    for (name, value) in settings {
        let key: AmazonS3ConfigKey =
            name.to_ascii_lowercase().parse().map_err(|_| format!("S3 has no setting '{name}'"))?;
        builder = builder.with_config(key, *value);
    }
    let store = builder
        .with_bucket_name(bucket)
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        .with_retry(PATIENCE)
        .build()
        .map_err(|e| e.to_string())?;
    Ok((Arc::new(store), Path::parse(prefix).map_err(|e| e.to_string())?))
}

#[cfg(not(feature = "s3"))]
fn s3(_rest: &str, _settings: &[(&str, &str)]) -> Result<Opened, String> {
    Err("this build has no S3; build with the feature `s3`".to_owned())
}
