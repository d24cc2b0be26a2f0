//! One limit on attempts under way, and how fast those that are within it end.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use shared::clock::Timestamp;
use tokio::sync::Semaphore;

/// The longest wait for a turn, and the longest that a request may have taken where an attempt
/// waits.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);

/// How long all attempts within a gate ask at least before it counts as hanging, where slots are
/// scarce.
pub(super) const STALL: Duration = Duration::from_millis(200);

/// The same, as a multiple of what the last request took.
const STALL_FACTOR: u32 = 10;

/// What a gate limits.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Key {
    /// Attempts at one destination.
    Destination(String),
    /// Attempts at unproven destinations in one network.
    Network(Network),
    /// Slots of unproven destinations.
    Unproven,
    /// Of those, the slots of destinations that were silent last.
    Silent,
}

/// The network that an address belongs to, as far as one owner usually has it: /24 or /48.
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

/// A limit that attempts are under way within.
#[derive(Debug)]
pub(super) struct Gate {
    pub(super) key: Key,
    pub(super) limit: usize,
    pub(super) free: Arc<Semaphore>,
    pace: Mutex<Pace>,
}

impl Gate {
    pub(super) fn new(key: Key, limit: usize, now: Timestamp) -> Self {
        let pace = Mutex::new(Pace { asking: 0, moved_at: now, took: None });
        Self { key, limit, free: Arc::new(Semaphore::new(limit)), pace }
    }

    pub(super) fn pace(&self) -> MutexGuard<'_, Pace> {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request, or a look-up for it, begins.
    pub(super) fn begin(&self, now: Timestamp) {
        let mut pace = self.pace();
        pace.asking += 1;
        pace.moved_at = now;
    }

    /// It has ended after so long, or is no longer this gate's.
    pub(super) fn end(&self, now: Timestamp, took: Option<Duration>) {
        let mut pace = self.pace();
        pace.asking -= 1;
        pace.moved_at = now;
        pace.took = took.or(pace.took);
    }
}

/// How fast a gate's requests are answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// Requests without an answer yet.
    pub(super) asking: usize,
    /// When the latest request began or ended.
    pub(super) moved_at: Timestamp,
    /// How long the request took that ended last; none while none has.
    pub(super) took: Option<Duration>,
}

impl Pace {
    /// From when on it hangs, as it looks now; none while it does not.
    fn hangs_from(self, limit: usize, is_scarce: bool) -> Option<Timestamp> {
        match self.took {
            Some(took) if took > PATIENCE => Some(self.moved_at),
            _ if self.asking < limit || !is_scarce => None,
            Some(took) => {
                Some(self.moved_at.plus(took.saturating_mul(STALL_FACTOR).clamp(STALL, PATIENCE)))
            }
            None => Some(self.moved_at.plus(STALL)),
        }
    }

    /// Until when an attempt waits that came at `since`, as it looks `now`; to be asked again then,
    /// for it may have gone on.
    pub(super) fn waits_until(
        self,
        limit: usize,
        is_scarce: bool,
        since: Timestamp,
        now: Timestamp,
    ) -> Timestamp {
        since
            .plus(PATIENCE)
            .min(self.hangs_from(limit, is_scarce).unwrap_or_else(|| now.plus(STALL)))
    }

    /// For how long nothing has come, or how long the last answer took if that is more.
    pub(super) fn silence(self, now: Timestamp) -> Duration {
        now.since(self.moved_at).max(self.took.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: usize = 3;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_millis(ms)
    }

    /// Whether an attempt that came at the time 10,000 still waits at `now`, while slots are
    /// scarce.
    fn waits(pace: Pace, now: i64) -> bool {
        pace.waits_until(LIMIT, true, at(10_000), at(now)) > at(now)
    }

    #[test]
    fn a_stall_is_waited_out_while_there_are_slots() {
        for took in [None, Some(Duration::from_millis(2))] {
            let pace = Pace { asking: LIMIT, moved_at: at(9_000), took };
            let waits = |now: i64| pace.waits_until(LIMIT, false, at(10_000), at(now)) > at(now);
            assert!(waits(10_999) && !waits(11_000), "{took:?}");
        }
        let slow =
            Pace { asking: LIMIT, moved_at: at(10_000), took: Some(Duration::from_millis(1001)) };
        assert!(
            slow.waits_until(LIMIT, false, at(10_000), at(10_000)) <= at(10_000),
            "one that is slow is never waited for"
        );
    }

    #[test]
    fn silence_lasts_from_the_last_sign_and_as_long_as_an_answer() {
        let pace = Pace { asking: LIMIT, moved_at: at(10_000), took: None };
        assert_eq!(pace.silence(at(14_000)), Duration::from_secs(4));
        let slow = Pace { took: Some(Duration::from_secs(9)), ..pace };
        assert_eq!(slow.silence(at(14_000)), Duration::from_secs(9));
        assert_eq!(slow.silence(at(20_000)), Duration::from_secs(10));
    }

    #[test]
    fn before_the_first_answer_a_stall_is_enough() {
        let pace = Pace { asking: LIMIT, moved_at: at(9_990), took: None };
        assert!(waits(pace, 10_189));
        assert!(!waits(pace, 10_190), "all ask, and for 200 ms nothing has come");
        assert!(
            waits(Pace { moved_at: at(10_100), ..pace }, 10_299),
            "another one had its turn meanwhile"
        );
    }

    #[test]
    fn one_that_answered_is_waited_for_by_how_long_that_took() {
        for (took, until) in [(2, 200), (20, 200), (50, 500), (90, 900), (1000, 1000)] {
            let pace = Pace {
                asking: LIMIT,
                moved_at: at(10_000),
                took: Some(Duration::from_millis(took)),
            };
            assert!(waits(pace, 10_000 + until - 1), "{took} ms");
            assert!(!waits(pace, 10_000 + until), "{took} ms");
        }
    }

    #[test]
    fn nobody_waits_longer_than_patience() {
        let busy =
            Pace { asking: LIMIT, moved_at: at(10_999), took: Some(Duration::from_millis(50)) };
        assert!(waits(busy, 10_999));
        assert!(!waits(busy, 11_000), "it answers, and has too much to do");
        let slow = Pace { moved_at: at(10_000), took: Some(Duration::from_millis(1001)), ..busy };
        assert!(!waits(slow, 10_000), "one that is slow is not waited for");
    }

    #[test]
    fn what_takes_our_own_time_is_no_stall() {
        let claiming = Pace { asking: LIMIT - 1, moved_at: at(9_000), took: None };
        assert!(waits(claiming, 10_999), "one of those who have a turn has not asked yet");
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
