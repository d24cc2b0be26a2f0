//! Totals of counters, and of destinations by the hour; and circuits.

use std::time::Duration;

use ::redis::cmd;

use super::{SCRIPTS, records::unavailable};
use crate::{
    circuit::{Circuit, MAX_AGE},
    clock::Timestamp,
    redis::Connection,
    store::{
        Activity, DestinationActivity, DestinationTotals, MAX_DESTINATIONS, MAX_READ, StoreError,
    },
};

/// Added to the time at which a circuit was written if it opened, so that those that did come
/// first, the latest before the others.
const OPENED: f64 = 1e14;

/// Of one hour: delivered, failed, latest error. Redis keeps `failed` as the score of an order, so
/// it comes as a floating number.
type Hour = (u64, f64, String);

/// How long a destination's count of what waits there is kept without a change: 8 days, a day more
/// than any wait for a retry lasts. A count that is left then is wrong: a process died before it
/// could tell that the wait was over.
const WAITING_KEPT: Duration = Duration::from_secs(8 * 24 * 3600);

/// How long circuits stay that nobody writes any more, beyond [`MAX_AGE`].
const CIRCUITS_LINGER: Duration = Duration::from_secs(3600);

/// How long the keys of an hour stay: nobody asks for more than the current and the previous one.
const HOURS_KEPT: i64 = 4;

/// The hour since the epoch.
fn hour(now: Timestamp) -> i64 {
    now.as_seconds().div_euclid(3600)
}

fn hour_keys(connection: &Connection, hour: i64) -> [String; 3] {
    ["failed", "delivered", "error"].map(|part| connection.key(&format!("hour:{hour}:{part}")))
}

pub(super) async fn add(
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

pub(super) async fn counters(
    connection: &Connection,
) -> Result<std::collections::BTreeMap<String, u64>, StoreError> {
    // The names are ours, so there are few.
    connection.ask(cmd("HGETALL").arg(connection.key("counters"))).await.map_err(unavailable)
}

/// The worst of each of the two hours are candidates; their sums decide.
pub(super) async fn destinations(
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

pub(super) async fn circuit(
    connection: &Connection,
    destination: &str,
) -> Result<Option<Circuit>, StoreError> {
    let json: Option<String> = connection
        .ask(cmd("HGET").arg(connection.key("circuits")).arg(destination))
        .await
        .map_err(unavailable)?;
    json.map(|json| read_circuit(&json)).transpose()
}

pub(super) async fn write_circuit(
    connection: &Connection,
    before: Option<u64>,
    after: &Circuit,
) -> Result<bool, StoreError> {
    let before = before.map_or_else(String::new, |revision| revision.to_string());
    let json = if after.is_idle() {
        String::new()
    } else {
        serde_json::to_string(after)
            .unwrap_or_else(|_| unreachable!("a circuit has only string keys"))
    };
    let place =
        after.touched_at.as_millis() as f64 + if after.open_until.is_some() { OPENED } else { 0.0 };
    let stale_before = after.touched_at.minus(MAX_AGE).as_millis().max(0);
    let keys =
        ["circuits", "circuits:revision", "circuits:latest"].map(|name| connection.key(name));
    let mut script = SCRIPTS.circuit.on(&keys);
    script
        .arg(&after.destination)
        .arg(before)
        .arg(after.revision)
        .arg(json)
        .arg(place)
        .arg(stale_before);
    script.arg((MAX_AGE + CIRCUITS_LINGER).as_millis() as u64);
    connection.once(&script).await.map_err(unavailable)
}

pub(super) async fn circuits(connection: &Connection) -> Result<Vec<Circuit>, StoreError> {
    let keys = ["circuits", "circuits:latest"].map(|name| connection.key(name));
    let found: Vec<Option<String>> = connection
        .run(SCRIPTS.circuits.on(&keys).arg(MAX_DESTINATIONS))
        .await
        .map_err(unavailable)?;
    found.into_iter().flatten().map(|json| read_circuit(&json)).collect()
}

fn read_circuit(json: &str) -> Result<Circuit, StoreError> {
    serde_json::from_str(json).map_err(|error| StoreError::Unavailable(Box::new(error)))
}
