//! A transition as one conditional write: make the next record, put it in place, and ask again with
//! the newer record if somebody else was first.

use crate::{
    model::{Content, Webhook},
    store::{Store, StoreError, WriteError},
    transition::Refusal,
};

/// How often a transition is asked again before the store counts as unavailable. Each conflict
/// means that somebody else got on, so more than a few in a row mean that something is wrong.
const MAX_ROUNDS: u32 = 8;

/// What became of a transition.
#[derive(Debug)]
pub enum Applied<T = ()> {
    /// It took effect; here is the record.
    Done(Webhook, T),
    /// It does not apply to the record as it is now.
    Refused(Refusal, Webhook),
    /// There is no such webhook any more.
    Missing,
}

/// Applies `transition` to the webhook whose record was last seen as `seen`.
pub async fn apply<F>(
    store: &dyn Store,
    seen: Webhook,
    transition: F,
) -> Result<Applied, StoreError>
where
    F: Fn(&Webhook) -> Result<Webhook, Refusal> + Send,
{
    let mut current = seen;
    for _ in 0..MAX_ROUNDS {
        match transition(&current) {
            Err(refusal) => return Ok(Applied::Refused(refusal, current)),
            Ok(next) => match written(store.write(&current, &next).await, next)? {
                Round::Over(applied) => return Ok(applied),
                Round::Newer(newer) => current = newer,
            },
        }
    }
    Err(changing())
}

/// The same, and the content along with it: for claims.
pub async fn apply_and_open<F>(
    store: &dyn Store,
    seen: Webhook,
    transition: F,
) -> Result<Applied<Content>, StoreError>
where
    F: Fn(&Webhook) -> Result<Webhook, Refusal> + Send,
{
    let mut current = seen;
    for _ in 0..MAX_ROUNDS {
        match transition(&current) {
            Err(refusal) => return Ok(Applied::Refused(refusal, current)),
            Ok(next) => match written(store.write_and_open(&current, &next).await, next)? {
                Round::Over(applied) => return Ok(applied),
                Round::Newer(newer) => current = newer,
            },
        }
    }
    Err(changing())
}

/// Applies `transition` to exactly the record that was seen: for what was decided by looking at it,
/// and must not hit a newer one. [`Refusal::Changed`] with the newer record if there is one.
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
            Round::Over(applied) => applied,
            Round::Newer(newer) => Applied::Refused(Refusal::Changed, newer),
        }),
    }
}

/// What one write came to.
enum Round<T> {
    Over(Applied<T>),
    Newer(Webhook),
}

fn written<T>(result: Result<T, WriteError>, next: Webhook) -> Result<Round<T>, StoreError> {
    match result {
        Ok(value) => Ok(Round::Over(Applied::Done(next, value))),
        Err(WriteError::Conflict(newer)) => Ok(Round::Newer(*newer)),
        Err(WriteError::Missing) => Ok(Round::Over(Applied::Missing)),
        Err(WriteError::Store(error)) => Err(error),
    }
}

fn changing() -> StoreError {
    StoreError::Unavailable("the record changed again and again".into())
}
