//! The files of a database: their permissions, whether they are still where they were opened, and
//! the free space on their disk.

use std::{
    ffi::OsString,
    fmt, fs,
    io::{self, ErrorKind},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use crate::disk_usage::DiskUsage;

/// The database, its write-ahead log, and the log's index.
const SUFFIXES: [&str; 3] = ["", "-wal", "-shm"];

/// Only the owner reads and writes. SQLite gives the log and its index the mode of the database.
pub(super) const PRIVATE_MODE: u32 = 0o600;

/// The permission bits of other users.
const OTHERS: u32 = 0o077;

/// Asks the system for the sizes of the files and the free space of their disk.
pub(super) fn disk_usage(path: &Path) -> io::Result<DiskUsage> {
    let length = |suffix| fs::metadata(beside(path, suffix)).map_or(0, |found| found.len());
    Ok(DiskUsage {
        free_bytes: free_bytes(path)?,
        database_bytes: length(""),
        log_bytes: length("-wal"),
    })
}

/// The bytes that this process may still write to the file system of an existing path.
pub(super) fn free_bytes(path: &Path) -> io::Result<u64> {
    let found = rustix::fs::statvfs(path)?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}

/// The path with this appended to its file name.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

/// Removes all permissions of other users from the database's files. Later files are created with
/// the right mode.
pub(super) fn make_private(path: &Path) {
    for suffix in SUFFIXES {
        restrict(&beside(path, suffix));
    }
}

/// Removes all permissions of other users from the file. A failure is logged and does not stop
/// deliveries.
pub(super) fn restrict(path: &Path) {
    let Ok(found) = fs::metadata(path) else { return };
    if found.permissions().mode() & OTHERS == 0 {
        return;
    }
    if let Err(error) = fs::set_permissions(path, fs::Permissions::from_mode(PRIVATE_MODE)) {
        let (path, error) = (path.display(), &error as &dyn std::error::Error);
        tracing::warn!(
            error,
            "other users may read {path}, and its mode cannot be changed; run: chmod 600 {path}"
        );
    }
}

/// The mode of a directory that other users may read, write or search.
pub(super) fn mode_open_to_others(folder: &Path) -> Option<u32> {
    let mode = fs::metadata(folder).ok()?.permissions().mode() & 0o777;
    (mode & OTHERS != 0).then_some(mode)
}

/// An open file that is no longer at its path. Writes to it are lost with the process.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{} was {how} while it was open, so nothing can be stored. Stop the stack and restore a backup \
     (`local restore`); docs/operating.md says how to save the data before you stop it",
    path.display()
)]
pub struct LostFile {
    /// The path.
    pub path: PathBuf,
    /// What happened to it.
    pub how: Loss,
}

/// How a file was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// The path is empty.
    Deleted,
    /// The path has another file.
    Replaced,
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Deleted => "deleted",
            Self::Replaced => "replaced",
        })
    }
}

/// The open files, by device and inode.
#[derive(Clone, Debug)]
pub(super) struct OpenFiles([(PathBuf, FileId); SUFFIXES.len()]);

/// Device and inode.
type FileId = (u64, u64);

impl OpenFiles {
    /// Reads the files of an open database. None of them changes place.
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        let file = |suffix| {
            let path = beside(path, suffix);
            let id = file_id(&path)?;
            io::Result::Ok((path, id))
        };
        let [database, log, index] = SUFFIXES;
        Ok(Self([file(database)?, file(log)?, file(index)?]))
    }

    /// The first file that was deleted or replaced. Costs three system calls of a microsecond each.
    pub(super) fn lost(&self) -> Option<LostFile> {
        self.0.iter().find_map(|(path, opened)| {
            let how = match file_id(path) {
                Ok(found) if found == *opened => return None,
                Ok(_) => Loss::Replaced,
                Err(error)
                    if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) =>
                {
                    Loss::Deleted
                }
                // The directory is no longer searchable, which loses no file.
                Err(_) => return None,
            };
            Some(LostFile { path: path.clone(), how })
        })
    }
}

fn file_id(path: &Path) -> io::Result<FileId> {
    fs::metadata(path).map(|found| (found.dev(), found.ino()))
}

/// Syncs the file's directory to the disk. A rename survives a power failure after that.
pub(super) fn sync_folder_of(path: &Path) -> io::Result<()> {
    fs::File::open(folder_of(path))?.sync_all()
}

/// The directory of a file.
pub(super) fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
