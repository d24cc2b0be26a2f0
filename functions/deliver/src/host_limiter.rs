//! Limits concurrent attempts in one process, so that a slow destination does not delay others.
//!
//! # Limits
//!
//! The defaults are those of the local stack.
//!
//! | limit | default | applies to |
//! |---|---|---|
//! | slots | 128 | all attempts, until silent for [`HANG_AFTER`] |
//! | destination | 32 | attempts at one destination |
//! | unproven | 64 | attempts at unproven destinations, until silent for [`HANG_AFTER`] |
//! | silent | 48 | of those, attempts at destinations whose last attempt hung |
//! | network | 512 | attempts at unproven destinations in one /24 or /48 |
//! | hanging | 1,024 | attempts that are silent for longer than [`HANG_AFTER`] |
//! | application | 32 | attempts at unproven endpoints of one application, as for unproven |
//! | hanging application | 256 | attempts at unproven endpoints of one application |
//!
//! `DELIVER_CONCURRENCY` sets the slots and `DELIVER_HOST_CONCURRENCY` the destination limit. The
//! others follow: unproven is half of the slots, silent three quarters of that, hanging eight times
//! the slots, and network half of that. The limits of an application are a quarter of the slots and
//! of the hanging limit. Hanging attempts hold at most 64 MiB of payloads.
//!
//! The destination of a delivery is its endpoint.
//!
//! A destination is *proven* for [`PROVEN_FOR`] after an answer, until an attempt there hangs. Any
//! status counts, because a fast refusal delays nothing. The memory of destinations is bounded
//! ([`Recent`]). A forgotten destination counts as never seen.
//!
//! # Guarantees
//!
//! - **A proven destination** needs a slot and a permit of its own limit. Unproven destinations,
//!   under any number of names, never hold more than the unproven limit. A proven destination waits
//!   for them only as long as they wait for that limit: [`STALL_TIMEOUT`](limit::STALL_TIMEOUT).
//! - **A destination that was never seen** uses the unproven limit. A hanging attempt leaves that
//!   limit after [`HANG_AFTER`], so room appears within half a second, until the hanging limit is
//!   reached.
//! - **One receiver under many names** gets half of the hanging limit. A receiver in another
//!   network still has the other half. Behind a shared address (a CDN, a hosting provider,
//!   loopback), proven destinations do not count against the network limit. A destination that was
//!   never seen shares it with the hanging ones, and is deferred while it is reached.
//! - **One application** gets a quarter of the slots and of the hanging limit while its endpoints
//!   do not answer, however many they are. Its endpoints that answer are proven destinations.
//! - **Memory.** At most nine times as many attempts as slots are in flight. An attempt that
//!   exceeds the hanging limit or its payload memory keeps its slot.
//! - **Lambda.** If a batch has at least as many messages as there are slots, every message gets a
//!   slot, and the unproven limit covers all slots.
//!
//! # Wait or reject
//!
//! An attempt over a limit waits for at most [`PERMIT_TIMEOUT`](limit::PERMIT_TIMEOUT), and only
//! while the limit makes progress. A destination that answers is then served at its own pace,
//! without a write. If the destination hangs, waiting would hold slots and batches that others
//! need. The attempt is [`Rejected`] and the webhook deferred (`deferral.rs`): it enters the due
//! index, its message is acknowledged, and no attempt and no receive is spent.
//!
//! A limit is stalled if its last request took longer than
//! [`PERMIT_TIMEOUT`](limit::PERMIT_TIMEOUT). Once three quarters of the slots are taken, it is
//! also stalled if all its requests are unanswered and none started or ended for ten times the
//! duration of the last one, but at least [`STALL_TIMEOUT`](limit::STALL_TIMEOUT). Attempts that
//! claim a webhook or record an outcome do not count: the store may be slow without any fault of
//! the destination.
//!
//! # Addresses
//!
//! The network of an unproven destination must be known before the claim, so the limiter resolves
//! its name. The sender's lookup a moment later gets the same result at no cost
//! ([`shared::sender::lookup`]), and only the sender decides where to connect. Without a result
//! within [`LOOKUP_TIMEOUT`] the attempt starts without a network, and its outcome shows what
//! happened to the name. If the resolver had no capacity for the lookup, the attempt is rejected.

mod capacities;
mod limit;

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
    recent::Recent,
    sender::{Answer, Lookup},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

pub(crate) use capacities::max_concurrent_attempts;

use capacities::Capacities;
use limit::{ConcurrencyLimit, Network, Scope};

/// A request that is silent for this long counts as hanging.
pub(crate) const HANG_AFTER: Duration = Duration::from_millis(500);

/// How long a destination counts as proven after an answer.
const PROVEN_FOR: Duration = Duration::from_secs(600);

/// The limit of the name lookup before a claim.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(1);

/// The minimum number of destinations whose responsiveness is remembered.
const REMEMBERED_DESTINATIONS: usize = 4096;

/// The payload memory of hanging attempts: 64 MiB.
const MAX_HANGING_KIB: usize = 64 * 1024;

/// How the last attempt at a destination ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Responsiveness {
    /// With an answer, at this time.
    Answered(Timestamp),
    /// It hung.
    Silent,
}

/// The limits of one process and the attempts in flight. A destination without an attempt costs one
/// entry in a bounded memory.
#[derive(Debug)]
pub(crate) struct HostLimiter {
    capacities: Capacities,
    /// Slots of attempts that hold a permit or wait for one.
    taken_slots: AtomicUsize,
    clock: Arc<dyn Clock>,
    lookup: Arc<dyn Lookup>,
    // Std mutexes: they are held for a look-up, never across an await.
    limits: Mutex<HashMap<Scope, Arc<ConcurrencyLimit>>>,
    responsiveness: Mutex<Recent<Responsiveness>>,
    hanging: Arc<Semaphore>,
    hanging_kib: Arc<Semaphore>,
}

/// Where an attempt goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    /// The destination, as the record has it.
    pub(crate) destination: &'a str,
    /// Scheme, host and port of the URL.
    pub(crate) origin: &'a str,
    /// The application of a delivery.
    pub(crate) application: Option<&'a str>,
}

/// The right to make an attempt at a destination. Dropping it returns the right.
#[derive(Debug)]
pub(crate) struct HostPermit<'a> {
    limiter: &'a HostLimiter,
    destination: LimitPermit<'a>,
    /// Permits of the unproven, the silent and the application's limit, returned once the request
    /// hangs.
    unproven: Vec<LimitPermit<'a>>,
    /// Permits of the network and of the hanging application, held until the attempt ends.
    lasting: Vec<LimitPermit<'a>>,
    holds_slot: bool,
}

/// No permit was free, or became free in time.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Rejected {
    /// How long the limit has made no progress, or how long its last request took if that is more.
    pub(crate) silence: Duration,
}

/// A permit of one limit, or the wait for one.
#[derive(Debug)]
struct LimitPermit<'a> {
    limiter: &'a HostLimiter,
    limit: Arc<ConcurrencyLimit>,
    permit: Option<OwnedSemaphorePermit>,
}

impl HostLimiter {
    /// Allows `per_destination` concurrent attempts at each destination and has `slots` in all.
    pub(crate) fn new(
        per_destination: usize,
        slots: usize,
        clock: Arc<dyn Clock>,
        lookup: Arc<dyn Lookup>,
    ) -> Self {
        let capacities = Capacities::new(per_destination, slots);
        Self {
            capacities,
            taken_slots: AtomicUsize::new(0),
            clock,
            lookup,
            limits: Mutex::default(),
            responsiveness: Mutex::new(Recent::new(REMEMBERED_DESTINATIONS)),
            hanging: Arc::new(Semaphore::new(capacities.hanging)),
            hanging_kib: Arc::new(Semaphore::new(MAX_HANGING_KIB)),
        }
    }

    /// Gets a permit for one attempt at this place. The caller holds a slot.
    pub(crate) async fn acquire_at(&self, place: Place<'_>) -> Result<HostPermit<'_>, Rejected> {
        let Place { destination, origin, application } = place;
        let since = self.clock.now();
        let own_limit = self.limit(Scope::Destination(destination.to_owned()), since);
        self.taken_slots.fetch_add(1, Ordering::Relaxed);
        // Created first, so that every way out returns what was acquired.
        let mut permit = HostPermit {
            limiter: self,
            destination: own_limit,
            unproven: Vec::new(),
            lasting: Vec::new(),
            holds_slot: true,
        };
        permit.destination.acquire(since).await?;
        let responsiveness = self.responsiveness_of(destination, since);
        if let Some(Responsiveness::Answered(_)) = responsiveness {
            return Ok(permit);
        }
        // The application's own limit first: its attempts that wait for it take nothing from
        // others.
        let of_application =
            |scope: fn(String) -> Scope| application.map(|id| scope(id.to_owned()));
        let scopes = [
            of_application(Scope::Application),
            responsiveness.map(|_| Scope::Silent),
            Some(Scope::Unproven),
        ];
        for scope in scopes.into_iter().flatten() {
            let mut limit = self.limit(scope, since);
            limit.acquire(since).await?;
            permit.unproven.push(limit);
        }
        let network = {
            let _in_flight = InFlight::start(self, permit.unproven.iter());
            self.network(origin).await?
        };
        let lasting = [network.map(Scope::Network), of_application(Scope::HangingApplication)];
        for scope in lasting.into_iter().flatten() {
            let mut limit = self.limit(scope, since);
            limit.try_acquire()?;
            permit.lasting.push(limit);
        }
        Ok(permit)
    }

    /// The destination's responsiveness; `None` if it is unknown or too old.
    fn responsiveness_of(&self, destination: &str, now: Timestamp) -> Option<Responsiveness> {
        match self.responsiveness().get(destination).copied()? {
            Responsiveness::Answered(at) if now.since(at) >= PROVEN_FOR => None,
            responsiveness => Some(responsiveness),
        }
    }

    fn responsiveness(&self) -> MutexGuard<'_, Recent<Responsiveness>> {
        self.responsiveness.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The origin's network; `None` if the lookup fails or takes too long. Rejects the attempt
    /// if the resolver has no capacity for the lookup.
    async fn network(&self, origin: &str) -> Result<Option<Network>, Rejected> {
        let Some(host) = host(origin) else { return Ok(None) };
        if let Ok(address) = host.parse::<IpAddr>() {
            return Ok(Some(address.into()));
        }
        let found = tokio::select! {
            biased;
            found = self.lookup.lookup(host) => found,
            () = self.clock.sleep(LOOKUP_TIMEOUT) => return Ok(None),
        };
        match found {
            Ok(addresses) => Ok(addresses.first().map(|address| Network::from(*address))),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                Err(Rejected { silence: Duration::ZERO })
            }
            // The outcome of the attempt reports it.
            Err(_) => Ok(None),
        }
    }

    fn limit(&self, scope: Scope, now: Timestamp) -> LimitPermit<'_> {
        let mut limits = self.limits();
        let limit = if let Some(known) = limits.get(&scope) {
            Arc::clone(known)
        } else {
            let capacity = self.capacities.of(&scope);
            let new = Arc::new(ConcurrencyLimit::new(scope.clone(), capacity, now));
            limits.insert(scope, Arc::clone(&new));
            new
        };
        LimitPermit { limiter: self, limit, permit: None }
    }

    fn limits(&self) -> MutexGuard<'_, HashMap<Scope, Arc<ConcurrencyLimit>>> {
        self.limits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn are_slots_scarce(&self) -> bool {
        self.taken_slots.load(Ordering::Relaxed) > self.capacities.plenty
    }
}

/// The host of an origin, without brackets.
fn host(origin: &str) -> Option<&str> {
    let (_, host_and_port) = origin.split_once("://")?;
    let (host, _) = host_and_port.rsplit_once(':')?;
    Some(host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host))
}

impl LimitPermit<'_> {
    /// Waits for a permit while the limit makes progress. The attempt began to wait at `since`.
    async fn acquire(&mut self, since: Timestamp) -> Result<(), Rejected> {
        let Self { limiter, limit, .. } = &*self;
        let acquire = Arc::clone(&limit.free).acquire_owned();
        tokio::pin!(acquire);
        let wait_until = |now| {
            limit.latency().wait_until(limit.capacity, limiter.are_slots_scarce(), since, now)
        };
        let permit = loop {
            let now = limiter.clock.now();
            let until = wait_until(now);
            tokio::select! {
                biased;
                // The semaphore is never closed.
                permit = &mut acquire => break permit.ok(),
                () = limiter.clock.sleep(until.since(now)) => {
                    let now = limiter.clock.now();
                    // The limit may have made progress during the sleep.
                    if wait_until(now) <= now {
                        return Err(Rejected { silence: limit.latency().silence(now) });
                    }
                }
            }
        };
        self.permit = permit;
        Ok(())
    }

    /// Gets a permit if one is free now.
    fn try_acquire(&mut self) -> Result<(), Rejected> {
        self.permit = Arc::clone(&self.limit.free).try_acquire_owned().ok();
        if self.permit.is_some() {
            return Ok(());
        }
        Err(Rejected { silence: self.limit.latency().silence(self.limiter.clock.now()) })
    }
}

impl Drop for LimitPermit<'_> {
    fn drop(&mut self) {
        drop(self.permit.take());
        let mut limits = self.limiter.limits();
        // Two references are the map's and this one: no other attempt holds or awaits a permit.
        // New ones go through the map, which is locked.
        if Arc::strong_count(&self.limit) <= 2 {
            limits.remove(&self.limit.scope);
        }
    }
}

/// A request in flight, counted by these limits until it is dropped.
struct InFlight<'a> {
    limiter: &'a HostLimiter,
    limits: Vec<Arc<ConcurrencyLimit>>,
    since: Timestamp,
}

impl<'a> InFlight<'a> {
    fn start<'p>(
        limiter: &'a HostLimiter,
        permits: impl Iterator<Item = &'p LimitPermit<'p>>,
    ) -> Self {
        let since = limiter.clock.now();
        let limits: Vec<_> = permits.map(|permit| Arc::clone(&permit.limit)).collect();
        for limit in &limits {
            limit.start(since);
        }
        Self { limiter, limits, since }
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        let now = self.limiter.clock.now();
        let took = now.since(self.since);
        for limit in &self.limits {
            // The duration describes this destination only. A shared limit covers others.
            let duration = matches!(limit.scope, Scope::Destination(_)).then_some(took);
            limit.end(now, duration);
        }
    }
}

impl HostPermit<'_> {
    /// Runs the request, whose payload has `payload_bytes`. If the request hangs, this drops its
    /// slot and its unproven permits, provided that the hanging limit has room.
    pub(crate) async fn run(
        &mut self,
        slot: &mut Option<SemaphorePermit<'_>>,
        payload_bytes: usize,
        request: impl Future<Output = Answer>,
    ) -> Answer {
        let limiter = self.limiter;
        let _in_flight = InFlight::start(limiter, std::iter::once(&self.destination));
        let mut unproven_in_flight = Some(InFlight::start(limiter, self.unproven.iter()));
        let mut hanging_permit = None;
        tokio::pin!(request);
        let mut hangs = false;
        let answer = loop {
            tokio::select! {
                biased;
                answer = &mut request => break answer,
                () = limiter.clock.sleep(HANG_AFTER), if hanging_permit.is_none() => {
                    if !hangs {
                        hangs = true;
                        self.remember(Responsiveness::Silent);
                    }
                    hanging_permit = self.hanging_permit(payload_bytes);
                    if hanging_permit.is_some() {
                        drop(unproven_in_flight.take());
                        self.unproven.clear();
                        self.release_slot();
                        drop(slot.take());
                    }
                }
            }
        };
        // Any status counts, at any time. Other results count if they are fast and no fault of this
        // machine.
        let is_fast = !hangs && !answer.is_our_fault && answer.error != Some(ErrorKind::Timeout);
        if answer.status_code.is_some() || is_fast {
            self.remember(Responsiveness::Answered(limiter.clock.now()));
        }
        answer
    }

    fn remember(&self, responsiveness: Responsiveness) {
        if let Scope::Destination(destination) = &self.destination.limit.scope {
            self.limiter.responsiveness().insert(destination, responsiveness);
        }
    }

    /// Gets a permit to hang. A quarter of them is reserved for proven destinations.
    fn hanging_permit(&self, bytes: usize) -> Option<(OwnedSemaphorePermit, OwnedSemaphorePermit)> {
        let limiter = self.limiter;
        let reserved = if self.unproven.is_empty() { 0 } else { limiter.capacities.hanging / 4 };
        if limiter.hanging.available_permits() <= reserved {
            return None;
        }
        let kib = u32::try_from(bytes / 1024 + 1).ok()?;
        let permit = Arc::clone(&limiter.hanging).try_acquire_owned().ok()?;
        Some((permit, Arc::clone(&limiter.hanging_kib).try_acquire_many_owned(kib).ok()?))
    }

    fn release_slot(&mut self) {
        if std::mem::take(&mut self.holds_slot) {
            self.limiter.taken_slots.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for HostPermit<'_> {
    fn drop(&mut self) {
        self.release_slot();
    }
}

#[cfg(test)]
mod tests;
