//! The backup of an older file, which is written before its migration.

use std::path::{Path, PathBuf};

use rusqlite::OpenFlags;

use super::{
    copy::{CopyError, Partial, copy},
    files::beside,
    schema::OpenError,
};

/// The backup of a file of this schema version.
pub(super) fn backup_of(path: &Path, version: usize) -> PathBuf {
    beside(path, &format!(".schema-{version}"))
}

/// Writes a backup of the file of version `found`, unless there is one. It gets its name once it is
/// complete, checked and on the disk.
pub(super) fn back_up(path: &Path, found: usize, known: usize) -> Result<(), OpenError> {
    let backup = backup_of(path, found);
    let has_backup = backup.exists();
    if !has_backup {
        write(path, &backup).map_err(|source| OpenError::NoBackup {
            path: path.to_owned(),
            found,
            known,
            backup: backup.clone(),
            source: Box::new(source),
        })?;
    }
    tracing::warn!(
        backup = %backup.display(),
        "{} is migrated from schema version {found} to {known}, which an older version of \
         Posthaste refuses. {}",
        path.display(),
        if has_backup { "An earlier backup was kept" } else { "A backup was written" }
    );
    Ok(())
}

fn write(path: &Path, backup: &Path) -> Result<(), CopyError> {
    let partial = Partial::at(beside(backup, ".partial"))?;
    copy(path, OpenFlags::SQLITE_OPEN_READ_WRITE, &partial)?;
    partial.publish(backup)
}
