//! Opens a database file: checks that it is Posthaste's, reads its version, and migrates an older
//! one.

use std::{
    fs, io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};

use super::{
    BUSY_TIMEOUT,
    copy::CopyError,
    files::{PRIVATE_MODE, make_private},
    limit, older_schema,
};

/// Marks the file as Posthaste's: the bytes `Psth`.
pub(super) const APPLICATION_ID: i32 = 0x5073_7468;

/// The migrations between schema versions, oldest first. Only append to them.
pub(super) const MIGRATIONS: &[&str] =
    &[include_str!("schema_1.sql"), include_str!("schema_2.sql"), include_str!("schema_3.sql")];

/// Tables that an older version ignores. So they need no schema version.
const ADDITIONS: &str = include_str!("targets.sql");

/// How long a process waits while another one backs up and migrates the file.
const MIGRATION_TIMEOUT: Duration = Duration::from_secs(600);

/// More than the number of statements of store and queue, so each is compiled once.
const STATEMENTS_CACHED: usize = 128;

/// Why a database file could not be opened. Each message names the fault and the fix.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory does not exist, permissions are missing, or the path cannot have a file.
    #[error("cannot open the database {}: check that its folder exists and that you may write to \
        it", path.display())]
    Inaccessible {
        /// The file.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The file is not a Posthaste database.
    #[error("{} is not a database of Posthaste ({found}); it was left as it is: choose another \
        file, or move it away", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What the file is.
        found: String,
    },
    /// A newer version of Posthaste wrote the file.
    #[error(
        "the database {} has schema version {found}, and this version of Posthaste knows versions \
         up to {known}; it was left as it is: start the newer version, or move the file away to \
         begin with an empty one",
        path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its schema version.
        found: i64,
        /// The newest version that this program reads.
        known: usize,
    },
    /// The file system has no shared memory or locks. Some network drives have none.
    #[error("the database {} cannot have a write-ahead log: keep it on a local disk",
        path.display())]
    NoLog {
        /// The file.
        path: PathBuf,
    },
    /// The file is older, and the backup that must precede its migration was not written.
    #[error(
        "the database {} has schema version {found}, and this version of Posthaste needs {known}; \
         it was left as it is, because the backup {} could not be written: its folder needs \
         as much free space again as the database",
        path.display(),
        backup.display()
    )]
    NoBackup {
        /// The file.
        path: PathBuf,
        /// Its schema version.
        found: usize,
        /// The version that it would get.
        known: usize,
        /// The path of the backup.
        backup: PathBuf,
        /// Why it was not written.
        #[source]
        source: Box<CopyError>,
    },
    /// SQLite failed: the disk is full, the file is damaged, or another process keeps it locked.
    #[error("cannot open the database {}", path.display())]
    Failed {
        /// The file.
        path: PathBuf,
        /// SQLite's error.
        #[source]
        source: rusqlite::Error,
    },
    /// The system gave no thread.
    #[error("cannot start a thread for the database")]
    Thread {
        /// The system's error.
        #[source]
        source: io::Error,
    },
}

/// The purpose of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Writer,
    Reader,
    Checkpointer,
}

/// Opens a configured connection to a prepared file.
pub(super) fn connect(path: &Path, role: Role) -> rusqlite::Result<Connection> {
    // Each connection is used by one thread at a time, so SQLite needs no mutex of its own. It
    // never creates the file: a file that was deleted under a running stack must not come back
    // empty.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_CACHED);
    connection.execute_batch("PRAGMA trusted_schema = OFF; PRAGMA synchronous = NORMAL;")?;
    connection.execute_batch(match role {
        // The writer checkpoints only if the checkpointer falls behind: 8,000 pages are 32 MiB of
        // log.
        Role::Writer => {
            "PRAGMA cache_size = -4096; PRAGMA wal_autocheckpoint = 8000; PRAGMA \
            journal_size_limit = 67108864;"
        }
        Role::Reader => {
            "PRAGMA cache_size = -1024; PRAGMA wal_autocheckpoint = 0; PRAGMA \
            query_only = ON;"
        }
        Role::Checkpointer => "PRAGMA cache_size = -64; PRAGMA wal_autocheckpoint = 0;",
    })?;
    if role == Role::Reader {
        limit::watch(&mut connection)?;
    }
    Ok(connection)
}

/// Opens the file for the writer and migrates it to the newest schema. Does not change a file that
/// is not Posthaste's. Before it migrates a file, it writes a backup beside it.
pub(super) fn prepare(path: &Path, migrations: &[&str]) -> Result<Connection, OpenError> {
    let failed = |source| OpenError::Failed { path: path.to_owned(), source };
    check_access(path)?;
    make_private(path);
    let mut connection =
        connect(path, Role::Writer).map_err(|error| foreign_or_failed(path, error))?;
    let found = version(&connection, path, migrations.len())?;
    if found == 0 {
        // `trim` can give free pages back to the file system only with this map, which only a new
        // file can get.
        connection.execute_batch("PRAGMA auto_vacuum = INCREMENTAL").map_err(failed)?;
    }
    enter_wal_mode(&connection, path)?;
    connection.execute_batch("PRAGMA synchronous = FULL").map_err(failed)?;
    if found < migrations.len() {
        connection.busy_timeout(MIGRATION_TIMEOUT).map_err(failed)?;
    }
    let transaction =
        connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
    // Checked again under the write lock, because another process may have been first.
    let found = version(&transaction, path, migrations.len())?;
    if found < migrations.len() {
        if found > 0 {
            // No other process writes meanwhile, because this one has the write lock.
            older_schema::back_up(path, found, migrations.len())?;
        }
        for migration in &migrations[found..] {
            transaction.execute_batch(migration).map_err(failed)?;
        }
        transaction.pragma_update(None, "user_version", migrations.len() as i64).map_err(failed)?;
        transaction.pragma_update(None, "application_id", APPLICATION_ID).map_err(failed)?;
    }
    transaction.execute_batch(ADDITIONS).map_err(failed)?;
    transaction.commit().map_err(failed)?;
    connection.execute_batch("PRAGMA synchronous = NORMAL").map_err(failed)?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(failed)?;
    Ok(connection)
}

/// SQLite reports "unable to open" for every cause. The system reports the cause.
fn check_access(path: &Path) -> Result<(), OpenError> {
    let inaccessible = |source| OpenError::Inaccessible { path: path.to_owned(), source };
    match fs::metadata(path) {
        Ok(found) if !found.is_file() => {
            Err(OpenError::Foreign { path: path.to_owned(), found: "not a file".to_owned() })
        }
        // Never opened here, because closing a second descriptor would release SQLite's locks on
        // the file.
        Ok(found) if found.permissions().readonly() => {
            Err(inaccessible(io::ErrorKind::PermissionDenied.into()))
        }
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // The system call creates it, so its error is the one that is reported.
            let mut options = fs::OpenOptions::new();
            options.write(true).create_new(true).mode(PRIVATE_MODE);
            options.open(path).map(drop).or_else(|error| match error.kind() {
                io::ErrorKind::AlreadyExists => Ok(()),
                _ => Err(inaccessible(error)),
            })
        }
        Err(error) => Err(inaccessible(error)),
    }
}

/// The schema version. 0 for a new file.
pub(super) fn version(
    connection: &Connection,
    path: &Path,
    known: usize,
) -> Result<usize, OpenError> {
    let (application, version, tables): (i32, i64, i64) = connection
        .query_row(
            "SELECT (SELECT application_id FROM pragma_application_id), (SELECT user_version FROM \
             pragma_user_version),
                    (SELECT count(*) FROM sqlite_schema)",
            (),
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
        )
        .map_err(|error| foreign_or_failed(path, error))?;
    let foreign = |found: String| Err(OpenError::Foreign { path: path.to_owned(), found });
    match (application, usize::try_from(version)) {
        (APPLICATION_ID, Ok(version)) if version <= known => Ok(version),
        (APPLICATION_ID, _) => {
            Err(OpenError::Newer { path: path.to_owned(), found: version, known })
        }
        (0, Ok(0)) if tables == 0 => Ok(0),
        _ => foreign(format!(
            "an SQLite database with application id {application} and {tables} tables and indexes"
        )),
    }
}

fn foreign_or_failed(path: &Path, error: rusqlite::Error) -> OpenError {
    match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => {
            OpenError::Foreign { path: path.to_owned(), found: "not an SQLite database".to_owned() }
        }
        _ => OpenError::Failed { path: path.to_owned(), source: error },
    }
}

/// The file stores the mode. SQLite's change of it does not wait for locks, so this code does.
fn enter_wal_mode(connection: &Connection, path: &Path) -> Result<(), OpenError> {
    const PAUSE: Duration = Duration::from_millis(10);
    let begun = Instant::now();
    loop {
        match connection.query_row("PRAGMA journal_mode = WAL", (), |row| row.get::<_, String>(0)) {
            Ok(mode) if mode.eq_ignore_ascii_case("wal") => return Ok(()),
            Ok(_) => return Err(OpenError::NoLog { path: path.to_owned() }),
            Err(error)
                if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy)
                    && begun.elapsed() < BUSY_TIMEOUT =>
            {
                std::thread::sleep(PAUSE);
            }
            Err(source) => return Err(OpenError::Failed { path: path.to_owned(), source }),
        }
    }
}
