//! The contract of [`Totals`]: counters, and destinations by the hour.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension};

use super::{SqliteStore, unavailable};
use crate::{
    clock::Timestamp,
    sqlite::{Durability, Transaction},
    store::{
        Activity, DestinationActivity, DestinationTotals, MAX_DESTINATIONS, MAX_READ, StoreError,
        Totals,
    },
};

#[async_trait]
impl Totals for SqliteStore {
    async fn add_activity(&self, activity: &Activity, now: Timestamp) -> Result<(), StoreError> {
        let activity = activity.clone();
        let write = self.database.write(Durability::Crash, move |tx| add(tx, &activity, now));
        write.await.map_err(unavailable)
    }

    async fn counters(&self) -> Result<BTreeMap<String, u64>, StoreError> {
        self.database.read(counters).await.map_err(unavailable)
    }

    async fn destinations(&self, now: Timestamp) -> Result<Vec<DestinationTotals>, StoreError> {
        let read = self.database.read(move |connection| destinations(connection, now));
        read.await.map_err(unavailable)
    }
}

/// The hour since the epoch.
fn hour(now: Timestamp) -> i64 {
    now.as_seconds().div_euclid(3600)
}

/// The oldest hour that a call returns.
pub(super) fn oldest_hour(now: Timestamp) -> i64 {
    hour(now) - 1
}

fn add(tx: &mut Transaction<'_>, activity: &Activity, now: Timestamp) -> rusqlite::Result<()> {
    for (name, n) in &activity.counters {
        tx.execute(
            "INSERT INTO counters (name, n) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET n = n \
             + excluded.n",
            (name, *n as i64),
        )?;
    }
    for (destination, seen) in &activity.destinations {
        add_destination(tx, destination, seen, hour(now))?;
    }
    Ok(())
}

fn add_destination(
    tx: &Transaction<'_>,
    destination: &str,
    seen: &DestinationActivity,
    hour: i64,
) -> rusqlite::Result<()> {
    let (error_at, error) = match &seen.last_error {
        Some((at, error)) => (Some(at.as_millis()), serde_json::to_string(error).ok()),
        None => (None, None),
    };
    tx.execute(
        "INSERT INTO destination_hours (hour, destination, delivered, failed, error_at, error) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)
         ON CONFLICT (hour, destination) DO UPDATE SET
            delivered = delivered + excluded.delivered,
            failed = failed + excluded.failed,
            error = iif(excluded.error_at >= ifnull(error_at, 0), excluded.error, error),
            error_at = iif(excluded.error_at >= ifnull(error_at, 0), excluded.error_at, error_at)",
        (hour, destination, seen.delivered as i64, seen.failed as i64, error_at, error),
    )?;
    if seen.waiting != 0 {
        tx.execute(
            "INSERT INTO destinations (destination, waiting) VALUES (?1, ?2)
             ON CONFLICT (destination) DO UPDATE SET waiting = waiting + excluded.waiting",
            (destination, seen.waiting),
        )?;
        tx.execute(
            "DELETE FROM destinations WHERE destination = ?1 AND waiting = 0",
            [destination],
        )?;
    }
    Ok(())
}

fn counters(connection: &Connection) -> rusqlite::Result<BTreeMap<String, u64>> {
    // The names are Posthaste's own, so there are few.
    let mut statement = connection.prepare_cached("SELECT name, n FROM counters LIMIT ?1")?;
    statement
        .query_map([MAX_READ as i64], |row| Ok((row.get(0)?, row.get::<_, i64>(1)? as u64)))?
        .collect()
}

/// The destinations that failed most in either hour are the candidates. Their sums decide.
fn destinations(
    connection: &Connection,
    now: Timestamp,
) -> rusqlite::Result<Vec<DestinationTotals>> {
    let read = connection.unchecked_transaction()?;
    let hours = [hour(now), oldest_hour(now)];
    let mut candidates = BTreeSet::new();
    for hour in hours {
        let mut statement = read.prepare_cached(
            "SELECT destination FROM destination_hours WHERE hour = ?1 ORDER BY failed DESC, \
             destination DESC LIMIT ?2",
        )?;
        for destination in
            statement.query_map((hour, (MAX_READ / 4) as i64), |row| row.get::<_, String>(0))?
        {
            candidates.insert(destination?);
        }
    }
    let mut totals = Vec::with_capacity(candidates.len());
    for destination in candidates {
        let mut activity = DestinationActivity::default();
        for hour in hours {
            add_hour(&read, hour, &destination, &mut activity)?;
        }
        activity.waiting = waiting(&read, &destination)?;
        totals.push(DestinationTotals { destination, activity });
    }
    totals.sort_by(|a, b| {
        b.activity.failed.cmp(&a.activity.failed).then_with(|| a.destination.cmp(&b.destination))
    });
    totals.truncate(MAX_DESTINATIONS);
    Ok(totals)
}

fn add_hour(
    connection: &Connection,
    hour: i64,
    destination: &str,
    sum: &mut DestinationActivity,
) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached(
        "SELECT delivered, failed, error_at, error FROM destination_hours WHERE hour = ?1 AND \
         destination = ?2",
    )?;
    let mut rows = statement.query((hour, destination))?;
    let Some(row) = rows.next()? else { return Ok(()) };
    sum.delivered += row.get::<_, i64>(0)? as u64;
    sum.failed += row.get::<_, i64>(1)? as u64;
    let error_at = row.get::<_, Option<i64>>(2)?.map(Timestamp::from_millis);
    let error = row.get_ref(3)?.as_str_or_null()?.and_then(|json| serde_json::from_str(json).ok());
    if let (Some(at), Some(error)) = (error_at, error)
        && sum.last_error.as_ref().is_none_or(|(latest, _)| *latest < at)
    {
        sum.last_error = Some((at, error));
    }
    Ok(())
}

fn waiting(connection: &Connection, destination: &str) -> rusqlite::Result<i64> {
    let mut statement =
        connection.prepare_cached("SELECT waiting FROM destinations WHERE destination = ?1")?;
    Ok(statement.query_row([destination], |row| row.get(0)).optional()?.unwrap_or_default())
}
