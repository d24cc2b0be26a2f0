//! The data directory of the embedded backend, and its lock. One stack that runs the functions
//! in-process locks the directory exclusively. Any number of functions in separate processes share
//! it.

use std::{
    fs::{DirBuilder, File, OpenOptions, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use super::{
    files::{PRIVATE_MODE, mode_open_to_others, restrict},
    unfinished_restore,
};

/// The lock file. It stays, and is empty.
const LOCK: &str = "lock";

/// The database of the store and the queue, in the data directory.
pub const DATABASE_FILE: &str = "posthaste.db";

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// Another process uses the directory.
    #[error(
        "another stack is running on the data folder {}, or functions in processes of their own \
         are: stop them, or choose another folder with --data-dir",
        path.display()
    )]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// A stack has locked the directory exclusively.
    #[error(
        "a stack that runs the functions itself is using the data folder {}: stop it and start it \
         with --functions, or choose another folder with DATA_DIR",
        path.display()
    )]
    NotShared {
        /// The folder.
        path: PathBuf,
    },
    /// A restore was interrupted. The next process with an exclusive lock finishes it.
    #[error(
        "a restore into the data folder {} was interrupted: start the stack once without \
         --functions, or run `local restore` again",
        path.display()
    )]
    HalfRestored {
        /// The folder.
        path: PathBuf,
    },
    /// The directory cannot be created or written to.
    #[error("cannot write to the data folder {}: check its permissions and the space on its disk",
        path.display())]
    Inaccessible {
        /// The folder.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
}

/// A data directory and its lock, which lasts as long as this value. The system releases the lock
/// when the process ends, even after a crash.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    /// Holds the lock.
    _lock: File,
}

impl DataDir {
    /// Locks the directory exclusively. Creates it if necessary, readable by its owner only.
    pub fn lock(path: &Path) -> Result<Self, DataDirError> {
        let folder = Self::open(path, File::try_lock, |path| DataDirError::InUse { path })?;
        unfinished_restore::finish(&folder.database())
            .map_err(|source| DataDirError::Inaccessible { path: path.to_owned(), source })?;
        Ok(folder)
    }

    /// Shares the directory with other processes that share it. Creates it if necessary, readable
    /// by its owner only.
    pub fn share(path: &Path) -> Result<Self, DataDirError> {
        let folder =
            Self::open(path, File::try_lock_shared, |path| DataDirError::NotShared { path })?;
        if unfinished_restore::is_unfinished(&folder.database()) {
            return Err(DataDirError::HalfRestored { path: path.to_owned() });
        }
        Ok(folder)
    }

    fn open(
        path: &Path,
        lock: impl FnOnce(&File) -> Result<(), TryLockError>,
        taken: impl FnOnce(PathBuf) -> DataDirError,
    ) -> Result<Self, DataDirError> {
        let inaccessible = |source| DataDirError::Inaccessible { path: path.to_owned(), source };
        create_private(path).map_err(inaccessible)?;
        if let Some(mode) = mode_open_to_others(path) {
            let folder = path.display();
            tracing::warn!(
                "Other users of this machine can enter the data folder {folder} (mode {mode:o}). \
                 The files in it are readable by their owner only, but whoever may write to the \
                 folder can delete them; run: chmod 700 {folder}"
            );
        }
        let (mut options, lock_file) = (OpenOptions::new(), path.join(LOCK));
        options.create(true).truncate(false).write(true).mode(PRIVATE_MODE);
        let file = options.open(&lock_file).map_err(inaccessible)?;
        restrict(&lock_file);
        match lock(&file) {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: file }),
            Err(TryLockError::WouldBlock) => Err(taken(path.to_owned())),
            Err(TryLockError::Error(source)) => Err(inaccessible(source)),
        }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of the database.
    pub fn database(&self) -> PathBuf {
        self.path.join(DATABASE_FILE)
    }
}

/// Payloads are confidential. An existing directory keeps the permissions that its owner gave it.
fn create_private(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}
