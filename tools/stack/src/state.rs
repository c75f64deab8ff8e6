//! The files of one stack: where data, logs, pids, ports and secrets lie, and the locks around them.

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use serde::{Deserialize, Serialize};

use crate::process::ProcessId;
use crate::progress::Progress;
use crate::services::Service;

/// How often a lock that someone else holds is tried again.
const LOCK_POLL: Duration = Duration::from_millis(100);

/// Paths below a stack's state folder.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    root: PathBuf,
}

impl Layout {
    pub(crate) fn new(root: &Path) -> anyhow::Result<Self> {
        let root = std::path::absolute(root)
            .with_context(|| format!("{} can't be made an absolute path", root.display()))?;
        Ok(Self { root })
    }

    /// Makes the folders that everything else takes for granted.
    pub(crate) fn create(&self) -> anyhow::Result<()> {
        for folder in [self.data_root(), self.logs(), self.run()] {
            std::fs::create_dir_all(&folder)
                .with_context(|| format!("could not make the folder {}", folder.display()))?;
        }
        Ok(())
    }

    pub(crate) fn data_root(&self) -> PathBuf {
        self.root.join("data")
    }

    pub(crate) fn data(&self, service: Service) -> PathBuf {
        self.data_root().join(service.name())
    }

    pub(crate) fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    pub(crate) fn log(&self, service: Service) -> PathBuf {
        self.logs().join(format!("{service}.log"))
    }

    /// Small files that belong to running processes: pid files, locks, written configuration.
    pub(crate) fn run(&self) -> PathBuf {
        self.root.join("run")
    }

    pub(crate) fn secrets(&self) -> PathBuf {
        self.root.join("secrets.json")
    }

    /// Signs what is published in the registry.
    pub(crate) fn transform_key(&self) -> PathBuf {
        self.root.join("transform.key")
    }

    pub(crate) fn registry(&self) -> PathBuf {
        self.root.join("registry")
    }

    fn record(&self, service: Service) -> PathBuf {
        self.run().join(format!("{service}.json"))
    }

    fn ports(&self) -> PathBuf {
        self.root.join("ports.json")
    }

    /// What a reset takes away: all but the installed tools and the locks.
    pub(crate) fn disposable(&self) -> Vec<PathBuf> {
        let mut paths = vec![
            self.data_root(),
            self.logs(),
            self.registry(),
            self.transform_key(),
            self.secrets(),
            self.ports(),
        ];
        paths.extend(Service::ALL.map(|service| self.record(service)));
        paths
    }

    /// Held while a service is started or stopped.
    pub(crate) async fn lock_service(
        &self,
        service: Service,
        progress: &(dyn Progress + Sync),
    ) -> anyhow::Result<FileLock> {
        let path = self.run().join(format!("{service}.lock"));
        FileLock::acquire(&path, progress, &format!("another command starts or stops {service}")).await
    }

    /// Held for the moment in which ports or secrets are read and written.
    pub(crate) async fn lock_files(&self, progress: &(dyn Progress + Sync)) -> anyhow::Result<FileLock> {
        FileLock::acquire(&self.run().join("state.lock"), progress, "another command writes its state").await
    }

    pub(crate) fn load_record(&self, service: Service) -> anyhow::Result<Option<Record>> {
        load_json(&self.record(service))
    }

    pub(crate) fn store_record(&self, service: Service, record: &Record) -> anyhow::Result<()> {
        crate::secrets::write_private(&self.record(service), &serde_json::to_vec_pretty(record)?)
    }

    pub(crate) fn drop_record(&self, service: Service) -> anyhow::Result<()> {
        let path = self.record(service);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("could not remove {}", path.display()))
            }
            _ => Ok(()),
        }
    }

    /// The ports of the last start, by name. Call it under [`Self::lock_files`] when they are to be changed.
    pub(crate) fn load_ports(&self) -> anyhow::Result<BTreeMap<String, u16>> {
        Ok(load_json(&self.ports())?.unwrap_or_default())
    }

    pub(crate) fn store_ports(&self, ports: &BTreeMap<String, u16>) -> anyhow::Result<()> {
        crate::secrets::write_private(&self.ports(), &serde_json::to_vec_pretty(ports)?)
    }
}

/// What the pid file of a service holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Record {
    /// A process of this stack.
    Own { process: ProcessId, port: u16 },
    /// It ran already where the configuration points.
    Elsewhere,
}

fn load_json<T: serde::de::DeserializeOwned>(path: &Path) -> anyhow::Result<Option<T>> {
    match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .with_context(|| format!("{} is damaged: delete it and try again", path.display()))
            .map(Some),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("could not read {}", path.display())),
    }
}

/// A lock on a file, held until it is dropped or its process ends, however it ends.
#[derive(Debug)]
pub(crate) struct FileLock {
    _file: File,
}

impl FileLock {
    /// The lock, unless someone else holds it.
    pub(crate) fn try_acquire(path: &Path) -> anyhow::Result<Option<Self>> {
        let file = Self::open(path)?;
        Ok(Self::try_lock(&file, path)?.then_some(Self { _file: file }))
    }

    /// Waits for the lock; says once why it waits.
    pub(crate) async fn acquire(
        path: &Path,
        progress: &(dyn Progress + Sync),
        why: &str,
    ) -> anyhow::Result<Self> {
        let file = Self::open(path)?;
        let mut told = false;
        while !Self::try_lock(&file, path)? {
            if !told {
                progress.note(&format!("waiting: {why} ({})", path.display()));
                told = true;
            }
            tokio::time::sleep(LOCK_POLL).await;
        }
        Ok(Self { _file: file })
    }

    fn open(path: &Path) -> anyhow::Result<File> {
        File::options()
            .create(true)
            .append(true)
            .open(path)
            .with_context(|| format!("could not open the lock {}", path.display()))
    }

    fn try_lock(file: &File, path: &Path) -> anyhow::Result<bool> {
        match file.try_lock() {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(error)) => {
                Err(error).with_context(|| format!("could not lock {}", path.display()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Quiet;

    #[tokio::test]
    async fn a_lock_has_one_holder_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.lock");
        let first = FileLock::acquire(&path, &Quiet, "first").await.unwrap();
        let second = FileLock::acquire(&path, &Quiet, "second");
        tokio::pin!(second);
        assert!(tokio::time::timeout(LOCK_POLL * 3, &mut second).await.is_err(), "two holders");
        assert!(FileLock::try_acquire(&path).unwrap().is_none(), "two holders");
        drop(first);
        second.await.unwrap();
    }

    #[test]
    fn records_and_ports_come_back_as_they_were() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path()).unwrap();
        layout.create().unwrap();
        assert_eq!(layout.load_record(Service::Kafka).unwrap(), None);
        let process = ProcessId { pid: 7, started: 8, boot: "b".to_owned() };
        let record = Record::Own { process, port: 9 };
        layout.store_record(Service::Kafka, &record).unwrap();
        assert_eq!(layout.load_record(Service::Kafka).unwrap(), Some(record));
        layout.drop_record(Service::Kafka).unwrap();
        layout.drop_record(Service::Kafka).unwrap();
        assert_eq!(layout.load_record(Service::Kafka).unwrap(), None);

        assert!(layout.load_ports().unwrap().is_empty());
        let ports = BTreeMap::from([("kafka".to_owned(), 9092)]);
        layout.store_ports(&ports).unwrap();
        assert_eq!(layout.load_ports().unwrap(), ports);
    }
}
