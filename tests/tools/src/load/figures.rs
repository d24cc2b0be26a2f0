//! The figures of one loop: quantiles of durations, and faults.

use std::{collections::BTreeMap, fmt, time::Duration};

use serde::Serialize;

/// Quantiles of durations, by nearest rank.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Quantiles {
    /// Number of samples.
    pub count: usize,
    /// The median.
    pub p50_ms: f64,
    /// The 90th percentile.
    pub p90_ms: f64,
    /// The 99th percentile.
    pub p99_ms: f64,
    /// The maximum.
    pub max_ms: f64,
}

impl Quantiles {
    /// The quantiles of these durations.
    pub fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        let rank = |share: f64| {
            let rank = (share * times.len() as f64).ceil().max(1.0) as usize;
            times
                .get(rank.min(times.len()).saturating_sub(1))
                .map_or(0.0, |time| milliseconds(*time))
        };
        Self {
            count: times.len(),
            p50_ms: rank(0.5),
            p90_ms: rank(0.9),
            p99_ms: rank(0.99),
            max_ms: rank(1.0),
        }
    }
}

impl fmt::Display for Quantiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "p50 {:.2}   p90 {:.2}   p99 {:.2}   max {:.2} ms",
            self.p50_ms, self.p90_ms, self.p99_ms, self.max_ms
        )
    }
}

/// Milliseconds, to the microsecond.
pub fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

/// Unexpected results of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Faults {
    /// Responses other than 202, by status code.
    pub other_answers: BTreeMap<u16, u64>,
    /// Requests without a response.
    pub unanswered: u64,
    /// The first unexpected response.
    pub first: Option<String>,
    /// Webhooks that arrived more than once.
    pub duplicates: u64,
}

impl Faults {
    /// Whether every webhook was accepted and none arrived twice.
    pub fn none(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let others: u64 = self.other_answers.values().sum();
        write!(
            f,
            "{others} other than 202, {} unanswered, {} duplicates",
            self.unanswered, self.duplicates
        )?;
        self.first.as_ref().map_or(Ok(()), |first| write!(f, "; the first: {first}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_by_nearest_rank() {
        let times = (1..=100).rev().map(Duration::from_millis).collect();
        let found = Quantiles::of(times);
        assert_eq!(
            (found.p50_ms, found.p90_ms, found.p99_ms, found.max_ms),
            (50.0, 90.0, 99.0, 100.0)
        );
        let one = Quantiles::of(vec![Duration::from_micros(1500)]);
        assert_eq!((one.p50_ms, one.max_ms, one.count), (1.5, 1.5, 1));
        assert_eq!(Quantiles::of(Vec::new()), Quantiles::default());
    }
}
