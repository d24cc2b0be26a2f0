//! The files of a database on the disk: who may read them, whether they are still where they were
//! opened, and how much space is left.

use std::{
    ffi::OsString,
    fmt, fs,
    io::{self, ErrorKind},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

/// The database, its write-ahead log, and the log's index.
const SUFFIXES: [&str; 3] = ["", "-wal", "-shm"];

/// Only the owner reads and writes. SQLite gives the log and its index the mode of the database.
pub(super) const PRIVATE_MODE: u32 = 0o600;

/// The bits of a mode that concern others than the owner.
const OTHERS: u32 = 0o077;

/// The sizes of the files in bytes, and the free space of their disk.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_field_names, reason = "the unit comes last")]
pub(crate) struct DiskSpace {
    /// The space that this process may still use.
    pub(crate) free_bytes: u64,
    /// The size of the database.
    pub(crate) database_bytes: u64,
    /// The size of the write-ahead log. Its content moves to the database at each checkpoint.
    pub(crate) log_bytes: u64,
}

/// Asks the system.
pub(super) fn disk_usage(path: &Path) -> io::Result<DiskSpace> {
    let length = |suffix| fs::metadata(beside(path, suffix)).map_or(0, |found| found.len());
    Ok(DiskSpace {
        free_bytes: free_bytes(path)?,
        database_bytes: length(""),
        log_bytes: length("-wal"),
    })
}

/// What this process may still write to the file system of a path that exists.
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

/// Takes every right on the database's files from others than the owner. Files that are not there
/// are made with the right mode later.
pub(super) fn make_private(path: &Path) {
    for suffix in SUFFIXES {
        restrict(&beside(path, suffix));
    }
}

/// Takes every right on the file from others than the owner. What cannot be restricted is logged:
/// it is no reason not to deliver.
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

/// The mode of a folder that others than its owner may read, write or search.
pub(super) fn mode_open_to_others(folder: &Path) -> Option<u32> {
    let mode = fs::metadata(folder).ok()?.permissions().mode() & 0o777;
    (mode & OTHERS != 0).then_some(mode)
}

/// A file that is not where it was opened any more. What is written to it is lost with the process.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{} was {how} while it was open, so nothing can be stored. Stop the stack and restore a backup \
     (`local restore`); docs/operating.md says how to save the data before you stop it",
    path.display()
)]
pub struct LostFile {
    /// Where it was.
    pub path: PathBuf,
    /// What happened to it.
    pub how: Loss,
}

/// How a file was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Nothing is there.
    Deleted,
    /// Another file is there.
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

/// The files that were opened, by what the system knows them by.
#[derive(Clone, Debug)]
pub(super) struct OpenFiles([(PathBuf, FileId); SUFFIXES.len()]);

/// Device and inode.
type FileId = (u64, u64);

impl OpenFiles {
    /// Of a database that is open, so that none of its files changes place.
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        let file = |suffix| {
            let path = beside(path, suffix);
            let id = file_id(&path)?;
            io::Result::Ok((path, id))
        };
        let [database, log, index] = SUFFIXES;
        Ok(Self([file(database)?, file(log)?, file(index)?]))
    }

    /// The first of them that was deleted or replaced. Three calls of the system, a microsecond
    /// each.
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
                // A folder that may not be searched any more has lost nothing.
                Err(_) => return None,
            };
            Some(LostFile { path: path.clone(), how })
        })
    }
}

fn file_id(path: &Path) -> io::Result<FileId> {
    fs::metadata(path).map(|found| (found.dev(), found.ino()))
}

/// Writes the folder of a file to the disk. A rename survives a power failure after that.
pub(super) fn sync_folder_of(path: &Path) -> io::Result<()> {
    fs::File::open(folder_of(path))?.sync_all()
}

/// The folder of a file.
pub(super) fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
