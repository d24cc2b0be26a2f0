//! A transition as one conditional write: compute the next record, write it, and repeat with the
//! stored record if another writer was first.

use crate::{
    applications::{message::PublishedMessage, standing::Standing},
    id::MessageId,
    model::{Content, Webhook},
    store::{Store, StoreError, WriteError, WriteMessageError},
    transition::{MessageRefusal, Refusal},
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

/// The outcome of a transition of a message.
#[derive(Debug)]
pub enum AppliedToMessage {
    /// The transition took effect. This is the record.
    Done(Box<PublishedMessage>),
    /// The transition does not apply to the stored record, which this is.
    Refused(MessageRefusal, Box<PublishedMessage>),
    /// The message does not exist, or no longer.
    Missing,
}

/// Applies `transition` to the message whose record was last read as `seen`.
pub async fn apply_to_message<F>(
    store: &dyn Store,
    seen: PublishedMessage,
    transition: F,
) -> Result<AppliedToMessage, StoreError>
where
    F: Fn(&PublishedMessage) -> Result<PublishedMessage, MessageRefusal> + Send,
{
    let mut current = Box::new(seen);
    for _ in 0..MAX_WRITE_TRIES {
        let next = match transition(&current) {
            Err(refusal) => return Ok(AppliedToMessage::Refused(refusal, current)),
            Ok(next) => next,
        };
        match store.write_message(&current, &next).await {
            Ok(()) => return Ok(AppliedToMessage::Done(Box::new(next))),
            Err(WriteMessageError::Conflict(newer)) => current = newer,
            Err(WriteMessageError::Missing) => return Ok(AppliedToMessage::Missing),
            Err(WriteMessageError::Store(error)) => return Err(error),
        }
    }
    Err(changing())
}

/// Applies `transition` to the message with the standing that was last read as `seen`. After a
/// conflict it reads the standing again, because an older one says nothing about the new record.
pub async fn apply_to_standing<F>(
    store: &dyn Store,
    seen: Option<Standing>,
    id: &MessageId,
    transition: F,
) -> Result<AppliedToMessage, StoreError>
where
    F: Fn(&Standing) -> Result<PublishedMessage, MessageRefusal> + Send,
{
    let mut seen = seen;
    for _ in 0..MAX_WRITE_TRIES {
        let standing = match seen.take() {
            Some(standing) => standing,
            None => match store.standing(id).await? {
                Some(standing) => standing,
                None => return Ok(AppliedToMessage::Missing),
            },
        };
        let next = match transition(&standing) {
            Err(refusal) => {
                return Ok(AppliedToMessage::Refused(refusal, Box::new(standing.message)));
            }
            Ok(next) => next,
        };
        match store.write_message(&standing.message, &next).await {
            Ok(()) => return Ok(AppliedToMessage::Done(Box::new(next))),
            Err(WriteMessageError::Conflict(_)) => {}
            Err(WriteMessageError::Missing) => return Ok(AppliedToMessage::Missing),
            Err(WriteMessageError::Store(error)) => return Err(error),
        }
    }
    Err(changing())
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
