//! One row of a direct webhook, a delivery or a message: its record, its content, and the
//! conditional writes.

use std::fmt::Display;

use rusqlite::{Connection, OptionalExtension, params};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    keys::{Key, Kind, position},
    message_holders,
};
use crate::{
    applications::message::PublishedMessage,
    clock::Timestamp,
    id::{TaskId, WebhookId},
    model::{Content, InvalidRecord, Webhook},
    record::Record,
    sqlite::{Total, Transaction},
    status::Status,
    store::{Tombstone, tombstone_expires_at},
};

/// The row of a record. The caller makes it, so the writer thread does not serialise.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) key: Key,
    pub(super) kind: Kind,
    pub(super) revision: i64,
    status: Status,
    reference: Option<String>,
    pub(super) due_at: Option<i64>,
    archived_at: Option<i64>,
    pub(super) expires_at: Option<i64>,
    pub(super) record: String,
    /// How a record of the same whole id names it.
    pub(super) named: String,
    /// Of a delivery: how the record of its message names the message.
    pub(super) message_named: Option<String>,
    application: Option<String>,
    /// Of a message: the number of planned deliveries.
    planned: Option<i64>,
}

impl Row {
    pub(super) fn of(webhook: &Webhook) -> Self {
        Self {
            key: Key::of(&webhook.id),
            kind: Kind::of(&webhook.id),
            revision: webhook.revision as i64,
            status: webhook.status,
            reference: webhook.referenced.then(|| webhook.id.reference.as_str().to_owned()),
            due_at: millis(webhook.due_at),
            archived_at: millis(webhook.archived_at.filter(|_| webhook.is_dead_letter())),
            expires_at: millis(webhook.expires_at),
            record: webhook.to_json(),
            named: naming(&webhook.id),
            message_named: webhook.id.message_id().as_ref().map(naming),
            application: webhook.application.as_ref().map(|id| id.as_str().to_owned()),
            planned: None,
        }
    }

    pub(super) fn of_message(message: &PublishedMessage) -> Self {
        let application = message.application.as_str();
        let reference = || message_reference(application, message.id.reference.as_str());
        let is_pending = !message.plan.is_empty();
        Self {
            key: Key::task(message.id.task),
            kind: Kind::Message,
            revision: message.revision as i64,
            status: if is_pending { Status::Pending } else { Status::Delivered },
            reference: message.referenced.then(reference),
            due_at: millis(message.due_at),
            archived_at: None,
            expires_at: millis(message.expires_at),
            record: Record::Message(Box::new(message.clone())).to_json(),
            named: naming(&message.id),
            message_named: None,
            application: Some(application.to_owned()),
            planned: Some(message.plan.len() as i64),
        }
    }

    /// When a message expires.
    fn hidden_at(&self) -> Option<i64> {
        self.expires_at.filter(|_| self.kind == Kind::Message)
    }
}

/// The text in each record that names the record's whole id.
fn naming(id: &impl Display) -> String {
    format!("\"id\":\"{id}\"")
}

fn millis(time: Option<Timestamp>) -> Option<i64> {
    time.map(Timestamp::as_millis)
}

/// The column `reference` of a message. No direct webhook has such a text there.
pub(super) fn message_reference(application: &str, reference: &str) -> String {
    format!("{application}/{reference}")
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
#[derive(Debug)]
pub(super) struct Found {
    pub(super) kind: Kind,
    pub(super) revision: i64,
    pub(super) status: u8,
    pub(super) expires_at: Option<i64>,
    pub(super) content: i64,
}

impl Found {
    /// Whether the row exists for readers and writers. A message that has expired does as long as
    /// one of its deliveries holds it.
    pub(super) fn exists(
        &self,
        connection: &Connection,
        key: &Key,
        now: Timestamp,
    ) -> rusqlite::Result<bool> {
        let is_expired = self.expires_at.is_some_and(|at| at <= now.as_millis());
        Ok(!is_expired
            || (self.kind == Kind::Message && message_holders::hold_message(connection, key, now)?))
    }
}

pub(super) fn find(connection: &Connection, key: &Key) -> rusqlite::Result<Option<Found>> {
    connection
        .prepare_cached(
            "SELECT kind, revision, status, ifnull(hidden_at, expires_at), content FROM webhooks \
             WHERE task = ?1",
        )?
        .query_row([key.bytes()], |row| {
            Ok(Found {
                kind: row.get(0)?,
                revision: row.get(1)?,
                status: row.get(2)?,
                expires_at: row.get(3)?,
                content: row.get(4)?,
            })
        })
        .optional()
}

/// The record under this key, expired or not, if it is of this kind.
pub(super) fn record(
    connection: &Connection,
    key: &Key,
    kind: Kind,
) -> rusqlite::Result<Option<String>> {
    let mut statement =
        connection.prepare_cached("SELECT record FROM webhooks WHERE task = ?1 AND kind = ?2")?;
    statement.query_row((key.bytes(), kind.code()), |row| row.get(0)).optional()
}

/// The record, if it is of this kind, and its content at one moment.
pub(super) fn open(
    connection: &Connection,
    key: &Key,
    kind: Kind,
) -> rusqlite::Result<Option<(String, Option<StoredContent>)>> {
    let read = connection.unchecked_transaction()?;
    let row = read
        .prepare_cached("SELECT record, content FROM webhooks WHERE task = ?1 AND kind = ?2")?
        .query_row((key.bytes(), kind.code()), |row| Ok((row.get(0)?, row.get(1)?)))
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

/// What is under a task id.
#[derive(Debug)]
pub(super) enum Occupied {
    /// A record of the wanted kind.
    Taken(String),
    /// A record of another kind.
    Other,
    /// No record.
    Tombstone(Tombstone),
}

/// Creates the direct webhook or the message, unless a record or a tombstone has its task id.
pub(super) fn create(
    tx: &mut Transaction<'_>,
    row: &Row,
    content: &StoredContent,
    now: Timestamp,
) -> rusqlite::Result<Option<Occupied>> {
    if let Some(found) = find(tx.connection(), &row.key)? {
        if found.exists(tx.connection(), &row.key, now)? {
            let record = record(tx.connection(), &row.key, row.kind)?;
            return Ok(Some(record.map_or(Occupied::Other, Occupied::Taken)));
        }
        remove(tx, &row.key, &found)?;
    } else if let Some(why) = tombstone(tx.connection(), &row.key)? {
        return Ok(Some(Occupied::Tombstone(why)));
    }
    tx.execute(
        "INSERT INTO contents (url, headers, payload) VALUES (?1, ?2, ?3)",
        (&content.url, &content.headers, &content.payload),
    )?;
    let content = tx.connection().last_insert_rowid();
    insert(tx, row, content)?;
    Ok(None)
}

/// Inserts the row. Its key must be vacant.
pub(super) fn insert(tx: &mut Transaction<'_>, row: &Row, content: i64) -> rusqlite::Result<()> {
    tx.execute(
        "INSERT INTO webhooks (task, revision, status, reference, due_at, archived_at, expires_at, \
         content, record, kind, application, unstarted, hidden_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
        params![
            row.key.bytes(),
            row.revision,
            row.status.code(),
            row.reference,
            row.due_at,
            row.archived_at,
            row.expires_at,
            content,
            row.record,
            row.kind.code(),
            row.application,
            row.planned,
            row.hidden_at()
        ],
    )?;
    if row.kind.is_webhook() {
        tx.count(Total::Webhooks(row.status), 1);
    }
    Ok(())
}

/// Replaces the stored record with `row`, if it has the revision `before`.
pub(super) fn replace(
    tx: &mut Transaction<'_>,
    row: &Row,
    before: u64,
    now: Timestamp,
) -> rusqlite::Result<Written> {
    let Some(found) = find(tx.connection(), &row.key)? else { return Ok(Written::Missing) };
    if found.kind != row.kind || !found.exists(tx.connection(), &row.key, now)? {
        return Ok(Written::Missing);
    }
    if found.revision != before as i64 {
        return conflict(tx.connection(), row, &found);
    }
    // A delivery has one name, its whole id.
    let changed = tx.execute(
        "UPDATE webhooks SET revision = ?2, status = ?3, due_at = ?4, archived_at = ?5, expires_at \
         = ?6, record = ?7
         WHERE task = ?1 AND (kind = 0 OR instr(record, ?8) > 0)",
        params![
            row.key.bytes(),
            row.revision,
            row.status.code(),
            row.due_at,
            row.archived_at,
            row.expires_at,
            row.record,
            row.named
        ],
    )?;
    if changed == 0 {
        return conflict(tx.connection(), row, &found);
    }
    if found.status != row.status.code() {
        count_out(tx, &found);
        tx.count(Total::Webhooks(row.status), 1);
    }
    Ok(Written::Done { content: found.content })
}

/// What a write is told that did not find the record that it was made from.
pub(super) fn conflict(
    connection: &Connection,
    row: &Row,
    found: &Found,
) -> rusqlite::Result<Written> {
    let stored = record(connection, &row.key, row.kind)?.unwrap_or_default();
    // The same bytes are the same record: an earlier try of this write took effect.
    if stored == row.record {
        return Ok(Written::Done { content: found.content });
    }
    let is_another = row.kind != Kind::Direct
        && id_of(&stored).is_some_and(|stored| naming(&stored) != row.named);
    Ok(if is_another { Written::Missing } else { Written::Conflict { record: stored } })
}

/// What came of a deletion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Deletion {
    Done,
    Missing,
    Changed,
}

/// Deletes the webhook or message with its content and index entries, if it has this revision where
/// one is given. Leaves a tombstone.
pub(super) fn delete(
    tx: &mut Transaction<'_>,
    id: &WebhookId,
    kind: Kind,
    revision: Option<u64>,
    now: Timestamp,
) -> rusqlite::Result<Deletion> {
    let key = Key::of(id);
    let Some(found) = find(tx.connection(), &key)?.filter(|found| found.kind == kind) else {
        return Ok(Deletion::Missing);
    };
    // An operator can delete an unreadable record. A readable one must have the whole id.
    let stored = record(tx.connection(), &key, kind)?.and_then(|record| id_of(&record));
    if stored.is_some_and(|stored| stored != *id) {
        return Ok(Deletion::Missing);
    }
    let exists = found.exists(tx.connection(), &key, now)?;
    if revision.is_some_and(|revision| revision as i64 != found.revision) {
        return Ok(if exists { Deletion::Changed } else { Deletion::Missing });
    }
    remove(tx, &key, &found)?;
    add_tombstone(tx, id.task, Tombstone::Deleted, now)?;
    Ok(if exists { Deletion::Done } else { Deletion::Missing })
}

/// Bars the id if no record exists under it. Returns what is there.
pub(super) fn tombstone_id(
    tx: &mut Transaction<'_>,
    task: TaskId,
    kind: Kind,
    now: Timestamp,
) -> rusqlite::Result<Occupied> {
    let key = Key::task(task);
    if let Some(found) = find(tx.connection(), &key)? {
        if found.kind != kind {
            return Ok(Occupied::Other);
        }
        return Ok(match record(tx.connection(), &key, kind)? {
            Some(record) if found.exists(tx.connection(), &key, now)? => Occupied::Taken(record),
            _ => Occupied::Tombstone(Tombstone::Deleted),
        });
    }
    if let Some(why) = tombstone(tx.connection(), &key)? {
        return Ok(Occupied::Tombstone(why));
    }
    add_tombstone(tx, task, Tombstone::Unused, now)?;
    Ok(Occupied::Tombstone(Tombstone::Unused))
}

fn tombstone(connection: &Connection, key: &Key) -> rusqlite::Result<Option<Tombstone>> {
    let mut statement = connection.prepare_cached("SELECT why FROM retired WHERE task = ?1")?;
    let why: Option<String> = statement.query_row([key.bytes()], |row| row.get(0)).optional()?;
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

/// Deletes the row of any kind, and its content unless that is another row's. SQLite deletes the
/// index entries.
pub(super) fn remove(tx: &mut Transaction<'_>, key: &Key, found: &Found) -> rusqlite::Result<()> {
    tx.execute("DELETE FROM webhooks WHERE task = ?1", [key.bytes()])?;
    if matches!(found.kind, Kind::Direct | Kind::Message) {
        tx.execute("DELETE FROM contents WHERE id = ?1", [found.content])?;
    }
    count_out(tx, found);
    Ok(())
}

/// Takes a webhook out of the totals.
pub(super) fn count_out(tx: &mut Transaction<'_>, found: &Found) {
    if let (Some(status), true) = (Status::from_code(found.status), found.kind.is_webhook()) {
        tx.count(Total::Webhooks(status), -1);
    }
}

/// Reads the record of a webhook from a row of this kind.
pub(super) fn parse_webhook(kind: Kind, json: &str) -> Result<Webhook, InvalidRecord> {
    if kind == Kind::Direct {
        return Webhook::from_json(json);
    }
    match Record::from_json(json)? {
        Record::Webhook(webhook) => Ok(*webhook),
        Record::Message(_) => Err(InvalidRecord::wrong_schema()),
    }
}

/// Reads the record of a message.
pub(super) fn parse_message(json: &str) -> Result<PublishedMessage, InvalidRecord> {
    match Record::from_json(json)? {
        Record::Message(message) => Ok(*message),
        Record::Webhook(_) => Err(InvalidRecord::wrong_schema()),
    }
}

/// The id in a record, even of a newer version that cannot be read whole. A message's id has the
/// form of a direct webhook's.
pub(super) fn id_of(record: &str) -> Option<WebhookId> {
    #[derive(Deserialize)]
    struct Named {
        id: WebhookId,
    }
    serde_json::from_str::<Named>(record).ok().map(|named| named.id)
}

/// The webhook's record in this column. Logs an unreadable one, which lists leave out.
pub(super) fn readable(
    row: &rusqlite::Row<'_>,
    column: usize,
    kind: Kind,
) -> rusqlite::Result<Option<Webhook>> {
    match parse_webhook(kind, row.get_ref(column)?.as_str()?) {
        Ok(webhook) => Ok(Some(webhook)),
        Err(error) => {
            tracing::warn!(task_id = %position(row, 0)?, error = %error,
                "Skipped a webhook that cannot be read");
            Ok(None)
        }
    }
}
