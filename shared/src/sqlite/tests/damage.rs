//! Recovery from a damaged file.

use std::{
    collections::BTreeSet,
    io::{Seek, SeekFrom, Write},
    sync::Arc,
};

use super::*;
use crate::{
    circuit::Settings,
    clock::{Clock, SystemClock},
    id::TaskId,
    model::Content,
    queue::{Outgoing, Queue, sqlite::SqliteQueue},
    store::{Targets, Webhooks, sqlite::SqliteStore},
    traffic::target::{Target, TargetKey},
    transition::{Rules, testing::new_webhook},
};

const PAGE_BYTES: u64 = 4096;

const WEBHOOKS: u64 = 120;

const MESSAGES_PER_WEBHOOK: u64 = 4;

/// More rows than fit into a page.
const WEBHOOKS_OF_A_PAGE: u64 = 20;
const MESSAGES_OF_A_PAGE: u64 = 130;

/// A directory whose database has webhooks with payloads of more than a page, and a message for
/// each.
async fn folder() -> TempDir {
    let folder = TempDir::new().unwrap();
    let database = Database::open(&folder.path().join(DATABASE_FILE)).unwrap();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let (store, queue) =
        (SqliteStore::new(database.clone(), Arc::clone(&clock)), SqliteQueue::new(database, clock));
    let payload =
        serde_json::value::RawValue::from_string(format!("\"{}\"", "x".repeat(5000))).unwrap();
    for n in 0..WEBHOOKS {
        let mut random = [0; 10];
        random[2..].copy_from_slice(&n.to_be_bytes());
        let now = SystemClock.now();
        let webhook = Rules::default().create(new_webhook(TaskId::mint(now, random)), now);
        let content = Content {
            url: "https://example.com/x".to_owned(),
            headers: Vec::new(),
            payload: payload.clone(),
        };
        store.create(&webhook, &content).await.unwrap();
        let message =
            Outgoing { body: format!("{n}"), delay: Duration::ZERO, group: String::new() };
        queue.send(Lane::Webhooks, &vec![message; MESSAGES_PER_WEBHOOK as usize]).await.unwrap();
    }
    let key = TargetKey::origin("https://example.com:443");
    let failing = Target::idle(key).failed(1, &Settings::default(), SystemClock.now());
    store.write_target(None, &failing).await.unwrap();
    folder
}

pub(super) fn break_pages(path: &Path, pages: &[u64]) {
    let mut file = fs::File::options().write(true).open(path).unwrap();
    for page in pages {
        file.seek(SeekFrom::Start((page - 1) * PAGE_BYTES)).unwrap();
        file.write_all(&[0xA5; PAGE_BYTES as usize]).unwrap();
    }
}

/// Every page of the file, and pairs of pages, are damaged in turn. Either the schema was damaged,
/// or everything outside the damaged pages is recovered. A page has few webhooks, or a part of one
/// payload.
#[tokio::test]
async fn what_was_not_on_the_broken_pages_is_saved() {
    let whole = folder().await;
    let whole = whole.path().join(DATABASE_FILE);
    let pages = fs::metadata(&whole).unwrap().len() / PAGE_BYTES;
    let schema = schema_pages(&whole);
    let roots = ["webhooks", "contents", "messages"].map(|table| {
        let sql = format!("SELECT rootpage FROM sqlite_schema WHERE name = '{table}'");
        number(&raw(&whole), &sql) as u64
    });
    // Rows between two damaged pages are found by an index, and the table of messages has none.
    let mut pages_of_messages = BTreeSet::new();
    let pairs = (2..pages / 2).map(|page| vec![page, pages - page]);
    for broken in (1..=pages).map(|page| vec![page]).chain(pairs) {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join(DATABASE_FILE);
        fs::copy(&whole, &path).unwrap();
        break_pages(&path, &broken);
        let (lock, target) =
            (DataDir::lock(folder.path()).unwrap(), folder.path().join("saved.db"));
        let recovered = match recover(&lock, &target, false) {
            Ok(recovered) => recovered,
            Err(error) => {
                let is_of_schema = broken.iter().any(|page| schema.contains(page));
                assert!(is_of_schema, "{broken:?}: {error}, and the schema is on {schema:?}");
                continue;
            }
        };
        let saved = raw(&target);
        let webhooks = number(&saved, "SELECT count(*) FROM webhooks") as u64;
        let messages = number(&saved, "SELECT count(*) FROM messages") as u64;
        let without = number(
            &saved,
            "SELECT count(*) FROM webhooks WHERE content NOT IN (SELECT id FROM contents)",
        );
        assert_eq!((webhooks, without), (recovered.saved.webhooks, 0), "{broken:?}: {recovered:?}");
        // Without the root page of a table, nothing of the table is found.
        let pages = broken.len() as u64;
        if !broken.iter().any(|page| roots.contains(page)) {
            assert!(
                webhooks + pages * WEBHOOKS_OF_A_PAGE >= WEBHOOKS,
                "{broken:?}: {webhooks} webhooks, {recovered:?}"
            );
            // Of two damaged pages, one may hold webhooks and the other their only index entries.
            let named = webhooks + recovered.lost_webhooks.len() as u64;
            assert!(named == WEBHOOKS || pages > 1, "{broken:?}: {recovered:?}");
            let all = WEBHOOKS * MESSAGES_PER_WEBHOOK;
            if pages == 1 && messages < all {
                pages_of_messages.extend(broken.iter().copied());
            }
            let lost_in_between =
                pages > 1 && broken.iter().all(|page| pages_of_messages.contains(page));
            assert!(
                messages + pages * MESSAGES_OF_A_PAGE >= all || lost_in_between,
                "{broken:?}: {messages} messages, {recovered:?}"
            );
        }
        let totals = "SELECT (SELECT n FROM totals WHERE slot = 0) || ' ' || (SELECT n FROM totals \
            WHERE slot = 5)";
        let totals: String = saved.query_row(totals, (), |row| row.get(0)).unwrap();
        assert_eq!(totals, format!("{webhooks} {messages}"), "{broken:?}");
        Database::open(&target).unwrap().ping().await.unwrap();
    }
}

/// The pages of the schema's B-tree: its root, page 1, and the pages that the root names.
fn schema_pages(path: &Path) -> Vec<u64> {
    const INTERIOR: u8 = 5;
    let page = &fs::read(path).unwrap()[100..PAGE_BYTES as usize];
    let number_at = |at: usize| u32::from_be_bytes(page[at..at + 4].try_into().unwrap());
    assert_eq!(page[0], INTERIOR);
    let cells = usize::from(u16::from_be_bytes([page[3], page[4]]));
    let children = (0..cells).map(|cell| {
        let pointer = 12 + 2 * cell;
        let offset = u16::from_be_bytes([page[pointer], page[pointer + 1]]);
        number_at(usize::from(offset) - 100)
    });
    [1, number_at(8)].into_iter().chain(children).map(u64::from).collect()
}

#[tokio::test]
async fn a_whole_file_is_saved_whole() {
    let folder = folder().await;
    let target = folder.path().join("saved.db");
    let recovered = recover(&DataDir::lock(folder.path()).unwrap(), &target, false).unwrap();
    assert_eq!(
        (recovered.saved.webhooks, recovered.damaged_tables.len(), recovered.lost_webhooks.len()),
        (WEBHOOKS, 0, 0)
    );
    assert_eq!(
        number(&raw(&target), "SELECT count(*) FROM messages") as u64,
        WEBHOOKS * MESSAGES_PER_WEBHOOK
    );
    assert_eq!(number(&raw(&target), "SELECT count(*) FROM targets"), 1);
}

/// If a page is damaged while the file is open, calls that touch it fail, and a warning tells the
/// operator. Other calls succeed.
#[tokio::test]
async fn damage_that_shows_later_is_told() {
    let folder = folder().await;
    let path = folder.path().join(DATABASE_FILE);
    let root =
        number(&raw(&path), "SELECT rootpage FROM sqlite_schema WHERE name = 'circuits'") as u64;
    break_pages(&path, &[root]);
    assert!(!diagnose(&path).is_empty());
    let database = Database::open(&path).unwrap();
    assert_eq!(database.warnings(), [""; 0], "nothing has read that page yet");
    let error = database
        .read(|connection| {
            connection.query_row("SELECT min(circuit) FROM circuits", (), |_| Ok(()))
        })
        .await;
    let error = error.unwrap_err();
    assert!(matches!(error, DatabaseError::Damaged(_)) && is_damage(&error), "{error}");
    let warnings = database.warnings();
    assert!(
        warnings
            .iter()
            .any(|warning| warning.contains("is damaged") && warning.contains("local recover")),
        "{warnings:?}"
    );
    database.ping().await.unwrap();
}

#[tokio::test]
async fn a_backup_of_a_damaged_file_is_refused_with_the_way_out() {
    let folder = folder().await;
    let path = folder.path().join(DATABASE_FILE);
    let root =
        number(&raw(&path), "SELECT rootpage FROM sqlite_schema WHERE name = 'webhooks'") as u64;
    break_pages(&path, &[root]);
    let refused = backup(&path, &folder.path().join("copy.db"), false).unwrap_err();
    assert!(
        matches!(refused, CopyError::Damaged { .. })
            && refused.to_string().contains("local recover"),
        "{refused}"
    );
    assert!(!folder.path().join("copy.db").exists());
}
