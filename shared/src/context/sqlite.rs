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
    sqlite::{DataDir, Database},
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
        DataDirMode::Shared => DataDir::share(&config.data_dir),
    };
    let data_dir = data_dir.map_err(ContextError::backend)?;
    let database = Database::open(&data_dir.database()).map_err(ContextError::backend)?;
    let store =
        roles.store.then(|| Arc::new(SqliteStore::new(database.clone(), Arc::clone(clock))));
    let queue = roles.queue.then(|| Arc::new(SqliteQueue::new(database, Arc::clone(clock))));
    Ok(Opened {
        store: store.clone().map(|store| store as _),
        queue: queue.clone().map(|queue| queue as _),
        liveness: None,
        service: Some(Arc::new(Embedded { store, queue, mode, _data_dir: data_dir })),
    })
}

#[async_trait]
impl Service for Embedded {
    async fn recover_in_flight(&self, now: Timestamp) -> Result<u64, RecoverInFlightError> {
        if self.mode == DataDirMode::Shared {
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
