//! Copies of a database file, even while other processes write to it.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use rusqlite::{Connection, OpenFlags};

use super::{
    BUSY_TIMEOUT, DATABASE_FILE, DataDirError, TOTALS, Total,
    files::{folder_of, sync_folder_of},
    is_damage,
    schema::{MIGRATIONS, OpenError, version},
    totals,
};
use crate::status::Status;

/// The most faults of a damaged file that are listed. There may be millions.
const MAX_FINDINGS: u32 = 5;

/// The content of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copied {
    /// Webhooks, finished or not.
    pub webhooks: u64,
    /// Webhooks that are neither delivered nor failed.
    pub unfinished: u64,
    /// The size of the copy.
    pub bytes: u64,
}

/// Why a file was not copied. The target is unchanged.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// There is no file to copy.
    #[error("there is no file {}: check the path", path.display())]
    Missing {
        /// The expected path.
        path: PathBuf,
    },
    /// The target exists.
    #[error("{} exists: choose another file, or replace it with --overwrite", path.display())]
    Exists {
        /// The target.
        path: PathBuf,
    },
    /// The file that an earlier restore put aside exists.
    #[error("{} still holds what an earlier restore replaced: move it away or delete it first",
        path.display())]
    Aside {
        /// The file.
        path: PathBuf,
    },
    /// The target is the file that is in use.
    #[error("{} is the database of a data folder: choose a file outside of it", path.display())]
    InUse {
        /// The target.
        path: PathBuf,
    },
    /// The file is not a Posthaste database, or a newer version wrote it.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The data directory is in use.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The source is damaged.
    #[error(
        "{} is damaged ({found}), so it cannot be copied whole; `local recover` saves what can be \
         read",
        path.display()
    )]
    Damaged {
        /// The source.
        path: PathBuf,
        /// The faults.
        found: String,
    },
    /// SQLite failed.
    #[error("cannot copy {}", path.display())]
    Failed {
        /// The source.
        path: PathBuf,
        /// SQLite's error.
        #[source]
        source: rusqlite::Error,
    },
    /// The target cannot be written.
    #[error("cannot write {}: check the permissions of its folder and the space on its disk",
        path.display())]
    Target {
        /// The target, or its directory.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
}

/// Copies a database, even of a running stack, to a new file that only the owner can read.
///
/// The copy has every write that was acknowledged before the call. It has each write whole or not
/// at all. It gets its name once it is complete, checked and on the disk. Meanwhile the write-ahead
/// log of the source cannot start over, so it grows.
pub fn backup(source: &Path, target: &Path, overwrite: bool) -> Result<Copied, CopyError> {
    let partial = Partial::new(source, target, overwrite)?;
    let copied = copy(source, OpenFlags::SQLITE_OPEN_READ_WRITE, &partial)?;
    partial.publish(target)?;
    Ok(copied)
}

/// Copies a database into an empty file and checks the copy. The copy gets the map of pages that
/// `trim` needs.
pub(super) fn copy(source: &Path, flags: OpenFlags, target: &Partial) -> Result<Copied, CopyError> {
    let connection = open(source, flags)?;
    let failed = |error| failed(source, error);
    let number = |sql| connection.query_row(sql, (), |row| row.get::<_, i64>(0));
    if number("PRAGMA auto_vacuum").map_err(failed)? == 0 {
        // It has no effect on the source, which has pages already. It has one on the result of
        // VACUUM.
        connection.execute_batch("PRAGMA auto_vacuum = INCREMENTAL").map_err(failed)?;
    }
    let name = target.path().to_string_lossy();
    connection.execute("VACUUM INTO ?1", [&*name]).map_err(failed)?;
    drop(connection);
    check(target.path())
}

/// Opens a Posthaste database that this version can read.
pub(super) fn open(source: &Path, flags: OpenFlags) -> Result<Connection, CopyError> {
    if !source.is_file() {
        return Err(CopyError::Missing { path: source.to_owned() });
    }
    let failed = |error| failed(source, error);
    let connection = Connection::open_with_flags(source, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)
        .map_err(failed)?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(failed)?;
    connection.execute_batch("PRAGMA trusted_schema = OFF").map_err(failed)?;
    if version(&connection, source, MIGRATIONS.len())? == 0 {
        return Err(OpenError::Foreign {
            path: source.to_owned(),
            found: "an empty database".to_owned(),
        }
        .into());
    }
    Ok(connection)
}

/// Reads every page and counts the webhooks.
pub(super) fn check(path: &Path) -> Result<Copied, CopyError> {
    let connection = open(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    let findings = findings(&connection).map_err(|error| failed(path, error))?;
    if !findings.is_empty() {
        return Err(CopyError::Damaged { path: path.to_owned(), found: findings.join("; ") });
    }
    let totals: [u64; TOTALS] = totals(&connection).map_err(|error| failed(path, error))?;
    let by_status = Status::ALL.map(|status| (status, totals[Total::Webhooks(status).slot()]));
    let sum = |which: &dyn Fn(Status) -> bool| {
        by_status.iter().filter(|(status, _)| which(*status)).map(|(_, n)| n).sum()
    };
    let is_open = |status| !matches!(status, Status::Delivered | Status::Failed);
    let bytes = fs::metadata(path).map_or(0, |found| found.len());
    Ok(Copied { webhooks: sum(&|_| true), unfinished: sum(&is_open), bytes })
}

/// The faults of a file that failed, by SQLite's own check. Empty if the check finds none. Reads
/// every page.
pub fn diagnose(path: &Path) -> Vec<String> {
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE);
    connection
        .and_then(|connection| findings(&connection))
        .unwrap_or_else(|error| vec![error.to_string()])
}

fn findings(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut statement = connection.prepare(&format!("PRAGMA quick_check({MAX_FINDINGS})"))?;
    let mut found = Vec::new();
    for row in statement.query_map((), |row| row.get::<_, String>(0))? {
        match row {
            // A fault may have several lines.
            Ok(text) => found.extend(
                text.lines()
                    .filter(|line| *line != "ok" && !line.starts_with("***"))
                    .map(str::to_owned),
            ),
            // The check names the pages before it reads their rows, at which it fails.
            Err(_) if !found.is_empty() => break,
            Err(error) => return Err(error),
        }
    }
    found.truncate(MAX_FINDINGS as usize);
    Ok(found)
}

pub(super) fn failed(path: &Path, source: rusqlite::Error) -> CopyError {
    if is_damage(&source) {
        return CopyError::Damaged { path: path.to_owned(), found: source.to_string() };
    }
    CopyError::Failed { path: path.to_owned(), source }
}

/// A copy in progress, under another name in the target's directory. A drop before the publication
/// deletes it.
#[derive(Debug)]
pub(super) struct Partial {
    path: PathBuf,
    is_published: bool,
}

impl Partial {
    /// Creates an empty file that only its owner can read.
    pub(super) fn new(source: &Path, target: &Path, overwrite: bool) -> Result<Self, CopyError> {
        let is_ours = target
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with(DATABASE_FILE));
        if is_ours && folder_of(target).canonicalize().ok() == folder_of(source).canonicalize().ok()
        {
            return Err(CopyError::InUse { path: target.to_owned() });
        }
        if !overwrite && target.exists() {
            return Err(CopyError::Exists { path: target.to_owned() });
        }
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        Self::at(target.with_file_name(format!(".{name}.{}.partial", std::process::id())))
    }

    /// Creates an empty file at this path, in place of a leftover one.
    pub(super) fn at(path: PathBuf) -> Result<Self, CopyError> {
        let failed = |source| CopyError::Target { path: path.clone(), source };
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let mut options = OpenOptions::new();
        options
            .write(true)
            .create_new(true)
            .mode(super::files::PRIVATE_MODE)
            .open(&path)
            .map_err(failed)?;
        Ok(Self { path, is_published: false })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Renames the copy to its name, once it is on the disk.
    pub(super) fn publish(mut self, target: &Path) -> Result<(), CopyError> {
        let publish = || {
            File::open(&self.path)?.sync_all()?;
            fs::rename(&self.path, target)?;
            sync_folder_of(target)
        };
        publish().map_err(|source| CopyError::Target { path: target.to_owned(), source })?;
        self.is_published = true;
        Ok(())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.is_published {
            let _ = fs::remove_file(&self.path);
        }
    }
}
