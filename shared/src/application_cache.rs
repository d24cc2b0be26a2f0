//! The documents of applications, as one process knows them.
//!
//! Publishing and delivering read a document for each message. A copy that is younger than
//! `ENDPOINT_CACHE_MS` serves all of them, so other processes see a change within that time. An
//! absent document is never kept: a new application can be used at once.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use crate::{
    applications::{application::Application, id::ApplicationId},
    clock::Clock,
    store::{Store, StoreError},
};

/// The most documents that a process keeps.
const MAX_DOCUMENTS: usize = 1000;

/// The most bytes of the documents that a process keeps, as JSON: 32 MiB.
const MAX_BYTES: usize = 32 * 1024 * 1024;

/// A copy of at least this age is not recent enough to conclude that something is missing: 100 ms.
/// A request that follows a change is answered by the changed document.
const RECENT: Duration = Duration::from_millis(100);

/// A document and when it was read.
#[derive(Clone, Debug)]
pub struct CachedApplication {
    /// The document.
    pub application: Arc<Application>,
    /// When the read began, by the monotonic clock.
    read_at: Duration,
    bytes: usize,
}

impl CachedApplication {
    /// Whether the copy is recent enough to conclude from it that something does not exist. If not,
    /// read the document again ([`ApplicationCache::read`]).
    pub fn is_recent(&self, clock: &dyn Clock) -> bool {
        clock.monotonic().saturating_sub(self.read_at) <= RECENT
    }
}

/// The documents of applications, as one process knows them. See the module.
#[derive(Debug, Default)]
pub struct ApplicationCache {
    max_age: Duration,
    // A std mutex: it is held for a few instructions, never across an await.
    documents: Mutex<Documents>,
}

#[derive(Debug, Default)]
struct Documents {
    by_id: HashMap<ApplicationId, CachedApplication>,
    bytes: usize,
}

impl ApplicationCache {
    /// A cache whose copies serve for `max_age` (`ENDPOINT_CACHE_MS`).
    pub fn new(max_age: Duration) -> Self {
        Self { max_age, documents: Mutex::default() }
    }

    /// The document, at most `ENDPOINT_CACHE_MS` old. `None`: the store has none.
    pub async fn get(
        &self,
        store: &dyn Store,
        clock: &dyn Clock,
        id: &ApplicationId,
    ) -> Result<Option<CachedApplication>, StoreError> {
        let now = clock.monotonic();
        let found = self.lock().by_id.get(id).cloned();
        let is_young = |found: &CachedApplication| {
            let age = now.saturating_sub(found.read_at);
            age < self.max_age
        };
        match found.filter(is_young) {
            Some(found) => Ok(Some(found)),
            None => self.read(store, clock, id).await,
        }
    }

    /// The document as it is stored now. Later calls of [`ApplicationCache::get`] return it.
    pub async fn read(
        &self,
        store: &dyn Store,
        clock: &dyn Clock,
        id: &ApplicationId,
    ) -> Result<Option<CachedApplication>, StoreError> {
        let read_at = clock.monotonic();
        let Some(application) = store.application(id).await? else {
            self.lock().remove(id);
            return Ok(None);
        };
        Ok(Some(self.put(application, read_at)))
    }

    /// The documents that the process keeps, however old.
    pub fn documents(&self) -> Vec<Arc<Application>> {
        self.lock().by_id.values().map(|cached| Arc::clone(&cached.application)).collect()
    }

    /// Keeps a document that this process has just written. `clock` gives the time of the write's
    /// answer: the document is current then.
    pub fn written(&self, clock: &dyn Clock, application: Application) -> Arc<Application> {
        self.put(application, clock.monotonic()).application
    }

    fn put(&self, application: Application, read_at: Duration) -> CachedApplication {
        let bytes = application.to_json().len();
        let cached = CachedApplication { application: Arc::new(application), read_at, bytes };
        let mut documents = self.lock();
        let id = &cached.application.id;
        let is_newer =
            |known: &CachedApplication| known.application.revision > cached.application.revision;
        // Two reads can end in another order than they began.
        if let Some(known) = documents.by_id.get(id).filter(|known| is_newer(known)) {
            return known.clone();
        }
        documents.remove(id);
        documents.bytes += bytes;
        documents.by_id.insert(id.clone(), cached.clone());
        documents.limit();
        drop(documents);
        cached
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Documents> {
        self.documents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Documents {
    fn remove(&mut self, id: &ApplicationId) {
        if let Some(removed) = self.by_id.remove(id) {
            self.bytes -= removed.bytes;
        }
    }

    /// Drops the documents that were read first, until the rest is within the limits. The newest
    /// stays.
    fn limit(&mut self) {
        if self.by_id.len() <= MAX_DOCUMENTS && self.bytes <= MAX_BYTES {
            return;
        }
        let mut by_age: Vec<(Duration, ApplicationId)> =
            self.by_id.iter().map(|(id, found)| (found.read_at, id.clone())).collect();
        by_age.sort();
        // A tenth at once, so that a full cache is not sorted for each document.
        let keep = MAX_DOCUMENTS - MAX_DOCUMENTS / 10;
        let newest = by_age.pop();
        for (_, id) in by_age {
            if self.by_id.len() <= keep && self.bytes <= MAX_BYTES {
                break;
            }
            self.remove(&id);
        }
        debug_assert!(newest.is_some_and(|(_, id)| self.by_id.contains_key(&id)));
    }
}
