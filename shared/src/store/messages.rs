//! Published messages and the keys of their deliveries.

use async_trait::async_trait;

use super::{
    error::StoreError,
    page::Page,
    webhooks::{DeleteError, Tombstone},
};
use crate::{
    applications::{
        event_type::EventType,
        id::{ApplicationId, EndpointId},
        message::PublishedMessage,
        standing::{Found, Standing, visible_delivery},
    },
    clock::Timestamp,
    id::{MessageId, ReferenceId, TaskId, WebhookId},
    model::{Content, Webhook},
};

/// Why a message was not created.
#[derive(Debug, thiserror::Error)]
pub enum CreateMessageError {
    /// A message with this task id exists. This is its record.
    #[error("a message with this task ID exists")]
    Conflict(Box<PublishedMessage>),
    /// A tombstone bars the task id.
    #[error("a tombstone bars the task ID")]
    Tombstone(Tombstone),
    /// The store failed, or the record under the task id is no message.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a conditional write of a message did not take effect.
#[derive(Debug, thiserror::Error)]
pub enum WriteMessageError {
    /// The stored record is not the one that the write was made from. This is the stored record.
    #[error("another writer changed the message first")]
    Conflict(Box<PublishedMessage>),
    /// The message does not exist, or no longer.
    #[error("no such message")]
    Missing,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What [`Messages::tombstone_message_id`] found under the id.
#[derive(Clone, Debug, PartialEq)]
pub enum MessageIdState {
    /// A message. It stays.
    Message(Box<PublishedMessage>),
    /// No message, now or later.
    Tombstone(Tombstone),
}

/// A message, and what occupies the key of one of its deliveries.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredDelivery {
    /// The message.
    pub message: PublishedMessage,
    /// `None`: the key is vacant. [`Rules::unstarted`](crate::transition::Rules::unstarted) then
    /// tells what the delivery is.
    pub found: Option<Found>,
}

impl StoredDelivery {
    /// The delivery to this endpoint as readers see it: see [`visible_delivery`].
    pub fn visible(&self, endpoint: EndpointId, now: Timestamp) -> Option<Webhook> {
        visible_delivery(&self.message, endpoint, self.found.as_ref(), now)
    }
}

/// Which messages of an application a list returns. Empty but for the application: all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessageFilter {
    /// The application.
    pub application: ApplicationId,
    /// Only those whose plan has this endpoint.
    pub endpoint: Option<EndpointId>,
    /// Only those with this event type.
    pub event_type: Option<EventType>,
    /// Only those with this reference id.
    pub reference: Option<ReferenceId>,
    /// Only those created at this time or later.
    pub since: Option<Timestamp>,
    /// Only those created before this time.
    pub until: Option<Timestamp>,
}

impl MessageFilter {
    /// All messages of an application.
    pub const fn all(application: ApplicationId) -> Self {
        Self {
            application,
            endpoint: None,
            event_type: None,
            reference: None,
            since: None,
            until: None,
        }
    }

    /// Whether the message matches. Expiry is the store's part.
    pub fn matches(&self, message: &PublishedMessage) -> bool {
        let task = message.id.task;
        self.application == message.application
            && self.endpoint.is_none_or(|endpoint| message.place(endpoint).is_some())
            && self.event_type.as_ref().is_none_or(|event_type| *event_type == message.event_type)
            && self.reference.as_ref().is_none_or(|reference| *reference == message.id.reference)
            && self.since.is_none_or(|time| task >= TaskId::first_at(time))
            && self.until.is_none_or(|time| task < TaskId::first_at(time))
    }
}

/// Published messages, and the keys of their deliveries.
///
/// A delivery is a webhook: [`Webhooks`](super::Webhooks) reads and writes its record. A write from
/// revision 0 creates it: see [`Webhooks::write`](super::Webhooks::write).
///
/// # Contract
///
/// - A message, its content and its index entries change together or not at all. Index entries:
///   by application and time (every message), by reference
///   ([`PublishedMessage::referenced`](PublishedMessage)), due ([`PublishedMessage::due_at`]).
/// - Every write is conditional on the revision of the stored record.
/// - A read by id returns every write that was acknowledged before the call.
/// - A message has one name, its whole id. A task id names a direct webhook or a message: a call
///   that finds the other kind finds nothing, and a create fails.
/// - **Expiry.** An expired message does not exist for readers and writers. But it and its content
///   exist as long as one of its deliveries is unfinished or a dead letter, whatever its
///   `expires_at`. (DynamoDB reaches this by longer times to live: see its module.)
/// - **Keys.** The record of a delivery that has expired, and a marker, occupy the delivery's key
///   until [`occupied_until`](crate::applications::message::occupied_until) and the time of the
///   marker. Nothing can be created under it until then. They outlast the message.
#[async_trait]
pub trait Messages {
    /// Creates the message and its content, both or neither. The write survives a power loss. The
    /// URL and the headers of the content are empty.
    ///
    /// Returns [`CreateMessageError::Conflict`] if a message with this task id exists, and leaves
    /// it as it is. If that is the very message, an earlier try of this call took effect; a backend
    /// may then succeed instead.
    async fn create_message(
        &self,
        message: &PublishedMessage,
        content: &Content,
    ) -> Result<(), CreateMessageError>;

    /// Bars the id if no message exists under it, and returns what is there. See
    /// [`Webhooks::tombstone_id`](super::Webhooks::tombstone_id).
    async fn tombstone_message_id(&self, id: &MessageId) -> Result<MessageIdState, StoreError>;

    /// Reads the message's record.
    async fn message(&self, id: &MessageId) -> Result<Option<PublishedMessage>, StoreError>;

    /// Reads the message's record and its content.
    async fn open_message(
        &self,
        id: &MessageId,
    ) -> Result<Option<(PublishedMessage, Content)>, StoreError>;

    /// Replaces the record `before` with `after`, and moves its index entries along.
    ///
    /// Takes effect only if the stored record has the revision of `before` and exists. Never
    /// creates one. If the stored record equals `after`, the write succeeds.
    async fn write_message(
        &self,
        before: &PublishedMessage,
        after: &PublishedMessage,
    ) -> Result<(), WriteMessageError>;

    /// Reads the message of a delivery, and what occupies the delivery's key. `None`: the message
    /// does not exist. The plan need not have the endpoint.
    async fn delivery(&self, id: &WebhookId) -> Result<Option<StoredDelivery>, StoreError>;

    /// Reads the message and the keys of all its deliveries. See the contract of [`Standing`].
    async fn standing(&self, id: &MessageId) -> Result<Option<Standing>, StoreError>;

    /// Puts a marker in place of the delivery's record, whether or not there is one, and removes
    /// its index entries. The marker occupies the key until `until`, or longer if a marker with a
    /// later time is there. It survives a power loss.
    ///
    /// No write that started before can bring the delivery back. The message need not exist.
    async fn put_marker(&self, id: &WebhookId, until: Timestamp) -> Result<(), StoreError>;

    /// Deletes the content, the message and its index entries, and leaves a tombstone. Only if the
    /// stored record still has the revision of `seen`. Markers and records of deliveries stay.
    async fn delete_message(&self, seen: &PublishedMessage) -> Result<(), DeleteError>;

    /// Lists the messages that match the filter, newest first, after the position `after`. Reads at
    /// most [`MAX_READ`](super::MAX_READ) entries, so a page may be short or empty and still have a
    /// `next`. May trail the writes by a moment. Leaves out unreadable messages.
    async fn list_messages(
        &self,
        filter: &MessageFilter,
        after: Option<TaskId>,
        limit: usize,
    ) -> Result<Page<PublishedMessage, TaskId>, StoreError>;
}
