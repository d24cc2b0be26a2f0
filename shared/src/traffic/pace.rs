//! The pause of a target and the rate that follows it.
//!
//! A [`Pace`] defines when each slot opens. Its position at a time is the number of slots that have
//! opened until then. The position is continuous and never decreases, also when the pace changes,
//! so a slot that was taken before a change stays valid and only opens later.
//!
//! | phase | rate after `x` seconds | position after `x` seconds |
//! |---|---|---|
//! | search: one refusal so far | `rate · 2^(x/2)` | `(2/ln 2) · rate · (2^(x/2) - 1)` |
//! | track: more refusals | `rate + slope · x` | `rate · x + slope · x² / 2` |
//!
//! Both count from the end of the pause and from the position at the latest change. A rate grows up
//! to [`MAX_RATE`], or up to the configured rate if that is lower.
//!
//! Each decrease multiplies the rate by 0.8, so it needs no knowledge of the receiver's limit. This
//! is the additive-increase, multiplicative-decrease rule of TCP (RFC 5681).

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    clock::Timestamp,
    planted::{self, Bug},
};

/// The rate after the first pause, in attempts per second.
pub const INITIAL_RATE: f64 = 1.0;

/// The highest learned rate, in attempts per second. Beyond it, no receiver needs protection.
pub const MAX_RATE: f64 = 10_000.0;

/// The lowest learned rate, in attempts per second: one in ten minutes.
pub const MIN_RATE: f64 = 1.0 / 600.0;

/// The shortest pause. A receiver that asks for less, or for none, gets this one.
pub const MIN_PAUSE: Duration = Duration::from_secs(1);

/// A further answer extends a pause only if it asks for at least this much more.
const MIN_EXTENSION: Duration = Duration::from_secs(1);

/// What remains of the rate after a 429.
const DECREASE: f64 = 0.8;

/// The time constant of the search: the rate doubles each 2 s.
const DOUBLING_S: f64 = 2.0;

/// The share of the rate that is regained in one recovery time.
const RECOVERY_SHARE: f64 = 0.25;

/// The shortest recovery time, in seconds. A longer pause is its own recovery time.
const MIN_RECOVERY_S: f64 = 30.0;

/// How long a pace lasts after its pause, at least. Without another 429 it is then forgotten.
const MIN_MEMORY: Duration = Duration::from_secs(120);

/// A pace lasts for at least this many times its pause.
const MEMORY_PAUSES: u32 = 3;

/// An answer by which a receiver asks for fewer requests: 429, or 503 with `Retry-After`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// When the refused request was sent.
    pub attempt_started_at: Timestamp,
    /// The status code.
    pub status_code: u16,
    /// The wait that the receiver asked for.
    pub retry_after: Option<Duration>,
}

/// The pause and the learned rate of a target that refused requests.
///
/// Stored with the target. `position` and `rate` are those at `resume_at`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pace {
    /// When the first of the pauses began. Slots of another start are not comparable.
    #[serde(rename = "t")]
    pub started_at: Timestamp,
    /// The number of slots that opened before the latest change.
    #[serde(rename = "k")]
    position: f64,
    /// The end of the pause. No slot opens before it.
    #[serde(rename = "p")]
    pub resume_at: Timestamp,
    /// The rate at the end of the pause, in attempts per second.
    #[serde(rename = "r")]
    rate: f64,
    /// The status code of the answer that caused the pause.
    #[serde(rename = "s")]
    pub status_code: u16,
    /// The growth of the rate, per second and second. `None` in the search phase.
    #[serde(rename = "g", default, skip_serializing_if = "Option::is_none")]
    slope: Option<f64>,
    /// When the pace no longer applies.
    #[serde(rename = "f")]
    pub forget_at: Timestamp,
}

impl Pace {
    /// The pace after the target refused a request, or `None` if the refusal changes nothing.
    ///
    /// A request that was sent before the pause ended can only extend the pause. So a burst of
    /// refusals causes one change, and one more per second by which it extends the pause.
    ///
    /// The wait that the target asks for counts up to `max_pause`. `limit` is its configured rate.
    pub fn after_refusal(
        before: Option<&Self>,
        refusal: &Refusal,
        max_pause: Duration,
        limit: Option<f64>,
        now: Timestamp,
    ) -> Option<Self> {
        let Refusal { attempt_started_at, status_code, retry_after } = *refusal;
        let longest = max_pause.max(MIN_PAUSE);
        let pause = retry_after.unwrap_or(MIN_PAUSE).clamp(MIN_PAUSE, longest);
        let resume_at = now.plus(pause);
        let forget_at = resume_at.plus(MIN_MEMORY.max(pause.saturating_mul(MEMORY_PAUSES)));
        let Some(before) = before.filter(|pace| pace.applies(now)) else {
            return Some(Self {
                started_at: now,
                position: 0.0,
                resume_at,
                rate: INITIAL_RATE,
                status_code,
                slope: None,
                forget_at,
            });
        };
        let position = before.position(now, limit);
        let rate = before.rate(now, limit);
        if attempt_started_at >= before.resume_at {
            let mut decrease = DECREASE;
            if planted::is(Bug::RateNeverDecreases) {
                decrease = 1.0;
            }
            let rate = (decrease * rate).max(MIN_RATE);
            let slope = RECOVERY_SHARE * rate / pause.as_secs_f64().max(MIN_RECOVERY_S);
            let slope = Some(slope);
            return Some(Self {
                position,
                resume_at,
                rate,
                status_code,
                slope,
                forget_at,
                ..*before
            });
        }
        (resume_at > before.resume_at.plus(MIN_EXTENSION)).then_some(Self {
            position,
            resume_at,
            rate,
            forget_at,
            ..*before
        })
    }

    /// Whether the pace still applies.
    pub fn applies(&self, now: Timestamp) -> bool {
        now < self.forget_at
    }

    /// Whether the target is paused.
    pub fn is_paused(&self, now: Timestamp) -> bool {
        now < self.resume_at
    }

    /// The rate, in attempts per second. During the pause, the rate at its end.
    pub fn rate(&self, now: Timestamp, limit: Option<f64>) -> f64 {
        let (rate, highest) = self.bounds(limit);
        let elapsed_s = self.elapsed_s(now);
        let grown = match self.slope {
            None => rate * (elapsed_s / DOUBLING_S).exp2(),
            Some(slope) => rate + slope * elapsed_s,
        };
        grown.min(highest)
    }

    /// The number of slots that have opened.
    pub fn position(&self, now: Timestamp, limit: Option<f64>) -> f64 {
        let (rate, highest) = self.bounds(limit);
        let elapsed_s = self.elapsed_s(now);
        let growing_s = elapsed_s.min(self.growth_s(rate, highest));
        let grown = match self.slope {
            None => rate * search_scale() * ((growing_s / DOUBLING_S).exp2() - 1.0),
            Some(slope) => rate * growing_s + slope * growing_s * growing_s / 2.0,
        };
        self.position + grown + highest * (elapsed_s - growing_s)
    }

    /// When the slot opens: the first millisecond at which the position has reached it.
    pub fn opens_at(&self, slot: i64, limit: Option<f64>) -> Timestamp {
        let (rate, highest) = self.bounds(limit);
        let distance = slot as f64 - self.position;
        if distance <= 0.0 {
            return self.resume_at;
        }
        let growing_s = self.growth_s(rate, highest);
        let grown = match self.slope {
            None => rate * search_scale() * ((growing_s / DOUBLING_S).exp2() - 1.0),
            Some(slope) => rate * growing_s + slope * growing_s * growing_s / 2.0,
        };
        let elapsed_s = if distance >= grown {
            growing_s + (distance - grown) / highest
        } else {
            match self.slope {
                None => DOUBLING_S * (distance / (rate * search_scale()) + 1.0).log2(),
                Some(slope) => ((rate * rate + 2.0 * slope * distance).sqrt() - rate) / slope,
            }
        };
        // `Duration` limits what a float can hold, and `Timestamp` saturates.
        let wait = Duration::try_from_secs_f64(elapsed_s).unwrap_or(Duration::MAX);
        self.resume_at.plus(Duration::from_millis(millis_rounded_up(wait)))
    }

    /// The name of the pace among the generations of the target's slots.
    pub fn generation(&self) -> String {
        self.started_at.as_millis().to_string()
    }

    /// The rate at the end of the pause and the highest rate.
    fn bounds(&self, limit: Option<f64>) -> (f64, f64) {
        let highest = limit.unwrap_or(MAX_RATE).clamp(MIN_RATE, MAX_RATE);
        (self.rate.clamp(MIN_RATE, highest), highest)
    }

    /// How long the rate grows from `rate` to `highest`, in seconds.
    fn growth_s(&self, rate: f64, highest: f64) -> f64 {
        match self.slope {
            None => DOUBLING_S * (highest / rate).log2(),
            Some(slope) => (highest - rate) / slope.max(f64::MIN_POSITIVE),
        }
    }

    fn elapsed_s(&self, now: Timestamp) -> f64 {
        now.since(self.resume_at).as_secs_f64()
    }
}

/// The integral of `2^(x/2)` from 0 is this times `2^(x/2) - 1`.
fn search_scale() -> f64 {
    DOUBLING_S / std::f64::consts::LN_2
}

fn millis_rounded_up(wait: Duration) -> u64 {
    u64::try_from(wait.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
