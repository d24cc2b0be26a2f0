//! Opens the embedded file.

use std::sync::Arc;

use async_trait::async_trait;

use super::{
    error::{ContextError, RecoverInFlightError},
    opening::{DataDirMode, Opened, Opening, Service},
};
use crate::{
    clock::Timestamp,
    queue::sqlite::SqliteQueue,
    random::SystemRandom,
    sealing::MasterKeys,
    sqlite::{
        DataDir, Database,
        master_key_file::{self, MASTER_KEY_FILE, MasterKeyFileError},
    },
    store::sqlite::SqliteStore,
};

/// The embedded file in this process.
#[derive(Debug)]
struct Embedded {
    store: Option<Arc<SqliteStore>>,
    queue: Option<Arc<SqliteQueue>>,
    mode: DataDirMode,
    /// Holds the lock.
    _data_dir: DataDir,
}

pub(super) fn open(opening: Opening<'_>) -> Result<Opened, ContextError> {
    let Opening { config, clock, mode, roles } = opening;
    let data_dir = match mode {
        DataDirMode::Exclusive => DataDir::lock(&config.data_dir),
        DataDirMode::Shared | DataDirMode::SharedByStack => DataDir::share(&config.data_dir),
    };
    let data_dir = data_dir.map_err(ContextError::backend)?;
    let database = Database::open(&data_dir.database()).map_err(ContextError::backend)?;
    let master_keys = if roles.store && config.master_keys.is_none() {
        stored_master_keys(&data_dir, mode)?
    } else {
        None
    };
    let store =
        roles.store.then(|| Arc::new(SqliteStore::new(database.clone(), Arc::clone(clock))));
    let queue = roles.queue.then(|| Arc::new(SqliteQueue::new(database, Arc::clone(clock))));
    Ok(Opened {
        store: store.clone().map(|store| store as _),
        queue: queue.clone().map(|queue| queue as _),
        liveness: None,
        master_keys,
        service: Some(Arc::new(Embedded { store, queue, mode, _data_dir: data_dir })),
    })
}

/// The keys in the file `master.key`. A stack makes it. A function of a stack reads it alone.
fn stored_master_keys(
    data_dir: &DataDir,
    mode: DataDirMode,
) -> Result<Option<MasterKeys>, ContextError> {
    let folder = data_dir.path();
    let found = master_key_file::read(folder).map_err(ContextError::backend)?;
    if found.is_some() {
        return Ok(found);
    }
    let database = data_dir.database();
    if master_key_file::is_needed(&database).map_err(ContextError::backend)? {
        let path = folder.join(MASTER_KEY_FILE);
        return Err(ContextError::backend(MasterKeyFileError::Lost { path }));
    }
    match mode {
        DataDirMode::Shared => Ok(None),
        DataDirMode::Exclusive | DataDirMode::SharedByStack => {
            let created = master_key_file::read_or_create(folder, &SystemRandom);
            created.map(Some).map_err(ContextError::backend)
        }
    }
}

#[async_trait]
impl Service for Embedded {
    async fn recover_in_flight(&self, now: Timestamp) -> Result<u64, RecoverInFlightError> {
        if self.mode != DataDirMode::Exclusive {
            return Ok(0);
        }
        let mut count = 0;
        let mut looks = None;
        if let Some(queue) = &self.queue {
            let recovered = queue.recover_in_flight(now).await?;
            count += recovered.released;
            looks = Some(recovered.looks);
        }
        if let Some(store) = &self.store {
            let recovered = store.recover_in_flight(now, looks).await?;
            count = count.max(recovered.leases) + recovered.unsent;
        }
        Ok(count)
    }

    async fn run(&self) {}
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use tempfile::TempDir;

    use super::*;
    use crate::{
        clock::{Clock, SystemClock},
        config::{Config, Defaults},
        context::{Backends, Context},
        sealing::MasterKeyId,
        store::golden,
    };

    fn start(
        folder: &Path,
        mode: DataDirMode,
        master_key: Option<&str>,
    ) -> Result<(Backends, Option<MasterKeyId>), ContextError> {
        let source = |name: &str| match name {
            "DATA_DIR" => Some(folder.display().to_string()),
            "MASTER_KEY" => master_key.map(str::to_owned),
            _ => None,
        };
        let config = Config::from_source(Defaults::LOCAL, source).unwrap();
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let backends = Backends::open(&config, &clock, mode)?;
        let context = Context::new(config, &backends, clock, std::time::Duration::ZERO).unwrap();
        let id = context.config.master_keys.as_ref().map(MasterKeys::sealing_key_id);
        Ok((backends, id))
    }

    fn key_of(folder: &Path, mode: DataDirMode) -> Option<MasterKeyId> {
        start(folder, mode, None).unwrap().1
    }

    #[tokio::test]
    async fn a_stack_makes_the_master_key_and_its_functions_read_it() {
        for stack in [DataDirMode::Exclusive, DataDirMode::SharedByStack] {
            let folder = TempDir::new().unwrap();
            let path = folder.path().join(MASTER_KEY_FILE);
            assert_eq!(key_of(folder.path(), DataDirMode::Shared), None);
            assert!(!path.exists(), "a function makes none");
            let made = key_of(folder.path(), stack);
            assert!(made.is_some() && path.exists());
            for mode in [DataDirMode::Shared, stack] {
                assert_eq!(key_of(folder.path(), mode), made);
            }
        }
    }

    #[tokio::test]
    async fn master_key_goes_before_the_file() {
        let folder = TempDir::new().unwrap();
        let key = crate::sealing::generate_master_key(&SystemRandom);
        let (_, given) = start(folder.path(), DataDirMode::Exclusive, Some(&key)).unwrap();
        assert_eq!(given, Some(key.parse::<MasterKeys>().unwrap().sealing_key_id()));
        assert!(!folder.path().join(MASTER_KEY_FILE).exists());
    }

    /// A new key could not open what the lost one sealed, so nothing makes one.
    #[tokio::test]
    async fn nothing_starts_without_the_key_of_its_endpoints() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join(MASTER_KEY_FILE);
        let (backends, made) = start(folder.path(), DataDirMode::Exclusive, None).unwrap();
        let [(_, without_endpoints), (_, full)] = golden::applications::applications();
        backends.store().write_application(None, &without_endpoints).await.unwrap();
        drop(backends);
        fs::remove_file(&path).unwrap();
        let (backends, again) = start(folder.path(), DataDirMode::Exclusive, None).unwrap();
        assert_ne!(again, made, "nothing was sealed");
        backends.store().write_application(None, &full).await.unwrap();
        drop(backends);
        let away = folder.path().join("away");
        fs::rename(&path, &away).unwrap();
        for mode in [DataDirMode::Exclusive, DataDirMode::SharedByStack, DataDirMode::Shared] {
            let error = start(folder.path(), mode, None).unwrap_err().to_string();
            assert!(error.contains("master.key is missing") && error.contains("put"), "{error}");
            assert!(!path.exists());
        }
        let key = crate::sealing::generate_master_key(&SystemRandom);
        start(folder.path(), DataDirMode::Exclusive, Some(&key)).unwrap();
        fs::rename(&away, &path).unwrap();
        assert_eq!(key_of(folder.path(), DataDirMode::Exclusive), again);
    }
}
