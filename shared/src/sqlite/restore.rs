//! Puts a copy in the place of the database of a data folder.
//!
//! The copy is made and checked under the name `…restoring`. Its next name, `…restored`, decides:
//! from then on the restore is finished by whoever locks the folder next, if this process ends
//! before it is. What was there before is put aside, with its log, which must never be read into
//! another file.

use std::{
    fs,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

use rusqlite::OpenFlags;

use super::{
    copy::{Copied, CopyError, Partial, copy, sync_folder_of},
    data_dir::DataDir,
    files::beside,
};

/// Whole and checked; it becomes the database.
fn restored(database: &Path) -> PathBuf {
    beside(database, ".restored")
}

/// What was the database before.
fn aside(database: &Path) -> PathBuf {
    beside(database, ".replaced")
}

/// Makes a backup the database of a folder that this process has for itself. With `overwrite`, a
/// database that is there is put aside as `posthaste.db.replaced`; its path is returned.
pub fn restore(
    folder: &DataDir,
    backup: &Path,
    overwrite: bool,
) -> Result<(Copied, Option<PathBuf>), CopyError> {
    let database = folder.database();
    let replaces = database.exists();
    if replaces && !overwrite {
        return Err(CopyError::Exists { path: database });
    }
    let aside = aside(&database);
    if replaces && aside.exists() {
        return Err(CopyError::Aside { path: aside });
    }
    let partial = Partial::at(beside(&database, ".restoring"))?;
    // Read only: a backup may be on a medium that cannot be written.
    let copied = copy(backup, OpenFlags::SQLITE_OPEN_READ_ONLY, &partial)?;
    partial.publish(&restored(&database))?;
    finish(&database).map_err(|source| CopyError::Target { path: database, source })?;
    Ok((copied, replaces.then_some(aside)))
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
