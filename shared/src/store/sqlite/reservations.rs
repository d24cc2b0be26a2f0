//! What idempotency keys stand for.

use rusqlite::{Connection, OptionalExtension};

use super::lists::task;
use crate::{clock::Timestamp, sqlite::Transaction, store::Reservation};

pub(super) fn reserve(
    tx: &mut Transaction<'_>,
    key: &str,
    reservation: &Reservation,
    now: Timestamp,
) -> rusqlite::Result<Option<Reservation>> {
    if let Some(existing) = find(tx.connection(), key)?.filter(|existing| existing.expires_at > now) {
        return Ok(Some(existing));
    }
    tx.execute(
        "INSERT OR REPLACE INTO reservations (key, task, fingerprint, answer, expires_at) VALUES (?1, ?2, ?3, ?4, ?5)",
        (key, reservation.task.as_bytes(), &reservation.fingerprint, &reservation.answer, reservation.expires_at.as_millis()),
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
        "UPDATE reservations SET task = ?2, fingerprint = ?3, answer = ?4, expires_at = ?5 WHERE key = ?1",
        (key, after.task.as_bytes(), &after.fingerprint, &after.answer, after.expires_at.as_millis()),
    )?;
    Ok(changed == 1)
}

fn find(connection: &Connection, key: &str) -> rusqlite::Result<Option<Reservation>> {
    connection
        .prepare_cached("SELECT task, fingerprint, answer, expires_at FROM reservations WHERE key = ?1")?
        .query_row([key], |row| {
            Ok(Reservation {
                task: task(row, 0)?,
                fingerprint: row.get(1)?,
                answer: row.get(2)?,
                expires_at: Timestamp::from_millis(row.get(3)?),
            })
        })
        .optional()
}
