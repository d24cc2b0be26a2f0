//! What may be deleted because it has expired, although clocks can be wrong.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use crate::{
    clock::{Clock, Timestamp},
    planted::{self, Bug},
};

/// How far two looks are apart at least, by the monotonic clock.
pub(super) const MIN_APART: Duration = Duration::from_secs(60);

/// Up to when expired records may be deleted: what two looks of this process have both seen
/// expired.
///
/// A wall clock may be set ahead for seconds or minutes, and then everything seems to have expired.
/// The monotonic clock cannot be set, so two looks that it says are [`MIN_APART`] apart are not
/// both within such a time, unless it lasted that long. Nothing is stored: a process that does not
/// live that long deletes nothing.
#[derive(Debug, Default)]
pub struct PurgeHorizon {
    // A std mutex: it is held for a few instructions, never across an await.
    looks: Mutex<Looks>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Looks {
    /// The first look that no later one has confirmed yet: when it was by the monotonic clock, and
    /// up to when it saw things expired.
    first: Option<(Duration, Timestamp)>,
    /// Up to when two looks have seen things expired.
    confirmed: Option<Timestamp>,
}

impl PurgeHorizon {
    /// Looks at the clock. Records whose `expires_at` is at this time or earlier may be deleted;
    /// `None`: none may.
    pub fn look(&self, clock: &dyn Clock) -> Option<Timestamp> {
        let mut looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        looks.look(clock.monotonic(), clock.now())
    }
}

impl Looks {
    fn look(&mut self, monotonic: Duration, now: Timestamp) -> Option<Timestamp> {
        if planted::is(Bug::PurgeByOneSighting) {
            return Some(now);
        }
        // What an earlier look saw expired and this one does not, one of them saw with a wrong
        // clock.
        self.confirmed = self.confirmed.map(|confirmed| confirmed.min(now));
        match &mut self.first {
            None => self.first = Some((monotonic, now)),
            Some((at, seen)) => {
                *seen = (*seen).min(now);
                if monotonic.saturating_sub(*at) >= MIN_APART {
                    self.confirmed = self.confirmed.max(Some(*seen));
                    self.first = Some((monotonic, now));
                }
            }
        }
        self.confirmed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY_S: i64 = 24 * 3600;

    fn look(looks: &mut Looks, monotonic_s: u64, now_s: i64) -> Option<i64> {
        let now = Timestamp::from_millis(now_s * 1000);
        looks.look(Duration::from_secs(monotonic_s), now).map(Timestamp::as_seconds)
    }

    #[test]
    fn two_looks_a_minute_apart_are_needed_and_the_earlier_one_counts() {
        let mut looks = Looks::default();
        assert_eq!(look(&mut looks, 0, 1000), None);
        assert_eq!(look(&mut looks, 59, 1059), None);
        assert_eq!(look(&mut looks, 60, 1060), Some(1000));
        assert_eq!(look(&mut looks, 119, 1119), Some(1000));
        assert_eq!(look(&mut looks, 121, 1121), Some(1060));
    }

    #[test]
    fn a_clock_that_is_ahead_for_less_than_a_minute_deletes_nothing() {
        for wrong_for_s in [1, 3, 59] {
            let mut looks = Looks::default();
            let ahead = 40 * DAY_S;
            assert_eq!(look(&mut looks, 0, 1000), None);
            assert_eq!(
                look(&mut looks, 100, 1100 + ahead),
                Some(1000),
                "one look is right, so that counts"
            );
            assert_eq!(look(&mut looks, 100 + wrong_for_s, 1100 + ahead), Some(1000));
            assert!(look(&mut looks, 161, 1161) <= Some(1161), "the clock is right again");
            assert!(look(&mut looks, 222, 1222) <= Some(1222));
        }
    }

    #[test]
    fn what_was_confirmed_by_a_wrong_clock_is_taken_back_with_it() {
        let mut looks = Looks::default();
        look(&mut looks, 0, 40 * DAY_S);
        assert_eq!(
            look(&mut looks, 60, 40 * DAY_S + 60),
            Some(40 * DAY_S),
            "wrong for longer than a minute"
        );
        assert_eq!(look(&mut looks, 61, 61), Some(61));
    }
}
