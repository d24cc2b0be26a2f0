//! Configured rates: a number of requests per period for the hosts that match a glob.
//!
//! A rate maps slot numbers to times by the Unix clock alone: slot `k` opens `k · period /
//! requests` after the epoch. So all workers agree on it without any stored state. The arithmetic
//! is exact.

use std::{fmt, num::NonZeroU32, str::FromStr};

use globset::{Glob, GlobMatcher};

use crate::clock::Timestamp;

/// The most requests in one period.
pub const MAX_REQUESTS: u32 = 1_000_000;

/// The longest period, in seconds: one day.
pub const MAX_PERIOD_S: u32 = 86_400;

/// A number of requests per period.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RateLimit {
    requests: NonZeroU32,
    period_s: NonZeroU32,
}

/// Why a text is not a rate limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRateLimit {
    /// It has another form.
    #[error("is not a rate. Write requests per seconds, e.g. 10/1s")]
    Form,
    /// The number of requests is zero or too large.
    #[error("must allow 1 to {MAX_REQUESTS} requests")]
    Requests,
    /// The period is zero or too long.
    #[error("must have a period of 1 to {MAX_PERIOD_S} seconds")]
    Period,
}

impl FromStr for RateLimit {
    type Err = InvalidRateLimit;

    /// Reads `10/1s`.
    fn from_str(text: &str) -> Result<Self, InvalidRateLimit> {
        let (requests, period) = text.split_once('/').ok_or(InvalidRateLimit::Form)?;
        let period = period.strip_suffix('s').ok_or(InvalidRateLimit::Form)?;
        let requests = number(requests, MAX_REQUESTS, InvalidRateLimit::Requests)?;
        let period_s = number(period, MAX_PERIOD_S, InvalidRateLimit::Period)?;
        Ok(Self { requests, period_s })
    }
}

fn number(text: &str, max: u32, error: InvalidRateLimit) -> Result<NonZeroU32, InvalidRateLimit> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(InvalidRateLimit::Form);
    }
    let value = text.parse().ok().filter(|value| *value <= max).and_then(NonZeroU32::new);
    value.ok_or(error)
}

impl fmt::Display for RateLimit {
    /// Writes `10/1s`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}s", self.requests, self.period_s)
    }
}

impl RateLimit {
    /// Requests per second.
    pub fn per_second(self) -> f64 {
        f64::from(self.requests.get()) / f64::from(self.period_s.get())
    }

    /// The number of slots of the past that may still be used: one second's, at least 1.
    pub fn burst(self) -> i64 {
        i64::from(self.requests.get().div_ceil(self.period_s.get()))
    }

    /// The number of slots that have opened, rounded up.
    pub fn position_rounded_up(self, now: Timestamp) -> i64 {
        let (requests, period_ms) = self.exact();
        saturated(div_ceil(i128::from(now.as_millis()) * requests, period_ms))
    }

    /// When the slot opens: the first millisecond at which the position has reached it.
    pub fn opens_at(self, slot: i64) -> Timestamp {
        let (requests, period_ms) = self.exact();
        Timestamp::from_millis(saturated(div_ceil(i128::from(slot) * period_ms, requests)))
    }

    /// The name of the rate among the generations of a target's slots.
    pub fn generation(self) -> String {
        format!("{}/{}", self.requests, self.period_s)
    }

    fn exact(self) -> (i128, i128) {
        (i128::from(self.requests.get()), i128::from(self.period_s.get()) * 1000)
    }
}

/// Rounds up. The divisor is positive.
fn div_ceil(dividend: i128, divisor: i128) -> i128 {
    dividend.div_euclid(divisor) + i128::from(dividend.rem_euclid(divisor) != 0)
}

fn saturated(value: i128) -> i64 {
    i64::try_from(value).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX })
}

/// The configured rates. The first entry whose glob matches the host applies.
#[derive(Clone, Debug, Default)]
pub struct RateLimits(Vec<(GlobMatcher, RateLimit)>);

/// Why a text is not a list of rates.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRateLimits {
    /// An entry has no `=`.
    #[error("has '{0}', which is not a host and a rate. Write e.g. hooks.example.com=10/1s")]
    Entry(String),
    /// The part before the `=` is not a host or a glob of one.
    #[error("has '{0}', which is not a host name or a glob of one")]
    Host(String),
    /// The part behind the `=` is not a rate.
    #[error("has '{entry}', whose limit {error}")]
    Rate {
        /// The entry.
        entry: String,
        /// What is wrong with its rate.
        error: InvalidRateLimit,
    },
}

impl FromStr for RateLimits {
    type Err = InvalidRateLimits;

    /// Reads `hooks.example.com=10/1s,*.partner.net=100/60s`.
    fn from_str(text: &str) -> Result<Self, InvalidRateLimits> {
        let entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty());
        entries.map(read_entry).collect::<Result<_, _>>().map(Self)
    }
}

fn read_entry(entry: &str) -> Result<(GlobMatcher, RateLimit), InvalidRateLimits> {
    let (host, rate) =
        entry.split_once('=').ok_or_else(|| InvalidRateLimits::Entry(entry.to_owned()))?;
    let host = host.trim().to_ascii_lowercase();
    let invalid_host = || InvalidRateLimits::Host(host.clone());
    if host.is_empty() || host.contains(['/', ':', '@', ' ']) {
        return Err(invalid_host());
    }
    let glob = Glob::new(&host).map_err(|_| invalid_host())?.compile_matcher();
    let rate = rate
        .trim()
        .parse()
        .map_err(|error| InvalidRateLimits::Rate { entry: entry.to_owned(), error })?;
    Ok((glob, rate))
}

impl RateLimits {
    /// The rate of the host, given in lower case and without a port.
    pub fn of_host(&self, host: &str) -> Option<RateLimit> {
        self.0.iter().find(|(glob, _)| glob.is_match(host)).map(|(_, rate)| *rate)
    }

    /// The rate of the host of a destination: scheme, host and port.
    pub fn of_destination(&self, destination: &str) -> Option<RateLimit> {
        let (_, rest) = destination.split_once("://")?;
        let host = rest.rsplit_once(':').map_or(rest, |(host, _)| host);
        self.of_host(host)
    }

    /// Whether no rate is configured.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl PartialEq for RateLimits {
    fn eq(&self, other: &Self) -> bool {
        let entries = |limits: &Self| -> Vec<(String, RateLimit)> {
            limits.0.iter().map(|(glob, rate)| (glob.glob().to_string(), *rate)).collect()
        };
        entries(self) == entries(other)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn rate(text: &str) -> RateLimit {
        text.parse().unwrap()
    }

    #[test]
    fn a_rate_is_requests_per_seconds() {
        assert_eq!((rate("10/1s").per_second(), rate("10/1s").burst()), (10.0, 10));
        assert_eq!((rate("100/60s").burst(), rate("1/3600s").burst()), (2, 1));
        assert_eq!(rate("100/60s").to_string(), "100/60s");
        assert_eq!(rate("1000000/86400s").generation(), "1000000/86400");
    }

    #[test]
    fn what_is_not_a_rate_is_refused_with_its_fault() {
        for (text, error) in [
            ("", InvalidRateLimit::Form),
            ("10", InvalidRateLimit::Form),
            ("10/1", InvalidRateLimit::Form),
            ("10/1m", InvalidRateLimit::Form),
            ("/1s", InvalidRateLimit::Form),
            ("10/s", InvalidRateLimit::Form),
            ("-1/1s", InvalidRateLimit::Form),
            ("+1/1s", InvalidRateLimit::Form),
            ("1.5/1s", InvalidRateLimit::Form),
            ("10/1s/2s", InvalidRateLimit::Form),
            ("0/1s", InvalidRateLimit::Requests),
            ("1000001/1s", InvalidRateLimit::Requests),
            ("99999999999/1s", InvalidRateLimit::Requests),
            ("1/0s", InvalidRateLimit::Period),
            ("1/86401s", InvalidRateLimit::Period),
        ] {
            assert_eq!(text.parse::<RateLimit>(), Err(error), "{text}");
        }
    }

    /// `opens_at` is the inverse of the position, to the millisecond.
    #[test]
    fn a_slot_opens_when_the_position_reaches_it() {
        let now = Timestamp::from_millis(1_800_000_000_123);
        for text in ["10/1s", "3/1s", "7/60s", "1/86400s", "1000000/1s", "999983/86399s"] {
            let rate = rate(text);
            let next = rate.position_rounded_up(now);
            for slot in next..next + 100 {
                let opens_at = rate.opens_at(slot);
                let before = opens_at.minus(Duration::from_millis(1));
                assert!(opens_at >= now, "{text}: slot {slot}");
                assert!(rate.position_rounded_up(opens_at) >= slot, "{text}: slot {slot}");
                assert!(rate.position_rounded_up(before) <= slot, "{text}: slot {slot}");
            }
        }
    }

    #[test]
    fn in_each_second_as_many_slots_open_as_the_rate_says() {
        for (text, slots) in [("10/1s", 10), ("250/1s", 250), ("1/1s", 1)] {
            let rate = rate(text);
            let first = rate.position_rounded_up(Timestamp::from_millis(1_800_000_000_000));
            let second = rate.position_rounded_up(Timestamp::from_millis(1_800_000_001_000));
            assert_eq!(second - first, slots, "{text}");
        }
    }

    #[test]
    fn no_time_and_no_slot_overflows() {
        for text in ["1/86400s", "1000000/1s"] {
            for extreme in [i64::MIN, i64::MAX, 0] {
                rate(text).opens_at(extreme);
                rate(text).position_rounded_up(Timestamp::from_millis(extreme));
            }
        }
    }

    #[test]
    fn the_first_entry_that_matches_the_host_applies() {
        let limits: RateLimits =
            " Hooks.Example.com=10/1s, *.partner.net = 100/60s ,*=1/1s,".parse().unwrap();
        for (host, rate) in [
            ("hooks.example.com", "10/1s"),
            ("a.partner.net", "100/60s"),
            ("a.b.partner.net", "100/60s"),
            ("partner.net", "1/1s"),
        ] {
            assert_eq!(limits.of_host(host).unwrap().to_string(), rate, "{host}");
        }
        let none: RateLimits = "".parse().unwrap();
        assert!(none.is_empty() && none.of_host("example.com").is_none());
    }

    #[test]
    fn a_list_names_the_entry_that_is_wrong() {
        for (text, error) in [
            (
                "a.example=1/1s,b.example",
                "has 'b.example', which is not a host and a rate. Write e.g. \
                 hooks.example.com=10/1s",
            ),
            ("=1/1s", "has '', which is not a host name or a glob of one"),
            ("[a=1/1s", "has '[a', which is not a host name or a glob of one"),
            ("https://a=1/1s", "has 'https://a', which is not a host name or a glob of one"),
            ("a:80=1/1s", "has 'a:80', which is not a host name or a glob of one"),
            ("a=0/1s", "has 'a=0/1s', whose limit must allow 1 to 1000000 requests"),
            (
                "a=ten",
                "has 'a=ten', whose limit is not a rate. Write requests per seconds, e.g. 10/1s",
            ),
        ] {
            assert_eq!(text.parse::<RateLimits>().unwrap_err().to_string(), error, "{text}");
        }
    }
}
