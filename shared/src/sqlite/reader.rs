//! Read-only connections. They see every commit and block no writer.
//!
//! Reads have their own threads, so other blocking calls, such as name look-ups, do not delay them.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use rusqlite::Connection;

use super::{
    DatabaseError,
    open::{Role, connect},
};
use crate::threads::Threads;

/// The most concurrent reads.
const MAX_READERS: usize = 4;

/// Opened on demand, and kept.
pub(super) struct Readers {
    path: Arc<PathBuf>,
    threads: Threads,
    // Locked only to take or return a connection, never across an await.
    idle: Arc<Mutex<Vec<Connection>>>,
}

impl Readers {
    pub(super) fn new(path: &Path) -> Self {
        let path = Arc::new(path.to_owned());
        Self { path, threads: Threads::new("sqlite-read", MAX_READERS), idle: Arc::default() }
    }

    /// Reads may access the disk, so they run on threads that may block.
    pub(super) async fn read<T, F>(&self, work: F) -> Result<T, DatabaseError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let (path, idle) = (Arc::clone(&self.path), Arc::clone(&self.idle));
        let read = self.threads.run(move || {
            let taken = idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let connection = match taken {
                Some(connection) => connection,
                None => connect(&path, Role::Reader)?,
            };
            let found = work(&connection);
            idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
            found
        });
        Ok(read.await.map_err(|_| DatabaseError::Closed)??)
    }
}
