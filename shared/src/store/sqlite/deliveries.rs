//! What occupies the keys of deliveries: records, markers, and the keys of expired records.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension};
use serde::Deserialize;

use super::{
    keys::{Key, Kind, position},
    records::{self, Deletion, Row, Written, count_out, find, insert, record},
};
use crate::{
    applications::{
        id::EndpointId,
        message::{KEY_OCCUPIED, PublishedMessage, occupied_until},
        standing::Found,
    },
    clock::Timestamp,
    id::{TaskId, WebhookId},
    sqlite::Transaction,
    status::Status,
};

/// Replaces the record of a webhook: see [`records::replace`]. From revision 0 it stores the first
/// record of a delivery, if its key is vacant and its message exists.
pub(super) fn write(
    tx: &mut Transaction<'_>,
    row: &Row,
    before: u64,
    now: Timestamp,
) -> rusqlite::Result<Written> {
    let is_first = row.kind == Kind::Delivery && before == 0;
    if is_first && find(tx.connection(), &row.key)?.is_none() {
        return start(tx, row, now);
    }
    records::replace(tx, row, before, now)
}

fn start(tx: &mut Transaction<'_>, row: &Row, now: Timestamp) -> rusqlite::Result<Written> {
    let key = row.key.message();
    let message = find(tx.connection(), &key)?.filter(|found| found.kind == Kind::Message);
    let Some(message) = message else { return Ok(Written::Missing) };
    if !message.exists(tx.connection(), &key, now)? {
        return Ok(Written::Missing);
    }
    let record = record(tx.connection(), &key, Kind::Message)?;
    let is_of_it = |record: String| {
        row.message_named.as_ref().is_some_and(|named| record.contains(named.as_str()))
    };
    if !record.is_some_and(is_of_it) {
        return Ok(Written::Missing);
    }
    insert(tx, row, message.content)?;
    count_started(tx, &row.key)?;
    Ok(Written::Done { content: message.content })
}

/// The key of a delivery got its first row. The message leaves the list of pending webhooks with
/// its last one.
fn count_started(tx: &Transaction<'_>, key: &Key) -> rusqlite::Result<()> {
    let endpoint = key.endpoint();
    tx.execute(
        "UPDATE webhooks SET unstarted = unstarted - 1, status = iif(unstarted > 1, ?3, ?4)
         WHERE task = ?1 AND kind = 1 AND unstarted > 0 AND instr(record, ?2) > 0",
        (key.message().bytes(), endpoint, Status::Pending.code(), Status::Delivered.code()),
    )
    .map(drop)
}

/// Puts a marker in place of whatever has the key.
pub(super) fn put_marker(
    tx: &mut Transaction<'_>,
    key: &Key,
    until: Timestamp,
) -> rusqlite::Result<()> {
    let found = find(tx.connection(), key)?;
    let until = match &found {
        // A marker and an expired record occupy their keys for at least as long as before.
        Some(found) if found.kind == Kind::Delivery => {
            let occupied = found.expires_at.map(|at| occupied_until(Timestamp::from_millis(at)));
            occupied.map_or(until, |occupied| occupied.max(until))
        }
        Some(found) => found.expires_at.map_or(until, |at| until.max(Timestamp::from_millis(at))),
        None => until,
    };
    occupy(tx, key, Kind::Marker, until)?;
    match &found {
        Some(found) => count_out(tx, found),
        None => count_started(tx, key)?,
    }
    Ok(())
}

/// Replaces the record of an expired delivery by its key.
pub(super) fn expire(
    tx: &mut Transaction<'_>,
    key: &Key,
    found: &records::Found,
) -> rusqlite::Result<()> {
    let at = Timestamp::from_millis(found.expires_at.unwrap_or_default());
    occupy(tx, key, Kind::Expired, occupied_until(at))?;
    count_out(tx, found);
    Ok(())
}

fn occupy(tx: &Transaction<'_>, key: &Key, kind: Kind, until: Timestamp) -> rusqlite::Result<()> {
    tx.execute(
        "INSERT OR REPLACE INTO webhooks (task, revision, status, expires_at, content, record, kind)
         VALUES (?1, 0, ?2, ?3, 0, '', ?4)",
        (key.bytes(), Status::Delivered.code(), until.as_millis(), kind.code()),
    )
    .map(drop)
}

/// Deletes a delivery: puts a marker in its place. `revision` is the one that it must have, if any.
/// With revision 0 it must have no record, and `allowed_at` is when it is allowed.
pub(super) fn delete(
    tx: &mut Transaction<'_>,
    id: &WebhookId,
    revision: Option<u64>,
    allowed_at: Option<Timestamp>,
    now: Timestamp,
) -> rusqlite::Result<Deletion> {
    let key = Key::of(id);
    let until =
        |allowed_at: Option<Timestamp>| allowed_at.map_or(now, |at| at.max(now)).plus(KEY_OCCUPIED);
    let Some(found) = find(tx.connection(), &key)? else {
        if revision != Some(0) {
            return Ok(Deletion::Missing);
        }
        put_marker(tx, &key, until(allowed_at))?;
        return Ok(Deletion::Done);
    };
    if found.kind != Kind::Delivery || !found.exists(tx.connection(), &key, now)? {
        return Ok(Deletion::Missing);
    }
    let stored = record(tx.connection(), &key, Kind::Delivery)?.unwrap_or_default();
    if records::id_of(&stored).is_some_and(|stored| stored != *id) {
        return Ok(Deletion::Missing);
    }
    if revision.is_some_and(|revision| revision as i64 != found.revision) {
        return Ok(Deletion::Changed);
    }
    put_marker(tx, &key, until(allowed_at_of(&stored)))?;
    Ok(Deletion::Done)
}

/// When the delivery is allowed, even in a record that cannot be read whole.
fn allowed_at_of(record: &str) -> Option<Timestamp> {
    #[derive(Deserialize)]
    struct Allowed {
        #[serde(rename = "at")]
        allowed_at: Timestamp,
    }
    serde_json::from_str::<Allowed>(record).ok().map(|allowed| allowed.allowed_at)
}

/// The message of a delivery, if it exists, and what occupies the delivery's key.
pub(super) fn read(
    connection: &Connection,
    key: &Key,
    now: Timestamp,
) -> rusqlite::Result<Option<(String, Option<Found>)>> {
    let read = connection.unchecked_transaction()?;
    let Some(message) = message(&read, &key.message(), now)? else { return Ok(None) };
    let found = read
        .prepare_cached("SELECT kind, record, expires_at, task FROM webhooks WHERE task = ?1")?
        .query_row([key.bytes()], |row| found(row, now))
        .optional()?;
    Ok(Some((message, found)))
}

/// The record of a message that exists.
pub(super) fn message(
    connection: &Connection,
    key: &Key,
    now: Timestamp,
) -> rusqlite::Result<Option<String>> {
    let Some(row) = find(connection, key)? else { return Ok(None) };
    if !row.exists(connection, key, now)? {
        return Ok(None);
    }
    record(connection, key, Kind::Message)
}

/// What occupies the keys of a message's deliveries.
pub(super) fn all(
    connection: &Connection,
    task: TaskId,
    now: Timestamp,
) -> rusqlite::Result<BTreeMap<EndpointId, Found>> {
    let mut statement = connection.prepare_cached(ALL_SQL)?;
    let mut rows = statement.query((Key::task(task).bytes(), Key::behind(task).bytes()))?;
    let mut all = BTreeMap::new();
    while let Some(row) = rows.next()? {
        if let Some(endpoint) = position(row, 3)?.endpoint {
            all.insert(endpoint, found(row, now)?);
        }
    }
    Ok(all)
}

pub(super) const ALL_SQL: &str = "SELECT kind, record, expires_at, task FROM webhooks
     WHERE task > ?1 AND task < ?2 ORDER BY task";

/// The endpoints whose keys are occupied.
pub(super) fn occupied(
    connection: &Connection,
    message: &PublishedMessage,
) -> rusqlite::Result<Vec<EndpointId>> {
    let task = message.id.task;
    let mut statement = connection.prepare_cached(OCCUPIED_SQL)?;
    let rows = statement
        .query_map((Key::task(task).bytes(), Key::behind(task).bytes()), |row| position(row, 0))?;
    rows.filter_map(|position| position.map(|position| position.endpoint).transpose()).collect()
}

pub(super) const OCCUPIED_SQL: &str =
    "SELECT task FROM webhooks WHERE task > ?1 AND task < ?2 ORDER BY task";

/// What the row says. Its columns: kind, record, expiry, key.
fn found(row: &rusqlite::Row<'_>, now: Timestamp) -> rusqlite::Result<Found> {
    let (kind, expires_at): (Kind, Option<i64>) = (row.get(0)?, row.get(2)?);
    Ok(match kind {
        Kind::Marker => Found::Marker,
        Kind::Expired => Found::Expired,
        _ if expires_at.is_some_and(|at| at <= now.as_millis()) => Found::Expired,
        _ => match records::parse_webhook(Kind::Delivery, row.get_ref(1)?.as_str()?) {
            Ok(webhook) => Found::Record(Box::new(webhook)),
            Err(error) => {
                tracing::warn!(delivery = %position(row, 3)?, %error,
                    "Found a delivery that cannot be read");
                Found::Unreadable
            }
        },
    })
}
