//! Circuits: the table `circuits`.

use rusqlite::{Connection, OptionalExtension, Row, types::Type};

use crate::{
    circuit::{Circuit, MAX_AGE},
    sqlite::Transaction,
    store::MAX_DESTINATIONS,
};

pub(super) fn circuit(
    connection: &Connection,
    destination: &str,
) -> rusqlite::Result<Option<Circuit>> {
    let mut statement =
        connection.prepare_cached("SELECT circuit FROM circuits WHERE destination = ?1")?;
    statement.query_row([destination], read).optional()
}

/// The most stale circuits that one write deletes.
const MAX_PURGED: i64 = 10;

/// The circuits that opened, then those that only failed, the latest first in both. So a
/// destination that is no longer called hides no other.
pub(super) fn all(connection: &Connection) -> rusqlite::Result<Vec<Circuit>> {
    let mut statement = connection.prepare_cached(
        "SELECT circuit FROM circuits ORDER BY opened DESC, touched_at DESC LIMIT ?1",
    )?;
    statement.query_map([MAX_DESTINATIONS as i64], read)?.collect()
}

pub(super) fn write(
    tx: &mut Transaction<'_>,
    before: Option<u64>,
    after: &Circuit,
) -> rusqlite::Result<bool> {
    let stored: Option<i64> = tx
        .connection()
        .prepare_cached("SELECT revision FROM circuits WHERE destination = ?1")?
        .query_row([&after.destination], |row| row.get(0))
        .optional()?;
    if stored != before.map(|revision| revision as i64) {
        return Ok(false);
    }
    if after.is_idle() {
        tx.execute("DELETE FROM circuits WHERE destination = ?1", [&after.destination])?;
        return Ok(true);
    }
    let json = serde_json::to_string(after)
        .unwrap_or_else(|_| unreachable!("a circuit has only string keys"));
    tx.execute(
        "INSERT OR REPLACE INTO circuits (destination, revision, opened, touched_at, circuit) \
         VALUES (?1, ?2, ?3, ?4, ?5)",
        (
            &after.destination,
            after.revision as i64,
            after.open_until.is_some(),
            after.touched_at.as_millis(),
            json,
        ),
    )?;
    tx.execute(
        "DELETE FROM circuits WHERE destination IN (SELECT destination FROM circuits WHERE \
         touched_at < ?1 ORDER BY touched_at LIMIT ?2)",
        (after.touched_at.minus(MAX_AGE).as_millis(), MAX_PURGED),
    )?;
    Ok(true)
}

fn read(row: &Row<'_>) -> rusqlite::Result<Circuit> {
    let malformed =
        |error| rusqlite::Error::FromSqlConversionFailure(0, Type::Text, Box::new(error));
    serde_json::from_str(row.get_ref(0)?.as_str()?).map_err(malformed)
}
