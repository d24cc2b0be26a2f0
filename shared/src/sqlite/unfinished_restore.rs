//! The last steps of a restore. A process that locks the data folder takes them again if the one
//! that began the restore ended before it was finished.
//!
//! A file named `…restored` beside the database is a checked copy that becomes the database. The
//! database before is put aside with its log, which must never be read into another file.

use std::{
    fs,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

use super::files::{beside, sync_folder_of};

/// Whole and checked; it becomes the database.
pub(super) fn restored(database: &Path) -> PathBuf {
    beside(database, ".restored")
}

/// What was the database before.
pub(super) fn aside(database: &Path) -> PathBuf {
    beside(database, ".replaced")
}

/// Whether a restore was interrupted after it was decided.
pub(super) fn is_unfinished(database: &Path) -> bool {
    restored(database).exists()
}

/// Finishes a restore that was decided, if there is one. Only for who has the folder alone. Each
/// step can be done again.
pub(super) fn finish(database: &Path) -> io::Result<()> {
    let restored = restored(database);
    if !restored.exists() {
        return Ok(());
    }
    let aside = aside(database);
    // The log first: without its database it is nothing, and a database must not find a stranger's.
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
