//! The contract of a queue, in the terms of Amazon SQS standard queues, which is the strictest of
//! the backends.
//!
//! There are two lanes: webhooks to look at, and dead letters. A message is delivered at least once
//! and in no promised order. One that was received and neither acknowledged nor released becomes
//! visible again when its visibility timeout ends; after [`MAX_RECEIVES`] receives of the webhook
//! lane it moves to the dead-letter lane instead, where receives have no limit. A receipt stays its
//! message's latest until somebody receives the message again, also past its visibility timeout.

#[cfg(feature = "redis")]
pub mod redis;
#[cfg(feature = "sqlite")]
pub mod sqlite;
#[cfg(feature = "aws")]
pub mod sqs;

use std::{fmt::Debug, time::Duration};

use async_trait::async_trait;

use crate::clock::Timestamp;
pub use crate::lane::{Lane, MAX_BATCH};

/// The longest delay of a message: 900 s.
pub const MAX_DELAY: Duration = Duration::from_secs(900);

/// Receives of a message of the webhook lane before the queue gives up on it. SQS counts also those
/// that it could not hand over because the function was throttled, so there must be enough for
/// hours: with 360 s each, two.
pub const MAX_RECEIVES: u32 = 20;

/// The largest body: 256 KiB. Ours stay below 5 KiB.
pub const MAX_BODY_BYTES: usize = 256 * 1024;

/// A message to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// The text; a [`Message`](crate::message::Message) as JSON.
    pub body: String,
    /// Not visible before this much time has passed; at most [`MAX_DELAY`]. Backends may round it
    /// down to whole seconds, never up.
    pub delay: Duration,
    /// What fairness groups by: messages of one group do not hold up those of others, where the
    /// backend knows groups.
    pub group: String,
}

/// A message that was received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// Names the message; stays the same over its receives and in the dead-letter lane.
    pub id: String,
    /// Names this receive of it.
    pub receipt: String,
    /// The text.
    pub body: String,
    /// How often it was received, this time included. In the dead-letter lane a backend may count
    /// the receives of the lane before too, as SQS does.
    pub receives: u32,
    /// When it was first sent.
    pub sent_at: Timestamp,
}

/// How many messages a lane holds; an estimate on some backends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Depth {
    /// Can be received now.
    pub ready: u64,
    /// Received, and neither acknowledged nor visible again.
    pub in_flight: u64,
    /// Sent with a delay that is not over.
    pub delayed: u64,
}

/// The queue cannot be reached, or refused for a reason of ours. What was asked for may still have
/// happened.
#[derive(Debug, thiserror::Error)]
#[error("the queue is unavailable")]
pub struct QueueError(#[source] pub Box<dyn std::error::Error + Send + Sync>);

/// Some messages of a send were not taken.
#[derive(Debug, thiserror::Error)]
#[error("the queue did not take {} of the messages", failed.len())]
pub struct SendError {
    /// Which, by their place in the slice that was sent. Any of them may have been sent all the
    /// same.
    pub failed: Vec<usize>,
    /// Why.
    #[source]
    pub source: QueueError,
}

/// Two lanes of messages.
#[async_trait]
pub trait Queue: Send + Sync + Debug {
    /// Answers if a message could be sent. A queue whose depth tells that already has nothing to
    /// add.
    async fn ping(&self) -> Result<(), QueueError>;

    /// What an operator should do something about, a sentence each.
    async fn warnings(&self) -> Result<Vec<String>, QueueError>;

    /// Every message that is not named in the error is held by the queue, durably against a crash
    /// of any process.
    async fn send(&self, lane: Lane, messages: &[Outgoing]) -> Result<(), SendError>;

    /// Up to `max` (at most [`MAX_BATCH`]) messages, hidden from other receivers for `visibility`
    /// from now. Waits up to `wait` for the first one.
    async fn receive(
        &self,
        lane: Lane,
        max: usize,
        visibility: Duration,
        wait: Duration,
    ) -> Result<Vec<Received>, QueueError>;

    /// The messages are gone for good, if each receipt is its message's latest; an outdated receipt
    /// does nothing.
    async fn acknowledge(&self, lane: Lane, receipts: &[String]) -> Result<(), QueueError>;

    /// The messages become visible again after `delay` (at most [`MAX_DELAY`]), if each receipt is
    /// its message's latest.
    async fn release(
        &self,
        lane: Lane,
        receipts: &[String],
        delay: Duration,
    ) -> Result<(), QueueError>;

    /// How many messages the lane holds.
    async fn depth(&self, lane: Lane) -> Result<Depth, QueueError>;
}
