//! The rows of each schema version: the store and the queue write those of the newest byte for
//! byte, and read all of them.

use std::path::Path;

use rusqlite::Connection;
use tempfile::TempDir;

use super::{tests::SetClock, *};
use crate::{queue::sqlite::SqliteQueue, store::golden};

/// What the versions before applications wrote.
const OLD: &str = "sqlite.sql";

/// What this version writes.
const FILE: &str = "schema_2/sqlite.sql";

/// The table of targets, which has no schema version.
const TARGETS: &str = "sqlite_targets.sql";

fn open(path: &Path) -> (SqliteStore, SqliteQueue) {
    let clock: Arc<dyn Clock> = Arc::new(SetClock::at(golden::NOW));
    let database = Database::open(path).unwrap();
    (SqliteStore::new(database.clone(), Arc::clone(&clock)), SqliteQueue::new(database, clock))
}

/// The schema and every row, as SQL. The ids of messages are random and stand there as numbers in
/// the order of their texts.
fn dump(path: &Path) -> String {
    let connection = Connection::open(path).unwrap();
    let texts = |sql: &str| -> Vec<String> {
        let mut statement = connection.prepare(sql).unwrap();
        statement.query_map((), |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    };
    let pragma = |name: &str| {
        let value = texts(&format!("SELECT CAST({name} AS TEXT) FROM pragma_{name}")).concat();
        format!("PRAGMA {name} = {value};")
    };
    let mut lines = ["application_id", "user_version"].map(pragma).to_vec();
    for sql in texts("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY type DESC, name")
    {
        lines.push(format!("{sql};"));
    }
    for table in texts("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name") {
        let columns = texts(&format!("SELECT name FROM pragma_table_info('{table}')"));
        let value = |column: &String| match (table.as_str(), column.as_str()) {
            ("messages", "id") => "row_number() OVER (ORDER BY lane, body)".to_owned(),
            _ => format!("quote({column})"),
        };
        let values: Vec<String> = columns.iter().map(value).collect();
        let mut rows = texts(&format!("SELECT {} FROM {table}", values.join(" || ', ' || ")));
        rows.sort();
        let insert = |row: String| format!("INSERT INTO {table} VALUES ({row});");
        lines.extend(rows.into_iter().map(insert));
    }
    lines.join("\n")
}

/// The statements about the table of targets, and all others.
fn partition(dumped: &str) -> (Vec<&str>, Vec<&str>) {
    let mut is_target = false;
    dumped.lines().partition(|line| {
        // The definition of a table has several lines.
        if line.starts_with("CREATE") || line.starts_with("INSERT") {
            is_target = line.contains("targets");
        }
        is_target
    })
}

#[tokio::test]
async fn every_row_is_written_as_in_the_newest_schema() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("written.db");
    let (store, queue) = open(&path);
    golden::write_all(&store, &queue).await;
    golden::applications::write_all(&store).await;
    let dumped = dump(&path);
    let (_, written) = partition(&dumped);
    golden::check(FILE, &written.join("\n"));
}

/// The rows of a version before applications differ from today's in the new columns alone.
#[test]
fn the_rows_of_schema_1_stay_as_they_are() {
    const ADDED: &str = ", 0, NULL, NULL, NULL);";
    let (old, new) = (golden::read(OLD), golden::read(FILE));
    let new: Vec<&str> = new.lines().collect();
    let mut compared = 0;
    // Older versions wrote circuits.
    let is_row = |line: &&str| line.starts_with("INSERT") && !line.contains("INTO circuits");
    for row in old.lines().filter(is_row) {
        let added = row.strip_suffix(");").map(|row| format!("{row}{ADDED}")).unwrap();
        let expected = if row.contains("INTO webhooks") { added.as_str() } else { row };
        // The totals have other numbers.
        assert!(row.contains("INTO totals") || new.contains(&expected), "{expected}");
        compared += 1;
    }
    assert!(compared > 20, "{compared}");
}

#[tokio::test]
async fn every_target_is_written_and_read_as_in_schema_1() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("written.db");
    let (store, _) = open(&path);
    golden::write_targets(&store).await;
    let dumped = dump(&path);
    let (targets, _) = partition(&dumped);
    golden::check(TARGETS, &targets.join("\n"));
    let path = folder.path().join("read.db");
    let (store, _) = open(&path);
    let connection = Connection::open(&path).unwrap();
    let rows = golden::read(TARGETS);
    for row in rows.lines().filter(|line| line.starts_with("INSERT")) {
        connection.execute_batch(row).unwrap();
    }
    golden::assert_targets_read(&store).await;
}

#[tokio::test]
async fn every_row_of_schema_1_is_read() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("read.db");
    Connection::open(&path).unwrap().execute_batch(&golden::read(OLD)).unwrap();
    let (store, queue) = open(&path);
    golden::assert_all_read(&store, &queue).await;
}

#[tokio::test]
async fn every_row_of_the_newest_schema_is_read() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("read.db");
    Connection::open(&path).unwrap().execute_batch(&golden::read(FILE)).unwrap();
    let (store, _) = open(&path);
    golden::applications::assert_all_read(&store).await;
}
