//! The result of a run.

use std::time::Duration;

use shared::{
    queue::QueueError,
    store::{DueCursor, StoreError},
};

/// What a run did, for the log and for tests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Webhooks and messages that were queued.
    pub requeued: usize,
    /// Webhooks and messages that the audit added to the due index.
    pub adopted: usize,
    /// Webhooks and messages whose times were taken back, because a clock that was ahead had
    /// written them.
    pub taken_back: usize,
    /// How long the most overdue readable entry had been due.
    pub lag: Duration,
    /// Due webhooks and messages that cannot be read.
    pub unreadable: usize,
    /// Whether the run may have missed further unreadable ones.
    pub unreadable_may_be_more: bool,
    /// Where the run stopped in the due index, if not at the end.
    pub resume: Option<DueCursor>,
    /// Whether the run left work to the next one.
    pub more: bool,
}

/// Why a run ended early. The next run continues.
#[derive(Debug, thiserror::Error)]
pub enum SweepError {
    /// The store did not answer.
    #[error("the store failed the sweep")]
    Store(#[from] StoreError),
    /// The queue refused messages. Their webhooks stay due.
    #[error("the queue failed the sweep")]
    Queue(#[from] QueueError),
}
