//! The database file under the embedded store and the embedded queue, which may share one or have one each.
//!
//! | module | what it holds |
//! |---|---|
//! | `open` | opening: whose file it is, its schema version and the migrations |
//! | `writer` | the one thread that writes, and group commit |
//! | `reader` | the connections that only read |
//! | `checkpoint` | moving what was written from the log to the file, off the writer's path |
//! | `data_dir` | the data folder and its lock: who works on the file |
//!
//! **Writing.** All writes of a [`Database`] go through one thread. It takes everything that waits, does it in one transaction, and
//! answers after the commit; so the concurrent requests of a process share one commit and one sync of the disk. An error of
//! SQLite rolls back the whole batch, and each of its callers is told. A caller that stops waiting (its future is dropped) does
//! not take its write back.
//!
//! **Durability.** A commit survives a crash of any process. If it holds a write that asked for `Durability::PowerLoss`, the disk
//! has it before anybody is answered.
//!
//! **Several processes** may work on one file: transactions begin by taking the write lock, and wait up to [`BUSY_TIMEOUT`] for it.

mod checkpoint;
mod data_dir;
mod open;
mod reader;
mod writer;

#[cfg(test)]
mod tests;

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
    thread::JoinHandle,
    time::Duration,
};

use rusqlite::{Connection, ErrorCode};
use tokio::sync::{Notify, mpsc, oneshot};

pub use data_dir::{DATABASE_FILE, DataDir, DataDirError};
pub use open::OpenError;
pub(crate) use writer::{Durability, TOTALS, Total, Transaction};

use self::{
    open::{Role, connect, prepare},
    reader::Readers,
    writer::{Job, Signals, Task, Writer},
};
use crate::queue::Lane;

/// How long a transaction waits for the write lock of another process.
pub const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// The most writes that wait for the writer; who comes then waits for a place.
const MAX_WAITING_JOBS: usize = 1024;

/// Why the database did not do what it was asked for.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DatabaseError {
    /// Nothing was written.
    #[error("no space is left on the disk of the database")]
    Full(#[source] Arc<rusqlite::Error>),
    /// Nothing was written.
    #[error("another process kept the database locked for {} s", BUSY_TIMEOUT.as_secs())]
    Busy(#[source] Arc<rusqlite::Error>),
    /// Nothing was written, unless it was the commit itself that failed.
    #[error("the database failed")]
    Failed(#[source] Arc<rusqlite::Error>),
    /// The thread that was asked is gone.
    #[error("the database was closed")]
    Closed,
}

impl From<rusqlite::Error> for DatabaseError {
    fn from(error: rusqlite::Error) -> Self {
        let code = error.sqlite_error_code();
        let error = Arc::new(error);
        match code {
            Some(ErrorCode::DiskFull) => Self::Full(error),
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Busy(error),
            _ => Self::Failed(error),
        }
    }
}

/// An open database file. Clones share it; the last one to go waits for what was asked for and closes it.
#[derive(Clone)]
pub struct Database {
    inner: Arc<Inner>,
}

struct Inner {
    path: PathBuf,
    /// `None` only while it is dropped.
    jobs: Option<mpsc::Sender<Box<dyn Job>>>,
    readers: Readers,
    signals: Arc<Signals>,
    threads: Vec<JoinHandle<()>>,
}

impl Database {
    /// Opens the file, makes it if there is none, and brings an older one up to date. Blocks.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        Self::open_with(path, open::MIGRATIONS)
    }

    fn open_with(path: &Path, migrations: &[&str]) -> Result<Self, OpenError> {
        let connection = prepare(path, migrations)?;
        let failed = |source| OpenError::Failed { path: path.to_owned(), source };
        let thread = |source| OpenError::Thread { source };
        let (checkpoints, checkpointer) =
            checkpoint::start(connect(path, Role::Checkpointer).map_err(failed)?).map_err(thread)?;
        let signals = Arc::new(Signals::default());
        let (jobs, waiting) = mpsc::channel(MAX_WAITING_JOBS);
        let writer = Writer::new(connection, Arc::clone(&signals), checkpoints).start(waiting).map_err(thread)?;
        let readers = Readers::new(path);
        let threads = vec![writer, checkpointer];
        Ok(Self { inner: Arc::new(Inner { path: path.to_owned(), jobs: Some(jobs), readers, signals, threads }) })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// Transactions that this handle and its clones have committed. Less than the number of writes: that is what group commit is for.
    pub fn commits(&self) -> u64 {
        self.inner.signals.commits.load(Ordering::Relaxed)
    }

    /// Does `work` in a transaction along with whatever else waits. The answer comes after the commit.
    ///
    /// `work` returns an error of SQLite only if the whole batch must be rolled back; a refusal is a value, and `work` refuses
    /// before it changes anything.
    pub(crate) async fn write<T, F>(&self, durability: Durability, work: F) -> Result<T, DatabaseError>
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

    /// Does `work` on a connection that sees every write acknowledged before.
    pub(crate) async fn read<T, F>(&self, work: F) -> Result<T, DatabaseError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        self.inner.readers.read(work).await
    }

    /// Told once for each message that this process made visible in the lane, or that will be.
    pub(crate) fn arrivals(&self, lane: Lane) -> &Notify {
        &self.inner.signals.arrivals[lane as usize]
    }
}

/// All totals, by their slot. A total is never negative; should it ever be, nobody is served by a huge number.
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
        // The writer ends once nobody can ask it any more, and the checkpointer after it.
        self.jobs = None;
        for thread in self.threads.drain(..) {
            if thread.thread().id() != std::thread::current().id() {
                let _ = thread.join();
            }
        }
    }
}
