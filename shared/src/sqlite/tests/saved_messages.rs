//! Backups and recoveries of files with messages, deliveries, markers and applications.

use super::{damage::break_pages, *};
use crate::{
    clock::{Clock, SystemClock, Timestamp},
    model::Content,
    store::{
        Messages, Webhooks,
        golden::{self, applications},
        sqlite::SqliteStore,
    },
    transition::Rules,
};

fn store(path: &Path) -> SqliteStore {
    SqliteStore::new(Database::open(path).unwrap(), Arc::new(SystemClock))
}

/// The rows of every table, each as one text. Their order is that of their keys.
fn rows(path: &Path) -> Vec<String> {
    let connection = raw(path);
    let texts = |sql: &str| -> Vec<String> {
        let mut statement = connection.prepare(sql).unwrap();
        statement.query_map((), |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    };
    let tables = "SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name";
    let mut all = Vec::new();
    for table in texts(tables) {
        let columns = texts(&format!("SELECT name FROM pragma_table_info('{table}')"));
        let values: Vec<_> = columns.iter().map(|column| format!("quote({column})")).collect();
        let sql = format!("SELECT '{table} ' || {} FROM {table}", values.join(" || ' ' || "));
        all.extend(texts(&sql));
    }
    all
}

/// A copy, a restored copy and what a recovery saves have every row.
#[tokio::test]
async fn copies_have_messages_deliveries_markers_and_applications() {
    let (folder, other) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let path = folder.path().join(DATABASE_FILE);
    let store = store(&path);
    applications::write_all(&store).await;
    drop(store);
    let before = rows(&path);
    let is_there = |text: &str| before.iter().any(|row| row.starts_with(text));
    assert!(is_there("applications") && is_there("webhooks") && is_there("contents"));
    let (copy, saved) = (other.path().join("copy.db"), other.path().join("saved.db"));
    backup(&path, &copy, false).unwrap();
    assert_eq!(rows(&copy), before);
    let lock = DataDir::lock(folder.path()).unwrap();
    let recovered = recover(&lock, &saved, false).unwrap();
    assert_eq!((recovered.damaged_tables.len(), recovered.lost_webhooks.len()), (0, 0));
    assert_eq!((recovered.saved.webhooks, recovered.without_payload), (1, 0), "{recovered:?}");
    assert_eq!(rows(&saved), before);
    restore(&lock, &saved, true).unwrap();
    assert_eq!(rows(&path), before);
    applications::assert_all_read(&self::store(&path)).await;
}

const MESSAGES: u64 = 60;

/// Messages to three endpoints each: the first delivery is delivered, the second in progress, the
/// third has not started. Returns the ends of the ids of the second ones.
async fn messages(path: &Path) {
    let (store, now) = (store(path), SystemClock.now());
    for n in 0..MESSAGES {
        let message = message(n, now);
        let payload = golden::applications::payload();
        store.create_message(&message, &Content { ..payload }).await.unwrap();
        for endpoint in [1, 2] {
            let endpoint = applications::endpoint(endpoint);
            let first = Rules::delivery(&message, endpoint).unwrap();
            let claim = crate::model::ClaimId(7);
            let claimed = Rules::default().claim(&first, claim, now).unwrap();
            store.write(&first, &claimed).await.unwrap();
            if endpoint == applications::endpoint(1) {
                let outcome = crate::retry::Outcome {
                    error: None,
                    status_code: Some(200),
                    retry_after: None,
                };
                let report = crate::transition::Report {
                    outcome,
                    duration: Duration::ZERO,
                    message: None,
                    response_excerpt: None,
                };
                let done = Rules::default().conclude(&claimed, claim, &report, now, 0.5).unwrap();
                store.write(&claimed, &done).await.unwrap();
            }
        }
    }
}

fn message(n: u64, now: Timestamp) -> crate::applications::message::PublishedMessage {
    let mut random = [0; 10];
    random[2..].copy_from_slice(&n.to_be_bytes());
    let task = crate::id::TaskId::mint(now, random);
    let mut message = applications::published();
    message.id.task = task;
    message.created_at = now;
    message.allowed_at = now;
    message.expires_at = Some(now.plus(Duration::from_secs(3600 * 24 * 45)));
    let entry = message.plan[0];
    message.plan = [1, 2, 3]
        .map(applications::endpoint)
        .map(|endpoint| crate::applications::message::PlanEntry { endpoint, ..entry })
        .to_vec();
    message
}

/// Without its payload, nothing unfinished of a message can be delivered. Without its message, nor
/// can an unfinished delivery.
#[tokio::test]
async fn what_cannot_be_delivered_any_more_is_named() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join(DATABASE_FILE);
    messages(&path).await;
    let connection = raw(&path);
    let task = |n| -> Vec<u8> {
        let sql = "SELECT task FROM webhooks WHERE kind = 1 ORDER BY task LIMIT 1 OFFSET ?1";
        connection.query_row(sql, [n], |row| row.get(0)).unwrap()
    };
    let (without_payload, without_message) = (task(0), task(1));
    connection
        .execute(
            "DELETE FROM contents WHERE id = (SELECT content FROM webhooks WHERE task = ?1)",
            [&without_payload],
        )
        .unwrap();
    connection.execute("DELETE FROM webhooks WHERE task = ?1", [&without_message]).unwrap();
    let target = folder.path().join("saved.db");
    let recovered = recover(&DataDir::lock(folder.path()).unwrap(), &target, false).unwrap();
    let name = |task: &[u8]| crate::id::TaskId::from_bytes(task).unwrap().to_string();
    let endpoint = applications::endpoint(2);
    let mut lost = [
        name(&without_payload),
        format!("{}.{endpoint}", name(&without_payload)),
        format!("{}.{endpoint}", name(&without_message)),
    ];
    lost.sort();
    assert_eq!(recovered.lost_webhooks, lost);
    assert_eq!(recovered.without_payload, 1, "the delivery that was delivered");
    let saved = raw(&target);
    let in_progress = MESSAGES as i64 - 2;
    assert_eq!(number(&saved, "SELECT n FROM totals WHERE slot = 1"), in_progress);
    assert_eq!(number(&saved, "SELECT n FROM totals WHERE slot = 0"), 0, "a message is no webhook");
    assert_eq!(recovered.saved.webhooks, in_progress as u64 + MESSAGES);
}

/// Whichever page is damaged: each message counts its deliveries without a row, and is in the list
/// of pending webhooks exactly while it has some.
#[tokio::test]
async fn a_recovery_counts_which_deliveries_have_not_started() {
    let whole = TempDir::new().unwrap();
    let whole_path = whole.path().join(DATABASE_FILE);
    messages(&whole_path).await;
    let pages = fs::metadata(&whole_path).unwrap().len() / 4096;
    let mut seen_lost = 0;
    for page in 10..=pages {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join(DATABASE_FILE);
        fs::copy(&whole_path, &path).unwrap();
        break_pages(&path, &[page]);
        let target = folder.path().join("saved.db");
        let lock = DataDir::lock(folder.path()).unwrap();
        let Ok(recovered) = recover(&lock, &target, false) else { continue };
        let saved = raw(&target);
        let wrong = "SELECT count(*) FROM webhooks AS message WHERE kind = 1 AND (
            unstarted <> 3 - (SELECT count(*) FROM webhooks AS delivery WHERE delivery.kind = 2
                AND substr(delivery.task, 1, 16) = message.task)
            OR status <> iif(unstarted > 0, 0, 3))";
        assert_eq!(number(&saved, wrong), 0, "page {page}: {recovered:?}");
        seen_lost += number(&saved, "SELECT count(*) FROM webhooks WHERE unstarted > 1");
    }
    assert!(seen_lost > 0);
}
