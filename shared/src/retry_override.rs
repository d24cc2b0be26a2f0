//! The retry settings of a single webhook.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The most attempts that a policy or a webhook may ask for.
pub const MAX_ATTEMPTS_LIMIT: u32 = 50;

/// The longest wait that a policy or a webhook may ask for: 7 days.
pub const MAX_DELAY_LIMIT: Duration = Duration::from_secs(7 * 24 * 3600);

/// The values with which a webhook overrides the retry policy. The API checks them before it stores
/// them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RetryOverride {
    /// Overrides [`max_attempts`](crate::retry::RetryPolicy::max_attempts).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_attempts: Option<u32>,
    /// Overrides [`base_delay`](crate::retry::RetryPolicy::base_delay), in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base_delay_ms: Option<u64>,
    /// Overrides [`factor`](crate::retry::RetryPolicy::factor).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub factor: Option<f64>,
    /// Overrides [`max_delay`](crate::retry::RetryPolicy::max_delay), in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_delay_ms: Option<u64>,
    /// Overrides [`jitter`](crate::retry::RetryPolicy::jitter).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jitter: Option<f64>,
    /// Overrides [`schedule`](crate::retry::RetryPolicy::schedule), in milliseconds. The number of
    /// attempts is the number of waits plus one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schedule_ms: Option<Vec<u64>>,
}

/// A value that is out of bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidRetry {
    /// The field's name, as in [`RetryOverride`].
    pub field: &'static str,
    /// The bounds, as the end of a sentence that begins with the field.
    pub message: &'static str,
}

impl RetryOverride {
    /// Returns each value that is out of bounds.
    pub fn check(&self) -> Vec<InvalidRetry> {
        let max_delay_ms = MAX_DELAY_LIMIT.as_millis() as u64;
        let mut faults = Vec::new();
        let mut fault = |wrong: bool, field, message| {
            if wrong {
                faults.push(InvalidRetry { field, message });
            }
        };
        let attempts_wrong = self.max_attempts.is_some_and(|n| n == 0 || n > MAX_ATTEMPTS_LIMIT);
        fault(attempts_wrong, "max_attempts", "must be a whole number from 1 to 50");
        fault(
            self.base_delay_ms.is_some_and(|ms| ms > max_delay_ms),
            "base_delay_ms",
            "must be at most 604800000 (7 days)",
        );
        fault(
            self.max_delay_ms.is_some_and(|ms| ms > max_delay_ms),
            "max_delay_ms",
            "must be at most 604800000 (7 days)",
        );
        fault(
            self.factor.is_some_and(|f| !(1.0..=100.0).contains(&f)),
            "factor",
            "must be a number from 1 to 100",
        );
        fault(
            self.jitter.is_some_and(|j| !(0.0..=1.0).contains(&j)),
            "jitter",
            "must be a number from 0 to 1",
        );
        if let Some(schedule) = &self.schedule_ms {
            let length_wrong = schedule.is_empty() || schedule.len() >= MAX_ATTEMPTS_LIMIT as usize;
            fault(length_wrong, "schedule_ms", "must hold 1 to 49 waits");
            fault(
                schedule.iter().any(|ms| *ms > max_delay_ms),
                "schedule_ms",
                "each wait must be at most 604800000 (7 days)",
            );
            fault(
                self.max_attempts.is_some(),
                "schedule_ms",
                "gives the number of attempts; leave max_attempts out",
            );
        }
        faults
    }
}
