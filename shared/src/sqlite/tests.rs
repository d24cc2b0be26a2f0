//! The file itself, whatever it stores.

mod backups;
mod damage;
mod disk;
mod saved_messages;

use std::{fs, path::PathBuf, sync::mpsc};

use tempfile::TempDir;

use super::{
    checkpoint,
    open::Role,
    schema::{APPLICATION_ID, MIGRATIONS, version},
    *,
};

const FIRST: &str =
    "CREATE TABLE things (name TEXT PRIMARY KEY) STRICT; INSERT INTO things VALUES ('old');
    CREATE TABLE totals (slot INTEGER PRIMARY KEY, n INTEGER NOT NULL)";
const SECOND: &str = "ALTER TABLE things ADD COLUMN size INTEGER; UPDATE things SET size = 7";

fn file() -> (TempDir, PathBuf) {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("test.db");
    (folder, path)
}

fn raw(path: &Path) -> Connection {
    Connection::open(path).unwrap()
}

fn number(connection: &Connection, sql: &str) -> i64 {
    connection.query_row(sql, (), |row| row.get(0)).unwrap()
}

/// Keeps the writer busy until the sender is used or dropped, so later writes wait together.
async fn hold_up(
    database: &Database,
) -> (mpsc::Sender<()>, tokio::task::JoinHandle<Result<(), DatabaseError>>) {
    let (release, released) = mpsc::channel::<()>();
    let (announce, begun) = oneshot::channel();
    let database = database.clone();
    let held = tokio::spawn(async move {
        let work = move |_: &mut Transaction<'_>| {
            let _ = announce.send(());
            let _ = released.recv();
            Ok(())
        };
        database.write(Durability::Crash, work).await
    });
    begun.await.unwrap();
    (release, held)
}

fn insert(
    database: &Database,
    name: String,
) -> tokio::task::JoinHandle<Result<usize, DatabaseError>> {
    let database = database.clone();
    tokio::spawn(async move {
        let work = move |tx: &mut Transaction<'_>| {
            tx.execute("INSERT INTO things (name) VALUES (?1)", [name])
        };
        database.write(Durability::Crash, work).await
    })
}

/// Waits until the channel has this many jobs.
async fn until_waiting(database: &Database, jobs: usize) {
    let channel = database.inner.jobs.clone().unwrap();
    for _ in 0..10_000 {
        if channel.max_capacity() - channel.capacity() == jobs {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("the jobs did not arrive");
}

#[test]
fn an_older_file_is_brought_up_to_date_and_keeps_its_rows() {
    let (_folder, path) = file();
    drop(Database::open_with(&path, &[FIRST]).unwrap());
    drop(Database::open_with(&path, &[FIRST, SECOND]).unwrap());
    let connection = raw(&path);
    assert_eq!(number(&connection, "SELECT size FROM things WHERE name = 'old'"), 7);
    assert_eq!(number(&connection, "PRAGMA user_version"), 2);
    assert_eq!(number(&connection, "PRAGMA application_id"), i64::from(APPLICATION_ID));
    drop(Database::open_with(&path, &[FIRST, SECOND]).unwrap());
    assert_eq!(number(&connection, "SELECT count(*) FROM things"), 1, "nothing runs twice");
}

#[test]
fn a_migration_that_fails_leaves_the_file_as_it_was() {
    let (_folder, path) = file();
    drop(Database::open_with(&path, &[FIRST]).unwrap());
    let error = Database::open_with(
        &path,
        &[FIRST, SECOND, "CREATE TABLE more (a); SELECT nonsense FROM nowhere"],
    )
    .unwrap_err();
    assert!(matches!(error, OpenError::Failed { .. }), "{error}");
    assert_eq!(number(&raw(&path), "PRAGMA user_version"), 1);
    assert_eq!(number(&raw(&path), "SELECT count(*) FROM pragma_table_info('things')"), 1);
}

#[test]
fn a_newer_file_is_refused_with_what_was_found_and_the_way_out() {
    let (_folder, path) = file();
    drop(Database::open_with(&path, &[FIRST, SECOND]).unwrap());
    let error = Database::open_with(&path, &[FIRST]).unwrap_err();
    assert!(matches!(error, OpenError::Newer { found: 2, known: 1, .. }), "{error}");
    let text = error.to_string();
    assert!(
        text.contains("schema version 2") && text.contains("start the newer version"),
        "{text}"
    );
}

/// The table of targets has no schema version, so that the previous version still opens the file.
/// Tested with a file of the schema's SQL alone, which that version finds as it left it.
#[test]
fn a_version_without_targets_opens_a_file_that_has_them() {
    let (_folder, path) = file();
    let older = raw(&path);
    for sql in MIGRATIONS {
        older.execute_batch(sql).unwrap();
    }
    older.pragma_update(None, "user_version", MIGRATIONS.len() as i64).unwrap();
    older.pragma_update(None, "application_id", APPLICATION_ID).unwrap();
    older.execute_batch("INSERT INTO circuits VALUES ('https://a:443', 1, 1, 0, '{}')").unwrap();
    let schema = || {
        let sql = "SELECT group_concat(type || name || coalesce(sql, '')) FROM (SELECT * FROM \
            sqlite_schema WHERE tbl_name <> 'targets' ORDER BY name)";
        older.query_row(sql, (), |row| row.get::<_, String>(0)).unwrap()
    };
    let before = schema();
    drop(Database::open(&path).unwrap());
    raw(&path).execute_batch("INSERT INTO targets (key, used_at) VALUES ('k', 0)").unwrap();

    assert_eq!(version(&older, &path, MIGRATIONS.len()).unwrap(), MIGRATIONS.len());
    assert_eq!((schema(), number(&older, "SELECT count(*) FROM circuits")), (before, 1));
    older.execute_batch("INSERT INTO circuits VALUES ('https://b:443', 1, 1, 0, '{}')").unwrap();

    drop(Database::open(&path).unwrap());
    for (table, rows) in [("circuits", 2), ("targets", 1)] {
        assert_eq!(number(&older, &format!("SELECT count(*) FROM {table}")), rows, "{table}");
    }
}

#[test]
fn a_foreign_file_is_refused_and_not_touched() {
    let (folder, path) = file();
    raw(&path).execute_batch("CREATE TABLE photos (name TEXT)").unwrap();
    let text = folder.path().join("letter.txt");
    fs::write(&text, "Dear Sir or Madam, ".repeat(100)).unwrap();
    for path in [&path, &text] {
        let before = fs::read(path).unwrap();
        let error = Database::open(path).unwrap_err();
        assert!(matches!(error, OpenError::Foreign { .. }), "{error}");
        assert_eq!(fs::read(path).unwrap(), before);
    }
    let error = Database::open(folder.path()).unwrap_err();
    assert!(error.to_string().contains("not a file"), "{error}");
    let error = Database::open(&folder.path().join("none").join("test.db")).unwrap_err();
    assert!(matches!(error, OpenError::Inaccessible { .. }), "{error}");
}

#[test]
fn many_may_open_a_new_file_at_once() {
    let (_folder, path) = file();
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let path = path.clone();
            std::thread::spawn(move || Database::open(&path).map(drop))
        })
        .collect();
    for thread in threads {
        thread.join().unwrap().unwrap();
    }
    assert_eq!(number(&raw(&path), "SELECT count(*) FROM totals"), TOTALS as i64);
}

/// A read that does not return holds up no write and no other blocking call, such as a name
/// look-up, and such a call holds up no read. Tested with one thread for all other calls.
#[test]
fn reads_and_other_blocking_calls_do_not_wait_for_each_other() {
    const HELD_FOR: Duration = Duration::from_secs(20);
    const BOUND: Duration = Duration::from_secs(10);
    let hold = |released: mpsc::Receiver<()>| {
        let (announce, begun) = oneshot::channel();
        let held = move || {
            let _ = announce.send(());
            let _ = released.recv_timeout(HELD_FOR);
        };
        (held, begun)
    };
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().max_blocking_threads(1).build().unwrap();
    runtime.block_on(async {
        let (_folder, path) = file();
        let database = Database::open_with(&path, &[FIRST]).unwrap();
        let (release, released) = mpsc::channel();
        let (hold_read, begun) = hold(released);
        let reader = database.clone();
        let read = tokio::spawn(async move {
            let count = "SELECT count(*) FROM things";
            reader.read(|connection| Ok((hold_read(), number(connection, count)).1)).await
        });
        begun.await.unwrap();
        let write = tokio::time::timeout(BOUND, insert(&database, "new".to_owned())).await;
        write.expect("a write waits for a read").unwrap().unwrap();
        let call = tokio::time::timeout(BOUND, tokio::task::spawn_blocking(|| ())).await;
        call.expect("another call waits for a read").unwrap();
        assert!(!read.is_finished(), "the read did not outlast the others");
        drop(release);
        assert_eq!(read.await.unwrap().unwrap(), 2);

        let (release, released) = mpsc::channel();
        let (hold_call, begun) = hold(released);
        let call = tokio::task::spawn_blocking(hold_call);
        begun.await.unwrap();
        let read = database.read(|connection| Ok(number(connection, "SELECT 7")));
        let read = tokio::time::timeout(BOUND, read).await;
        assert_eq!(read.expect("a read waits for another call").unwrap(), 7);
        assert!(!call.is_finished(), "the call did not outlast the read");
        drop(release);
        call.await.unwrap();
    });
}

/// A hundred writes that arrive while the writer is busy share the next commit.
#[tokio::test]
async fn writes_that_wait_together_share_a_commit() {
    let (_folder, path) = file();
    let database = Database::open_with(&path, &[FIRST]).unwrap();
    let (release, held) = hold_up(&database).await;
    let writes: Vec<_> = (0..100).map(|n| insert(&database, format!("thing {n}"))).collect();
    until_waiting(&database, 100).await;
    drop(release);
    held.await.unwrap().unwrap();
    for write in writes {
        assert_eq!(write.await.unwrap().unwrap(), 1);
    }
    assert_eq!(database.commits(), 2);
    assert_eq!(
        database
            .read(|connection| Ok(number(connection, "SELECT count(*) FROM things")))
            .await
            .unwrap(),
        101
    );
}

/// A batch of two valid writes and one that SQLite rejects leaves nothing. All three get the error,
/// and the next batch succeeds.
#[tokio::test]
async fn an_error_rolls_back_the_batch_and_answers_all() {
    let (_folder, path) = file();
    let database = Database::open_with(&path, &[FIRST]).unwrap();
    let (release, held) = hold_up(&database).await;
    let writes = ["new", "old", "newer"].map(|name| insert(&database, name.to_owned()));
    until_waiting(&database, 3).await;
    drop(release);
    held.await.unwrap().unwrap();
    for write in writes {
        let error = write.await.unwrap().unwrap_err();
        assert!(matches!(error, DatabaseError::Failed(_)), "{error}");
    }
    insert(&database, "next".to_owned()).await.unwrap().unwrap();
    assert_eq!(number(&raw(&path), "SELECT count(*) FROM things"), 2, "old and next");
}

#[tokio::test]
async fn a_full_disk_and_a_lock_that_stays_are_told_apart() {
    let (_folder, path) = file();
    let database = Database::open_with(&path, &[FIRST]).unwrap();
    let limits = |tx: &mut Transaction<'_>| {
        tx.connection().pragma_update(None, "max_page_count", 8)?;
        tx.connection().busy_timeout(Duration::from_millis(10))
    };
    database.write(Durability::Crash, limits).await.unwrap();
    let error = insert(&database, "x".repeat(100_000)).await.unwrap().unwrap_err();
    assert!(matches!(error, DatabaseError::Full(_)), "{error}");
    let other = raw(&path);
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let error = insert(&database, "new".to_owned()).await.unwrap().unwrap_err();
    assert!(matches!(error, DatabaseError::Busy(_)), "{error}");
    other.execute_batch("ROLLBACK").unwrap();
    insert(&database, "new".to_owned()).await.unwrap().unwrap();
    assert_eq!(number(&other, "SELECT count(*) FROM things"), 2);
}

#[tokio::test]
async fn only_what_must_survive_a_power_loss_is_synced() {
    let (_folder, path) = file();
    let database = Database::open_with(&path, &[FIRST]).unwrap();
    for (durability, expected) in
        [(Durability::Crash, 1), (Durability::PowerLoss, 2), (Durability::Crash, 1)]
    {
        let level = database
            .write(durability, |tx| Ok(number(tx.connection(), "PRAGMA synchronous")))
            .await
            .unwrap();
        assert_eq!(level, expected, "{durability:?}");
    }
}

/// Two handles, as of two processes, each add to one number a hundred times.
#[tokio::test]
async fn two_handles_on_one_file_lose_no_write() {
    let (_folder, path) = file();
    let handles = [Database::open(&path).unwrap(), Database::open(&path).unwrap()];
    let mut writes = Vec::new();
    for n in 0..200 {
        let database = handles[n % 2].clone();
        writes.push(tokio::spawn(async move {
            let work = |tx: &mut Transaction<'_>| {
                tx.count(Total::Webhooks(crate::status::Status::Pending), 1);
                Ok(())
            };
            database.write(Durability::Crash, work).await
        }));
    }
    for write in writes {
        write.await.unwrap().unwrap();
    }
    assert_eq!(handles[0].read(totals).await.unwrap()[0], 200);
}

#[tokio::test]
async fn the_log_is_moved_to_the_file_and_starts_over() {
    let (_folder, path) = file();
    let database = Database::open_with(&path, &[FIRST]).unwrap();
    insert(&database, "x".repeat(200_000)).await.unwrap().unwrap();
    let checkpointer = connect(&path, Role::Checkpointer).unwrap();
    assert_eq!(checkpoint::look(&checkpointer, 1000).unwrap().moved, 0, "too short to bother");
    let look = checkpoint::look(&checkpointer, 40).unwrap();
    assert!(look.moved > 40 && look.left == 0, "{look:?}");
    assert_eq!(checkpoint::look(&checkpointer, 40).unwrap().moved, 0, "all is moved");
    insert(&database, "small".to_owned()).await.unwrap().unwrap();
    assert_eq!(number(&raw(&path), "SELECT count(*) FROM things"), 3);
}

#[test]
fn a_data_folder_has_one_user_at_a_time() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("a").join("b");
    let held = DataDir::lock(&path).unwrap();
    assert_eq!(held.database(), path.join("posthaste.db"));
    let error = DataDir::lock(&path).unwrap_err();
    assert!(matches!(error, DataDirError::InUse { .. }), "{error}");
    assert!(
        error.to_string().contains(&*path.to_string_lossy())
            && error.to_string().contains("another stack"),
        "{error}"
    );
    drop(held);
    DataDir::lock(&path).unwrap();
    #[cfg(unix)]
    {
        let mode =
            std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&path).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o700);
    }
    fs::write(folder.path().join("file"), "").unwrap();
    let error = DataDir::lock(&folder.path().join("file")).unwrap_err();
    assert!(matches!(error, DataDirError::Inaccessible { .. }), "{error}");
}
