//! The folder in which the embedded backend keeps its files, and the lock that says who works on
//! them: either one stack that runs the functions itself, which then knows that nobody else does,
//! or any number of functions in processes of their own.

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

/// The file that is locked. It stays, and is empty.
const LOCK: &str = "lock";

/// The database of the store and the queue, within the data folder.
pub const DATABASE_FILE: &str = "posthaste.db";

/// Why a data folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// Somebody else has it.
    #[error(
        "another stack is running on the data folder {}, or functions in processes of their own \
         are: stop them, or choose another folder with --data-dir",
        path.display()
    )]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// A stack has it for itself.
    #[error(
        "a stack that runs the functions itself is using the data folder {}: stop it and start it \
         with --functions, or choose another folder with DATA_DIR",
        path.display()
    )]
    NotShared {
        /// The folder.
        path: PathBuf,
    },
    /// A restore was interrupted; whoever has the folder alone finishes it.
    #[error(
        "a restore into the data folder {} was interrupted: start the stack once without \
         --functions, or run `local restore` again",
        path.display()
    )]
    HalfRestored {
        /// The folder.
        path: PathBuf,
    },
    /// It cannot be made or written to.
    #[error("cannot write to the data folder {}: check its permissions and the space on its disk",
        path.display())]
    Inaccessible {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// A data folder that is used by whom its lock says, as long as this value lives. The system gives
/// the lock back when the process ends, however it ends.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    /// Holds the lock.
    _lock: File,
}

impl DataDir {
    /// For this process alone: as long as it has the folder, nobody else gets it. Makes the folder
    /// if need be, readable by its owner only.
    pub fn lock(path: &Path) -> Result<Self, DataDirError> {
        let folder = Self::open(path, File::try_lock, |path| DataDirError::InUse { path })?;
        unfinished_restore::finish(&folder.database())
            .map_err(|source| DataDirError::Inaccessible { path: path.to_owned(), source })?;
        Ok(folder)
    }

    /// Batcher with others who share it. Makes the folder if need be, readable by its owner only.
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

    /// Keeps it until the process ends.
    pub fn keep(self) {
        std::mem::forget(self);
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the database belongs.
    pub fn database(&self) -> PathBuf {
        self.path.join(DATABASE_FILE)
    }
}

/// Payloads are nobody else's business. A folder that exists keeps the permissions that its owner
/// gave it.
fn create_private(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}
