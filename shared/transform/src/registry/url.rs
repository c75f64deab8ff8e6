//! From a location to a store.

use super::RegistryError;
use object_store::{ObjectStore, local::LocalFileSystem, path::Path};
use std::sync::Arc;

type Opened = (Arc<dyn ObjectStore>, Path);

pub(super) fn open(location: &str) -> Result<Opened, RegistryError> {
    let failed = |reason: String| RegistryError::Open { url: location.to_owned(), reason };
    match location.split_once("://") {
        Some(("s3", rest)) => s3(rest).map_err(failed),
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

#[cfg(feature = "s3")]
fn s3(rest: &str) -> Result<Opened, String> {
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let store = object_store::aws::AmazonS3Builder::from_env()
        .with_bucket_name(bucket)
        .with_conditional_put(object_store::aws::S3ConditionalPut::ETagMatch)
        .build()
        .map_err(|e| e.to_string())?;
    Ok((Arc::new(store), Path::parse(prefix).map_err(|e| e.to_string())?))
}

#[cfg(not(feature = "s3"))]
fn s3(_rest: &str) -> Result<Opened, String> {
    Err("this build has no S3; build with the feature `s3`".to_owned())
}
