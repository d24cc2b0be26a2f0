//! The contract of a queue. It follows Amazon SQS standard queues, the strictest of the backends.
//!
//! There are two lanes: the webhook queue and the dead-letter queue ([`Lane`]).
//!
//! # Contract
//!
//! - The queue delivers a message at least once, in no guaranteed order.
//! - A received message becomes visible again when its visibility timeout ends, unless the receiver
//!   acknowledged or released it.
//! - After [`MAX_RECEIVES`] receives, a message of the webhook lane moves to the dead-letter lane,
//!   where receives have no limit.
//! - A receipt is valid until another receiver receives the message, even after the visibility
//!   timeout. An outdated receipt has no effect.

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

/// Receives of a message in the webhook lane before it moves to the dead-letter lane. SQS also
/// counts receives by a throttled function. With a visibility timeout of 360 s, 20 receives last
/// for two hours.
pub const MAX_RECEIVES: u32 = 20;

/// The largest body: 256 KiB. Posthaste's own messages stay below 5 KiB.
pub const MAX_BODY_BYTES: usize = 256 * 1024;

/// A message to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// A [`Message`](crate::message::Message) as JSON.
    pub body: String,
    /// How long the message stays invisible, at most [`MAX_DELAY`]. A backend may round it down to
    /// whole seconds, never up.
    pub delay: Duration,
    /// The fairness group. On a backend with groups, the messages of one group do not delay those
    /// of others.
    pub group: String,
}

#[cfg_attr(
    not(any(feature = "aws", feature = "redis", feature = "sqlite")),
    expect(dead_code, reason = "no backend is built in")
)]
impl Outgoing {
    /// Whether body and delay are within the limits.
    pub(crate) fn fits(&self) -> bool {
        self.delay <= MAX_DELAY && self.body.len() <= MAX_BODY_BYTES
    }
}

/// A received message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// The id of the message. It stays the same over all receives and in the dead-letter lane.
    pub id: String,
    /// The id of this receive.
    pub receipt: String,
    /// The text.
    pub body: String,
    /// How often the message was received, including this time. In the dead-letter lane, a backend
    /// may include the receives in the webhook lane, as SQS does.
    pub receives: u32,
    /// When the message was first sent.
    pub sent_at: Timestamp,
}

/// How many messages a lane holds. Some backends estimate it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Depth {
    /// Messages that can be received now.
    pub ready: u64,
    /// Messages that were received, and neither acknowledged nor made visible again.
    pub in_flight: u64,
    /// Messages that were sent with a delay that has not ended.
    pub delayed: u64,
}

/// The queue is unreachable, or it refused the call for a reason that is not the caller's. The call
/// may have taken effect.
#[derive(Debug, thiserror::Error)]
#[error("the queue is unavailable")]
pub struct QueueError(#[source] pub Box<dyn std::error::Error + Send + Sync>);

#[cfg_attr(
    not(any(feature = "aws", feature = "redis", feature = "sqlite")),
    expect(dead_code, reason = "no backend is built in")
)]
impl QueueError {
    /// The body or the delay of a message exceeds its limit.
    pub(crate) fn beyond_limits() -> Self {
        let (bytes, seconds) = (MAX_BODY_BYTES, MAX_DELAY.as_secs());
        Self(format!("a body may have {bytes} bytes, and a delay {seconds} s").into())
    }
}

/// The queue did not accept some messages of a send.
#[derive(Debug, thiserror::Error)]
#[error("the queue did not accept {} of the messages", failed.len())]
pub struct SendError {
    /// The indexes of these messages in the slice that was sent. Each may have been sent all the
    /// same.
    pub failed: Vec<usize>,
    /// The cause.
    #[source]
    pub source: QueueError,
}

/// Two lanes of messages.
#[async_trait]
pub trait Queue: Send + Sync + Debug {
    /// Succeeds if a message could be sent, as far as the backend can tell without sending one.
    /// The health check reads [`Queue::depth`] too, so this call need not repeat what that finds.
    async fn ping(&self) -> Result<(), QueueError>;

    /// Settings and conditions of the queue that an operator should change: one sentence each.
    async fn warnings(&self) -> Result<Vec<String>, QueueError>;

    /// Sends the messages. On success, the queue holds every message, and a crash of a process does
    /// not lose it. On failure, the same is true of every message that the error does not name.
    ///
    /// A message with a longer delay than [`MAX_DELAY`] or a larger body than [`MAX_BODY_BYTES`] is
    /// refused and named in the error. The others are sent.
    async fn send(&self, lane: Lane, messages: &[Outgoing]) -> Result<(), SendError>;

    /// Receives up to `max` messages (at most [`MAX_BATCH`]) and hides them from other receivers
    /// for `visibility`. Waits up to `wait` for the first message.
    async fn receive(
        &self,
        lane: Lane,
        max: usize,
        visibility: Duration,
        wait: Duration,
    ) -> Result<Vec<Received>, QueueError>;

    /// Deletes the messages. An outdated receipt has no effect.
    async fn acknowledge(&self, lane: Lane, receipts: &[String]) -> Result<(), QueueError>;

    /// Makes the messages visible again after `delay` (at most [`MAX_DELAY`]). An outdated receipt
    /// has no effect.
    async fn release(
        &self,
        lane: Lane,
        receipts: &[String],
        delay: Duration,
    ) -> Result<(), QueueError>;

    /// Counts the messages of the lane.
    async fn depth(&self, lane: Lane) -> Result<Depth, QueueError>;
}
