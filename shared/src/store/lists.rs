//! Many webhooks: lists, the due index, the audit, and the counts.

use async_trait::async_trait;

use super::{
    error::StoreError,
    page::{DeadLetterPosition, DeadLetters, DueCursor, DuePage, Filter, Listed, Page},
};
use crate::{
    clock::Timestamp,
    id::{ReferenceId, TaskId},
    model::Webhook,
    status::Status,
};

/// The most entries that one call reads. In the due index: from each part of the index.
pub const MAX_READ: usize = 1000;

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
    async fn list(
        &self,
        filter: &Filter,
        after: Option<TaskId>,
        limit: usize,
    ) -> Result<Page<Listed, TaskId>, StoreError>;

    /// Lists dead letters, the latest archived first. With `reference`, only those with this
    /// reference id.
    async fn dead_letters(
        &self,
        reference: Option<&ReferenceId>,
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

    /// Lists the unfinished webhooks created in `[from, until)` that are not in the due index,
    /// after the position `after`. The call has read every webhook in the range once `next` is
    /// `None`.
    async fn list_unindexed(
        &self,
        from: Timestamp,
        until: Timestamp,
        after: Option<TaskId>,
    ) -> Result<Page<Webhook, TaskId>, StoreError>;

    /// Estimates how many webhooks have each status, in the order of [`Status::ALL`]. The call is
    /// cheap. It may leave out webhooks older than the newest [`MAX_READ`].
    async fn counts(&self) -> Result<[u64; Status::ALL.len()], StoreError>;
}
