//! One webhook: its row, its content, and the conditional writes.

use rusqlite::{Connection, OptionalExtension, params};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    clock::Timestamp,
    id::{TaskId, WebhookId},
    model::{Content, Webhook},
    sqlite::{Total, Transaction},
    status::Status,
    store::{Tombstone, tombstone_expires_at},
};

/// The row of a record. The caller makes it, so the writer thread does not serialise.
#[derive(Debug)]
pub(super) struct Row {
    task: TaskId,
    revision: i64,
    status: Status,
    reference: Option<String>,
    due_at: Option<i64>,
    archived_at: Option<i64>,
    expires_at: Option<i64>,
    record: String,
}

impl Row {
    pub(super) fn of(webhook: &Webhook) -> Self {
        let millis = |time: Option<Timestamp>| time.map(Timestamp::as_millis);
        Self {
            task: webhook.id.task,
            revision: webhook.revision as i64,
            status: webhook.status,
            reference: webhook.referenced.then(|| webhook.id.reference.as_str().to_owned()),
            due_at: millis(webhook.due_at),
            archived_at: millis(webhook.archived_at.filter(|_| webhook.is_dead_letter())),
            expires_at: millis(webhook.expires_at),
            record: webhook.to_json(),
        }
    }
}

/// The row of a content.
#[derive(Debug)]
pub(super) struct StoredContent {
    url: String,
    headers: Option<String>,
    payload: String,
}

impl StoredContent {
    pub(super) fn of(content: &Content) -> Self {
        let json = |headers| {
            serde_json::to_string(headers)
                .unwrap_or_else(|_| unreachable!("pairs of strings are JSON"))
        };
        let headers = (!content.headers.is_empty()).then(|| json(&content.headers));
        Self { url: content.url.clone(), headers, payload: content.payload.get().to_owned() }
    }

    pub(super) fn read(self) -> Result<Content, serde_json::Error> {
        let headers =
            self.headers.map(|json| serde_json::from_str(&json)).transpose()?.unwrap_or_default();
        Ok(Content { url: self.url, headers, payload: RawValue::from_string(self.payload)? })
    }
}

/// What came of a conditional write.
#[derive(Debug)]
pub(super) enum Written {
    Done { content: i64 },
    Conflict { record: String },
    Missing,
}

/// The columns that a precondition needs.
struct Found {
    revision: i64,
    status: u8,
    expires_at: Option<i64>,
    content: i64,
}

impl Found {
    fn is_expired(&self, now: Timestamp) -> bool {
        self.expires_at.is_some_and(|at| at <= now.as_millis())
    }
}

fn find(connection: &Connection, task: TaskId) -> rusqlite::Result<Option<Found>> {
    connection
        .prepare_cached(
            "SELECT revision, status, expires_at, content FROM webhooks WHERE task = ?1",
        )?
        .query_row([task.as_bytes()], |row| {
            Ok(Found {
                revision: row.get(0)?,
                status: row.get(1)?,
                expires_at: row.get(2)?,
                content: row.get(3)?,
            })
        })
        .optional()
}

/// The record with this task id, expired or not.
pub(super) fn record(connection: &Connection, task: TaskId) -> rusqlite::Result<Option<String>> {
    let mut statement = connection.prepare_cached("SELECT record FROM webhooks WHERE task = ?1")?;
    statement.query_row([task.as_bytes()], |row| row.get(0)).optional()
}

/// The record and its content at one moment.
pub(super) fn open(
    connection: &Connection,
    task: TaskId,
) -> rusqlite::Result<Option<(String, Option<StoredContent>)>> {
    let read = connection.unchecked_transaction()?;
    let row = read
        .prepare_cached("SELECT record, content FROM webhooks WHERE task = ?1")?
        .query_row([task.as_bytes()], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let Some((record, id)) = row else { return Ok(None) };
    let found = content(&read, id)?;
    Ok(Some((record, found)))
}

/// The content in this row.
pub(super) fn content(connection: &Connection, id: i64) -> rusqlite::Result<Option<StoredContent>> {
    connection
        .prepare_cached("SELECT url, headers, payload FROM contents WHERE id = ?1")?
        .query_row([id], |row| {
            Ok(StoredContent { url: row.get(0)?, headers: row.get(1)?, payload: row.get(2)? })
        })
        .optional()
}

/// Why a webhook was not created.
#[derive(Debug)]
pub(super) enum Occupied {
    /// A webhook with its task id exists. This is its record.
    Taken(String),
    Tombstone(Tombstone),
}

/// Creates the webhook, unless a webhook or a tombstone has its task id.
pub(super) fn create(
    tx: &mut Transaction<'_>,
    row: &Row,
    content: &StoredContent,
    now: Timestamp,
) -> rusqlite::Result<Option<Occupied>> {
    if let Some(found) = find(tx.connection(), row.task)? {
        if !found.is_expired(now) {
            return Ok(record(tx.connection(), row.task)?.map(Occupied::Taken));
        }
        remove(tx, row.task, found.status, found.content)?;
    } else if let Some(why) = tombstone(tx.connection(), row.task)? {
        return Ok(Some(Occupied::Tombstone(why)));
    }
    tx.execute(
        "INSERT INTO contents (url, headers, payload) VALUES (?1, ?2, ?3)",
        (&content.url, &content.headers, &content.payload),
    )?;
    let content = tx.connection().last_insert_rowid();
    tx.execute(
        "INSERT INTO webhooks (task, revision, status, reference, due_at, archived_at, expires_at, \
         content, record)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        params![
            row.task.as_bytes(),
            row.revision,
            row.status.code(),
            row.reference,
            row.due_at,
            row.archived_at,
            row.expires_at,
            content,
            row.record
        ],
    )?;
    tx.count(Total::Webhooks(row.status), 1);
    Ok(None)
}

/// Replaces the stored record with `row`, if it has the revision `before`.
pub(super) fn replace(
    tx: &mut Transaction<'_>,
    row: &Row,
    before: u64,
    now: Timestamp,
) -> rusqlite::Result<Written> {
    let Some(found) = find(tx.connection(), row.task)?.filter(|found| !found.is_expired(now))
    else {
        return Ok(Written::Missing);
    };
    if found.revision != before as i64 {
        let stored = record(tx.connection(), row.task)?.unwrap_or_default();
        // The same bytes are the same record: an earlier try of this write took effect.
        let ours = stored == row.record;
        return Ok(if ours {
            Written::Done { content: found.content }
        } else {
            Written::Conflict { record: stored }
        });
    }
    tx.execute(
        "UPDATE webhooks SET revision = ?2, status = ?3, due_at = ?4, archived_at = ?5, expires_at \
         = ?6, record = ?7
         WHERE task = ?1",
        params![row.task.as_bytes(), row.revision, row.status.code(), row.due_at, row.archived_at,
            row.expires_at, row.record],
    )?;
    if found.status != row.status.code() {
        count_out(tx, found.status);
        tx.count(Total::Webhooks(row.status), 1);
    }
    Ok(Written::Done { content: found.content })
}

/// What came of a deletion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Deletion {
    Done,
    Missing,
    Changed,
}

/// Deletes the webhook with its content and index entries, if it has this revision where one is
/// given.
pub(super) fn delete(
    tx: &mut Transaction<'_>,
    id: &WebhookId,
    revision: Option<u64>,
    now: Timestamp,
) -> rusqlite::Result<Deletion> {
    let Some(found) = find(tx.connection(), id.task)? else { return Ok(Deletion::Missing) };
    // An operator can delete an unreadable record. A readable one must have the whole id.
    let stored = record(tx.connection(), id.task)?.and_then(|record| id_of(&record));
    if stored.is_some_and(|stored| stored != *id) {
        return Ok(Deletion::Missing);
    }
    let is_expired = found.is_expired(now);
    if revision.is_some_and(|revision| revision as i64 != found.revision) {
        return Ok(if is_expired { Deletion::Missing } else { Deletion::Changed });
    }
    remove(tx, id.task, found.status, found.content)?;
    add_tombstone(tx, id.task, Tombstone::Deleted, now)?;
    Ok(if is_expired { Deletion::Missing } else { Deletion::Done })
}

/// Bars the id if no webhook exists under it. Returns what is there.
pub(super) fn tombstone_id(
    tx: &mut Transaction<'_>,
    task: TaskId,
    now: Timestamp,
) -> rusqlite::Result<Occupied> {
    if let Some(record) = record(tx.connection(), task)? {
        return Ok(Occupied::Taken(record));
    }
    if let Some(why) = tombstone(tx.connection(), task)? {
        return Ok(Occupied::Tombstone(why));
    }
    add_tombstone(tx, task, Tombstone::Unused, now)?;
    Ok(Occupied::Tombstone(Tombstone::Unused))
}

fn tombstone(connection: &Connection, task: TaskId) -> rusqlite::Result<Option<Tombstone>> {
    let mut statement = connection.prepare_cached("SELECT why FROM retired WHERE task = ?1")?;
    let why: Option<String> =
        statement.query_row([task.as_bytes()], |row| row.get(0)).optional()?;
    Ok(why.map(|why| Tombstone::from_stored(&why)))
}

fn add_tombstone(
    tx: &mut Transaction<'_>,
    task: TaskId,
    why: Tombstone,
    now: Timestamp,
) -> rusqlite::Result<()> {
    let until = tombstone_expires_at(task);
    if until > now {
        tx.execute(
            "INSERT OR REPLACE INTO retired (task, why, expires_at) VALUES (?1, ?2, ?3)",
            (task.as_bytes(), why.as_str(), until.as_millis()),
        )?;
    }
    Ok(())
}

/// Deletes the rows of a webhook. SQLite deletes their index entries.
pub(super) fn remove(
    tx: &mut Transaction<'_>,
    task: TaskId,
    status: u8,
    content: i64,
) -> rusqlite::Result<()> {
    tx.execute("DELETE FROM webhooks WHERE task = ?1", [task.as_bytes()])?;
    tx.execute("DELETE FROM contents WHERE id = ?1", [content])?;
    count_out(tx, status);
    Ok(())
}

fn count_out(tx: &mut Transaction<'_>, status: u8) {
    if let Some(status) = Status::from_code(status) {
        tx.count(Total::Webhooks(status), -1);
    }
}

/// The id in a record, even of a newer version that cannot be read whole.
pub(super) fn id_of(record: &str) -> Option<WebhookId> {
    #[derive(Deserialize)]
    struct Named {
        id: WebhookId,
    }
    serde_json::from_str::<Named>(record).ok().map(|named| named.id)
}
