//! Circuits: a hash of all of them, a hash of their revisions, and a sorted set of the latest.

use std::time::Duration;

use ::redis::cmd;

use super::{SCRIPTS, records::unavailable};
use crate::{
    circuit::{Circuit, MAX_AGE},
    redis::Connection,
    store::{MAX_DESTINATIONS, StoreError, WriteCircuitError},
};

/// Added to the time of a circuit that opened, so that such circuits sort after all others.
const OPENED: f64 = 1e14;

/// How long circuits stay beyond [`MAX_AGE`] if none is written.
const CIRCUITS_LINGER: Duration = Duration::from_secs(3600);

pub(super) async fn get(
    connection: &Connection,
    destination: &str,
) -> Result<Option<Circuit>, StoreError> {
    let json: Option<String> = connection
        .ask(cmd("HGET").arg(connection.key("circuits")).arg(destination))
        .await
        .map_err(unavailable)?;
    json.map(|json| read_circuit(&json)).transpose()
}

pub(super) async fn write(
    connection: &Connection,
    before: Option<u64>,
    after: &Circuit,
) -> Result<(), WriteCircuitError> {
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
    let is_written: bool = connection.once(&script).await.map_err(unavailable)?;
    if is_written { Ok(()) } else { Err(WriteCircuitError::Changed) }
}

pub(super) async fn all(connection: &Connection) -> Result<Vec<Circuit>, StoreError> {
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
