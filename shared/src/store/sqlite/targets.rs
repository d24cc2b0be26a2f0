//! The contract of [`Targets`] on the table `targets`.

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, Row};

use super::{SqliteStore, unavailable};
use crate::{
    clock::Timestamp,
    sqlite::{Durability, Transaction},
    store::{
        MAX_TARGETS, ReplaceCountersError, StoreError, TARGET_TTL, TakenSlots, TargetState,
        Targets, WriteTargetError,
    },
    traffic::{
        slots::{Counters, Take},
        target::{Target, TargetKey},
    },
};

/// The most unused rows that one write deletes.
const MAX_PURGED: i64 = 10;

#[async_trait]
impl Targets for SqliteStore {
    async fn target(&self, key: &TargetKey) -> Result<TargetState, StoreError> {
        let key = key.clone();
        let read = self.database.read(move |connection| state(connection, &key));
        read.await.map_err(unavailable)
    }

    async fn write_target(
        &self,
        before: Option<u64>,
        after: &Target,
    ) -> Result<(), WriteTargetError> {
        let after = after.clone();
        let write = move |tx: &mut Transaction<'_>| write(tx, before, &after);
        let written = self.database.write(Durability::Crash, write).await.map_err(unavailable)?;
        written.map_err(|stored| WriteTargetError::Changed(stored.map(Box::new)))
    }

    async fn targets(&self, now: Timestamp) -> Result<Vec<TargetState>, StoreError> {
        let read = self.database.read(move |connection| restricting(connection, now));
        read.await.map_err(unavailable)
    }

    async fn take_slots(&self, key: &TargetKey, take: &Take) -> Result<TakenSlots, StoreError> {
        let (key, take, now) = (key.clone(), take.clone(), self.clock.now());
        let write = move |tx: &mut Transaction<'_>| {
            let state = state(tx.connection(), &key)?;
            let Some(after) = take.advance(state.counters.as_ref()) else {
                return Ok(TakenSlots::Refused(state));
            };
            keep_counters(tx, &key, &after, now)?;
            let last = if take.is_late { after.last_late } else { after.last };
            Ok(TakenSlots::Taken { last, target: state.target })
        };
        self.database.write(Durability::Crash, write).await.map_err(unavailable)
    }

    async fn replace_counters(
        &self,
        key: &TargetKey,
        before: Option<&Counters>,
        after: &Counters,
    ) -> Result<(), ReplaceCountersError> {
        let (key, before, after) = (key.clone(), before.cloned(), after.clone());
        let now = self.clock.now();
        let write = move |tx: &mut Transaction<'_>| {
            let stored = state(tx.connection(), &key)?;
            if stored.counters != before {
                return Ok(Err(stored));
            }
            keep_counters(tx, &key, &after, now)?;
            purge(tx, now).map(Ok)
        };
        let written = self.database.write(Durability::Crash, write).await.map_err(unavailable)?;
        written.map_err(|stored| ReplaceCountersError::Changed(Box::new(stored)))
    }
}

const COLUMNS: &str = "target, generation, last, last_late";

fn state(connection: &Connection, key: &TargetKey) -> rusqlite::Result<TargetState> {
    let text = format!("SELECT {COLUMNS} FROM targets WHERE key = ?1");
    let mut statement = connection.prepare_cached(&text)?;
    Ok(statement.query_row([key.as_str()], read).optional()?.unwrap_or_default())
}

fn restricting(connection: &Connection, now: Timestamp) -> rusqlite::Result<Vec<TargetState>> {
    let text = format!(
        "SELECT {COLUMNS} FROM targets WHERE restricts_until > ?1 ORDER BY restricts_until DESC \
         LIMIT ?2"
    );
    let mut statement = connection.prepare_cached(&text)?;
    let found = statement.query_map((now.as_millis(), MAX_TARGETS as i64), read)?;
    let is_readable = |state: &TargetState| state.target.is_some();
    found.filter(|state| state.as_ref().map_or(true, is_readable)).collect()
}

fn read(row: &Row<'_>) -> rusqlite::Result<TargetState> {
    let json: Option<String> = row.get(0)?;
    let generation: Option<String> = row.get(1)?;
    let counters = match generation {
        Some(generation) => {
            Some(Counters { generation, last: row.get(2)?, last_late: row.get(3)? })
        }
        None => None,
    };
    let target = json.and_then(|json| serde_json::from_str(&json).ok());
    Ok(TargetState { target, counters })
}

/// Returns the stored target if it is not the expected one.
fn write(
    tx: &Transaction<'_>,
    before: Option<u64>,
    after: &Target,
) -> rusqlite::Result<Result<(), Option<Target>>> {
    let key = after.key.as_str();
    let stored: Option<Option<i64>> = tx
        .connection()
        .prepare_cached("SELECT revision FROM targets WHERE key = ?1")?
        .query_row([key], |row| row.get(0))
        .optional()?;
    if stored.flatten() != before.map(|revision| revision as i64) {
        return Ok(Err(state(tx.connection(), &after.key)?.target));
    }
    let json = serde_json::to_string(after)
        .unwrap_or_else(|_| unreachable!("a target has only string keys"));
    let (revision, json) =
        if after.is_idle() { (None, None) } else { (Some(after.revision as i64), Some(json)) };
    tx.execute(
        "INSERT INTO targets (key, revision, target, restricts_until, used_at) VALUES (?1, ?2, ?3, \
         ?4, ?5) ON CONFLICT (key) DO UPDATE SET revision = excluded.revision, target = \
         excluded.target, restricts_until = excluded.restricts_until, used_at = excluded.used_at",
        (
            key,
            revision,
            json,
            after.restricts_until().map(Timestamp::as_millis),
            after.touched_at.as_millis(),
        ),
    )?;
    tx.execute(
        "DELETE FROM targets WHERE key = ?1 AND revision IS NULL AND generation IS NULL",
        [key],
    )?;
    purge(tx, after.touched_at)?;
    Ok(Ok(()))
}

/// Deletes unused rows. Names of targets are the callers' to choose, so they must not pile up.
fn purge(tx: &Transaction<'_>, now: Timestamp) -> rusqlite::Result<()> {
    tx.execute(
        "DELETE FROM targets WHERE key IN (SELECT key FROM targets WHERE used_at < ?1 ORDER BY \
         used_at LIMIT ?2)",
        (now.minus(TARGET_TTL).as_millis(), MAX_PURGED),
    )
    .map(drop)
}

fn keep_counters(
    tx: &Transaction<'_>,
    key: &TargetKey,
    counters: &Counters,
    now: Timestamp,
) -> rusqlite::Result<()> {
    tx.execute(
        "INSERT INTO targets (key, generation, last, last_late, used_at) VALUES (?1, ?2, ?3, ?4, \
         ?5) ON CONFLICT (key) DO UPDATE SET generation = excluded.generation, last = \
         excluded.last, last_late = excluded.last_late, used_at = excluded.used_at",
        (key.as_str(), &counters.generation, counters.last, counters.last_late, now.as_millis()),
    )
    .map(drop)
}
