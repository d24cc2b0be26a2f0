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
            let made = master_key_file::read_or_create(folder, &SystemRandom);
            made.map(Some).map_err(ContextError::backend)
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
