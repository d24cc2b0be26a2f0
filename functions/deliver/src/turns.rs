//! How many attempts at a time one destination gets of this process, so that one that hangs does not hold every slot.
//!
//! Who finds its destination at the limit ([`shared::config::Config::deliver_host_concurrency`]) waits for its turn only where that is
//! short: for [`PATIENCE`] at most. A destination that answers, however many webhooks it is sent, is then served at its own pace out of one
//! process's memory, without a write. Where it hangs, waiting would hold the slots and the batches that others need, so the webhook is put
//! off instead (`attempt.rs`): held by the due index, its message acknowledged, no attempt and no receive spent.
//!
//! It hangs if its last request took longer than that patience. Before that is known, and once three quarters of all slots are taken, it
//! also counts as hanging if all who have a turn have asked it and no answer has come for ten times what the last one took, [`STALL`] at
//! least. A store that is slow is no fault of the destination: whoever still claims, or records an outcome, is not asking.
//!
//! On Lambda a process works on one batch at a time, and the invocation ends when its slowest message does: there a limit below the batch
//! does not bring the others' end forward, so by default it is as large as a batch, and never reached. What keeps destinations apart there is
//! the queue, whose groups are destinations (SQS fair queues).

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use shared::clock::{Clock, Timestamp};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The longest wait for a turn, and the longest that a request may have taken where somebody waits.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long all who have a turn wait for an answer at least before the destination counts as one that hangs, where slots are scarce.
const STALL: Duration = Duration::from_millis(200);

/// The same, as a multiple of what the last request took.
const STALL_FACTOR: u32 = 10;

/// The turns of all destinations that have an attempt under way. Others cost nothing.
#[derive(Debug)]
pub(crate) struct Turns {
    limit: usize,
    /// From how many slots on they are scarce.
    plenty: usize,
    /// Slots that are taken by who has a turn or waits for one.
    taken: AtomicUsize,
    clock: Arc<dyn Clock>,
    // A std mutex: it is held for a look-up, never across an await.
    destinations: Mutex<HashMap<String, Arc<Destination>>>,
}

#[derive(Debug)]
struct Destination {
    key: String,
    free: Arc<Semaphore>,
    pace: Mutex<Pace>,
}

/// How fast a destination answers.
#[derive(Clone, Copy, Debug)]
struct Pace {
    /// Requests without an answer yet.
    asking: usize,
    /// When the latest request began or ended.
    moved_at: Timestamp,
    /// How long the request took that ended last; none while none has.
    took: Option<Duration>,
}

impl Pace {
    /// From when on it hangs, as it looks now; none while it does not.
    fn hangs_from(self, limit: usize, is_scarce: bool) -> Option<Timestamp> {
        match self.took {
            Some(took) if took > PATIENCE => Some(self.moved_at),
            _ if self.asking < limit || !is_scarce => None,
            Some(took) => Some(self.moved_at.plus(took.saturating_mul(STALL_FACTOR).clamp(STALL, PATIENCE))),
            None => Some(self.moved_at.plus(STALL)),
        }
    }

    /// Until when somebody waits who came at `since`, as it looks `now`; to be asked again then, for it may have gone on.
    fn waits_until(self, limit: usize, is_scarce: bool, since: Timestamp, now: Timestamp) -> Timestamp {
        since.plus(PATIENCE).min(self.hangs_from(limit, is_scarce).unwrap_or_else(|| now.plus(STALL)))
    }

    /// For how long nothing has come, or how long the last answer took if that is more.
    fn silence(self, now: Timestamp) -> Duration {
        now.since(self.moved_at).max(self.took.unwrap_or_default())
    }
}

/// The right to make an attempt at a destination; given back when dropped.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    turns: &'a Turns,
    destination: Arc<Destination>,
    permit: Option<OwnedSemaphorePermit>,
}

impl Turns {
    /// At most `limit` attempts at a time for each destination, of `slots` in all.
    pub(crate) fn new(limit: usize, slots: usize, clock: Arc<dyn Clock>) -> Self {
        Self { limit, plenty: slots - slots / 4, taken: AtomicUsize::new(0), clock, destinations: Mutex::default() }
    }

    /// A turn at this destination. If it has as many attempts under way as it may, and they do not end soon, for how long it has been silent.
    pub(crate) async fn take(&self, key: &str) -> Result<Turn<'_>, Duration> {
        let since = self.clock.now();
        // Made first, so that however this ends, a destination that nobody uses any more is forgotten, and the slot is free again.
        let mut turn = Turn { turns: self, destination: self.destination(key, since), permit: None };
        self.taken.fetch_add(1, Ordering::Relaxed);
        let acquire = Arc::clone(&turn.destination.free).acquire_owned();
        tokio::pin!(acquire);
        let waits_until = |pace: Pace, now| {
            let is_scarce = self.taken.load(Ordering::Relaxed) > self.plenty;
            pace.waits_until(self.limit, is_scarce, since, now)
        };
        loop {
            let now = self.clock.now();
            let until = waits_until(*turn.destination.pace(), now);
            tokio::select! {
                biased;
                permit = &mut acquire => {
                    // Never closed.
                    turn.permit = permit.ok();
                    return Ok(turn);
                }
                () = self.clock.sleep(until.since(now)) => {
                    let (pace, now) = (*turn.destination.pace(), self.clock.now());
                    // It may have gone on meanwhile.
                    if waits_until(pace, now) <= now {
                        return Err(pace.silence(now));
                    }
                }
            }
        }
    }

    fn destination(&self, key: &str, now: Timestamp) -> Arc<Destination> {
        let mut destinations = self.destinations.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = destinations.get(key) {
            return Arc::clone(known);
        }
        let pace = Mutex::new(Pace { asking: 0, moved_at: now, took: None });
        let new = Arc::new(Destination { key: key.to_owned(), free: Arc::new(Semaphore::new(self.limit)), pace });
        destinations.insert(key.to_owned(), Arc::clone(&new));
        new
    }
}

impl Destination {
    fn pace(&self) -> std::sync::MutexGuard<'_, Pace> {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request is under way; over when dropped, also if it was abandoned.
#[derive(Debug)]
pub(crate) struct Asking<'a> {
    turn: &'a Turn<'a>,
    since: Timestamp,
}

impl Turn<'_> {
    /// The request begins.
    pub(crate) fn ask(&self) -> Asking<'_> {
        let since = self.turns.clock.now();
        let mut pace = self.destination.pace();
        pace.asking += 1;
        pace.moved_at = since;
        Asking { turn: self, since }
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        let now = self.turn.turns.clock.now();
        let mut pace = self.turn.destination.pace();
        pace.asking -= 1;
        pace.moved_at = now;
        pace.took = Some(now.since(self.since));
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        drop(self.permit.take());
        self.turns.taken.fetch_sub(1, Ordering::Relaxed);
        let mut destinations = self.turns.destinations.lock().unwrap_or_else(PoisonError::into_inner);
        // The map's own, and ours: nobody else is there or waits. Whoever comes next asks the map, which is locked.
        if Arc::strong_count(&self.destination) <= 2 {
            destinations.remove(&self.destination.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use shared::clock::SystemClock;

    use super::*;

    const LIMIT: usize = 3;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_millis(ms)
    }

    /// Whether somebody who came at the time 10,000 still waits at `now`, while slots are scarce.
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
        let slow = Pace { asking: LIMIT, moved_at: at(10_000), took: Some(Duration::from_millis(1001)) };
        assert!(slow.waits_until(LIMIT, false, at(10_000), at(10_000)) <= at(10_000), "one that is slow is never waited for");
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
        assert!(waits(Pace { moved_at: at(10_100), ..pace }, 10_299), "another one had its turn meanwhile");
    }

    #[test]
    fn one_that_answered_is_waited_for_by_how_long_that_took() {
        for (took, until) in [(2, 200), (20, 200), (50, 500), (90, 900), (1000, 1000)] {
            let pace = Pace { asking: LIMIT, moved_at: at(10_000), took: Some(Duration::from_millis(took)) };
            assert!(waits(pace, 10_000 + until - 1), "{took} ms");
            assert!(!waits(pace, 10_000 + until), "{took} ms");
        }
    }

    #[test]
    fn nobody_waits_longer_than_patience() {
        let busy = Pace { asking: LIMIT, moved_at: at(10_999), took: Some(Duration::from_millis(50)) };
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

    #[tokio::test]
    async fn requests_are_counted_while_they_last() {
        let turns = Turns::new(LIMIT, 10, Arc::new(SystemClock));
        let (first, second) = (turns.take("a").await.unwrap(), turns.take("a").await.unwrap());
        let destination = Arc::clone(&first.destination);
        let pace = || *destination.pace();
        assert_eq!((pace().asking, pace().took), (0, None), "a turn is not a request");
        let (one, other) = (first.ask(), second.ask());
        assert_eq!((pace().asking, pace().took), (2, None));
        drop(one);
        assert_eq!(pace().asking, 1);
        assert!(pace().took.is_some());
        drop(other);
        assert_eq!(pace().asking, 0);
        drop(first);
        // Ours as well, or it would still be in use.
        drop(destination);
        drop(second);
        assert!(turns.destinations.lock().unwrap().is_empty(), "a destination that nobody uses is forgotten");
    }
    #[tokio::test]
    async fn slots_are_taken_while_somebody_waits_or_asks() {
        let turns = Turns::new(1, 10, Arc::new(SystemClock));
        let taken = || turns.taken.load(Ordering::Relaxed);
        let turn = turns.take("a").await.unwrap();
        let other = turns.take("b").await.unwrap();
        let mut waiting = Box::pin(turns.take("a"));
        assert!((&mut waiting).now_or_never().is_none());
        assert_eq!((taken(), turns.plenty), (3, 8));
        drop(waiting);
        assert_eq!(taken(), 2);
        drop((turn, other));
        assert_eq!(taken(), 0);
    }
}
