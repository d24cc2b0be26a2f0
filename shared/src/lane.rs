//! The two queues, and the size of their batches.

/// The most messages of one receive, or of one call of a function: the maximum of SQS.
pub const MAX_BATCH: usize = 10;

/// One of the two queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lane {
    /// The webhook queue, which `deliver` reads.
    Webhooks,
    /// The dead-letter queue, which `dlq` reads. It has failed webhooks, and messages that were
    /// received too often.
    DeadLetters,
}
