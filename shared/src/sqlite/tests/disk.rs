//! The files on the disk: their permissions, their presence, their size, and the log.

use std::os::unix::fs::PermissionsExt;

use super::{super::files::beside, *};

const SUFFIXES: [&str; 3] = ["", "-wal", "-shm"];

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// A directory that other users can enter, with files that they can read, as an earlier version
/// left them after a crash, with log and index.
#[test]
fn files_that_others_could_read_are_for_their_owner_alone() {
    let folder = TempDir::new().unwrap();
    set_mode(folder.path(), 0o755);
    let path = folder.path().join(DATABASE_FILE);
    let crashed = Database::open(&path).unwrap();
    fs::write(folder.path().join("lock"), "").unwrap();
    for suffix in SUFFIXES {
        set_mode(&beside(&path, suffix), 0o644);
    }
    set_mode(&folder.path().join("lock"), 0o644);
    let _lock = DataDir::lock(folder.path()).unwrap();
    let _database = Database::open(&path).unwrap();
    for file in [DATABASE_FILE, "posthaste.db-wal", "posthaste.db-shm", "lock"] {
        assert_eq!(mode(&folder.path().join(file)), 0o600, "{file}");
    }
    assert_eq!(mode(folder.path()), 0o755, "the folder keeps the mode that its owner gave it");
    drop(crashed);
}

/// In a directory that other users can enter, new files are readable by their owner only.
#[test]
fn new_files_are_for_their_owner_alone() {
    let folder = TempDir::new().unwrap();
    set_mode(folder.path(), 0o755);
    let _lock = DataDir::lock(folder.path()).unwrap();
    let _database = Database::open(&folder.path().join(DATABASE_FILE)).unwrap();
    for file in fs::read_dir(folder.path()).unwrap() {
        let file = file.unwrap().path();
        assert_eq!(mode(&file), 0o600, "{}", file.display());
    }
}

/// If any of the three files is moved away or replaced, writes fail and name the file, even if the
/// first write after that has committed. They succeed once the file is back.
#[tokio::test]
async fn a_file_that_is_lost_refuses_writes_and_names_itself() {
    for (suffix, replaced) in
        SUFFIXES.into_iter().flat_map(|suffix| [(suffix, false), (suffix, true)])
    {
        let (folder, path) = file();
        let database = Database::open(&path).unwrap();
        let (file, away) = (beside(&path, suffix), folder.path().join("away"));
        fs::rename(&file, &away).unwrap();
        if replaced {
            fs::write(&file, "").unwrap();
        }
        for _ in 0..2 {
            let error = database.ping().await.unwrap_err();
            let DatabaseError::Lost(lost) = &error else { panic!("{error}") };
            assert_eq!(
                lost,
                &LostFile {
                    path: file.clone(),
                    how: if replaced { Loss::Replaced } else { Loss::Deleted }
                }
            );
        }
        let warnings = database.warnings();
        assert!(
            warnings.iter().any(|warning| warning.contains(&*file.to_string_lossy())),
            "{warnings:?}"
        );
        fs::rename(&away, &file).unwrap();
        // The failed write in between checked first, so it committed nothing.
        database.ping().await.unwrap();
    }
}

/// If the files are deleted and recreated, as by a second stack, the end of the first stack leaves
/// the second one's log. SQLite deletes a log by its path, but not that of a database that was
/// moved. A restore under a stack that has lost its files relies on this.
#[tokio::test]
async fn ending_on_files_that_were_replaced_leaves_the_others_log() {
    let (_folder, path) = file();
    let first = Database::open_with(&path, &[FIRST]).unwrap();
    for suffix in SUFFIXES {
        fs::remove_file(beside(&path, suffix)).unwrap();
    }
    let second = Database::open_with(&path, &[FIRST]).unwrap();
    insert(&second, "new".to_owned()).await.unwrap().unwrap();
    assert!(first.ping().await.is_err());
    drop(first);
    assert!(fs::metadata(beside(&path, "-wal")).unwrap().len() > 0);
    insert(&second, "newer".to_owned()).await.unwrap().unwrap();
    drop(second);
    assert_eq!(number(&raw(&path), "SELECT count(*) FROM things"), 3);
}

#[tokio::test]
async fn a_read_that_takes_too_long_is_ended_and_the_next_one_is_not() {
    let (_folder, path) = file();
    let database = Database::open_with(&path, &[FIRST]).unwrap();
    let endless =
        "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n) SELECT count(*) FROM n";
    let read = database.read_within(Duration::from_millis(20), |connection| {
        connection.query_row(endless, (), |_| Ok(()))
    });
    let error = read.await.unwrap_err();
    assert!(matches!(error, DatabaseError::TooLong(_)), "{error}");
    assert_eq!(
        database
            .read(|connection| Ok(number(connection, "SELECT count(*) FROM things")))
            .await
            .unwrap(),
        1
    );
}

/// Pages beyond the reserve are given back in small steps, and the file shrinks with the next
/// checkpoint. Tested with 40 MiB.
#[tokio::test]
async fn free_pages_are_given_back_in_small_steps_down_to_a_reserve() {
    const MIB: u64 = 1024 * 1024;
    let (_folder, path) = file();
    let database = Database::open_with(&path, &[FIRST]).unwrap();
    let connection = raw(&path);
    connection.execute_batch("PRAGMA wal_autocheckpoint = 0").unwrap();
    for n in 0..40 {
        connection.execute("INSERT INTO things VALUES (?1 || hex(zeroblob(524000)))", [n]).unwrap();
    }
    let size = || {
        checkpoint::look(&connect(&path, Role::Checkpointer).unwrap(), 1).unwrap();
        fs::metadata(&path).unwrap().len()
    };
    assert!(size() > 39 * MIB);
    connection.execute("DELETE FROM things", ()).unwrap();
    assert!(size() > 39 * MIB, "deleting alone frees pages within the file");
    let mut steps = 0;
    loop {
        let pages = trim::step(&connection).unwrap();
        assert!((0..=128).contains(&pages), "{pages} in one step");
        if pages == 0 {
            break;
        }
        steps += 1;
    }
    let left = size();
    assert!((8 * MIB..9 * MIB).contains(&left) && steps >= 60, "{left} bytes after {steps} steps");
    assert_eq!(number(&connection, "PRAGMA freelist_count"), 2048, "a reserve is kept");
    drop(database);
}

/// The writer trims by itself between its writes.
#[tokio::test]
async fn an_open_database_trims_its_file() {
    let (_folder, path) = file();
    let database = Database::open(&path).unwrap();
    let connection = raw(&path);
    connection
        .execute_batch(
            "CREATE TABLE big (x); INSERT INTO big VALUES (zeroblob(10000000)); DROP TABLE big",
        )
        .unwrap();
    let free = || number(&connection, "PRAGMA freelist_count");
    let (before, begun) = (free(), std::time::Instant::now());
    while free() > before - 128 {
        assert!(
            before > 2048 + 128 && begun.elapsed() < Duration::from_secs(60),
            "{} of {before} pages are free",
            free()
        );
        database.ping().await.unwrap();
    }
}

/// A file of an earlier version without the map of pages works as before. A backup of it has the
/// map.
#[tokio::test]
async fn an_older_file_without_the_map_works_and_its_backup_has_one() {
    let (folder, path) = file();
    raw(&path)
        .execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE t (x); DROP TABLE t")
        .unwrap();
    let database = Database::open(&path).unwrap();
    assert_eq!(number(&raw(&path), "PRAGMA auto_vacuum"), 0);
    database.ping().await.unwrap();
    assert_eq!(trim::step(&raw(&path)).unwrap(), 0);
    let copy = folder.path().join("copy.db");
    backup(&path, &copy, false).unwrap();
    assert_eq!(number(&raw(&copy), "PRAGMA auto_vacuum"), 2, "incremental");
}
