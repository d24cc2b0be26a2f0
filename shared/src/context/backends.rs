//! The store and the queue that the settings select.

use std::{mem, sync::Arc};

use super::{
    error::{ContextError, RecoverInFlightError},
    opening::{DataDirMode, Opened, Opening, Roles, Service},
};
use crate::{
    clock::{Clock, Timestamp},
    config::{Config, QueueBackend, StoreBackend},
    liveness::Liveness,
    queue::Queue,
    sealing::MasterKeys,
    store::Store,
};

/// The store and the queue, as configured. Keep one of its clones for as long as the process uses
/// them: it holds the lock of the data directory.
#[derive(Clone, Debug)]
pub struct Backends {
    store: Arc<dyn Store>,
    queue: Arc<dyn Queue>,
    liveness: Arc<Liveness>,
    master_keys: Option<MasterKeys>,
    services: Vec<Arc<dyn Service>>,
}

/// The programs or services that backends use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Provider {
    Sqlite,
    Redis,
    Aws,
}

impl Provider {
    fn of_store(backend: StoreBackend) -> Self {
        match backend {
            StoreBackend::Sqlite => Self::Sqlite,
            StoreBackend::Redis => Self::Redis,
            StoreBackend::DynamoDb => Self::Aws,
        }
    }

    fn of_queue(backend: QueueBackend) -> Self {
        match backend {
            QueueBackend::Sqlite => Self::Sqlite,
            QueueBackend::Redis => Self::Redis,
            QueueBackend::Sqs => Self::Aws,
        }
    }

    /// `None`: this build does not contain the backend.
    fn open(self, opening: Opening<'_>) -> Result<Option<Opened>, ContextError> {
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite => super::sqlite::open(opening).map(Some),
            #[cfg(feature = "redis")]
            Self::Redis => super::redis::open(opening).map(Some),
            #[cfg(feature = "aws")]
            Self::Aws => super::aws::open(opening).map(Some),
            #[allow(unreachable_patterns, reason = "with all features, no backend is left")]
            _ => {
                let _ = opening;
                Ok(None)
            }
        }
    }
}

impl Backends {
    /// Opens the backends that `STATUS_BACKEND` and `QUEUE_BACKEND` select. A server need not
    /// respond yet: `GET /health` reports whether it does. Call it inside a tokio runtime.
    pub fn open(
        config: &Config,
        clock: &Arc<dyn Clock>,
        mode: DataDirMode,
    ) -> Result<Self, ContextError> {
        let not_built_in = |variable, backend| ContextError::NotBuiltIn { variable, backend };
        let no_store = || not_built_in("STATUS_BACKEND", config.status_backend.as_str());
        let no_queue = || not_built_in("QUEUE_BACKEND", config.queue_backend.as_str());
        let (of_store, of_queue) =
            (Provider::of_store(config.status_backend), Provider::of_queue(config.queue_backend));
        let is_one = of_store == of_queue;
        let opening = |roles| Opening { config, clock, mode, roles };

        let first = opening(Roles { store: true, queue: is_one });
        let mut opened = of_store.open(first)?.ok_or_else(no_store)?;
        let mut services = Vec::from_iter(opened.service.take());
        if !is_one {
            let second = opening(Roles { store: false, queue: true });
            let other = of_queue.open(second)?.ok_or_else(no_queue)?;
            opened.queue = other.queue;
            services.extend(other.service);
        }
        Ok(Self {
            store: opened.store.ok_or_else(no_store)?,
            queue: opened.queue.ok_or_else(no_queue)?,
            liveness: opened.liveness.unwrap_or_default(),
            master_keys: opened.master_keys,
            services,
        })
    }

    /// The store.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// The queue.
    pub fn queue(&self) -> &Arc<dyn Queue> {
        &self.queue
    }

    /// The master keys beside the embedded store, if `MASTER_KEY` is not set.
    pub(super) fn master_keys(&self) -> Option<&MasterKeys> {
        self.master_keys.as_ref()
    }

    pub(super) fn liveness(&self) -> &Arc<Liveness> {
        &self.liveness
    }

    /// Ends the attempts and releases the messages that the last run on the embedded file left in
    /// flight. They continue now instead of when their leases and visibility timeouts end. Returns
    /// their number.
    ///
    /// Call it before any other work. It does nothing in [`DataDirMode::Shared`], since another
    /// process may be at work.
    pub async fn recover_in_flight(&self, now: Timestamp) -> Result<u64, RecoverInFlightError> {
        let mut count = 0;
        for service in &self.services {
            count += service.recover_in_flight(now).await?;
        }
        Ok(count)
    }

    /// Keeps the heartbeat of this process while it is polled, and recovers the work of processes
    /// whose heartbeat stopped. For a process that runs all the time. Without a backend on Redis
    /// this returns at once.
    pub fn keep_alive(&self) -> impl Future<Output = ()> + Send + use<> {
        let services = self.services.clone();
        async move {
            futures_util::future::join_all(services.iter().map(|service| service.run())).await;
        }
    }

    /// Keeps the data directory's lock until the process exits.
    pub(super) fn keep_until_exit(&self) {
        mem::forget(self.services.clone());
    }
}
