//! The deletion of a published message and of all its deliveries. The API begins it, and a worker
//! goes on with it after a crash.
//!
//! Every step can be repeated, and nothing starts again between two steps:
//!
//! 1. The message is `deleting` and due. From then on no delivery starts, and the sweep comes back
//!    to the message until the deletion is complete.
//! 2. A marker takes the place of each planned delivery's record, whether or not there is one.
//!    Every claim and every outcome that is on its way fails at it.
//! 3. The content and the message go. A tombstone stays.

use futures_util::{StreamExt, TryStreamExt, stream};

use crate::{
    applications::message::{PlanEntry, PublishedMessage},
    apply::{AppliedToMessage, apply_to_message},
    clock::Timestamp,
    id::{MessageId, WebhookId},
    planted::{self, Bug},
    store::{DeleteError, Store, StoreError},
    transition::Rules,
};

/// The markers that one deletion writes at the same time.
const MARKERS_AT_ONCE: usize = 10;

/// How often the last step starts again because another writer changed the message. Each time the
/// other writer made progress.
const MAX_DELETE_TRIES: u32 = 8;

/// The outcome of a deletion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deletion {
    /// The message is gone, and nothing of it is sent any more.
    Deleted,
    /// There was no such message.
    Missing,
}

/// Deletes the message and all its deliveries. Attempts that are in flight may still reach their
/// endpoints, and their outcomes are dropped.
///
/// After an error the deletion may have begun. Then the message is due, and `deliver` goes on with
/// the deletion. A repeat of the call does so too.
pub async fn delete_message(
    store: &dyn Store,
    rules: &Rules,
    id: &MessageId,
    now: Timestamp,
) -> Result<Deletion, StoreError> {
    let Some(message) = store.message(id).await? else { return Ok(Deletion::Missing) };
    let start = |message: &PublishedMessage| rules.start_deleting(message, now);
    match apply_to_message(store, message, start).await? {
        // It is refused only because it has begun.
        AppliedToMessage::Done(message) | AppliedToMessage::Refused(_, message) => {
            finish_deletion(store, *message, now).await?;
            Ok(Deletion::Deleted)
        }
        AppliedToMessage::Missing => Ok(Deletion::Missing),
    }
}

/// Goes on with the deletion of a message that is `deleting`. Succeeds too if somebody else has
/// completed it.
pub async fn finish_deletion(
    store: &dyn Store,
    message: PublishedMessage,
    now: Timestamp,
) -> Result<(), StoreError> {
    debug_assert!(message.deleting, "its deliveries could still start");
    if planted::is(Bug::MessageDeletedFirst) {
        store.delete_message(&message).await.ok();
    }
    put_markers(store, &message, now).await?;
    let mut seen = message;
    for _ in 0..MAX_DELETE_TRIES {
        match store.delete_message(&seen).await {
            Ok(()) | Err(DeleteError::Missing) => return Ok(()),
            Err(DeleteError::Store(error)) => return Err(error),
            // The sweep moved it on. Its plan does not get longer while it is deleting.
            Err(DeleteError::Changed) => match store.message(&seen.id).await? {
                Some(newer) => seen = newer,
                None => return Ok(()),
            },
        }
    }
    Err(StoreError::Unavailable("the message changed again and again".into()))
}

/// Puts a marker in place of each planned delivery.
async fn put_markers(
    store: &dyn Store,
    message: &PublishedMessage,
    now: Timestamp,
) -> Result<(), StoreError> {
    let marker =
        |entry: &PlanEntry| (message.id.delivery(entry.endpoint), message.marker_until(entry, now));
    let markers: Vec<(WebhookId, Timestamp)> = message.plan.iter().map(marker).collect();
    stream::iter(markers)
        .map(|(id, until)| async move { store.put_marker(&id, until).await })
        .buffer_unordered(MARKERS_AT_ONCE)
        .try_collect()
        .await
}
