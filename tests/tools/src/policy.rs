//! The waits between attempts: those that the retry policy allows, and those observed.

use std::collections::BTreeMap;

use jiff::Timestamp;

use harness::client::Attempt;

/// Each wait is this many times the one before.
const FACTOR: u32 = 2;

/// A wait may be this much shorter or longer, in percent.
const JITTER_PERCENT: u64 = 20;

/// Times in the API are whole milliseconds, so a difference of two may be off by one, and a
/// duration by another.
const ROUNDING_MS: i64 = 3;

/// The settings that determine the waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The first wait, before jitter.
    pub base_ms: u64,
    /// The shortest wait.
    pub floor_ms: u64,
    /// How late an attempt may start.
    pub lateness_ms: u64,
}

/// A wait between two attempts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wait {
    /// The attempt before it.
    pub after_attempt: u32,
    /// From the end of that attempt to the start of the next.
    pub waited_ms: i64,
    /// The shortest wait that the policy allows.
    pub least_ms: i64,
    /// The longest wait that the policy allows, with the permitted lateness.
    pub most_ms: i64,
    /// How long after `next_attempt_at` the attempt started, if that time was observed.
    pub late_ms: Option<i64>,
}

impl Policy {
    /// The waits between these attempts. `planned` has the last `next_attempt_at` after each
    /// attempt's number. The first of the attempts is the first of its budget.
    pub fn waits(&self, attempts: &[Attempt], planned: &BTreeMap<u32, Timestamp>) -> Vec<Wait> {
        let pairs = attempts.iter().zip(attempts.iter().skip(1)).enumerate();
        pairs
            .map(|(n, (before, next))| {
                let grown = self.base_ms.saturating_mul(u64::from(FACTOR.saturating_pow(n as u32)));
                let jitter = grown / 100 * JITTER_PERCENT + grown % 100 * JITTER_PERCENT / 100;
                Wait {
                    after_attempt: before.number,
                    waited_ms: milliseconds(before.ended_at(), next.started_at),
                    least_ms: (grown - jitter).max(self.floor_ms) as i64,
                    most_ms: ((grown + jitter).max(self.floor_ms) + self.lateness_ms) as i64,
                    late_ms: planned
                        .get(&before.number)
                        .map(|allowed| milliseconds(*allowed, next.started_at)),
                }
            })
            .collect()
    }
}

impl Wait {
    /// Whether it was at least as long as allowed.
    pub fn long_enough(&self) -> bool {
        self.waited_ms + ROUNDING_MS >= self.least_ms
            && self.late_ms.is_none_or(|late| late + ROUNDING_MS >= 0)
    }

    /// Whether it was longer than the wait before it, apart from the time by which the attempt
    /// after that wait was late.
    pub fn longer_than(&self, before: &Self, policy: Policy) -> bool {
        let late_ms = before.late_ms.unwrap_or(policy.lateness_ms as i64).max(0);
        self.waited_ms > (before.waited_ms - late_ms).max(before.least_ms)
    }

    /// Whether it was at most as long as allowed.
    pub fn short_enough(&self, policy: Policy) -> bool {
        self.waited_ms <= self.most_ms + ROUNDING_MS
            && self.late_ms.is_none_or(|late| late <= policy.lateness_ms as i64)
    }
}

impl std::fmt::Display for Wait {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ms, allowed {} to {} ms", self.waited_ms, self.least_ms, self.most_ms)?;
        match self.late_ms {
            Some(late) if late < 0 => write!(f, "; it started {} ms before next_attempt_at", -late),
            Some(late) => write!(f, "; it started {late} ms after next_attempt_at"),
            None => Ok(()),
        }
    }
}

/// Milliseconds from one time to another; negative if the other is earlier.
pub fn milliseconds(from: Timestamp, to: Timestamp) -> i64 {
    to.as_millisecond() - from.as_millisecond()
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: Policy = Policy { base_ms: 5_000, floor_ms: 1_000, lateness_ms: 300 };

    fn attempts(starts_ms: &[i64]) -> Vec<Attempt> {
        let attempt = |(n, start): (usize, &i64)| Attempt {
            number: n as u32 + 1,
            started_at: Timestamp::from_millisecond(1_800_000_000_000 + start).unwrap(),
            duration_ms: 100,
            outcome: "failed".into(),
            status_code: Some(500),
            error: None,
        };
        starts_ms.iter().enumerate().map(attempt).collect()
    }

    fn allowed(starts_ms: &[i64]) -> Vec<(bool, bool)> {
        let waits = POLICY.waits(&attempts(starts_ms), &BTreeMap::new());
        waits.iter().map(|wait| (wait.long_enough(), wait.short_enough(POLICY))).collect()
    }

    #[test]
    fn waits_double_and_may_differ_by_a_fifth() {
        let waits = POLICY.waits(&attempts(&[0, 5_100, 15_200]), &BTreeMap::new());
        assert_eq!(
            waits.iter().map(|w| (w.least_ms, w.most_ms)).collect::<Vec<_>>(),
            [(4_000, 6_300), (8_000, 12_300)]
        );
        assert_eq!(waits.iter().map(|w| w.waited_ms).collect::<Vec<_>>(), [5_000, 10_000]);
        assert_eq!(allowed(&[0, 4_100, 12_200]), [(true, true), (true, true)]);
        assert_eq!(allowed(&[0, 6_100, 18_200]), [(true, true), (true, true)]);
    }

    #[test]
    fn short_waits_are_raised_to_the_floor() {
        let policy = Policy { base_ms: 400, ..POLICY };
        let waits = policy.waits(&attempts(&[0, 1_100, 2_300, 4_000]), &BTreeMap::new());
        let bounds: Vec<_> = waits.iter().map(|w| (w.least_ms, w.most_ms)).collect();
        assert_eq!(bounds, [(1_000, 1_300), (1_000, 1_300), (1_280, 2_220)]);
    }

    #[test]
    fn a_wait_that_is_too_short_or_too_long_is_detected() {
        assert_eq!(allowed(&[0, 4_000]), [(false, true)]);
        assert_eq!(allowed(&[0, 6_500]), [(true, false)]);
    }

    #[test]
    fn a_wait_is_longer_than_the_one_before_although_an_attempt_was_late() {
        let planned = |late_ms: i64| {
            let start = Timestamp::from_millisecond(1_800_000_000_000 + 7_000 - late_ms).unwrap();
            BTreeMap::from([(1, start)])
        };
        let is_longer = |second_ms: i64, planned: &BTreeMap<u32, Timestamp>| {
            let starts = [0, 7_000, 7_100 + second_ms];
            let waits = POLICY.waits(&attempts(&starts), planned);
            waits[1].longer_than(&waits[0], POLICY)
        };
        assert!(is_longer(6_901, &planned(0)) && !is_longer(6_900, &planned(0)));
        assert!(is_longer(4_901, &planned(2_000)) && !is_longer(4_900, &planned(2_000)));
        assert!(is_longer(4_001, &planned(3_000)) && !is_longer(4_000, &planned(3_000)));
        assert!(is_longer(6_601, &BTreeMap::new()) && !is_longer(6_600, &BTreeMap::new()));
    }

    #[test]
    fn an_early_attempt_is_detected_although_the_wait_was_long_enough() {
        let attempts = attempts(&[0, 5_100]);
        let planned = |ms: i64| {
            BTreeMap::from([(1, Timestamp::from_millisecond(1_800_000_000_000 + ms).unwrap())])
        };
        let wait = |ms| POLICY.waits(&attempts, &planned(ms)).remove(0);
        assert!(wait(5_100).long_enough());
        assert!(!wait(5_200).long_enough());
        assert!(wait(4_900).short_enough(POLICY));
        assert!(!wait(4_700).short_enough(POLICY));
    }
}
