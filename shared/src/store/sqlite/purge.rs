//! The deletion of expired rows: a few at a time, as part of a create or of the store's
//! housekeeping, and only as far as [`PurgeHorizon`] allows.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use rusqlite::Connection;

use super::{
    deliveries,
    keys::{Key, Kind, position},
    message_holders,
    records::{self, Found},
    totals::oldest_hour,
};
use crate::{
    clock::{Clock, Timestamp},
    sqlite::Transaction,
    store::PurgeHorizon,
};

/// The most rows of each table that one purge deletes.
const MAX_ROWS: u32 = 100;

/// The time between two purges.
const INTERVAL_MS: i64 = 1000;

/// The time between two purges while there are more expired rows than one purge deletes.
const BUSY_INTERVAL_MS: i64 = 50;

/// The time between two looks at an expired message that one of its deliveries holds.
const HELD_INTERVAL: Duration = Duration::from_secs(24 * 3600);

/// When the next purge may run.
#[derive(Debug, Default)]
pub(super) struct PurgeTimer {
    next_at: AtomicI64,
    horizon: PurgeHorizon,
}

/// The permission, if granted, to purge in the next write.
pub(super) struct Ticket {
    timer: Option<Arc<PurgeTimer>>,
    now: Timestamp,
    /// The horizon: rows that expired by then may be deleted.
    until: Option<Timestamp>,
}

impl PurgeTimer {
    /// Grants the permission to one write in each interval. A clock that is set back delays it by
    /// one interval at most.
    pub(super) fn ticket(timer: &Arc<Self>, clock: &dyn Clock) -> Ticket {
        let now = clock.now();
        let (next_at, millis) = (timer.next_at.load(Ordering::Relaxed), now.as_millis());
        let is_time = millis >= next_at || millis < next_at - INTERVAL_MS;
        let granted = is_time
            && timer
                .next_at
                .compare_exchange(
                    next_at,
                    millis.saturating_add(INTERVAL_MS),
                    Ordering::Relaxed,
                    Ordering::Relaxed,
                )
                .is_ok();
        let until = if granted { timer.horizon.look(clock) } else { None };
        Ticket { timer: granted.then(|| Arc::clone(timer)), now, until }
    }
}

impl Ticket {
    /// Purges, if the permission was granted.
    pub(super) fn redeem(self, tx: &mut Transaction<'_>) -> rusqlite::Result<()> {
        let (Some(timer), Some(until)) = (self.timer, self.until) else { return Ok(()) };
        if purge(tx, until)? {
            timer
                .next_at
                .store(self.now.as_millis().saturating_add(BUSY_INTERVAL_MS), Ordering::Relaxed);
        }
        Ok(())
    }
}

/// Deletes rows that had expired by `now`. Returns whether there may be more.
fn purge(tx: &mut Transaction<'_>, now: Timestamp) -> rusqlite::Result<bool> {
    let expired = expired(tx.connection(), now)?;
    for (key, found) in &expired {
        match found.kind {
            Kind::Delivery => deliveries::expire(tx, key, found)?,
            Kind::Message if message_holders::hold_message(tx.connection(), key, now)? => {
                look_later(tx, key, now)?;
            }
            _ => records::remove(tx, key, found)?,
        }
    }
    let reservations = tx.execute(
        "DELETE FROM reservations WHERE key IN (SELECT key FROM reservations WHERE expires_at <= \
         ?1 LIMIT ?2)",
        (now.as_millis(), MAX_ROWS),
    )?;
    let retired = tx.execute(
        "DELETE FROM retired WHERE task IN (SELECT task FROM retired WHERE expires_at <= ?1 LIMIT \
         ?2)",
        (now.as_millis(), MAX_ROWS),
    )?;
    let hours = tx.execute(
        "DELETE FROM destination_hours WHERE (hour, destination) IN
            (SELECT hour, destination FROM destination_hours WHERE hour < ?1 LIMIT ?2)",
        (oldest_hour(now), MAX_ROWS),
    )?;
    Ok(expired.len().max(reservations).max(retired).max(hours) >= MAX_ROWS as usize)
}

fn expired(connection: &Connection, now: Timestamp) -> rusqlite::Result<Vec<(Key, Found)>> {
    let mut statement = connection.prepare_cached(EXPIRED_SQL)?;
    let rows = statement.query_map((now.as_millis(), MAX_ROWS), |row| {
        let found = Found {
            kind: row.get(1)?,
            revision: 0,
            status: row.get(2)?,
            expires_at: row.get(3)?,
            content: row.get(4)?,
        };
        Ok((Key::at(position(row, 0)?), found))
    })?;
    rows.collect()
}

pub(super) const EXPIRED_SQL: &str = "SELECT task, kind, status, expires_at, content FROM webhooks
     WHERE expires_at <= ?1 ORDER BY expires_at LIMIT ?2";

/// Keeps an expired message, which one of its deliveries holds, so that it does not stand before
/// other expired rows.
fn look_later(tx: &Transaction<'_>, key: &Key, now: Timestamp) -> rusqlite::Result<()> {
    let later = now.plus(HELD_INTERVAL).as_millis();
    tx.execute("UPDATE webhooks SET expires_at = ?2 WHERE task = ?1", (key.bytes(), later))
        .map(drop)
}
