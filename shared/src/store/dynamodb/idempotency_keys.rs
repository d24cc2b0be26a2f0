//! The contract of [`IdempotencyKeys`]: one item for each key.
//!
//! An answer can be as large as a batch, so the reservation is stored deflated (`d`). Beside it
//! stands the hash of its JSON (`g`), the version that a replacement compares.

use async_trait::async_trait;

use super::{
    DynamoStore,
    item::{Item, deflated, inflated, key, number, seconds, text, text_of},
    table::{Condition, Refused},
};
use crate::store::{
    IdempotencyKeys, ReplaceReservationError, Reservation, ReservationVersion, ReserveError,
    StoreError, StoredReservation,
};

/// The size limit of an inflated reservation. The API keeps answers of up to 256 KiB.
const MAX_BYTES: usize = 1024 * 1024;

/// How often `reserve` tries to replace an expired reservation that concurrent calls replace too.
const MAX_RESERVE_TRIES: u32 = 4;

#[async_trait]
impl IdempotencyKeys for DynamoStore {
    async fn reservation(&self, name: &str) -> Result<Option<StoredReservation>, StoreError> {
        let item = self.table.get(reservation_key(name), true).await?;
        let found = item.as_ref().map(read_reservation).transpose()?;
        Ok(found.filter(|found| found.reservation.expires_at > self.clock.now()))
    }

    async fn reserve(
        &self,
        key: &str,
        reservation: &Reservation,
    ) -> Result<StoredReservation, ReserveError> {
        let (item, version) = reservation_item(key, reservation);
        let mut condition = Condition::absent();
        for _ in 0..MAX_RESERVE_TRIES {
            match self.table.put_if(item.clone(), condition).await {
                Ok(()) => {
                    return Ok(StoredReservation { reservation: reservation.clone(), version });
                }
                Err(Refused::Failed(error)) => return Err(error.into()),
                Err(Refused::Missing) => {
                    condition = Condition::absent();
                }
                Err(Refused::Found(stored)) => {
                    let found = read_reservation(&stored)?;
                    // The task id is random, so an equal reservation is from an earlier try.
                    if found.reservation == *reservation {
                        return Ok(found);
                    }
                    if found.reservation.expires_at > self.clock.now() {
                        return Err(ReserveError::Taken(Box::new(found)));
                    }
                    condition = has_version(&found.version);
                }
            }
        }
        Err(StoreError::Unavailable("the reservation changed again and again".into()).into())
    }

    async fn replace_reservation(
        &self,
        key: &str,
        before: &StoredReservation,
        after: &Reservation,
    ) -> Result<StoredReservation, ReplaceReservationError> {
        if before.reservation.expires_at <= self.clock.now() {
            return Err(ReplaceReservationError::Missing);
        }
        let (item, version) = reservation_item(key, after);
        match self.table.put_if(item, has_version(&before.version)).await {
            Ok(()) => {}
            // The stored bytes are the wanted ones, because the client sent the call twice.
            Err(Refused::Found(stored))
                if before.version != version && text_of(&stored, "g") == Some(version.as_str()) => {
            }
            Err(Refused::Found(_)) => return Err(ReplaceReservationError::Changed),
            Err(Refused::Missing) => return Err(ReplaceReservationError::Missing),
            Err(Refused::Failed(error)) => return Err(error.into()),
        }
        Ok(StoredReservation { reservation: after.clone(), version })
    }
}

fn has_version(version: &ReservationVersion) -> Condition {
    Condition { expression: "g = :version", values: vec![(":version", text(version.as_str()))] }
}

fn reservation_key(name: &str) -> Item {
    key(format!("key/{name}"), "-")
}

pub(super) fn reservation_item(
    name: &str,
    reservation: &Reservation,
) -> (Item, ReservationVersion) {
    let json = serde_json::to_string(reservation)
        .unwrap_or_else(|_| unreachable!("a reservation has only string keys"));
    let version = ReservationVersion::hash_of(json.as_bytes());
    let mut item = reservation_key(name);
    item.insert("d".to_owned(), deflated(json.as_bytes()));
    item.insert("g".to_owned(), text(version.as_str()));
    item.insert("x".to_owned(), number(seconds(reservation.expires_at)));
    (item, version)
}

pub(super) fn read_reservation(item: &Item) -> Result<StoredReservation, StoreError> {
    let unreadable = |why: &str| StoreError::Unavailable(why.into());
    let bytes = inflated(item.get("d"), MAX_BYTES)
        .ok_or_else(|| unreadable("a reservation is not deflated"))?;
    let version = text_of(item, "g").ok_or_else(|| unreadable("a reservation has no version"))?;
    let reservation =
        serde_json::from_slice(&bytes).map_err(|error| StoreError::Unavailable(Box::new(error)))?;
    Ok(StoredReservation { reservation, version: ReservationVersion::new(version.to_owned()) })
}
