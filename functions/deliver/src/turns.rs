//! How many attempts at a time one destination gets of this process, so that one that hangs does not hold every slot.
//!
//! Who finds its destination at the limit ([`shared::config::Config::deliver_host_concurrency`]) waits for its turn only where that is
//! short: attempts there begin and end within [`PATIENCE`]. A destination that answers, however many webhooks it is sent, is then
//! served at its own pace out of one process's memory, without a write. Where it hangs, waiting would hold the slots and the batches that
//! others need, so the webhook is put off instead (`attempt.rs`): held by the due index, its message acknowledged, no attempt and no receive
//! spent.
//!
//! On Lambda a process works on one batch at a time, and the invocation ends when its slowest message does: there a limit below the batch
//! does not bring the others' end forward, so by default it is as large as a batch, and never reached. What keeps destinations apart there is
//! the queue, whose groups are destinations (SQS fair queues).

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use shared::clock::{Clock, Timestamp};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The longest wait for a turn, and the longest that an attempt may have taken where somebody waits.
pub(crate) const PATIENCE: Duration = Duration::from_secs(1);

/// The turns of all destinations that have an attempt under way. Others cost nothing.
#[derive(Debug)]
pub(crate) struct Turns {
    limit: usize,
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

/// How fast turns change hands.
#[derive(Clone, Copy, Debug)]
struct Pace {
    /// When the latest turn was taken or given back.
    moved_at: Timestamp,
    /// How long the turn that was given back last had been held; zero while none was.
    held: Duration,
}

impl Pace {
    /// Until when somebody who came at `since` waits: not at all where turns are slow.
    fn waits_until(self, since: Timestamp) -> Timestamp {
        if self.held > PATIENCE { since } else { self.moved_at.min(since).plus(PATIENCE) }
    }
}

/// The right to make an attempt at a destination; given back when dropped.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    turns: &'a Turns,
    destination: Arc<Destination>,
    taken_at: Timestamp,
    permit: Option<OwnedSemaphorePermit>,
}

impl Turns {
    /// At most `limit` attempts at a time for each destination.
    pub(crate) fn new(limit: usize, clock: Arc<dyn Clock>) -> Self {
        Self { limit, clock, destinations: Mutex::default() }
    }

    /// A turn at this destination. `None`: it has as many attempts under way as it may, and they do not end soon.
    pub(crate) async fn take(&self, key: &str) -> Option<Turn<'_>> {
        let since = self.clock.now();
        // Made first, so that however this ends, a destination that nobody uses any more is forgotten.
        let mut turn = Turn { turns: self, destination: self.destination(key, since), taken_at: since, permit: None };
        let acquire = Arc::clone(&turn.destination.free).acquire_owned();
        tokio::pin!(acquire);
        loop {
            let until = turn.destination.pace().waits_until(since);
            tokio::select! {
                biased;
                permit = &mut acquire => {
                    // Never closed.
                    turn.permit = permit.ok();
                    turn.taken_at = self.clock.now();
                    turn.destination.pace().moved_at = turn.taken_at;
                    return Some(turn);
                }
                () = self.clock.sleep(until.since(self.clock.now())) => {
                    // Turns may have changed hands meanwhile.
                    if turn.destination.pace().waits_until(since) <= until { return None }
                }
            }
        }
    }

    fn destination(&self, key: &str, now: Timestamp) -> Arc<Destination> {
        let mut destinations = self.destinations.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = destinations.get(key) {
            return Arc::clone(known);
        }
        let pace = Mutex::new(Pace { moved_at: now, held: Duration::ZERO });
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

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if let Some(permit) = self.permit.take() {
            let now = self.turns.clock.now();
            *self.destination.pace() = Pace { moved_at: now, held: now.since(self.taken_at) };
            drop(permit);
        }
        let mut destinations = self.turns.destinations.lock().unwrap_or_else(PoisonError::into_inner);
        // The map's own, and ours: nobody else is there or waits. Whoever comes next asks the map, which is locked.
        if Arc::strong_count(&self.destination) <= 2 {
            destinations.remove(&self.destination.key);
        }
    }
}
