//! What idempotency keys stand for. An answer can be as large as a batch, so it is stored deflated,
//! beside a hash to compare by.

use sha2::{Digest, Sha256};

use super::{
    item::{Item, deflated, inflated, key, number, seconds, text, text_of},
    table::{Condition, Refused, Table},
};
use crate::{
    clock::Timestamp,
    store::{Reservation, StoreError},
};

/// The most that a reservation can be when inflated: the API remembers answers of at most 256 KiB.
const MAX_BYTES: usize = 1024 * 1024;

/// How often a key is asked for again whose reservation has expired, since somebody else asks at
/// the same time.
const MAX_ROUNDS: u32 = 4;

pub(super) async fn reserve(
    table: &Table,
    name: &str,
    reservation: &Reservation,
    now: Timestamp,
) -> Result<Option<Reservation>, StoreError> {
    let mut condition = Condition { expression: "attribute_not_exists(p)", values: Vec::new() };
    for _ in 0..MAX_ROUNDS {
        match table.put_if(item(name, reservation), condition).await {
            Ok(()) => return Ok(None),
            Err(Refused::Failed(error)) => return Err(error),
            Err(Refused::Missing) => {
                condition = Condition { expression: "attribute_not_exists(p)", values: Vec::new() };
            }
            Err(Refused::Found(stored)) => {
                let existing = read(&stored)?;
                // Its task is random, so one like it is what an earlier try of this call left.
                if existing == *reservation {
                    return Ok(None);
                }
                if existing.expires_at > now {
                    return Ok(Some(existing));
                }
                condition = same_as(&existing);
            }
        }
    }
    Err(StoreError::Unavailable("the reservation changed again and again".into()))
}

pub(super) async fn replace(
    table: &Table,
    name: &str,
    before: &Reservation,
    after: &Reservation,
    now: Timestamp,
) -> Result<bool, StoreError> {
    if before.expires_at <= now {
        return Ok(false);
    }
    match table.put_if(item(name, after), same_as(before)).await {
        Ok(()) => Ok(true),
        // What the key stands for is what it was to stand for, whoever wrote it.
        Err(Refused::Found(stored)) => {
            Ok(before != after && text_of(&stored, "g") == Some(hash(after).as_str()))
        }
        Err(Refused::Missing) => Ok(false),
        Err(Refused::Failed(error)) => Err(error),
    }
}

fn same_as(reservation: &Reservation) -> Condition {
    Condition { expression: "g = :same", values: vec![(":same", text(hash(reservation)))] }
}

fn item(name: &str, reservation: &Reservation) -> Item {
    let mut item = key(format!("key/{name}"), "-");
    item.insert("d".to_owned(), deflated(json(reservation).as_bytes()));
    item.insert("g".to_owned(), text(hash(reservation)));
    item.insert("x".to_owned(), number(seconds(reservation.expires_at)));
    item
}

fn json(reservation: &Reservation) -> String {
    serde_json::to_string(reservation)
        .unwrap_or_else(|_| unreachable!("a reservation has only string keys"))
}

/// 64 bits of its SHA-256.
fn hash(reservation: &Reservation) -> String {
    let hash = Sha256::digest(json(reservation).as_bytes());
    hash.iter().take(8).fold(String::with_capacity(16), |hex, byte| hex + &format!("{byte:02x}"))
}

fn read(item: &Item) -> Result<Reservation, StoreError> {
    let bytes = inflated(item.get("d"), MAX_BYTES)
        .ok_or_else(|| StoreError::Unavailable("a reservation is not deflated".into()))?;
    serde_json::from_slice(&bytes).map_err(|error| StoreError::Unavailable(Box::new(error)))
}
