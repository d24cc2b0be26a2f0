//! The limits of transitions.

use std::time::Duration;

/// The limits of transitions. The times nest (`docs/architecture.md#times-that-nest`), which
/// [`crate::config`] checks.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// How long no other worker can claim the webhook after a claim.
    pub lease: Duration,
    /// The time after the allowed time at which the sweep queues a queued webhook again.
    pub grace: Duration,
    /// The maximum of the grace, which doubles with each requeue of the same state.
    pub max_grace: Duration,
    /// Consecutive interrupted attempts after which a webhook fails.
    pub max_interrupted: u32,
    /// The longest wait for which `deliver` queues a webhook itself.
    pub relay_within: Duration,
    /// The number of such relays in a webhook's life. The platform stops a loop of function, queue
    /// and function after 16 hops.
    pub max_relays: u32,
    /// Rescues from the dead-letter queue after which a webhook fails.
    pub max_rescues: u32,
    /// The total time for which an open circuit defers a webhook. The host limit has the same limit
    /// of its own.
    pub max_defer: Duration,
    /// How long a delivered webhook is kept.
    pub retention: Duration,
    /// How long a dead letter is kept.
    pub dead_letter_retention: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        const DAY: u64 = 24 * 3600;
        Self {
            lease: Duration::from_secs(45),
            grace: Duration::from_secs(15 * 60),
            max_grace: Duration::from_secs(6 * 3600),
            max_interrupted: 5,
            relay_within: Duration::from_secs(90),
            max_relays: 8,
            max_rescues: 3,
            max_defer: Duration::from_secs(DAY),
            retention: Duration::from_secs(30 * DAY),
            dead_letter_retention: Duration::from_secs(30 * DAY),
        }
    }
}
