//! One limit on concurrent attempts, and the latency of the requests within it.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use shared::clock::Timestamp;
use tokio::sync::Semaphore;

/// The longest wait for a permit. A limit whose last request took longer is stalled.
pub(super) const PERMIT_TIMEOUT: Duration = Duration::from_secs(1);

/// The minimum time without progress after which a limit is stalled, where slots are scarce.
pub(super) const STALL_TIMEOUT: Duration = Duration::from_millis(200);

/// The same, as a multiple of the last request's duration.
const STALL_FACTOR: u32 = 10;

/// The attempts that a limit counts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Scope {
    /// Attempts at one destination.
    Destination(String),
    /// Attempts at unproven destinations in one network.
    Network(Network),
    /// Attempts at unproven destinations that hold a slot.
    Unproven,
    /// Of those, attempts at destinations whose last attempt hung.
    Silent,
    /// Attempts at unproven endpoints of one application that hold a slot.
    Application(String),
    /// Attempts at unproven endpoints of one application.
    HangingApplication(String),
}

/// The network of an address, at the size that usually has one owner: /24 or /48.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Network {
    V4([u8; 3]),
    V6([u16; 3]),
}

impl From<IpAddr> for Network {
    fn from(address: IpAddr) -> Self {
        let of_v4 = |address: Ipv4Addr| {
            let [a, b, c, _] = address.octets();
            Self::V4([a, b, c])
        };
        let of_v6 = |address: Ipv6Addr| {
            let [a, b, c, ..] = address.segments();
            Self::V6([a, b, c])
        };
        match address {
            IpAddr::V4(address) => of_v4(address),
            IpAddr::V6(address) => address.to_ipv4_mapped().map_or_else(|| of_v6(address), of_v4),
        }
    }
}

/// A limit on concurrent attempts.
#[derive(Debug)]
pub(super) struct ConcurrencyLimit {
    pub(super) scope: Scope,
    pub(super) capacity: usize,
    pub(super) free: Arc<Semaphore>,
    latency: Mutex<Latency>,
}

impl ConcurrencyLimit {
    pub(super) fn new(scope: Scope, capacity: usize, now: Timestamp) -> Self {
        let latency = Mutex::new(Latency { in_flight: 0, progress_at: now, last: None });
        Self { scope, capacity, free: Arc::new(Semaphore::new(capacity)), latency }
    }

    pub(super) fn latency(&self) -> MutexGuard<'_, Latency> {
        self.latency.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts the start of a request, or of its name lookup.
    pub(super) fn start(&self, now: Timestamp) {
        let mut latency = self.latency();
        latency.in_flight += 1;
        latency.progress_at = now;
    }

    /// Counts the end of a request, or that it left this limit. `duration` is set if it describes
    /// the limit's requests.
    pub(super) fn end(&self, now: Timestamp, duration: Option<Duration>) {
        let mut latency = self.latency();
        latency.in_flight -= 1;
        latency.progress_at = now;
        latency.last = duration.or(latency.last);
    }
}

/// The latency of a limit's requests.
#[derive(Clone, Copy, Debug)]
pub(super) struct Latency {
    /// Requests without an answer.
    pub(super) in_flight: usize,
    /// When a request last started or ended.
    pub(super) progress_at: Timestamp,
    /// The duration of the last request that ended.
    pub(super) last: Option<Duration>,
}

impl Latency {
    /// When the limit stalls without further progress. `None`: it does not.
    fn stalls_at(self, capacity: usize, is_scarce: bool) -> Option<Timestamp> {
        match self.last {
            Some(last) if last > PERMIT_TIMEOUT => Some(self.progress_at),
            _ if self.in_flight < capacity || !is_scarce => None,
            last => {
                let expected = last.unwrap_or_default().saturating_mul(STALL_FACTOR);
                Some(self.progress_at.plus(expected.clamp(STALL_TIMEOUT, PERMIT_TIMEOUT)))
            }
        }
    }

    /// Until when an attempt waits that arrived at `since`. The caller asks again at that time,
    /// because the limit may have made progress.
    pub(super) fn wait_until(
        self,
        capacity: usize,
        is_scarce: bool,
        since: Timestamp,
        now: Timestamp,
    ) -> Timestamp {
        let stalls_at = self.stalls_at(capacity, is_scarce);
        since.plus(PERMIT_TIMEOUT).min(stalls_at.unwrap_or_else(|| now.plus(STALL_TIMEOUT)))
    }

    /// The time without progress, or the duration of the last request if that is longer.
    pub(super) fn silence(self, now: Timestamp) -> Duration {
        now.since(self.progress_at).max(self.last.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAPACITY: usize = 3;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_millis(ms)
    }

    /// Whether an attempt that arrived at 10,000 still waits at `now`, while slots are scarce.
    fn waits(latency: Latency, now: i64) -> bool {
        latency.wait_until(CAPACITY, true, at(10_000), at(now)) > at(now)
    }

    #[test]
    fn a_stall_does_not_matter_while_slots_are_plentiful() {
        for last in [None, Some(Duration::from_millis(2))] {
            let latency = Latency { in_flight: CAPACITY, progress_at: at(9_000), last };
            let waits =
                |now: i64| latency.wait_until(CAPACITY, false, at(10_000), at(now)) > at(now);
            assert!(waits(10_999) && !waits(11_000), "{last:?}");
        }
        let slow = Latency {
            in_flight: CAPACITY,
            progress_at: at(10_000),
            last: Some(Duration::from_millis(1001)),
        };
        assert!(
            slow.wait_until(CAPACITY, false, at(10_000), at(10_000)) <= at(10_000),
            "an attempt never waits for a slow destination"
        );
    }

    #[test]
    fn silence_is_the_time_without_progress_or_the_last_duration() {
        let latency = Latency { in_flight: CAPACITY, progress_at: at(10_000), last: None };
        assert_eq!(latency.silence(at(14_000)), Duration::from_secs(4));
        let slow = Latency { last: Some(Duration::from_secs(9)), ..latency };
        assert_eq!(slow.silence(at(14_000)), Duration::from_secs(9));
        assert_eq!(slow.silence(at(20_000)), Duration::from_secs(10));
    }

    #[test]
    fn before_the_first_answer_the_minimum_stall_applies() {
        let latency = Latency { in_flight: CAPACITY, progress_at: at(9_990), last: None };
        assert!(waits(latency, 10_189));
        assert!(!waits(latency, 10_190), "all are in flight, without progress for 200 ms");
        assert!(
            waits(Latency { progress_at: at(10_100), ..latency }, 10_299),
            "another request started since"
        );
    }

    #[test]
    fn after_an_answer_the_wait_follows_its_duration() {
        for (took, until) in [(2, 200), (20, 200), (50, 500), (90, 900), (1000, 1000)] {
            let latency = Latency {
                in_flight: CAPACITY,
                progress_at: at(10_000),
                last: Some(Duration::from_millis(took)),
            };
            assert!(waits(latency, 10_000 + until - 1), "{took} ms");
            assert!(!waits(latency, 10_000 + until), "{took} ms");
        }
    }

    #[test]
    fn no_wait_exceeds_the_permit_timeout() {
        let busy = Latency {
            in_flight: CAPACITY,
            progress_at: at(10_999),
            last: Some(Duration::from_millis(50)),
        };
        assert!(waits(busy, 10_999));
        assert!(!waits(busy, 11_000), "it answers, but has too many requests");
        let slow =
            Latency { progress_at: at(10_000), last: Some(Duration::from_millis(1001)), ..busy };
        assert!(!waits(slow, 10_000), "an attempt does not wait for a slow destination");
    }

    #[test]
    fn an_attempt_that_is_not_in_flight_prevents_a_stall() {
        let claiming = Latency { in_flight: CAPACITY - 1, progress_at: at(9_000), last: None };
        assert!(waits(claiming, 10_999), "one permit holder has not sent its request yet");
        assert!(!waits(claiming, 11_000));
    }

    #[test]
    fn networks() {
        let of = |address: &str| Network::from(address.parse::<IpAddr>().unwrap());
        assert_eq!(of("192.0.2.1"), of("192.0.2.255"));
        assert_eq!(of("192.0.2.1"), of("::ffff:192.0.2.9"));
        assert_ne!(of("192.0.2.1"), of("192.0.3.1"));
        assert_eq!(of("2001:db8:1:2::3"), of("2001:db8:1:ffff::"));
        assert_ne!(of("2001:db8:1::"), of("2001:db8:2::"));
    }
}
