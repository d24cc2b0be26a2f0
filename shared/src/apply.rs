//! A transition as one conditional write: compute the next record, write it, and repeat with the
//! stored record if another writer was first.

use crate::{
    model::{Content, Webhook},
    store::{Store, StoreError, WriteError},
    transition::Refusal,
};

/// How often a transition is applied before the store counts as unavailable. Each conflict means
/// that another writer made progress, so more than a few in a row are a fault.
const MAX_WRITE_TRIES: u32 = 8;

/// The outcome of a transition.
#[derive(Debug)]
pub enum Applied<T = ()> {
    /// The transition took effect. This is the record.
    Done(Webhook, T),
    /// The transition does not apply to the stored record, which this is.
    Refused(Refusal, Webhook),
    /// The webhook does not exist, or no longer.
    Missing,
}

/// Applies `transition` to the webhook whose record was last read as `seen`.
pub async fn apply<F>(
    store: &dyn Store,
    seen: Webhook,
    transition: F,
) -> Result<Applied, StoreError>
where
    F: Fn(&Webhook) -> Result<Webhook, Refusal> + Send,
{
    let mut current = seen;
    for _ in 0..MAX_WRITE_TRIES {
        match transition(&current) {
            Err(refusal) => return Ok(Applied::Refused(refusal, current)),
            Ok(next) => match written(store.write(&current, &next).await, next)? {
                Written::Settled(applied) => return Ok(applied),
                Written::Conflict(newer) => current = newer,
            },
        }
    }
    Err(changing())
}

/// Does the same and returns the content too. For claims.
pub async fn apply_and_open<F>(
    store: &dyn Store,
    seen: Webhook,
    transition: F,
) -> Result<Applied<Content>, StoreError>
where
    F: Fn(&Webhook) -> Result<Webhook, Refusal> + Send,
{
    let mut current = seen;
    for _ in 0..MAX_WRITE_TRIES {
        match transition(&current) {
            Err(refusal) => return Ok(Applied::Refused(refusal, current)),
            Ok(next) => match written(store.write_and_open(&current, &next).await, next)? {
                Written::Settled(applied) => return Ok(applied),
                Written::Conflict(newer) => current = newer,
            },
        }
    }
    Err(changing())
}

/// Applies `transition` to exactly the record `seen`, for a decision that must not hit a newer one.
/// Returns [`Refusal::Changed`] with the newer record if there is one.
pub async fn apply_unchanged<F>(
    store: &dyn Store,
    seen: Webhook,
    transition: F,
) -> Result<Applied, StoreError>
where
    F: FnOnce(&Webhook) -> Result<Webhook, Refusal> + Send,
{
    match transition(&seen) {
        Err(refusal) => Ok(Applied::Refused(refusal, seen)),
        Ok(next) => Ok(match written(store.write(&seen, &next).await, next)? {
            Written::Settled(applied) => applied,
            Written::Conflict(newer) => Applied::Refused(Refusal::Changed, newer),
        }),
    }
}

/// The outcome of one write.
enum Written<T> {
    Settled(Applied<T>),
    Conflict(Webhook),
}

fn written<T>(result: Result<T, WriteError>, next: Webhook) -> Result<Written<T>, StoreError> {
    match result {
        Ok(value) => Ok(Written::Settled(Applied::Done(next, value))),
        Err(WriteError::Conflict(newer)) => Ok(Written::Conflict(*newer)),
        Err(WriteError::Missing) => Ok(Written::Settled(Applied::Missing)),
        Err(WriteError::Store(error)) => Err(error),
    }
}

fn changing() -> StoreError {
    StoreError::Unavailable("the record changed again and again".into())
}
