//! Reservations of idempotency keys.

use async_trait::async_trait;
use shared::store::{
    IdempotencyKeys, ReplaceReservationError, Reservation, ReservationVersion, ReserveError,
    StoreError, StoredReservation,
};

use crate::{
    state::State,
    world::{Process, Services},
};

#[async_trait]
impl IdempotencyKeys for Services {
    async fn reservation(&self, key: &str) -> Result<Option<StoredReservation>, StoreError> {
        let key = key.to_owned();
        let read = move |state: &mut State, process: &Process| {
            let now = process.local_now();
            let found = state.records.reservations.get(&key);
            found.filter(|found| found.expires_at > now).map(stored)
        };
        self.call("reservation", read).await
    }

    async fn reserve(
        &self,
        key: &str,
        reservation: &Reservation,
    ) -> Result<StoredReservation, ReserveError> {
        let (key, reservation) = (key.to_owned(), reservation.clone());
        let reserve = move |state: &mut State, process: &Process| {
            let now = process.local_now();
            let reservations = &mut state.records.reservations;
            if let Some(taken) = reservations.get(&key).filter(|taken| taken.expires_at > now) {
                return Err(ReserveError::Taken(Box::new(stored(taken))));
            }
            let reserved = stored(&reservation);
            reservations.insert(key, reservation);
            Ok(reserved)
        };
        self.call("reserve", reserve).await?
    }

    async fn replace_reservation(
        &self,
        key: &str,
        before: &StoredReservation,
        after: &Reservation,
    ) -> Result<StoredReservation, ReplaceReservationError> {
        let (key, before, after) = (key.to_owned(), before.version.clone(), after.clone());
        let replace = move |state: &mut State, process: &Process| {
            let now = process.local_now();
            let found = state.records.reservations.get_mut(&key);
            let found = found.filter(|found| found.expires_at > now);
            let found = found.ok_or(ReplaceReservationError::Missing)?;
            if stored(found).version != before {
                return Err(ReplaceReservationError::Changed);
            }
            *found = after;
            Ok(stored(found))
        };
        self.call("replace_reservation", replace).await?
    }
}

fn stored(reservation: &Reservation) -> StoredReservation {
    let version = ReservationVersion::new(format!("{reservation:?}"));
    StoredReservation { reservation: reservation.clone(), version }
}
