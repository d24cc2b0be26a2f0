//! One webhook: create, read, conditional write, delete.

use std::time::Duration;

use async_trait::async_trait;

use super::{error::StoreError, idempotency_keys::IDEMPOTENCY_TTL};
use crate::{
    clock::Timestamp,
    id::{TaskId, WebhookId},
    model::{Content, Webhook},
};

/// Why a conditional write did not take effect.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The stored record is not the one that the write was made from. This is the stored record.
    #[error("another writer changed the record first")]
    Conflict(Box<Webhook>),
    /// The webhook does not exist, or no longer.
    #[error("no such webhook")]
    Missing,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a webhook was not created.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// A webhook with this task id exists. This is its record.
    #[error("a webhook with this task ID exists")]
    Conflict(Box<Webhook>),
    /// A tombstone bars the task id.
    #[error("a tombstone bars the task ID")]
    Tombstone(Tombstone),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a webhook was not deleted.
#[derive(Debug, thiserror::Error)]
pub enum DeleteError {
    /// The webhook does not exist, or no longer.
    #[error("no such webhook")]
    Missing,
    /// The stored record has another revision than the one that the caller read. Only
    /// [`Webhooks::delete_unchanged`] returns this.
    #[error("another writer changed the record first")]
    Changed,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why the store creates no webhook under an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tombstone {
    /// The webhook was deleted.
    Deleted,
    /// There never was a webhook, and [`Webhooks::tombstone_id`] barred the id.
    Unused,
}

impl Tombstone {
    /// The stored text.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Deleted => "deleted",
            Self::Unused => "barred",
        }
    }

    /// Reads the stored text. An unknown text counts as [`Tombstone::Deleted`]: no webhook is
    /// created.
    pub fn from_stored(text: &str) -> Self {
        if text == Self::Unused.as_str() { Self::Unused } else { Self::Deleted }
    }
}

/// What [`Webhooks::tombstone_id`] found under the id.
#[derive(Clone, Debug, PartialEq)]
pub enum IdState {
    /// A webhook. It stays.
    Webhook(Box<Webhook>),
    /// No webhook, now or later.
    Tombstone(Tombstone),
}

/// How long a tombstone lasts, counted from the time in the id: an hour longer than any
/// idempotency key can refer to the id.
const TOMBSTONE_TTL: Duration = IDEMPOTENCY_TTL.saturating_add(Duration::from_secs(3600));

/// When the tombstone of this id may expire.
pub fn tombstone_expires_at(task: TaskId) -> Timestamp {
    task.created_at().plus(TOMBSTONE_TTL)
}

/// The records of webhooks, one at a time.
///
/// # Contract
///
/// - A record, its content and its index entries change together or not at all.
/// - Every write is conditional on the revision of the stored record, and each refusal has a name.
/// - A read by id returns every write that was acknowledged before the call.
/// - A webhook has one name, its whole id. The same task id with another reference id names no
///   webhook.
/// - An expired webhook does not exist for any of these methods, even while its bytes remain.
/// - [`StoreError::Unreadable`] concerns one record alone: a newer version wrote it, or it is
///   malformed. It can be deleted.
#[async_trait]
pub trait Webhooks {
    /// Creates the webhook and its content, both or neither. The write survives a power loss.
    ///
    /// Returns [`CreateError::Conflict`] if a webhook with this task id exists, and leaves it as it
    /// is. Returns [`CreateError::Tombstone`] if the webhook was deleted or the id is barred.
    async fn create(&self, webhook: &Webhook, content: &Content) -> Result<(), CreateError>;

    /// Bars the id if no webhook exists under it, and returns what is there.
    ///
    /// Afterwards no webhook can be created under the id until [`tombstone_expires_at`], not even
    /// by a create that is in flight. The tombstone survives a power loss. An existing webhook
    /// stays as it is. Repeated calls return the same answer until the webhook is deleted. An
    /// expired webhook counts as deleted.
    async fn tombstone_id(&self, id: &WebhookId) -> Result<IdState, StoreError>;

    /// Reads the record.
    async fn get(&self, id: &WebhookId) -> Result<Option<Webhook>, StoreError>;

    /// Reads the record and its content. That of a delivery is its message's: URL and headers are
    /// empty.
    async fn open(&self, id: &WebhookId) -> Result<Option<(Webhook, Content)>, StoreError>;

    /// Replaces the record `before` with `after`, and moves all index entries along.
    ///
    /// Takes effect only if the stored record has the revision of `before` and is not expired.
    /// Never creates a record, except for a delivery from revision 0: then it takes effect only if
    /// the delivery's key is vacant. A record that has expired and a marker occupy the key
    /// ([`Messages`](super::Messages)). `after` must have a greater revision.
    ///
    /// Returns [`WriteError::Missing`] from revision 0 if the key is occupied by an expired record
    /// or a marker. SQLite and Redis return it also if the message does not exist.
    ///
    /// Returns [`WriteError::Conflict`] with the stored record if its revision differs. If that
    /// record equals `after`, an earlier try of the same write took effect, and the write succeeds.
    async fn write(&self, before: &Webhook, after: &Webhook) -> Result<(), WriteError>;

    /// Does the same as [`Webhooks::write`] and returns the content, which exists at least until
    /// the write.
    async fn write_and_open(
        &self,
        before: &Webhook,
        after: &Webhook,
    ) -> Result<Content, WriteError>;

    /// Deletes the record, the content and every index entry, and leaves a tombstone until
    /// [`tombstone_expires_at`].
    ///
    /// Of a delivery it leaves a marker instead ([`Messages::put_marker`](super::Messages)), for 20
    /// days from the later of now and `allowed_at`.
    ///
    /// No write that started before can bring the webhook back, and no create can reuse its id.
    /// Returns [`DeleteError::Missing`] if there is no webhook.
    async fn delete(&self, id: &WebhookId) -> Result<(), DeleteError>;

    /// Does the same as [`Webhooks::delete`], but only if the stored record still has the revision
    /// of `seen`. Returns [`DeleteError::Changed`] otherwise. Returns [`DeleteError::Missing`] if
    /// there is no webhook, whatever the revision. A delivery of revision 0 has no record: the call
    /// puts its marker if its key is vacant, and returns [`DeleteError::Changed`] if it has a
    /// record.
    async fn delete_unchanged(&self, seen: &Webhook) -> Result<(), DeleteError>;
}
