//! The row of a message, and what one read finds of the message and its deliveries.

use std::collections::BTreeMap;

use rusqlite::{Connection, params};

use super::{
    deliveries,
    keys::{Key, Kind},
    records::{self, Row, StoredContent, Written},
    sweep_state::audited_until,
};
use crate::{
    applications::{id::EndpointId, standing::Found},
    clock::Timestamp,
    id::TaskId,
    sqlite::Transaction,
    status::Status,
};

/// A message that exists, as one read found it.
pub(super) struct StandingRows {
    pub(super) record: String,
    pub(super) found: BTreeMap<EndpointId, Found>,
    pub(super) audited_until: Option<Timestamp>,
}

/// Reads the message and the keys of its deliveries at one moment.
pub(super) fn standing(
    connection: &Connection,
    task: TaskId,
    now: Timestamp,
) -> rusqlite::Result<Option<StandingRows>> {
    let read = connection.unchecked_transaction()?;
    standing_in(&read, task, now)
}

/// The same within a transaction.
pub(super) fn standing_in(
    connection: &Connection,
    task: TaskId,
    now: Timestamp,
) -> rusqlite::Result<Option<StandingRows>> {
    let audited_until = audited_until(connection)?;
    let Some(record) = deliveries::message(connection, &Key::task(task), now)? else {
        return Ok(None);
    };
    let found = deliveries::all(connection, task, now)?;
    Ok(Some(StandingRows { record, found, audited_until }))
}

/// The record of a message that exists, and its content.
pub(super) fn open(
    connection: &Connection,
    key: &Key,
    now: Timestamp,
) -> rusqlite::Result<Option<(String, Option<StoredContent>)>> {
    let read = connection.unchecked_transaction()?;
    let Some(row) = records::find(&read, key)?.filter(|row| row.kind == Kind::Message) else {
        return Ok(None);
    };
    if !row.exists(&read, key, now)? {
        return Ok(None);
    }
    let Some(record) = records::record(&read, key, Kind::Message)? else { return Ok(None) };
    Ok(Some((record, records::content(&read, row.content)?)))
}

/// Replaces the stored message with `row`, if it has the revision `before`. The plan has this many
/// more entries.
pub(super) fn replace(
    tx: &mut Transaction<'_>,
    row: &Row,
    before: u64,
    added: i64,
    now: Timestamp,
) -> rusqlite::Result<Written> {
    let found = records::find(tx.connection(), &row.key)?;
    let Some(found) = found.filter(|found| found.kind == Kind::Message) else {
        return Ok(Written::Missing);
    };
    if !found.exists(tx.connection(), &row.key, now)? {
        return Ok(Written::Missing);
    }
    if found.revision != before as i64 {
        return records::conflict(tx.connection(), row, &found);
    }
    let changed = tx.execute(
        "UPDATE webhooks SET revision = ?2, due_at = ?3, expires_at = ?4, hidden_at = ?4, record = \
         ?5, unstarted = unstarted + ?6, status = iif(unstarted + ?6 > 0, ?7, ?8)
         WHERE task = ?1 AND instr(record, ?9) > 0",
        params![
            row.key.bytes(),
            row.revision,
            row.due_at,
            row.expires_at,
            row.record,
            added,
            Status::Pending.code(),
            Status::Delivered.code(),
            row.named
        ],
    )?;
    if changed == 0 {
        return records::conflict(tx.connection(), row, &found);
    }
    Ok(Written::Done { content: found.content })
}
