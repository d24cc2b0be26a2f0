//! The contract of [`IdempotencyKeys`]: a hash for each key, with the reservation as JSON (`j`) and
//! when it expires (`x`).

use std::time::Duration;

use ::redis::cmd;
use async_trait::async_trait;

use super::{
    FULL, RedisStore, SCRIPTS, keys,
    records::{full, unavailable},
};
use crate::{
    redis::{Call, Script},
    store::{
        IdempotencyKeys, ReplaceReservationError, Reservation, ReservationVersion, ReserveError,
        StoreError, StoredReservation,
    },
};

/// How long a key of Redis outlives its reservation.
const LINGER: Duration = Duration::from_secs(3600);

#[async_trait]
impl IdempotencyKeys for RedisStore {
    async fn reservation(&self, key: &str) -> Result<Option<StoredReservation>, StoreError> {
        let command = cmd("HGET").arg(self.key_of(key)).arg("j").clone();
        let found: Option<String> = self.connection.ask(&command).await.map_err(unavailable)?;
        let Some(json) = found else { return Ok(None) };
        let reservation: Reservation = serde_json::from_str(&json)
            .map_err(|error| StoreError::Unavailable(Box::new(error)))?;
        let is_valid = reservation.expires_at > self.clock.now();
        Ok(is_valid.then(|| stored(reservation, json)))
    }

    async fn reserve(
        &self,
        key: &str,
        reservation: &Reservation,
    ) -> Result<StoredReservation, ReserveError> {
        let json = to_json(reservation);
        let mut call = self.call(&SCRIPTS.reserve, key, reservation, &json);
        call.arg(u8::from(self.memory.is_full(&self.connection)));
        let existing: Option<String> =
            self.connection.run_durably(&call, true).await.map_err(unavailable)?;
        let existing = match existing {
            None => return Ok(stored(reservation.clone(), json)),
            Some(text) if text == FULL => return Err(full().into()),
            Some(text) => text,
        };
        let found: Reservation = serde_json::from_str(&existing)
            .map_err(|error| StoreError::Unavailable(Box::new(error)))?;
        let found = stored(found, existing);
        // The task id is random, so an equal reservation is from an earlier try of this call.
        if found.reservation == *reservation {
            return Ok(found);
        }
        Err(ReserveError::Taken(Box::new(found)))
    }

    async fn replace_reservation(
        &self,
        key: &str,
        before: &StoredReservation,
        after: &Reservation,
    ) -> Result<StoredReservation, ReplaceReservationError> {
        let json = to_json(after);
        let mut call = self.call(&SCRIPTS.replace, key, after, &json);
        let answer: String =
            self.connection.once(call.arg(before.version.as_str())).await.map_err(unavailable)?;
        match answer.as_str() {
            "done" => Ok(stored(after.clone(), json)),
            "changed" => Err(ReplaceReservationError::Changed),
            _ => Err(ReplaceReservationError::Missing),
        }
    }
}

impl RedisStore {
    /// The hash of an idempotency key.
    fn key_of(&self, key: &str) -> String {
        let shard = keys::shard_of_name(key);
        self.connection.key_of_shard(shard, &format!("reservation:{key}"))
    }

    /// The script with the arguments that `reserve.lua` and `replace.lua` begin with.
    fn call<'a>(
        &self,
        script: &'a Script,
        key: &str,
        reservation: &Reservation,
        json: &str,
    ) -> Call<'a> {
        let mut call = script.on(&[self.key_of(key)]);
        let now = self.clock.now();
        call.arg(json).arg(reservation.expires_at.as_millis()).arg(now.as_millis());
        // A duration, so that a difference between this clock and the server's does not matter.
        call.arg((reservation.expires_at.since(now) + LINGER).as_millis() as u64);
        call
    }
}

/// The version is the stored text itself: `replace.lua` compares it byte for byte.
fn stored(reservation: Reservation, json: String) -> StoredReservation {
    StoredReservation { reservation, version: ReservationVersion::new(json) }
}

fn to_json(reservation: &Reservation) -> String {
    serde_json::to_string(reservation)
        .unwrap_or_else(|_| unreachable!("a reservation has only string keys"))
}
