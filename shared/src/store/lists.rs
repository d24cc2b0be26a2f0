//! Many webhooks: lists, the due index, the audit, and the counts.

use async_trait::async_trait;

use super::{
    error::StoreError,
    page::{
        DeadLetterFilter, DeadLetterPosition, DeadLetters, DueCursor, DuePage, Filter,
        ListPosition, Listed, Page,
    },
};
use crate::{
    applications::standing::Standing, clock::Timestamp, id::TaskId, model::Webhook, status::Status,
};

/// The most entries that one call reads. In the due index: from each part of the index.
pub const MAX_READ: usize = 1000;

/// What [`Lists::list_unindexed`] finds.
#[derive(Clone, Debug, PartialEq)]
pub enum Unindexed {
    /// An unfinished direct webhook.
    Webhook(Box<Webhook>),
    /// A message with a delivery that is not accounted for, or that is being deleted.
    Message(Box<Standing>),
}

impl Unindexed {
    /// The webhook. `None`: a message.
    pub fn webhook(self) -> Option<Webhook> {
        match self {
            Self::Webhook(webhook) => Some(*webhook),
            Self::Message(_) => None,
        }
    }
}

/// The indexes over webhooks.
///
/// # Contract
///
/// - Index entries follow from the record: by time (every webhook), by reference
///   ([`Webhook::referenced`]), due ([`Webhook::due_at`]), dead letters
///   ([`Webhook::is_dead_letter`]).
/// - An index may trail the record. A list returns the state of the record. [`Lists::due`] returns
///   index entries, and its caller reads the records.
/// - No call reads more than [`MAX_READ`] entries, or as many from each part of the due index. So a
///   page may be short or empty and still have a `next`. No call scans everything.
/// - Lists and the audit leave out expired and unreadable records. The due index keeps unreadable
///   ones.
#[async_trait]
pub trait Lists {
    /// Lists the webhooks that match the filter, newest first, after the position `after`.
    ///
    /// Deliveries are included, also those without a record
    /// ([`Standing::visible_deliveries`](crate::applications::standing::Standing)), but not with a
    /// reference id: that finds direct webhooks only.
    async fn list(
        &self,
        filter: &Filter,
        after: Option<ListPosition>,
        limit: usize,
    ) -> Result<Page<Listed, ListPosition>, StoreError>;

    /// Lists dead letters, the latest archived first.
    async fn dead_letters(
        &self,
        filter: &DeadLetterFilter,
        after: Option<DeadLetterPosition>,
        limit: usize,
    ) -> Result<DeadLetters, StoreError>;

    /// Reads the due index up to and including `until`: at most `limit` entries from each of its
    /// parts, the oldest first within each part.
    ///
    /// `after` is the `next` of an earlier page or [`DueCursor::before`] a time. A reader that
    /// follows `next` meets every entry that existed at its first call and has not moved exactly
    /// once, and reaches the end. An entry that it cannot handle stays in the index and hides no
    /// other entry. An entry that appears behind the cursor is found by the next reader that starts
    /// from the beginning.
    async fn due(
        &self,
        until: Timestamp,
        after: Option<&DueCursor>,
        limit: usize,
    ) -> Result<DuePage, StoreError>;

    /// Lists what was created in `[from, until)` and may have no message in the queue, after the
    /// position `after`: unfinished direct webhooks that are not in the due index, and messages for
    /// which [`Standing::is_unheld`](crate::applications::standing::Standing::is_unheld). One
    /// consistent, sequential read. The call has read everything in the range once `next` is
    /// `None`.
    async fn list_unindexed(
        &self,
        from: Timestamp,
        until: Timestamp,
        after: Option<TaskId>,
    ) -> Result<Page<Unindexed, TaskId>, StoreError>;

    /// Estimates how many webhooks have each status, in the order of [`Status::ALL`]. The call is
    /// cheap. It may leave out webhooks older than the newest [`MAX_READ`].
    async fn counts(&self) -> Result<[u64; Status::ALL.len()], StoreError>;
}
