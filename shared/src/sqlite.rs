//! The database file of the embedded store and the embedded queue. They may share one file or have
//! one each.
//!
//! | module | what it holds |
//! |---|---|
//! | `open` | opening: whose file it is, its schema version and the migrations |
//! | `schema` | the migrations and the version of a file |
//! | `older_schema` | the backup that precedes a migration |
//! | `writer` | the one thread that writes, and group commit |
//! | `reader` | the connections that only read |
//! | `limit` | the end of reads that take too long |
//! | `checkpoint` | moving what was written from the log to the file, off the writer's path |
//! | `trim` | giving free pages back to the file system |
//! | `files` | who may read the files, whether they are still there, and the space on their disk |
//! | `condition` | what the threads noticed, and what an operator is told |
//! | `copy`, `restore`, `recover` | backups, and what is left of a damaged file |
//! | `data_dir` | the data folder and its lock: who works on the file |
//! | [`master_key_file`] | the master key beside the file |
//!
//! **Writing.** One thread makes all writes of a [`Database`]. It takes every waiting write, runs
//! them in one transaction, and answers after the commit. So concurrent requests share one commit
//! and one disk sync. An SQLite error rolls back the whole batch, and each of its callers gets the
//! error. A caller that stops waiting (its future is dropped) does not cancel its write.
//!
//! **Durability.** A commit survives a crash of any process. If the batch has a write with
//! `Durability::PowerLoss`, the disk is synced before any answer.
//!
//! **Several processes** may use one file. A transaction takes the write lock first, and waits up
//! to [`BUSY_TIMEOUT`] for it.

mod checkpoint;
mod condition;
mod copy;
mod data_dir;
mod files;
mod limit;
pub mod master_key_file;
mod older_schema;
mod open;
mod reader;
mod recover;
mod restore;
mod schema;
mod trim;
mod unfinished_restore;
mod writer;

#[cfg(test)]
mod tests;

use std::{
    error::Error,
    fmt, io,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
    thread::JoinHandle,
    time::Duration,
};

use rusqlite::{Connection, ErrorCode};
use tokio::sync::{Notify, mpsc, oneshot};

pub use copy::{Copied, CopyError, backup, diagnose};
pub use data_dir::{DATABASE_FILE, DataDir, DataDirError};
pub use files::{Loss, LostFile};
pub use recover::{Recovered, recover};
pub use restore::restore;
pub use schema::OpenError;
pub(crate) use writer::{Durability, TOTALS, Total, Transaction};

use self::{
    condition::Condition,
    files::OpenFiles,
    open::{Role, connect, prepare},
    reader::Readers,
    writer::{Job, Signals, Task, Writer},
};
use crate::{disk_usage::DiskUsage, error_chain::causes, lane::Lane};

/// How long a transaction waits for the write lock of another process.
pub const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// The longest time of one read. During a read, the write-ahead log cannot start over.
const MAX_READ_TIME: Duration = Duration::from_secs(10);

/// The bytes of a ping: a webhook of the usual size.
const PING_BYTES: u32 = 16 * 1024;

/// The bytes of a ping when space is short: the largest webhook with the usual settings.
const TIGHT_PING_BYTES: u32 = 272 * 1024;

/// The most writes that wait for the writer. Further callers wait for a place.
const MAX_WAITING_JOBS: usize = 1024;

/// Why the database failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DatabaseError {
    /// Nothing was written.
    #[error("no space is left on the disk of the database")]
    Full(#[source] Arc<rusqlite::Error>),
    /// Nothing was written.
    #[error("another process kept the database locked for {} s", BUSY_TIMEOUT.as_secs())]
    Busy(#[source] Arc<rusqlite::Error>),
    /// A page of the file is corrupt. Nothing was written.
    #[error("the database is damaged")]
    Damaged(#[source] Arc<rusqlite::Error>),
    /// A file was deleted or replaced. Later writes are lost with this process.
    #[error(transparent)]
    Lost(LostFile),
    /// A read took too long and was interrupted.
    #[error("a read of the database was ended after {} s", MAX_READ_TIME.as_secs())]
    TooLong(#[source] Arc<rusqlite::Error>),
    /// Nothing was written, unless the commit itself failed.
    #[error("the database failed")]
    Failed(#[source] Arc<rusqlite::Error>),
    /// The thread has ended.
    #[error("the database was closed")]
    Closed,
}

impl From<rusqlite::Error> for DatabaseError {
    fn from(error: rusqlite::Error) -> Self {
        let code = error.sqlite_error_code();
        let error = Arc::new(error);
        match code {
            Some(ErrorCode::DiskFull) => Self::Full(error),
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Self::Damaged(error),
            Some(ErrorCode::OperationInterrupted) => Self::TooLong(error),
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Busy(error),
            _ => Self::Failed(error),
        }
    }
}

/// An open database file. Clones share it. The last one to be dropped waits for pending writes and
/// closes it.
#[derive(Clone)]
pub struct Database {
    inner: Arc<Inner>,
}

struct Inner {
    path: PathBuf,
    /// `None` only during the drop.
    jobs: Option<mpsc::Sender<Box<dyn Job>>>,
    readers: Readers,
    signals: Arc<Signals>,
    condition: Arc<Condition>,
    files: OpenFiles,
    threads: Vec<JoinHandle<()>>,
}

impl Database {
    /// Opens the file, creates it if necessary, and migrates an older one. Blocks.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        Self::open_with(path, schema::MIGRATIONS)
    }

    fn open_with(path: &Path, migrations: &[&str]) -> Result<Self, OpenError> {
        let connection = prepare(path, migrations)?;
        let failed = |source| OpenError::Failed { path: path.to_owned(), source };
        let thread = |source| OpenError::Thread { source };
        let files = OpenFiles::of(path)
            .map_err(|source| OpenError::Inaccessible { path: path.to_owned(), source })?;
        let (signals, condition) = (Arc::new(Signals::default()), Arc::new(Condition::default()));
        let checkpointer = connect(path, Role::Checkpointer).map_err(failed)?;
        let (checkpoints, checkpointer) =
            checkpoint::start(checkpointer, Arc::clone(&condition)).map_err(thread)?;
        let (jobs, waiting) = mpsc::channel(MAX_WAITING_JOBS);
        let writer = Writer::new(
            connection,
            Arc::clone(&signals),
            checkpoints,
            Arc::clone(&condition),
            files.clone(),
        );
        let threads = vec![writer.start(waiting).map_err(thread)?, checkpointer];
        let (path, readers) = (path.to_owned(), Readers::new(path));
        Ok(Self {
            inner: Arc::new(Inner {
                path,
                jobs: Some(jobs),
                readers,
                signals,
                condition,
                files,
                threads,
            }),
        })
    }

    /// The path of the file.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// Transactions that this handle and its clones have committed. Group commit makes them fewer
    /// than the writes.
    pub fn commits(&self) -> u64 {
        self.inner.signals.commits.load(Ordering::Relaxed)
    }

    /// Runs `work` in a transaction that other waiting writes share. The answer comes after the
    /// commit.
    ///
    /// `work` returns an SQLite error only if the whole batch must be rolled back. A refusal is a
    /// value, and `work` refuses before it changes anything.
    pub(crate) async fn write<T, F>(
        &self,
        durability: Durability,
        work: F,
    ) -> Result<T, DatabaseError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Transaction<'_>) -> rusqlite::Result<T> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let jobs = self.inner.jobs.as_ref().ok_or(DatabaseError::Closed)?;
        let job = Box::new(Task::new(durability, work, answer));
        jobs.send(job).await.map_err(|_| DatabaseError::Closed)?;
        answered.await.unwrap_or(Err(DatabaseError::Closed))
    }

    /// Runs `work` on a connection that sees every write acknowledged before the call.
    pub(crate) async fn read<T, F>(&self, work: F) -> Result<T, DatabaseError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        self.read_within(MAX_READ_TIME, work).await
    }

    async fn read_within<T, F>(&self, limit: Duration, work: F) -> Result<T, DatabaseError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let limited = move |connection: &Connection| limit::within(limit, || work(connection));
        self.inner.readers.read(limited).await.inspect_err(|error| self.inner.condition.note(error))
    }

    /// Whether a webhook could be stored and read now. Each ping overwrites the last one's bytes
    /// with other ones, because SQLite skips a write of equal bytes. So a full disk shows, and the
    /// file does not grow.
    pub(crate) async fn ping(&self) -> Result<(), DatabaseError> {
        let (condition, path) = (Arc::clone(&self.inner.condition), self.inner.path.clone());
        let write = move |tx: &mut Transaction<'_>| {
            let is_tight = condition.is_tight(&path);
            let bytes = if is_tight { TIGHT_PING_BYTES } else { PING_BYTES };
            tx.execute(
                "INSERT OR REPLACE INTO sweep (name, value) VALUES ('ping', randomblob(?1))",
                [bytes],
            )?;
            Ok(is_tight)
        };
        if self.write(Durability::Crash, write).await? {
            self.inner.condition.found_space();
        }
        self.read(|connection| {
            connection
                .prepare_cached("SELECT length(value) FROM sweep WHERE name = 'ping'")?
                .query_row((), |_| Ok(()))
        })
        .await
    }

    /// Conditions that an operator should change, one sentence each.
    pub(crate) fn warnings(&self) -> Vec<String> {
        self.inner.condition.warnings(&self.inner.path, &self.inner.files)
    }

    /// The sizes of the files and the free space of their disk. A few system calls on a local disk,
    /// so it does not block.
    pub(crate) fn disk_usage(&self) -> io::Result<DiskUsage> {
        files::disk_usage(&self.inner.path)
    }

    /// Notified once for each message of the lane that this process made visible or will make
    /// visible.
    pub(crate) fn arrivals(&self, lane: Lane) -> &Notify {
        &self.inner.signals.arrivals[lane.index()]
    }
}

/// Whether the error or one of its causes is a damaged file.
pub fn is_damage(error: &(dyn Error + 'static)) -> bool {
    let is_code = |error: &rusqlite::Error| {
        matches!(
            error.sqlite_error_code(),
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
        )
    };
    causes(error).any(|error| {
        matches!(error.downcast_ref(), Some(DatabaseError::Damaged(_)))
            || error.downcast_ref().is_some_and(is_code)
    })
}

/// All totals, by slot. A negative total is shown as zero.
pub(crate) fn totals(connection: &Connection) -> rusqlite::Result<[u64; TOTALS]> {
    let mut totals = [0; TOTALS];
    let mut statement = connection.prepare_cached("SELECT slot, n FROM totals")?;
    let mut rows = statement.query(())?;
    while let Some(row) = rows.next()? {
        if let Some(total) = totals.get_mut(usize::from(row.get::<_, u8>(0)?)) {
            *total = u64::try_from(row.get::<_, i64>(1)?).unwrap_or(0);
        }
    }
    Ok(totals)
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database").field("path", &self.inner.path).finish_non_exhaustive()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // The writer ends when its channel closes, and the checkpointer after it.
        self.jobs = None;
        for thread in self.threads.drain(..) {
            if thread.thread().id() != std::thread::current().id() {
                let _ = thread.join();
            }
        }
    }
}
