//! What idempotency keys stand for.

use rusqlite::{Connection, OptionalExtension, types::Type};

use super::lists::task;
use crate::{clock::Timestamp, id::TaskId, sqlite::Transaction, store::Reservation};

pub(super) fn reserve(
    tx: &mut Transaction<'_>,
    key: &str,
    reservation: &Reservation,
    now: Timestamp,
) -> rusqlite::Result<Option<Reservation>> {
    if let Some(existing) = find(tx.connection(), key)?.filter(|existing| existing.expires_at > now)
    {
        return Ok(Some(existing));
    }
    tx.execute(
        "INSERT OR REPLACE INTO reservations (key, task, settled, fingerprint, answer, expires_at) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        (
            key,
            reservation.task.as_bytes(),
            to_json(&reservation.settled),
            &reservation.fingerprint,
            &reservation.answer,
            reservation.expires_at.as_millis(),
        ),
    )?;
    Ok(None)
}

pub(super) fn replace(
    tx: &mut Transaction<'_>,
    key: &str,
    before: &Reservation,
    after: &Reservation,
    now: Timestamp,
) -> rusqlite::Result<bool> {
    let found = find(tx.connection(), key)?.filter(|found| found.expires_at > now);
    if found.as_ref() != Some(before) {
        return Ok(false);
    }
    let changed = tx.execute(
        "UPDATE reservations SET task = ?2, settled = ?3, fingerprint = ?4, answer = ?5, \
         expires_at = ?6 WHERE key = ?1",
        (
            key,
            after.task.as_bytes(),
            to_json(&after.settled),
            &after.fingerprint,
            &after.answer,
            after.expires_at.as_millis(),
        ),
    )?;
    Ok(changed == 1)
}

fn find(connection: &Connection, key: &str) -> rusqlite::Result<Option<Reservation>> {
    connection
        .prepare_cached(
            "SELECT task, settled, fingerprint, answer, expires_at FROM reservations \
            WHERE key = ?1",
        )?
        .query_row([key], |row| {
            Ok(Reservation {
                task: task(row, 0)?,
                settled: from_json(row.get(1)?)?,
                fingerprint: row.get(2)?,
                answer: row.get(3)?,
                expires_at: Timestamp::from_millis(row.get(4)?),
            })
        })
        .optional()
}

/// `NULL` if there are none, as of nearly every key.
fn to_json(settled: &[Option<TaskId>]) -> Option<String> {
    let json = || serde_json::to_string(settled).unwrap_or_else(|_| unreachable!("ids are JSON"));
    (!settled.is_empty()).then(json)
}

fn from_json(settled: Option<String>) -> rusqlite::Result<Vec<Option<TaskId>>> {
    let Some(json) = settled else { return Ok(Vec::new()) };
    serde_json::from_str(&json)
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(1, Type::Text, Box::new(error)))
}
