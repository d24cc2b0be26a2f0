//! The contract of [`IdempotencyKeys`] on the table `reservations`.

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, Row, types::Type};

use super::{SqliteStore, keys::task, unavailable};
use crate::{
    clock::Timestamp,
    id::TaskId,
    sqlite::{Durability, Transaction},
    store::{
        IdempotencyKeys, ReplaceReservationError, Reservation, ReservationVersion, ReserveError,
        StoreError, StoredReservation,
    },
};

#[async_trait]
impl IdempotencyKeys for SqliteStore {
    async fn reservation(&self, key: &str) -> Result<Option<StoredReservation>, StoreError> {
        let (key, now) = (key.to_owned(), self.clock.now());
        let read = self
            .database
            .read(move |connection| find(connection, &key, now)?.map(Columns::stored).transpose());
        read.await.map_err(unavailable)
    }

    async fn reserve(
        &self,
        key: &str,
        reservation: &Reservation,
    ) -> Result<StoredReservation, ReserveError> {
        let (key, columns, now) = (key.to_owned(), Columns::of(reservation), self.clock.now());
        let version = columns.version();
        let write =
            self.database.write(Durability::PowerLoss, move |tx| reserve(tx, &key, &columns, now));
        match write.await.map_err(unavailable)? {
            None => Ok(StoredReservation { reservation: reservation.clone(), version }),
            Some(taken) => Err(ReserveError::Taken(Box::new(taken))),
        }
    }

    async fn replace_reservation(
        &self,
        key: &str,
        before: &StoredReservation,
        after: &Reservation,
    ) -> Result<StoredReservation, ReplaceReservationError> {
        let (key, columns, now) = (key.to_owned(), Columns::of(after), self.clock.now());
        let (expected, version) = (before.version.clone(), columns.version());
        let write = self
            .database
            .write(Durability::Crash, move |tx| replace(tx, &key, &expected, &columns, now));
        match write.await.map_err(unavailable)? {
            Replaced::Done => Ok(StoredReservation { reservation: after.clone(), version }),
            Replaced::Changed => Err(ReplaceReservationError::Changed),
            Replaced::Missing => Err(ReplaceReservationError::Missing),
        }
    }
}

/// A reservation as its row holds it.
struct Columns {
    task: TaskId,
    /// JSON. `NULL` if empty, as for nearly every key.
    settled: Option<String>,
    fingerprint: String,
    answer: Option<String>,
    expires_at: i64,
}

impl Columns {
    fn of(reservation: &Reservation) -> Self {
        let settled = &reservation.settled;
        let json =
            || serde_json::to_string(settled).unwrap_or_else(|_| unreachable!("ids are JSON"));
        Self {
            task: reservation.task,
            settled: (!settled.is_empty()).then(json),
            fingerprint: reservation.fingerprint.clone(),
            answer: reservation.answer.clone(),
            expires_at: reservation.expires_at.as_millis(),
        }
    }

    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            task: task(row, 0)?,
            settled: row.get(1)?,
            fingerprint: row.get(2)?,
            answer: row.get(3)?,
            expires_at: row.get(4)?,
        })
    }

    /// A hash of the columns as they are stored, each after its length.
    fn version(&self) -> ReservationVersion {
        let mut bytes = self.task.as_bytes().to_vec();
        for text in [self.settled.as_deref(), Some(&self.fingerprint), self.answer.as_deref()] {
            let length = text.map_or(-1, |text| text.len() as i64);
            bytes.extend_from_slice(&length.to_be_bytes());
            bytes.extend_from_slice(text.unwrap_or_default().as_bytes());
        }
        bytes.extend_from_slice(&self.expires_at.to_be_bytes());
        ReservationVersion::hash_of(&bytes)
    }

    fn stored(self) -> rusqlite::Result<StoredReservation> {
        let malformed =
            |error| rusqlite::Error::FromSqlConversionFailure(1, Type::Text, Box::new(error));
        let settled = self.settled.as_deref().map(serde_json::from_str).transpose();
        let version = self.version();
        let reservation = Reservation {
            task: self.task,
            settled: settled.map_err(malformed)?.unwrap_or_default(),
            fingerprint: self.fingerprint,
            answer: self.answer,
            expires_at: Timestamp::from_millis(self.expires_at),
        };
        Ok(StoredReservation { reservation, version })
    }
}

/// What came of a replacement.
enum Replaced {
    Done,
    Changed,
    Missing,
}

/// Reserves the key, or returns what it is reserved for.
fn reserve(
    tx: &mut Transaction<'_>,
    key: &str,
    columns: &Columns,
    now: Timestamp,
) -> rusqlite::Result<Option<StoredReservation>> {
    if let Some(existing) = find(tx.connection(), key, now)? {
        return existing.stored().map(Some);
    }
    put(tx, key, columns)?;
    Ok(None)
}

fn replace(
    tx: &mut Transaction<'_>,
    key: &str,
    before: &ReservationVersion,
    after: &Columns,
    now: Timestamp,
) -> rusqlite::Result<Replaced> {
    let Some(found) = find(tx.connection(), key, now)? else { return Ok(Replaced::Missing) };
    if found.version() != *before {
        return Ok(Replaced::Changed);
    }
    put(tx, key, after)?;
    Ok(Replaced::Done)
}

fn put(tx: &Transaction<'_>, key: &str, columns: &Columns) -> rusqlite::Result<()> {
    let sql = "INSERT OR REPLACE INTO reservations (key, task, settled, fingerprint, answer, \
               expires_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
    let Columns { task, settled, fingerprint, answer, expires_at } = columns;
    tx.execute(sql, (key, task.as_bytes(), settled, fingerprint, answer, expires_at)).map(drop)
}

fn find(connection: &Connection, key: &str, now: Timestamp) -> rusqlite::Result<Option<Columns>> {
    let mut statement = connection.prepare_cached(
        "SELECT task, settled, fingerprint, answer, expires_at FROM reservations WHERE key = ?1",
    )?;
    let found = statement.query_row([key], Columns::read).optional()?;
    Ok(found.filter(|found| found.expires_at > now.as_millis()))
}
