//! The last steps of a restore. If the process that restores ends before they are complete, the
//! next process with an exclusive lock on the data directory repeats them.
//!
//! A file named `…restored` beside the database is a checked copy that becomes the database. The
//! old database is put aside with its log, because the log must never be read into another file.

use std::{
    fs,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

use super::files::{beside, sync_folder_of};

/// The complete and checked copy.
pub(super) fn restored(database: &Path) -> PathBuf {
    beside(database, ".restored")
}

/// The old database.
pub(super) fn aside(database: &Path) -> PathBuf {
    beside(database, ".replaced")
}

/// Whether a decided restore is incomplete.
pub(super) fn is_unfinished(database: &Path) -> bool {
    restored(database).exists()
}

/// Finishes a decided restore, if there is one. The caller has an exclusive lock. Each step can be
/// repeated.
pub(super) fn finish(database: &Path) -> io::Result<()> {
    let restored = restored(database);
    if !restored.exists() {
        return Ok(());
    }
    let aside = aside(database);
    // The log first: it is useless without its database, and a database must never find another
    // log.
    rename_if_there(&beside(database, "-wal"), &beside(&aside, "-wal"))?;
    rename_if_there(database, &aside)?;
    remove_if_there(&beside(database, "-shm"))?;
    fs::rename(&restored, database)?;
    sync_folder_of(database)
}

fn rename_if_there(from: &Path, to: &Path) -> io::Result<()> {
    absent_is_fine(fs::rename(from, to))
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    absent_is_fine(fs::remove_file(path))
}

fn absent_is_fine(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        done => done,
    }
}
