//! The load of a world with applications, and what its payloads contain.

use std::time::Duration;

use serde::Deserialize;

use crate::chance::Chance;

/// An hour, in seconds.
pub(crate) const HOUR_S: u64 = 3600;

/// A day, in seconds.
pub(crate) const DAY_S: u64 = 24 * HOUR_S;

/// The load of a world with applications.
#[derive(Clone, Debug, Default)]
pub struct Applications {
    /// The number of applications.
    pub count: u64,
    /// The number of endpoints that each has at first.
    pub endpoints: u64,
    /// The number of publishers.
    pub publishers: u64,
    /// The number of changes of endpoints.
    pub changes: u64,
    /// The number of deletions, resends and reads of messages and deliveries.
    pub operations: u64,
    /// Whether callers have application keys, and one can write to the store.
    pub has_tenants: bool,
    /// The time in which records expire, in days. 0: the world ends when no work is left.
    pub days: u64,
    /// How long a delivered webhook is kept. Zero: the default.
    pub retention: Duration,
    /// The probability that a message stays in the queue for days.
    pub parked: f64,
    /// When a newer version writes to a delivery, and when it comes back, in seconds.
    pub newer: Option<(u64, u64)>,
    /// When `sweep` does not run: the start and the end, in seconds.
    pub unswept: Option<(u64, u64)>,
}

impl Applications {
    /// Records, markers and messages expire while messages of the queue are on their way.
    pub(crate) fn add_months(&mut self, chance: &mut Chance) {
        let retention_days = chance.pick(&[1, 1, 5, 30]);
        self.retention = Duration::from_secs(DAY_S * retention_days);
        self.parked = chance.pick(&[0.05, 0.2, 0.5]);
        self.days = 22 + chance.below(40);
        if chance.happens(0.3) {
            // Meanwhile the records of other deliveries leave their keys.
            let until = retention_days + 22 + chance.below(4);
            self.newer = Some((60, DAY_S * until));
            self.days = self.days.max(until + 2);
        }
        if chance.happens(0.2) {
            let from = chance.below(3 * DAY_S);
            self.unswept = Some((from, from + HOUR_S * (1 + chance.below(10 * 24))));
        }
    }
}

/// What every payload of a message contains, besides its number.
#[derive(Debug, Deserialize)]
struct Payload {
    canary: String,
}

/// The application that a payload is meant for.
pub(crate) fn canary_in(payload: &[u8]) -> Option<String> {
    serde_json::from_slice::<Payload>(payload).ok().map(|payload| payload.canary)
}
