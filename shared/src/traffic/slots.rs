//! Slots: the shared counters by which workers divide a rate.
//!
//! A [`Rate`] maps slot numbers to times. The store keeps two counters per target. A worker takes
//! the next slots with one conditional update, and each slot serves one attempt that starts when
//! the slot opens. So all workers together never exceed the rate, and no worker holds a lease on
//! it.
//!
//! The counters belong to a *generation*: the configured rate, or the start of the learned one. A
//! worker that finds another generation restarts them.
//!
//! The second counter serves webhooks that come too late for their slot. They take new slots that
//! are already open, at most as fast as the rate again, so a backlog does not arrive as one burst.

use std::time::Duration;

use super::{pace::Pace, rate_limit::RateLimit};
use crate::clock::Timestamp;

/// A worker waits this long for a slot. For a later one, it puts the webhook off.
pub const MAX_WAIT: Duration = Duration::from_secs(2);

/// How long before its slot opens a webhook is looked at again.
const LOOK_AHEAD: Duration = Duration::from_secs(1);

/// Slots of a learned rate that open within this time are as reliable as configured ones.
const NEAR: Duration = Duration::from_secs(10);

/// The share of the estimated wait after which a webhook with a slot of a learned rate is looked at
/// again, because the rate may have grown since.
const LEARNED_SHARE: f64 = 0.8;

/// The shortest time that counts as the age of a learned rate.
const MIN_AGE: Duration = Duration::from_secs(5);

/// The shortest time until a webhook is looked at again.
const MIN_LOOK_WAIT: Duration = Duration::from_secs(1);

/// A webhook that comes this long after its slot of a configured rate is late.
const CONFIGURED_TOLERANCE: Duration = Duration::from_secs(10);

/// The same for a learned rate.
const LEARNED_TOLERANCE: Duration = Duration::from_secs(60);

/// The rate that applies to a target now.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rate {
    /// The configured one.
    Configured(RateLimit),
    /// The learned one. It grows at most to the configured one.
    Learned(Pace, Option<RateLimit>),
}

/// The slot counters of a target, as the store keeps them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counters {
    /// The rate to which the numbers belong.
    pub generation: String,
    /// The last slot that was taken.
    pub last: i64,
    /// The last slot that was taken for a late webhook.
    pub last_late: i64,
}

/// A request for slots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Take {
    /// The rate.
    pub generation: String,
    /// Slots up to this one are over.
    pub floor: i64,
    /// How many, at least 1.
    pub count: u32,
    /// Whether they are for late webhooks.
    pub is_late: bool,
}

impl Rate {
    /// The rate of a target with this pace and this configured limit. `None`: it has none.
    pub fn of(pace: Option<&Pace>, limit: Option<RateLimit>, now: Timestamp) -> Option<Self> {
        match pace.filter(|pace| pace.applies(now)) {
            Some(pace) => Some(Self::Learned(*pace, limit)),
            None => limit.map(Self::Configured),
        }
    }

    /// The name of the rate. Slots of one generation are comparable.
    pub fn generation(&self) -> String {
        match self {
            Self::Configured(limit) => limit.generation(),
            Self::Learned(pace, _) => pace.generation(),
        }
    }

    /// The request for the next slots.
    pub fn take(&self, count: u32, is_late: bool, now: Timestamp) -> Take {
        let floor = match self {
            Self::Configured(limit) => limit.position_rounded_up(now).saturating_sub(limit.burst()),
            Self::Learned(pace, limit) => {
                (pace.position(now, per_second(*limit)).ceil() as i64).saturating_sub(1)
            }
        };
        Take { generation: self.generation(), floor, count: count.max(1), is_late }
    }

    /// When the slot opens.
    pub fn opens_at(&self, slot: i64) -> Timestamp {
        match self {
            Self::Configured(limit) => limit.opens_at(slot),
            Self::Learned(pace, limit) => pace.opens_at(slot, per_second(*limit)),
        }
    }

    /// Whether a webhook that comes now is too late for its slot.
    pub fn is_late(&self, slot: i64, now: Timestamp) -> bool {
        let tolerance = match self {
            Self::Configured(_) => CONFIGURED_TOLERANCE,
            Self::Learned(..) => LEARNED_TOLERANCE,
        };
        now > self.opens_at(slot).plus(tolerance)
    }

    /// When a webhook that waits for the slot is looked at again. `unit` is random, in `0.0..1.0`.
    ///
    /// A configured rate is certain, so the webhook comes shortly before its slot. A learned rate
    /// may grow or shrink. So a webhook with a distant slot comes earlier: after 80 % of the wait,
    /// and after at most the age of the learned rate.
    pub fn look_at(&self, slot: i64, now: Timestamp, unit: f64) -> Timestamp {
        let opens_at = self.opens_at(slot);
        let learned = match self {
            Self::Learned(pace, limit) if opens_at > now.plus(NEAR) => Some((pace, *limit)),
            _ => None,
        };
        let Some((pace, limit)) = learned else {
            return opens_at.minus(LOOK_AHEAD).max(now);
        };
        let limit = per_second(limit);
        let slots_ahead = (slot as f64 - pace.position(now, limit)).max(0.0);
        let at_this_rate = Duration::try_from_secs_f64(slots_ahead / pace.rate(now, limit));
        let wait = pace.resume_at.since(now).saturating_add(at_this_rate.unwrap_or(Duration::MAX));
        let age = now.since(pace.started_at).max(MIN_AGE).mul_f64(0.75 + unit / 4.0);
        let share = Duration::try_from_secs_f64(wait.as_secs_f64() * LEARNED_SHARE);
        now.plus(share.unwrap_or(Duration::MAX).min(age).max(MIN_LOOK_WAIT))
    }
}

impl Take {
    /// The counters after this request. `None`: they belong to another rate, the counter is behind
    /// the floor, or there is none. Then [`Counters::after`] restarts them.
    pub fn advance(&self, counters: Option<&Counters>) -> Option<Counters> {
        let counters = counters.filter(|counters| counters.generation == self.generation)?;
        let counter = if self.is_late { counters.last_late } else { counters.last };
        (counter >= self.floor).then(|| Counters::after(Some(counters), self).0)
    }
}

impl Counters {
    /// The counters after `take`, and the last slot that it gives. A new generation and a counter
    /// behind the floor start at the floor.
    pub fn after(before: Option<&Self>, take: &Take) -> (Self, i64) {
        let (last, last_late) = before
            .filter(|counters| counters.generation == take.generation)
            .map_or((take.floor, take.floor), |counters| (counters.last, counters.last_late));
        let counter = if take.is_late { last_late } else { last };
        let taken = counter.max(take.floor).saturating_add(i64::from(take.count));
        let (last, last_late) = if take.is_late { (last, taken) } else { (taken, last_late) };
        (Self { generation: take.generation.clone(), last, last_late }, taken)
    }
}

fn per_second(limit: Option<RateLimit>) -> Option<f64> {
    limit.map(RateLimit::per_second)
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
