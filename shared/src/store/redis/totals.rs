//! The contract of [`Totals`]: counters, and destinations by the hour.

use std::{collections::BTreeMap, time::Duration};

use ::redis::cmd;
use async_trait::async_trait;

use super::{RedisStore, SCRIPTS, records::unavailable};
use crate::{
    clock::Timestamp,
    redis::Connection,
    store::{
        Activity, DestinationActivity, DestinationTotals, MAX_DESTINATIONS, MAX_READ, StoreError,
        Totals,
    },
};

#[async_trait]
impl Totals for RedisStore {
    async fn add_activity(&self, activity: &Activity, now: Timestamp) -> Result<(), StoreError> {
        add(&self.connection, activity, now).await
    }

    async fn counters(&self) -> Result<BTreeMap<String, u64>, StoreError> {
        // The names are Posthaste's own, so there are few.
        let command = cmd("HGETALL").arg(self.connection.key("counters")).clone();
        self.connection.ask(&command).await.map_err(unavailable)
    }

    async fn destinations(&self, now: Timestamp) -> Result<Vec<DestinationTotals>, StoreError> {
        destinations(&self.connection, now).await
    }
}

/// One hour: delivered, failed, latest error. Redis keeps `failed` as the score of a sorted set, so
/// it is a floating-point number.
type Hour = (u64, f64, String);

/// How long a destination's count of what waits there is kept without a change: 8 days, a day more
/// than any wait for a retry lasts. A count that is left then is wrong: a process died before it
/// could tell that the wait was over.
const WAITING_KEPT: Duration = Duration::from_secs(8 * 24 * 3600);

/// How many hours the keys of an hour are kept. Readers use the current and the previous hour.
const HOURS_KEPT: i64 = 4;

/// The hour since the epoch.
fn hour(now: Timestamp) -> i64 {
    now.as_seconds().div_euclid(3600)
}

fn hour_keys(connection: &Connection, hour: i64) -> [String; 3] {
    ["failed", "delivered", "error"].map(|part| connection.key(&format!("hour:{hour}:{part}")))
}

async fn add(
    connection: &Connection,
    activity: &Activity,
    now: Timestamp,
) -> Result<(), StoreError> {
    let mut keys = vec![connection.key("waiting")];
    keys.extend(hour_keys(connection, hour(now)));
    keys.extend(["counters", "waiting:latest"].map(|name| connection.key(name)));
    let mut script = SCRIPTS.activity.on(&keys);
    script.arg((hour(now) + HOURS_KEPT) * 3_600_000).arg(now.as_millis());
    script.arg(now.minus(WAITING_KEPT).as_millis()).arg(activity.counters.len());
    for (name, n) in &activity.counters {
        script.arg(name).arg(*n);
    }
    for (destination, seen) in &activity.destinations {
        let (error_at, error) =
            seen.last_error.as_ref().map_or((0, String::new()), |(at, error)| {
                (at.as_millis().max(0), serde_json::to_string(error).unwrap_or_default())
            });
        script
            .arg(destination)
            .arg(seen.delivered)
            .arg(seen.failed)
            .arg(seen.waiting)
            .arg(error_at)
            .arg(error);
    }
    connection.once(&script).await.map_err(unavailable)
}

/// The destinations that failed most in either hour are the candidates. Their sums decide.
async fn destinations(
    connection: &Connection,
    now: Timestamp,
) -> Result<Vec<DestinationTotals>, StoreError> {
    let mut keys = vec![connection.key("waiting")];
    keys.extend(hour_keys(connection, hour(now)));
    keys.extend(hour_keys(connection, hour(now) - 1));
    let found: Vec<(String, i64, Hour, Hour)> = connection
        .run(SCRIPTS.destinations.on(&keys).arg(MAX_READ / 4))
        .await
        .map_err(unavailable)?;
    let totals = found.into_iter().map(|(destination, waiting, this, last)| {
        let mut activity = DestinationActivity { waiting, ..DestinationActivity::default() };
        add_hour(&mut activity, this);
        add_hour(&mut activity, last);
        DestinationTotals { destination, activity }
    });
    let mut totals: Vec<DestinationTotals> = totals.collect();
    totals.sort_by(|a, b| {
        b.activity.failed.cmp(&a.activity.failed).then_with(|| a.destination.cmp(&b.destination))
    });
    totals.truncate(MAX_DESTINATIONS);
    Ok(totals)
}

fn add_hour(sum: &mut DestinationActivity, (delivered, failed, error): Hour) {
    sum.delivered += delivered;
    sum.failed += failed as u64;
    let Some((at, json)) = error.split_once(' ') else { return };
    let at = at.parse().map(Timestamp::from_millis);
    if let (Ok(at), Ok(error)) = (at, serde_json::from_str(json))
        && sum.last_error.as_ref().is_none_or(|(latest, _)| *latest < at)
    {
        sum.last_error = Some((at, error));
    }
}
