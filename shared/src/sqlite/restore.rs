//! Replaces the database of a data directory with a copy.
//!
//! The copy is made and checked under the name `…restoring`. Renaming it to `…restored` decides the
//! restore; see `unfinished_restore`.

use std::path::{Path, PathBuf};

use rusqlite::OpenFlags;

use super::{
    copy::{Copied, CopyError, Partial, copy},
    data_dir::DataDir,
    files::beside,
    unfinished_restore::{aside, finish, restored},
};

/// Makes a backup the database of an exclusively locked data directory. With `overwrite`, an
/// existing database is renamed to `posthaste.db.replaced`, and its path is returned.
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
    // Read-only, because a backup may be on a read-only medium.
    let copied = copy(backup, OpenFlags::SQLITE_OPEN_READ_ONLY, &partial)?;
    partial.publish(&restored(&database))?;
    finish(&database).map_err(|source| CopyError::Target { path: database, source })?;
    Ok((copied, replaces.then_some(aside)))
}
