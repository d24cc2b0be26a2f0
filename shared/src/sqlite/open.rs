//! Opens a database file: checks that it is Posthaste's, reads its version, and migrates an older
//! one.

use std::{
    fs, io,
    os::unix::fs::OpenOptionsExt,
    path::Path,
    time::{Duration, Instant},
};

use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};

use super::{
    BUSY_TIMEOUT,
    files::{PRIVATE_MODE, make_private},
    limit, older_schema,
    schema::{APPLICATION_ID, OpenError, foreign_or_failed, version},
};

/// Tables that an older version ignores. So they need no schema version.
const ADDITIONS: &str = include_str!("targets.sql");

/// How long a process waits while another one backs up and migrates the file.
const MIGRATION_TIMEOUT: Duration = Duration::from_secs(600);

/// More than the number of statements of store and queue, so each is compiled once.
const STATEMENTS_CACHED: usize = 128;

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
