//! The schema of a database file: its migrations, its version, and why a file is refused.

use std::{
    error::Error,
    io,
    path::{Path, PathBuf},
};

use rusqlite::{Connection, ErrorCode};

/// Marks the file as Posthaste's: the bytes `Psth`.
pub(super) const APPLICATION_ID: i32 = 0x5073_7468;

/// The migrations between schema versions, oldest first. Only append to them.
pub(super) const MIGRATIONS: &[&str] =
    &[include_str!("schema_1.sql"), include_str!("schema_2.sql"), include_str!("schema_3.sql")];

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
        source: Box<dyn Error + Send + Sync>,
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

pub(super) fn foreign_or_failed(path: &Path, error: rusqlite::Error) -> OpenError {
    match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => {
            OpenError::Foreign { path: path.to_owned(), found: "not an SQLite database".to_owned() }
        }
        _ => OpenError::Failed { path: path.to_owned(), source: error },
    }
}
