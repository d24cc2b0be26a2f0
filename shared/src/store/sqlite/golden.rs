//! The rows of schema version 1: the store and the queue write them byte for byte, and read them.

use std::{collections::BTreeMap, path::Path, time::Duration};

use rusqlite::Connection;
use tempfile::TempDir;

use super::{tests::SetClock, *};
use crate::{
    id::WebhookId,
    model::Webhook,
    queue::{Lane, Outgoing, Queue, sqlite::SqliteQueue},
    store::{IdState, IdempotencyKeys, Lists, SweepState, Tombstone, Totals, Webhooks, golden},
};

const FILE: &str = "sqlite.sql";

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

#[tokio::test]
async fn every_row_is_written_as_in_schema_1() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("written.db");
    let (store, queue) = open(&path);
    for (_, record) in golden::records() {
        store.create(&record, &golden::content(&record)).await.unwrap();
    }
    let (deleted, unused) = (deleted(), unused());
    store.create(&deleted, &golden::content(&deleted)).await.unwrap();
    store.delete(&deleted.id).await.unwrap();
    store.tombstone_id(&unused.id).await.unwrap();
    store.advance_audit(None, golden::NOW).await.unwrap();
    for (_, report) in golden::sweep_reports() {
        store.report_sweep(&report).await.unwrap();
    }
    for (name, reservation) in golden::reservations() {
        store.reserve(name, &reservation).await.unwrap();
    }
    store.add_activity(&golden::activity(), golden::NOW).await.unwrap();
    store.write_circuit(None, &golden::circuit()).await.unwrap();
    for (lane, (_, message)) in
        [Lane::Webhooks, Lane::Webhooks, Lane::DeadLetters].into_iter().zip(golden::messages())
    {
        let message =
            Outgoing { body: message.to_json(), delay: Duration::ZERO, group: "g".to_owned() };
        queue.send(lane, &[message]).await.unwrap();
    }
    golden::check(FILE, &dump(&path));
}

fn deleted() -> Webhook {
    let (_, pending) = &golden::records()[0];
    let task = golden::task(8);
    Webhook { id: WebhookId { task, ..pending.id.clone() }, ..pending.clone() }
}

fn unused() -> Webhook {
    let webhook = deleted();
    Webhook { id: WebhookId { task: golden::task(9), ..webhook.id.clone() }, ..webhook }
}

#[tokio::test]
async fn every_row_of_schema_1_is_read() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("read.db");
    Connection::open(&path).unwrap().execute_batch(&golden::read(FILE)).unwrap();
    let (store, queue) = open(&path);
    for (name, record) in golden::records() {
        let read = store.open(&record.id).await.unwrap().unwrap();
        assert_eq!(read, (record.clone(), golden::content(&record)), "{name}");
    }
    assert_eq!(
        store.tombstone_id(&deleted().id).await.unwrap(),
        IdState::Tombstone(Tombstone::Deleted)
    );
    assert_eq!(
        store.tombstone_id(&unused().id).await.unwrap(),
        IdState::Tombstone(Tombstone::Unused)
    );
    assert_eq!(store.counts().await.unwrap(), [1; 5]);
    let due = store.due(Timestamp::from_millis(i64::MAX), None, 10).await.unwrap();
    assert_eq!(due.entries.len(), 2);
    assert_eq!(store.dead_letters(None, None, 10).await.unwrap().items.len(), 1);
    assert_eq!(store.audited_until().await.unwrap(), Some(golden::NOW));
    let [_, (_, report)] = golden::sweep_reports();
    assert_eq!(store.last_sweep().await.unwrap(), Some(report));
    let activity = golden::activity();
    assert_eq!(store.counters().await.unwrap(), activity.counters);
    let destinations = store.destinations(golden::NOW).await.unwrap();
    let destinations = destinations.into_iter().map(|one| (one.destination, one.activity));
    assert_eq!(destinations.collect::<BTreeMap<_, _>>(), activity.destinations);
    assert_eq!(store.circuits().await.unwrap(), [golden::circuit()]);
    for (lane, depth) in [(Lane::Webhooks, 2), (Lane::DeadLetters, 1)] {
        assert_eq!(queue.depth(lane).await.unwrap().ready, depth);
        let received = queue.receive(lane, 10, Duration::ZERO, Duration::ZERO).await;
        for message in received.unwrap() {
            let bodies = golden::messages().map(|(_, message)| message.to_json());
            assert!(bodies.contains(&message.body), "{}", message.body);
        }
    }
}
