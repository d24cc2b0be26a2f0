//! Keeps destinations from standing in each other's way in one process.
//!
//! # What is limited
//!
//! | limit | default of the local stack | applies to |
//! |---|---|---|
//! | slots (`DELIVER_CONCURRENCY`) | 128 | every attempt, until it has been silent for [`HANG`] |
//! | destination (`DELIVER_HOST_CONCURRENCY`) | 32 | the attempts at one destination |
//! | share | half of the slots: 64 | attempts at *unproven* destinations, until silent for [`HANG`] |
//! | silent | three quarters of the share: 48 | of those, attempts at destinations that were silent last |
//! | network | half of what may hang: 512 | attempts at unproven destinations in one /24 or /48 |
//! | hanging | 8 times the slots: 1,024, and 64 MiB of payloads | attempts that have been silent for longer |
//!
//! A destination is *proven* for [`PROVEN_FOR`] after it answered, and until an attempt there is
//! silent for [`HANG`]. The status does not matter: one that refuses quickly holds nobody up. What
//! is remembered is bounded ([`Recent`]). A forgotten destination counts as one that was never
//! seen.
//!
//! # What holds
//!
//! - **A proven destination** needs a slot and a turn of its own, and nothing else. Unproven ones,
//!   under however many names, hold no more than the share. It waits for them only as long as they
//!   wait themselves for a place in the share that does not move: [`STALL`](gate::STALL).
//! - **A destination that was never seen** has the share. It is free while fewer than 64 attempts
//!   are younger than [`HANG`], so there is room in half a second, until all that may hang does.
//! - **One receiver under many names** has half of what may hang, so that a receiver in another
//!   network still has the other half. On a shared address (a CDN, a hosting provider, loopback) a
//!   proven destination is not counted, so others there cannot hold it up. One that was never seen
//!   shares the network's limit with the hanging ones there, and is deferred while that is reached.
//! - **Memory.** At most 9 times the slots are under way. Of the payloads of hanging attempts 64
//!   MiB are held. An attempt that finds no room there keeps its slot.
//! - **Lambda.** With no more slots than messages in a batch, every message has one. Then the share
//!   is all of them.
//!
//! # Who waits, and who is deferred
//!
//! An attempt over a limit waits for [`PATIENCE`](gate::PATIENCE) at most, and only while the gate
//! moves. A destination that answers is then served at its own pace out of one process's memory,
//! without a write. Where it hangs, waiting would hold the slots and the batches that others need,
//! so the webhook is deferred (`attempt.rs`): the due index holds it, its message is acknowledged,
//! and no attempt and no receive is spent.
//!
//! A gate hangs if its last request took longer than that patience. Before that is known, and once
//! three quarters of all slots are taken, it also hangs if all requests within it are unanswered
//! and none has begun or ended for ten times what the last one took, [`STALL`](gate::STALL) at
//! least. A slow store is no fault of the destination: an attempt that still claims, or records an
//! outcome, does not count.
//!
//! # Addresses
//!
//! The network of an unproven destination must be known before the claim, so its name is looked up
//! here. The sender's look-up a moment later has the same answer at no cost
//! ([`shared::sender::lookup`]), and it alone decides where to connect. If there is no answer
//! within [`LOOKUP_WAIT`], the attempt goes ahead without a network, and its outcome tells what
//! became of the name. If nobody was asked, for there was no room, the webhook is deferred.

mod gate;

use std::{
    collections::HashMap,
    future::Future,
    io,
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use shared::{
    clock::{Clock, Timestamp},
    model::ErrorKind,
    queue::MAX_BATCH,
    recent::Recent,
    sender::{Answer, Lookup},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

use gate::{Gate, Key, Network};

/// How long a request is silent when it counts as hanging.
pub(crate) const HANG: Duration = Duration::from_millis(500);

/// How long a destination that answered counts as one that does.
const PROVEN_FOR: Duration = Duration::from_secs(600);

/// How long the look-up before a claim is waited for.
const LOOKUP_WAIT: Duration = Duration::from_secs(1);

/// Destinations whose last outcome is remembered, at least.
const REMEMBERED_DESTINATIONS: usize = 4096;

/// Attempts that may hang, as a multiple of the slots.
const HANGING_FACTOR: usize = 8;

/// What the payloads of hanging attempts may take: 64 MiB.
const HANGING_KIB: usize = 64 * 1024;

/// How many attempts may be under way, by what they are; see the module.
#[derive(Clone, Copy, Debug)]
struct Limits {
    destination: usize,
    network: usize,
    share: usize,
    silent: usize,
    hanging: usize,
    /// From how many taken slots on they are scarce.
    plenty: usize,
}

impl Limits {
    fn new(destination: usize, slots: usize) -> Self {
        // With no more slots than messages in a batch, nobody waits for a slot.
        let at_least_a_batch = |part: usize, all: usize| part.max(all.min(MAX_BATCH));
        let share = at_least_a_batch(slots / 2, slots);
        let hanging = slots * HANGING_FACTOR;
        Self {
            destination,
            network: hanging / 2,
            share,
            silent: at_least_a_batch(share - share / 4, share),
            hanging,
            plenty: slots - slots / 4,
        }
    }

    fn of(self, key: &Key) -> usize {
        match key {
            Key::Destination(_) => self.destination,
            Key::Network(_) => self.network,
            Key::Unproven => self.share,
            Key::Silent => self.silent,
        }
    }
}

/// Attempts that may be under way at a time in a process with so many slots.
pub(crate) const fn most_attempts(slots: usize) -> usize {
    slots * (HANGING_FACTOR + 1)
}

/// How the last attempt at a destination ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Answered(Timestamp),
    Silent,
}

/// The limits of one process, and what is under way within them. A destination without an attempt
/// costs a line of bounded memory.
#[derive(Debug)]
pub(crate) struct Turns {
    limits: Limits,
    /// Slots that are taken by attempts that have a turn or wait for one.
    taken: AtomicUsize,
    clock: Arc<dyn Clock>,
    lookup: Arc<dyn Lookup>,
    // Std mutexes: they are held for a look-up, never across an await.
    gates: Mutex<HashMap<Key, Arc<Gate>>>,
    standings: Mutex<Recent<Standing>>,
    hanging: Arc<Semaphore>,
    hanging_kib: Arc<Semaphore>,
}

/// The right to make an attempt at a destination; given back when dropped.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    turns: &'a Turns,
    destination: Place<'a>,
    /// Given back once the request hangs.
    share: Vec<Place<'a>>,
    /// Held until the attempt ends.
    network: Option<Place<'a>>,
    is_taken: bool,
}

/// A place within a gate, or a wait for one.
#[derive(Debug)]
struct Place<'a> {
    turns: &'a Turns,
    gate: Arc<Gate>,
    permit: Option<OwnedSemaphorePermit>,
}

impl Turns {
    /// At most `limit` attempts at a time for each destination, of `slots` in all.
    pub(crate) fn new(
        limit: usize,
        slots: usize,
        clock: Arc<dyn Clock>,
        lookup: Arc<dyn Lookup>,
    ) -> Self {
        let limits = Limits::new(limit, slots);
        Self {
            limits,
            taken: AtomicUsize::new(0),
            clock,
            lookup,
            gates: Mutex::default(),
            standings: Mutex::new(Recent::new(REMEMBERED_DESTINATIONS)),
            hanging: Arc::new(Semaphore::new(limits.hanging)),
            hanging_kib: Arc::new(Semaphore::new(HANGING_KIB)),
        }
    }

    /// A turn at this destination. If there is none and none comes soon, for how long nothing has
    /// moved there.
    pub(crate) async fn take(&self, destination: &str) -> Result<Turn<'_>, Duration> {
        let since = self.clock.now();
        let own = self.place(Key::Destination(destination.to_owned()), since);
        self.taken.fetch_add(1, Ordering::Relaxed);
        // Made first, so that however this ends, what it took is given back.
        let mut turn = Turn {
            turns: self,
            destination: own,
            share: Vec::new(),
            network: None,
            is_taken: true,
        };
        turn.destination.wait(since).await?;
        let standing = self.standing(destination, since);
        if let Some(Standing::Answered(_)) = standing {
            return Ok(turn);
        }
        let keys = [standing.map(|_| Key::Silent), Some(Key::Unproven)];
        for key in keys.into_iter().flatten() {
            let mut place = self.place(key, since);
            place.wait(since).await?;
            turn.share.push(place);
        }
        let network = {
            let _asking = Asking::begin(self, turn.share.iter());
            self.network(destination).await?
        };
        if let Some(network) = network {
            let mut place = self.place(Key::Network(network), since);
            place.take_now()?;
            turn.network = Some(place);
        }
        Ok(turn)
    }

    /// What is known of the destination; `None` if nothing that still counts.
    fn standing(&self, destination: &str, now: Timestamp) -> Option<Standing> {
        match self.standings().get(destination).copied()? {
            Standing::Answered(at) if now.since(at) >= PROVEN_FOR => None,
            standing => Some(standing),
        }
    }

    fn standings(&self) -> MutexGuard<'_, Recent<Standing>> {
        self.standings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The network that the destination is in; `None` if that is not known soon. An error: nobody
    /// was asked.
    async fn network(&self, destination: &str) -> Result<Option<Network>, Duration> {
        let Some(host) = host(destination) else { return Ok(None) };
        if let Ok(address) = host.parse::<IpAddr>() {
            return Ok(Some(address.into()));
        }
        let found = tokio::select! {
            biased;
            found = self.lookup.lookup(host) => found,
            () = self.clock.sleep(LOOKUP_WAIT) => return Ok(None),
        };
        match found {
            Ok(addresses) => Ok(addresses.first().map(|address| Network::from(*address))),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(Duration::ZERO),
            // The attempt will tell.
            Err(_) => Ok(None),
        }
    }

    fn place(&self, key: Key, now: Timestamp) -> Place<'_> {
        let mut gates = self.gates();
        let gate = if let Some(known) = gates.get(&key) {
            Arc::clone(known)
        } else {
            let new = Arc::new(Gate::new(key.clone(), self.limits.of(&key), now));
            gates.insert(key, Arc::clone(&new));
            new
        };
        Place { turns: self, gate, permit: None }
    }

    fn gates(&self) -> MutexGuard<'_, HashMap<Key, Arc<Gate>>> {
        self.gates.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The host of a destination, without brackets.
fn host(destination: &str) -> Option<&str> {
    let (_, host_and_port) = destination.split_once("://")?;
    let (host, _) = host_and_port.rsplit_once(':')?;
    Some(host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host))
}

impl Place<'_> {
    /// Waits until it is taken. If that does not come soon, for how long nothing has moved. `since`
    /// is when the attempt began to wait.
    async fn wait(&mut self, since: Timestamp) -> Result<(), Duration> {
        let Self { turns, gate, .. } = &*self;
        let acquire = Arc::clone(&gate.free).acquire_owned();
        tokio::pin!(acquire);
        let waits_until = |now| {
            let is_scarce = turns.taken.load(Ordering::Relaxed) > turns.limits.plenty;
            gate.pace().waits_until(gate.limit, is_scarce, since, now)
        };
        let permit = loop {
            let now = turns.clock.now();
            let until = waits_until(now);
            tokio::select! {
                biased;
                // Never closed.
                permit = &mut acquire => break permit.ok(),
                () = turns.clock.sleep(until.since(now)) => {
                    let now = turns.clock.now();
                    // It may have gone on meanwhile.
                    if waits_until(now) <= now {
                        return Err(gate.pace().silence(now));
                    }
                }
            }
        };
        self.permit = permit;
        Ok(())
    }

    /// Takes it if it is free.
    fn take_now(&mut self) -> Result<(), Duration> {
        self.permit = Arc::clone(&self.gate.free).try_acquire_owned().ok();
        if self.permit.is_some() {
            Ok(())
        } else {
            Err(self.gate.pace().silence(self.turns.clock.now()))
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        drop(self.permit.take());
        let mut gates = self.turns.gates();
        // The map's own, and ours: nobody else is there or waits. Whoever comes next asks the map,
        // which is locked.
        if Arc::strong_count(&self.gate) <= 2 {
            gates.remove(&self.gate.key);
        }
    }
}

/// A request is under way in these gates; over when dropped, also if it was abandoned.
struct Asking<'a> {
    turns: &'a Turns,
    gates: Vec<Arc<Gate>>,
    since: Timestamp,
}

impl<'a> Asking<'a> {
    fn begin<'p>(turns: &'a Turns, places: impl Iterator<Item = &'p Place<'p>>) -> Self {
        let since = turns.clock.now();
        let gates: Vec<Arc<Gate>> = places.map(|place| Arc::clone(&place.gate)).collect();
        for gate in &gates {
            gate.begin(since);
        }
        Self { turns, gates, since }
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        let now = self.turns.clock.now();
        let took = now.since(self.since);
        for gate in &self.gates {
            // Those that share a gate with it are other destinations, of which this says nothing.
            let tells = matches!(gate.key, Key::Destination(_)).then_some(took);
            gate.end(now, tells);
        }
    }
}

impl Turn<'_> {
    /// Makes the request, whose payload has so many bytes. Once it hangs, its slot and its place in
    /// the share are given back, if there is room among the requests that hang.
    pub(crate) async fn ask(
        &mut self,
        slot: &mut Option<SemaphorePermit<'_>>,
        bytes: usize,
        request: impl Future<Output = Answer>,
    ) -> Answer {
        let turns = self.turns;
        let _asking = Asking::begin(turns, std::iter::once(&self.destination));
        let mut in_share = Some(Asking::begin(turns, self.share.iter()));
        let mut room = None;
        tokio::pin!(request);
        let mut hangs = false;
        let answer = loop {
            tokio::select! {
                biased;
                answer = &mut request => break answer,
                () = turns.clock.sleep(HANG), if room.is_none() => {
                    if !hangs {
                        hangs = true;
                        self.note(Standing::Silent);
                    }
                    room = self.room_to_hang(bytes);
                    if room.is_some() {
                        drop(in_share.take());
                        self.share.clear();
                        self.give_slot_back();
                        drop(slot.take());
                    }
                }
            }
        };
        // A status counts whenever it comes. Without one, it has to be no fault of ours, and soon.
        let is_quick = !hangs && !answer.is_our_fault && answer.error != Some(ErrorKind::Timeout);
        if answer.status_code.is_some() || is_quick {
            self.note(Standing::Answered(turns.clock.now()));
        }
        answer
    }

    fn note(&self, standing: Standing) {
        if let Key::Destination(destination) = &self.destination.gate.key {
            self.turns.standings().insert(destination, standing);
        }
    }

    /// A quarter of what may hang is for proven destinations.
    fn room_to_hang(&self, bytes: usize) -> Option<(OwnedSemaphorePermit, OwnedSemaphorePermit)> {
        let turns = self.turns;
        if !self.share.is_empty() && turns.hanging.available_permits() <= turns.limits.hanging / 4 {
            return None;
        }
        let kib = u32::try_from(bytes / 1024 + 1).ok()?;
        let place = Arc::clone(&turns.hanging).try_acquire_owned().ok()?;
        Some((place, Arc::clone(&turns.hanging_kib).try_acquire_many_owned(kib).ok()?))
    }

    fn give_slot_back(&mut self) {
        if std::mem::take(&mut self.is_taken) {
            self.turns.taken.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.give_slot_back();
    }
}

#[cfg(test)]
mod tests;
