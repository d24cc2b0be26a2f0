//! The master key of the embedded backend: a file in the data directory, which the local stack
//! makes if `MASTER_KEY` is not set. All functions of the stack read it.
//!
//! The file has the format of `MASTER_KEY`, so a new key can be put first. Where `MASTER_KEY` is
//! set, the file is not used: to move from one to the other, put the file's key behind the new one.
//!
//! # Guarantees
//!
//! - The file is readable by its owner only (mode 0600), from its creation on. Permissions that
//!   others got later are taken away again, with a warning.
//! - It appears complete or not at all, whatever crashes meanwhile. It survives a power failure
//!   once [`read_or_create`] has returned.
//! - A file that exists is never replaced, also if it is damaged: what it sealed would be lost. Of
//!   processes that create it at the same time, all get the key of the first.
//!
//! If the file is lost, so are the secrets that it sealed. So a stack without the file makes no
//! other key if its database has endpoints ([`is_needed`]), and does not start. `local backup`
//! copies the database alone: keep a copy of the file at another place.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use super::{
    files::{PRIVATE_MODE, restrict, sync_folder_of},
    open::{Role, connect},
    schema::OpenError,
};
use crate::{
    random::Random,
    sealing::{InvalidMasterKeys, MasterKeys, generate_master_key},
};

/// The file's name in the data directory.
pub const MASTER_KEY_FILE: &str = "master.key";

/// The largest file that is read: 4 KiB. Ten keys have less than 500 bytes.
const MAX_FILE_BYTES: u64 = 4096;

/// Why there is no master key. It contains no part of a key.
#[derive(Debug, thiserror::Error)]
pub enum MasterKeyFileError {
    /// The file cannot be read.
    #[error("cannot read the master key {}: check its permissions", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The file cannot be created.
    #[error(
        "cannot create the master key {}: check the permissions of the data folder and the space \
         on its disk, or set MASTER_KEY",
        path.display()
    )]
    NotCreated {
        /// The file.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The file holds something else.
    #[error(
        "the master key {} {fault}. Restore the file from a backup. Only if no endpoint has been \
         stored yet, delete it, and the next start makes a new one",
        path.display()
    )]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        fault: InvalidMasterKeys,
    },
    /// There is no file, and the database has secrets that a key sealed.
    #[error(
        "the master key {} is missing, and the database has endpoints whose secrets it opens; \
         nothing was changed: put the file back (`local backup` does not copy it), or set \
         MASTER_KEY to the key that was used before. If the key is lost, set MASTER_KEY to a new \
         one (`openssl rand -base64 32`) and create these endpoints again",
        path.display()
    )]
    Lost {
        /// The file.
        path: PathBuf,
    },
}

/// Reads the master keys of this data directory. `None`: there is no file.
pub fn read(folder: &Path) -> Result<Option<MasterKeys>, MasterKeyFileError> {
    let path = folder.join(MASTER_KEY_FILE);
    let unreadable = |source| MasterKeyFileError::Unreadable { path: path.clone(), source };
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(error)),
    };
    restrict(&path);
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES).read_to_end(&mut bytes).map_err(unreadable)?;
    // Other bytes become characters that are not base64.
    match String::from_utf8_lossy(&bytes).parse() {
        Ok(keys) => Ok(Some(keys)),
        Err(fault) => Err(MasterKeyFileError::Invalid { path, fault }),
    }
}

/// Whether the database has endpoints, whose secrets are sealed. Each endpoint has one. Reads the
/// documents of applications up to the first with an endpoint.
pub fn is_needed(database: &Path) -> Result<bool, OpenError> {
    let failed = |source| OpenError::Failed { path: database.to_owned(), source };
    let connection = connect(database, Role::Reader).map_err(failed)?;
    let sql = "SELECT EXISTS (SELECT 1 FROM applications WHERE json_valid(document) AND \
        json_array_length(document, '$.endpoints') > 0)";
    connection.query_row(sql, (), |row| row.get(0)).map_err(failed)
}

/// Reads the master keys of this data directory, which exists. Without a file, it makes one with a
/// new key first.
pub fn read_or_create(
    folder: &Path,
    random: &dyn Random,
) -> Result<MasterKeys, MasterKeyFileError> {
    if let Some(keys) = read(folder)? {
        return Ok(keys);
    }
    let path = folder.join(MASTER_KEY_FILE);
    let not_created = |source| MasterKeyFileError::NotCreated { path: path.clone(), source };
    create(&path, random).map_err(not_created)?;
    read(folder)?.ok_or_else(|| not_created(ErrorKind::NotFound.into()))
}

/// Creates the file, unless there is one.
fn create(path: &Path, random: &dyn Random) -> io::Result<()> {
    // A file of its own, so that of several processes none writes to another's.
    let draft = path.with_extension(format!("key.{:016x}.new", random.next_u64()));
    let written = write_private(&draft, &format!("{}\n", generate_master_key(random)))
        // Unlike a rename, a link never replaces a file.
        .and_then(|()| match fs::hard_link(&draft, path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
            linked => linked,
        });
    // A draft that a crash leaves behind was never in use.
    let removed = fs::remove_file(&draft);
    written.and(removed)?;
    sync_folder_of(path)
}

fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(PRIVATE_MODE).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::random::SystemRandom;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn the_file_is_made_once_and_private() {
        let folder = tempfile::tempdir().unwrap();
        assert!(read(folder.path()).unwrap().is_none());
        let first = read_or_create(folder.path(), &SystemRandom).unwrap();
        let path = folder.path().join("master.key");
        assert_eq!(mode(&path), 0o600);
        let text = fs::read_to_string(&path).unwrap();
        for read in [
            read_or_create(folder.path(), &SystemRandom).unwrap(),
            read(folder.path()).unwrap().unwrap(),
            text.parse().unwrap(),
        ] {
            assert_eq!(read.sealing_key_id(), first.sealing_key_id());
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no draft is left");
    }

    #[test]
    fn permissions_of_others_are_taken_away() {
        let folder = tempfile::tempdir().unwrap();
        read_or_create(folder.path(), &SystemRandom).unwrap();
        let path = folder.path().join(MASTER_KEY_FILE);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        read(folder.path()).unwrap().unwrap();
        assert_eq!(mode(&path), 0o600);
    }

    #[test]
    fn several_keys_can_be_in_the_file_and_the_first_seals() {
        let folder = tempfile::tempdir().unwrap();
        let old = read_or_create(folder.path(), &SystemRandom).unwrap();
        let path = folder.path().join(MASTER_KEY_FILE);
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, format!("{}\n{text}", generate_master_key(&SystemRandom))).unwrap();
        let both = read_or_create(folder.path(), &SystemRandom).unwrap();
        assert!(both.holds(old.sealing_key_id()));
        assert_ne!(both.sealing_key_id(), old.sealing_key_id());
    }

    #[test]
    fn processes_that_start_together_get_one_key() {
        let folder = tempfile::tempdir().unwrap();
        let start = || read_or_create(folder.path(), &SystemRandom).unwrap().sealing_key_id();
        let ids: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..16).map(|_| scope.spawn(start)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no draft is left");
    }

    #[test]
    fn a_damaged_file_is_reported_and_never_replaced() {
        for bytes in [&b""[..], b"\n", b"hunter2!", b"aHVudGVyMg==", b"\xff\xfe", &[b'A'; 9000]] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join(MASTER_KEY_FILE);
            fs::write(&path, bytes).unwrap();
            let error = read_or_create(folder.path(), &SystemRandom).unwrap_err();
            assert!(matches!(error, MasterKeyFileError::Invalid { .. }), "{error:?}");
            let text = format!("{error} {error:?}");
            assert!(text.contains("master.key") && text.contains("backup"), "{text}");
            assert!(!text.contains("hunter2"), "{text}");
            assert_eq!(fs::read(&path).unwrap(), bytes);
        }
    }

    #[test]
    fn a_file_that_cannot_be_read_or_created_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("missing");
        let error = read_or_create(&missing, &SystemRandom).unwrap_err();
        assert!(matches!(error, MasterKeyFileError::NotCreated { .. }), "{error:?}");
        assert!(error.to_string().contains("or set MASTER_KEY"), "{error}");
        // A directory in its place.
        fs::create_dir(folder.path().join(MASTER_KEY_FILE)).unwrap();
        let error = read_or_create(folder.path(), &SystemRandom).unwrap_err();
        assert!(matches!(error, MasterKeyFileError::Unreadable { .. }), "{error:?}");
    }
}
