//! The retry policy decides whether there is another attempt, and when.
//!
//! | the attempt ended with | attempts in total |
//! |---|---|
//! | 2xx | delivered |
//! | 410 | failed at once |
//! | 5xx, 408, 425, 429, network or TLS error, timeout | `max_attempts` (3) |
//! | 3xx (not followed), any other 4xx, a refused address | `client_error_max_attempts` (2) |
//!
//! The latest outcome's row counts. The wait before attempt *n*+1 is `base_delay * factor^(n-1)`,
//! at most `max_delay`, or the *n*-th entry of an explicit schedule, then ± `jitter`. A
//! `Retry-After` on any failed response that leads to another attempt makes the wait longer, up to
//! `retry_after_cap`. It never makes it shorter.
//!
//! No wait is shorter than [`RetryPolicy::min_delay`], even if settings, webhook, jitter or a
//! `Retry-After: 0` ask for less. Otherwise one small request could make Posthaste send fifty as
//! fast as their receiver rejects them.

use std::time::Duration;

pub use crate::retry_override::{MAX_ATTEMPTS_LIMIT, MAX_DELAY_LIMIT};
use crate::{
    model::ErrorKind,
    planted::{self, Bug},
    retry_override::RetryOverride,
};

/// The default of the shortest wait after a failed attempt.
pub const MIN_DELAY: Duration = Duration::from_secs(1);

/// When to try again. [`crate::config`] reads it from the `RETRY_*` variables, and
/// [`RetryPolicy::with`] applies a webhook's overrides.
#[derive(Clone, Debug, PartialEq)]
pub struct RetryPolicy {
    /// The total number of attempts for failures that may be temporary.
    pub max_attempts: u32,
    /// The total number of attempts if the destination rejects the webhook, at most `max_attempts`.
    pub client_error_max_attempts: u32,
    /// The wait after the first attempt.
    pub base_delay: Duration,
    /// The factor between one wait and the next.
    pub factor: f64,
    /// The longest wait, before jitter.
    pub max_delay: Duration,
    /// 0.2: each wait is drawn evenly from 80 % to 120 %.
    pub jitter: f64,
    /// Explicit waits in place of base and factor. The last one repeats.
    pub schedule: Vec<Duration>,
    /// The longest wait that `Retry-After` can cause.
    pub retry_after_cap: Duration,
    /// The shortest wait. A webhook cannot change it.
    pub min_delay: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            max_attempts: 3,
            client_error_max_attempts: 2,
            base_delay: Duration::from_secs(5),
            factor: 2.0,
            max_delay: Duration::from_secs(3600),
            jitter: 0.2,
            schedule: Vec::new(),
            retry_after_cap: Duration::from_secs(3600),
            min_delay: MIN_DELAY,
        }
    }
}

/// The part of an attempt's result that the policy reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// `None`: the destination responded with 2xx.
    pub error: Option<ErrorKind>,
    /// The status code, if one was received.
    pub status_code: Option<u16>,
    /// The wait that `Retry-After` requests, from now.
    pub retry_after: Option<Duration>,
}

/// What follows an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The webhook is delivered.
    Delivered,
    /// Another attempt, after this wait.
    Retry {
        /// The shortest wait from now.
        wait: Duration,
        /// Whether `Retry-After` made the wait longer.
        put_off: bool,
    },
    /// No further attempt.
    Fail,
}

impl RetryPolicy {
    /// This policy with a webhook's overrides.
    #[must_use]
    pub fn with(&self, overrides: Option<&RetryOverride>) -> Self {
        let mut policy = self.clone();
        let Some(overrides) = overrides else { return policy };
        if overrides.base_delay_ms.is_some()
            || overrides.factor.is_some()
            || overrides.max_delay_ms.is_some()
        {
            policy.schedule.clear();
        }
        policy.base_delay =
            overrides.base_delay_ms.map_or(policy.base_delay, Duration::from_millis);
        policy.factor = overrides.factor.unwrap_or(policy.factor);
        policy.max_delay = overrides.max_delay_ms.map_or(policy.max_delay, Duration::from_millis);
        policy.jitter = overrides.jitter.unwrap_or(policy.jitter);
        policy.max_attempts = overrides.max_attempts.unwrap_or(policy.max_attempts);
        if let Some(schedule) = &overrides.schedule_ms {
            policy.schedule = schedule.iter().copied().map(Duration::from_millis).collect();
            policy.max_attempts = schedule.len() as u32 + 1;
        }
        policy
    }

    /// The total number of attempts if the latest one ended like this. 0 if it was the last one,
    /// whatever its number.
    pub fn attempts_granted(&self, error: ErrorKind, status_code: Option<u16>) -> u32 {
        match (error, status_code) {
            (ErrorKind::HttpStatus, Some(410)) => 0,
            (ErrorKind::HttpStatus, Some(408 | 425 | 429 | 500..=599)) => self.max_attempts,
            (ErrorKind::HttpStatus | ErrorKind::RefusedAddress, _) => {
                self.client_error_max_attempts.min(self.max_attempts)
            }
            _ => self.max_attempts,
        }
    }

    /// The verdict after attempt number `used` (1 for the first with a fresh budget). `unit` is
    /// random, in `0.0..1.0`.
    pub fn verdict(&self, outcome: &Outcome, used: u32, unit: f64) -> Verdict {
        let Some(error) = outcome.error else { return Verdict::Delivered };
        if planted::is(Bug::RedirectIsDelivered)
            && outcome.status_code.is_some_and(|code| (300..400).contains(&code))
        {
            return Verdict::Delivered;
        }
        if used >= self.attempts_granted(error, outcome.status_code) {
            return Verdict::Fail;
        }
        let planned = self.wait_after(used, unit);
        let mut asked = outcome.retry_after.unwrap_or_default().min(self.retry_after_cap);
        if planted::is(Bug::RetryAfterIgnored) {
            asked = Duration::ZERO;
        }
        Verdict::Retry { wait: planned.max(asked), put_off: asked > planned }
    }

    /// The wait after attempt number `used`, with jitter, and at least the minimum.
    fn wait_after(&self, used: u32, unit: f64) -> Duration {
        let step = used.saturating_sub(1);
        let plain = if let Some(wait) = self.schedule.get(step as usize).or(self.schedule.last()) {
            wait.as_secs_f64()
        } else {
            let exponent = i32::try_from(step).unwrap_or(i32::MAX);
            (self.base_delay.as_secs_f64() * self.factor.powi(exponent))
                .min(self.max_delay.as_secs_f64())
        };
        let jittered = plain * (1.0 + self.jitter * (2.0 * unit - 1.0));
        let mut least = self.min_delay;
        if planted::is(Bug::RetryFloorIgnored) {
            least = Duration::ZERO;
        }
        Duration::try_from_secs_f64(jittered)
            .unwrap_or(MAX_DELAY_LIMIT)
            .min(MAX_DELAY_LIMIT * 2)
            .max(least)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn answered(status_code: u16) -> Outcome {
        let error = (!(200..300).contains(&status_code)).then_some(ErrorKind::HttpStatus);
        Outcome { error, status_code: Some(status_code), retry_after: None }
    }

    fn broke(error: ErrorKind) -> Outcome {
        Outcome { error: Some(error), status_code: None, retry_after: None }
    }

    fn attempts_until_failed(outcome: &Outcome) -> u32 {
        let policy = RetryPolicy::default();
        (1..=50).find(|used| policy.verdict(outcome, *used, 0.5) == Verdict::Fail).unwrap()
    }

    #[test]
    fn each_class_has_its_number_of_attempts() {
        for code in [500, 502, 503, 599, 408, 425, 429] {
            assert_eq!(attempts_until_failed(&answered(code)), 3, "{code}");
        }
        for code in [100, 101, 301, 302, 400, 401, 404, 409, 422, 499, 600] {
            assert_eq!(attempts_until_failed(&answered(code)), 2, "{code}");
        }
        assert_eq!(attempts_until_failed(&answered(410)), 1);
        for kind in [ErrorKind::Network, ErrorKind::Tls, ErrorKind::Timeout] {
            assert_eq!(attempts_until_failed(&broke(kind)), 3, "{kind:?}");
        }
        assert_eq!(attempts_until_failed(&broke(ErrorKind::RefusedAddress)), 2);
        for code in [200, 201, 204, 299] {
            assert_eq!(
                RetryPolicy::default().verdict(&answered(code), 1, 0.5),
                Verdict::Delivered,
                "{code}"
            );
        }
    }

    #[test]
    fn waits_grow_by_the_factor_up_to_the_cap() {
        let policy = RetryPolicy { max_attempts: 50, ..RetryPolicy::default() };
        let waits: Vec<u64> = (1..=12).map(|used| policy.wait_after(used, 0.5).as_secs()).collect();
        assert_eq!(waits, [5, 10, 20, 40, 80, 160, 320, 640, 1280, 2560, 3600, 3600]);
    }

    /// No webhook and no response can shorten the minimum wait.
    #[test]
    fn no_wait_is_shorter_than_the_floor() {
        let policy = RetryPolicy::default();
        let overrides = [
            RetryOverride { base_delay_ms: Some(0), ..RetryOverride::default() },
            RetryOverride {
                base_delay_ms: Some(1000),
                jitter: Some(1.0),
                factor: Some(1.0),
                ..RetryOverride::default()
            },
            RetryOverride { max_delay_ms: Some(0), ..RetryOverride::default() },
            RetryOverride { schedule_ms: Some(vec![0; 49]), ..RetryOverride::default() },
        ];
        for overrides in overrides {
            assert!(overrides.check().is_empty(), "it is accepted, and raised: {overrides:?}");
            let policy = RetryPolicy { max_attempts: 50, ..policy.with(Some(&overrides)) };
            for (used, unit) in [(1, 0.0), (1, 0.999), (2, 0.0), (49, 0.0)] {
                for retry_after in [None, Some(Duration::ZERO)] {
                    let outcome = Outcome { retry_after, ..answered(429) };
                    let Verdict::Retry { wait, .. } = policy.verdict(&outcome, used, unit) else {
                        panic!("granted")
                    };
                    assert!(wait >= MIN_DELAY, "{wait:?} after {used} by {overrides:?}");
                }
            }
        }
        let lowered =
            RetryPolicy { min_delay: Duration::ZERO, base_delay: Duration::ZERO, ..policy };
        assert_eq!(lowered.wait_after(1, 0.5), Duration::ZERO);
    }

    #[test]
    fn a_schedule_gives_each_wait_and_repeats_the_last() {
        let policy = RetryPolicy {
            schedule: vec![Duration::from_secs(1), Duration::from_secs(60)],
            ..RetryPolicy::default()
        };
        let waits: Vec<u64> = (1..=3).map(|used| policy.wait_after(used, 0.5).as_secs()).collect();
        assert_eq!(waits, [1, 60, 60]);
    }

    #[test]
    fn a_webhooks_overrides_replace_what_they_name() {
        let policy =
            RetryPolicy { schedule: vec![Duration::from_secs(9)], ..RetryPolicy::default() };
        let overrides = RetryOverride {
            base_delay_ms: Some(100),
            max_attempts: Some(7),
            ..RetryOverride::default()
        };
        let merged = policy.with(Some(&overrides));
        assert_eq!(
            (merged.base_delay, merged.max_attempts, merged.schedule.len()),
            (Duration::from_millis(100), 7, 0)
        );
        let overrides =
            RetryOverride { schedule_ms: Some(vec![1, 2, 3]), ..RetryOverride::default() };
        assert_eq!(policy.with(Some(&overrides)).max_attempts, 4);
        assert_eq!(policy.with(None), policy);
    }

    #[test]
    fn overrides_out_of_bounds_name_their_field() {
        let fields = |overrides: RetryOverride| {
            overrides.check().iter().map(|fault| fault.field).collect::<Vec<_>>()
        };
        let none = RetryOverride::default;
        assert!(fields(none()).is_empty());
        assert_eq!(fields(RetryOverride { max_attempts: Some(0), ..none() }), ["max_attempts"]);
        assert_eq!(fields(RetryOverride { max_attempts: Some(51), ..none() }), ["max_attempts"]);
        assert_eq!(
            fields(RetryOverride { base_delay_ms: Some(604_800_001), ..none() }),
            ["base_delay_ms"]
        );
        assert_eq!(
            fields(RetryOverride { max_delay_ms: Some(604_800_001), ..none() }),
            ["max_delay_ms"]
        );
        assert_eq!(fields(RetryOverride { factor: Some(0.9), ..none() }), ["factor"]);
        assert_eq!(fields(RetryOverride { jitter: Some(1.1), ..none() }), ["jitter"]);
        assert_eq!(fields(RetryOverride { schedule_ms: Some(vec![]), ..none() }), ["schedule_ms"]);
        assert_eq!(
            fields(RetryOverride { schedule_ms: Some(vec![604_800_001]), ..none() }),
            ["schedule_ms"]
        );
        assert_eq!(
            fields(RetryOverride { schedule_ms: Some(vec![1]), max_attempts: Some(2), ..none() }),
            ["schedule_ms"]
        );
    }

    #[test]
    fn overrides_at_their_bounds_are_valid() {
        let week_ms = 604_800_000;
        assert_eq!(MAX_DELAY_LIMIT.as_millis(), u128::from(week_ms));
        let (none, none_wrong) =
            (RetryOverride::default, Vec::<crate::retry_override::InvalidRetry>::new());
        for overrides in [
            RetryOverride { max_attempts: Some(1), ..none() },
            RetryOverride { max_attempts: Some(50), ..none() },
            RetryOverride { base_delay_ms: Some(week_ms), max_delay_ms: Some(week_ms), ..none() },
            RetryOverride { factor: Some(1.0), jitter: Some(0.0), ..none() },
            RetryOverride { factor: Some(100.0), jitter: Some(1.0), ..none() },
            RetryOverride { schedule_ms: Some(vec![week_ms; 49]), ..none() },
        ] {
            assert_eq!(overrides.check(), none_wrong, "{overrides:?}");
        }
        let fields = |overrides: RetryOverride| {
            overrides.check().iter().map(|fault| fault.field).collect::<Vec<_>>()
        };
        assert_eq!(
            fields(RetryOverride { max_delay_ms: Some(week_ms + 1), ..none() }),
            ["max_delay_ms"]
        );
        assert_eq!(fields(RetryOverride { factor: Some(100.1), ..none() }), ["factor"]);
        assert_eq!(fields(RetryOverride { jitter: Some(-0.1), ..none() }), ["jitter"]);
        assert_eq!(
            fields(RetryOverride { schedule_ms: Some(vec![1; 50]), ..none() }),
            ["schedule_ms"]
        );
    }

    /// Any override of growing waits replaces a schedule of the settings, which has none. Other
    /// overrides keep it.
    #[test]
    fn each_override_applies_by_itself() {
        let policy =
            RetryPolicy { schedule: vec![Duration::from_secs(9)], ..RetryPolicy::default() };
        let none = RetryOverride::default;
        let merged = |overrides: RetryOverride| policy.with(Some(&overrides));
        let growing = RetryPolicy { schedule: Vec::new(), ..policy.clone() };
        let ms = Duration::from_millis;
        assert_eq!(
            merged(RetryOverride { base_delay_ms: Some(7), ..none() }),
            RetryPolicy { base_delay: ms(7), ..growing.clone() }
        );
        assert_eq!(
            merged(RetryOverride { factor: Some(7.0), ..none() }),
            RetryPolicy { factor: 7.0, ..growing.clone() }
        );
        assert_eq!(
            merged(RetryOverride { max_delay_ms: Some(7), ..none() }),
            RetryPolicy { max_delay: ms(7), ..growing }
        );
        assert_eq!(
            merged(RetryOverride { jitter: Some(0.7), ..none() }),
            RetryPolicy { jitter: 0.7, ..policy.clone() }
        );
        assert_eq!(
            merged(RetryOverride { max_attempts: Some(7), ..none() }),
            RetryPolicy { max_attempts: 7, ..policy.clone() }
        );
    }

    /// A rejection is retried once, but never beyond the limit for temporary failures.
    #[test]
    fn a_rejection_is_not_granted_more_than_a_failure() {
        let policy = RetryPolicy { max_attempts: 1, ..RetryPolicy::default() };
        assert_eq!(policy.attempts_granted(ErrorKind::HttpStatus, Some(404)), 1);
        assert_eq!(policy.attempts_granted(ErrorKind::RefusedAddress, None), 1);
    }

    /// The longest wait with the widest jitter is twice the longest delay, and no wait is longer.
    #[test]
    fn no_wait_is_longer_than_twice_the_limit() {
        let longest = RetryPolicy {
            base_delay: MAX_DELAY_LIMIT,
            max_delay: MAX_DELAY_LIMIT,
            jitter: 1.0,
            ..RetryPolicy::default()
        };
        assert_eq!(longest.wait_after(1, 1.0), MAX_DELAY_LIMIT * 2);
        let beyond = RetryPolicy {
            schedule: vec![MAX_DELAY_LIMIT * 9],
            jitter: 0.0,
            ..RetryPolicy::default()
        };
        assert_eq!(beyond.wait_after(1, 0.5), MAX_DELAY_LIMIT * 2);
    }

    #[test]
    fn retry_after_counts_on_every_failure_and_up_to_the_cap() {
        let policy = RetryPolicy::default();
        let asked = |code, seconds| {
            let outcome =
                Outcome { retry_after: Some(Duration::from_secs(seconds)), ..answered(code) };
            match policy.verdict(&outcome, 1, 0.5) {
                Verdict::Retry { wait, put_off } => (wait.as_secs(), put_off),
                other => panic!("{other:?}"),
            }
        };
        for code in [302, 400, 404, 408, 413, 425, 429, 500, 502, 503, 504, 599] {
            assert_eq!(asked(code, 30), (30, true), "{code}");
        }
        assert_eq!(asked(429, 1), (5, false));
        assert_eq!(asked(429, 5), (5, false), "it puts nothing off");
        assert_eq!(asked(503, 1 << 40), (3600, true));
    }

    proptest! {
        #[test]
        fn a_wait_stays_within_its_jitter_and_never_undercuts_retry_after(
            used in 1_u32..60, unit in 0.0_f64..1.0, base_ms in 0_u64..1_000_000,
            factor in 1.0_f64..10.0, jitter in 0.0_f64..1.0,
            retry_after_s in proptest::option::of(0_u64..10_000),
        ) {
            let policy = RetryPolicy {
                max_attempts: 100, base_delay: Duration::from_millis(base_ms), factor, jitter,
                ..RetryPolicy::default()
            };
            let outcome = Outcome { retry_after: retry_after_s.map(Duration::from_secs),
                ..answered(503) };
            let Verdict::Retry { wait, .. } = policy.verdict(&outcome, used,
                unit) else { panic!("granted") };
            let asked = outcome.retry_after.unwrap_or_default().min(policy.retry_after_cap);
            prop_assert!(wait >= asked);
            let most = policy.max_delay.mul_f64(1.0 + jitter).max(asked).max(policy.min_delay);
            prop_assert!(wait >= policy.min_delay && wait <= most + Duration::from_millis(1));
            let grown = policy.base_delay.as_secs_f64() * factor.powi(used as i32 - 1);
            let plain = grown.min(3600.0);
            prop_assert!(wait.as_secs_f64() >= plain * (1.0 - jitter) - 0.001);
        }
    }
}
