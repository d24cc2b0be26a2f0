//! Backups and restores.

use std::os::unix::fs::PermissionsExt;

use super::{
    super::{files::beside, unfinished_restore::is_unfinished},
    *,
};

/// A data directory whose database has this many counted webhooks, some of them only in its log.
async fn folder_with(webhooks: u64) -> TempDir {
    let folder = TempDir::new().unwrap();
    let database = Database::open(&folder.path().join(DATABASE_FILE)).unwrap();
    add(&database, webhooks).await;
    folder
}

async fn add(database: &Database, webhooks: u64) {
    let pending = Total::Webhooks(crate::status::Status::Pending);
    let work = move |tx: &mut Transaction<'_>| {
        tx.count(pending, webhooks as i64);
        Ok(())
    };
    database.write(Durability::PowerLoss, work).await.unwrap();
}

fn webhooks_in(path: &Path) -> i64 {
    number(&raw(path), "SELECT n FROM totals WHERE slot = 0")
}

fn files_in(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// A copy of an open database has everything in its log, needs no other file, and is readable by
/// its owner only.
#[tokio::test]
async fn a_backup_holds_what_an_open_database_was_told() {
    let folder = TempDir::new().unwrap();
    let (path, targets) = (folder.path().join(DATABASE_FILE), TempDir::new().unwrap());
    let database = Database::open(&path).unwrap();
    add(&database, 7).await;
    let copy = targets.path().join("copy.db");
    let copied = backup(&path, &copy, false).unwrap();
    assert_eq!((copied.webhooks, copied.unfinished), (7, 7));
    assert_eq!((webhooks_in(&copy), files_in(targets.path())), (7, vec!["copy.db".to_owned()]));
    assert_eq!(
        std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&copy).unwrap().permissions())
            & 0o777,
        0o600
    );

    add(&database, 1).await;
    let refused = backup(&path, &copy, false).unwrap_err();
    assert!(matches!(refused, CopyError::Exists { .. }), "{refused}");
    assert_eq!(webhooks_in(&copy), 7);
    backup(&path, &copy, true).unwrap();
    assert_eq!(webhooks_in(&copy), 8);
}

#[tokio::test]
async fn a_backup_refuses_what_is_none_and_leaves_nothing_behind() {
    let folder = folder_with(1).await;
    let (path, copies) = (folder.path().join(DATABASE_FILE), TempDir::new().unwrap());
    let target = copies.path().join("copy.db");
    for own in [DATABASE_FILE, "posthaste.db-wal"] {
        let refused = backup(&path, &folder.path().join(own), true).unwrap_err();
        assert!(matches!(refused, CopyError::InUse { .. }), "{refused}");
    }
    let missing = backup(&folder.path().join("none.db"), &target, false).unwrap_err();
    assert!(matches!(missing, CopyError::Missing { .. }), "{missing}");
    let photos = copies.path().join("photos.db");
    raw(&photos).execute_batch("CREATE TABLE photos (name TEXT)").unwrap();
    let foreign = backup(&photos, &target, false).unwrap_err();
    assert!(matches!(foreign, CopyError::Open(OpenError::Foreign { .. })), "{foreign}");
    let nowhere = backup(&path, &copies.path().join("none").join("copy.db"), false).unwrap_err();
    assert!(matches!(nowhere, CopyError::Target { .. }), "{nowhere}");
    assert_eq!(files_in(copies.path()), ["photos.db"]);
    assert_eq!(webhooks_in(&path), 1);
    // The name alone is no reason to reject it.
    backup(&path, &copies.path().join(DATABASE_FILE), false).unwrap();
}

#[tokio::test]
async fn a_restore_replaces_only_if_told_to_and_puts_aside_what_was_there() {
    let (old, new) = (folder_with(3).await, folder_with(5).await);
    let copy = new.path().join("copy.db");
    backup(&new.path().join(DATABASE_FILE), &copy, false).unwrap();
    let lock = DataDir::lock(old.path()).unwrap();
    let path = old.path().join(DATABASE_FILE);
    let refused = restore(&lock, &copy, false).unwrap_err();
    assert!(matches!(refused, CopyError::Exists { .. }) && webhooks_in(&path) == 3, "{refused}");
    let photos = new.path().join("photos.db");
    raw(&photos).execute_batch("CREATE TABLE photos (name TEXT)").unwrap();
    assert!(restore(&lock, &photos, true).is_err());
    assert_eq!(webhooks_in(&path), 3);

    let (copied, aside) = restore(&lock, &copy, true).unwrap();
    let aside = aside.unwrap();
    assert_eq!((copied.webhooks, webhooks_in(&path), webhooks_in(&aside)), (5, 5, 3));
    let refused = restore(&lock, &copy, true).unwrap_err();
    assert!(matches!(refused, CopyError::Aside { .. }), "{refused}");
    fs::remove_file(aside).unwrap();
    assert_eq!(restore(&lock, &copy, true).unwrap().0.webhooks, 5);

    let empty = TempDir::new().unwrap();
    let lock = DataDir::lock(&empty.path().join("data")).unwrap();
    assert_eq!(restore(&lock, &copy, false).unwrap(), (copied, None), "nothing was there");
    assert_eq!(webhooks_in(&lock.database()), 5);
}

/// A restore that ended after any of its steps leaves no loss: the next process with the lock has
/// the whole backup, and the old database is whole too. Tested over a database whose data is in its
/// log.
#[tokio::test]
async fn a_restore_that_was_interrupted_is_finished_by_who_comes_next() {
    for steps in 0..=3 {
        let (folder, copies) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        let path = folder.path().join(DATABASE_FILE);
        // After a crash, the log has all writes.
        let crashed = Database::open(&path).unwrap();
        add(&crashed, 3).await;
        for suffix in ["", "-wal", "-shm"] {
            fs::copy(beside(&path, suffix), beside(&copies.path().join("old.db"), suffix)).unwrap();
        }
        drop(crashed);
        for suffix in ["", "-wal", "-shm"] {
            fs::rename(beside(&copies.path().join("old.db"), suffix), beside(&path, suffix))
                .unwrap();
        }
        let other = folder_with(5).await;
        let aside = beside(&path, ".replaced");
        let whole = copies.path().join("whole.db");
        backup(&other.path().join(DATABASE_FILE), &whole, false).unwrap();
        fs::rename(&whole, beside(&path, ".restored")).unwrap();
        let moves = [
            ("-wal", beside(&aside, "-wal")),
            ("", aside.clone()),
            ("-shm", copies.path().join("gone")),
        ];
        for (suffix, to) in &moves[..steps] {
            fs::rename(beside(&path, suffix), to).unwrap();
        }
        let refused = DataDir::share(folder.path()).unwrap_err();
        assert!(matches!(refused, DataDirError::HalfRestored { .. }), "{refused}");
        let lock = DataDir::lock(folder.path()).unwrap();
        assert!(!is_unfinished(&path));
        assert_eq!((webhooks_in(&path), webhooks_in(&aside)), (5, 3), "after {steps} steps");
        drop(lock);
        DataDir::share(folder.path()).unwrap();
    }
}

/// A backup of the first schema version is restored unchanged. The next open migrates it.
#[tokio::test]
async fn a_backup_of_an_older_version_is_brought_up_to_date_at_the_next_start() {
    let (folder, older) = (TempDir::new().unwrap(), file());
    drop(Database::open_with(&older.1, &schema::MIGRATIONS[..1]).unwrap());
    let lock = DataDir::lock(folder.path()).unwrap();
    restore(&lock, &older.1, false).unwrap();
    assert_eq!(number(&raw(&lock.database()), "PRAGMA user_version"), 1);
    drop(Database::open(&lock.database()).unwrap());
    assert_eq!(
        number(&raw(&lock.database()), "PRAGMA user_version"),
        schema::MIGRATIONS.len() as i64
    );
}

/// Before a file of an older version is migrated, a copy of it is written beside it, once. The
/// older version refuses the migrated file, and reads the copy.
#[tokio::test]
async fn a_backup_is_written_before_a_migration() {
    let (folder, path) = file();
    let older = &schema::MIGRATIONS[..2];
    drop(Database::open_with(&path, older).unwrap());
    let names = || {
        let entries = fs::read_dir(folder.path()).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(names(), ["test.db"], "a new file needs none");
    raw(&path).execute_batch("INSERT INTO counters VALUES ('a', 1)").unwrap();
    drop(Database::open(&path).unwrap());
    assert_eq!(names(), ["test.db", "test.db.schema-2"]);
    let backup = beside(&path, ".schema-2");
    assert_eq!(fs::metadata(&backup).unwrap().permissions().mode() & 0o777, 0o600);
    let refused = Database::open_with(&path, older).unwrap_err();
    assert!(matches!(refused, OpenError::Newer { found: 3, known: 2, .. }), "{refused}");
    let copy = folder.path().join("copy.db");
    fs::copy(&backup, &copy).unwrap();
    drop(Database::open_with(&copy, older).unwrap());
    assert_eq!(number(&raw(&copy), "SELECT n FROM counters"), 1);
    // The backup of an earlier migration stays.
    raw(&copy).execute_batch("UPDATE counters SET n = 2").unwrap();
    fs::rename(&copy, &path).unwrap();
    drop(Database::open(&path).unwrap());
    assert_eq!(number(&raw(&backup), "SELECT n FROM counters"), 1);
    assert_eq!(number(&raw(&path), "SELECT n FROM counters"), 2);
    assert_eq!(number(&raw(&path), "PRAGMA user_version"), 3);
}

/// Without a backup nothing is migrated. The next start tries again.
#[tokio::test]
async fn a_file_is_not_migrated_without_a_backup() {
    let (_folder, path) = file();
    drop(Database::open_with(&path, &schema::MIGRATIONS[..2]).unwrap());
    // It cannot be replaced by a file.
    let obstacle = beside(&path, ".schema-2.partial");
    fs::create_dir(&obstacle).unwrap();
    let error = Database::open(&path).unwrap_err();
    let text = crate::error_chain::causes(&error).map(ToString::to_string).collect::<Vec<_>>();
    let text = text.join("; ");
    assert!(matches!(error, OpenError::NoBackup { found: 2, known: 3, .. }), "{text}");
    assert!(text.contains("test.db.schema-2") && text.contains("left as it is"), "{text}");
    assert_eq!(number(&raw(&path), "PRAGMA user_version"), 2);
    assert!(!beside(&path, ".schema-2").exists());
    fs::remove_dir(&obstacle).unwrap();
    drop(Database::open(&path).unwrap());
    assert_eq!(number(&raw(&path), "PRAGMA user_version"), 3);
}
