//! The circuits of all destinations, as this process knows them.
//!
//! A destination that works costs no read and no write. Only circuits of failing destinations are
//! stored. A worker reads all of them together, at most once per [`REFRESH_INTERVAL`], so it learns
//! of an opened circuit with that delay.
//!
//! When a circuit is half-open, one webhook may probe the destination. [`CircuitBreaker::admit`]
//! leases the probe with a conditional write, and [`CircuitBreaker::release`] returns the lease if
//! no attempt was made.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use shared::{
    circuit::{Admission, Circuit, MAX_AGE, is_failure},
    clock::Timestamp,
    context::Context,
    planted::{self, Bug},
    sender::Answer,
    store::{MAX_DESTINATIONS, WriteCircuitError},
};

/// How long the circuits that were read stay valid.
const REFRESH_INTERVAL: Duration = Duration::from_secs(2);

/// Attempts to write a circuit that other workers write, too.
const MAX_WRITE_ATTEMPTS: u32 = 4;

/// A circuit's permission to make an attempt.
#[derive(Debug)]
pub(crate) enum CircuitPermit {
    /// No failure of the destination is known.
    Unwatched,
    /// The destination failed lately, and this is its circuit.
    Watched(Circuit),
    /// The attempt is the half-open probe, and this circuit holds its lease.
    Probe(Circuit),
}

/// The circuit is open: no attempt before `until`.
#[derive(Debug)]
pub(crate) struct CircuitOpen {
    pub(crate) until: Timestamp,
}

/// The circuits that this process knows.
#[derive(Debug, Default)]
pub(crate) struct CircuitBreaker {
    // A std mutex: it is held for a look-up, never across an await.
    known: Mutex<Known>,
    /// Held during the read, so that concurrent attempts share one read and its result.
    reading: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Known {
    read_at: Option<Timestamp>,
    circuits: HashMap<String, Circuit>,
}

impl CircuitBreaker {
    /// Decides on an attempt before it is claimed. A failing store never stops a delivery: the
    /// breaker only protects the destination.
    pub(crate) async fn admit(
        &self,
        context: &Context,
        destination: &str,
    ) -> Result<CircuitPermit, CircuitOpen> {
        if context.config.circuit.failures == 0 {
            return Ok(CircuitPermit::Unwatched);
        }
        self.refresh(context).await;
        let now = context.clock.now();
        let Some(circuit) = self.known().circuits.get(destination).cloned() else {
            return Ok(CircuitPermit::Unwatched);
        };
        match circuit.admit(now) {
            Admission::Go => Ok(CircuitPermit::Watched(circuit)),
            Admission::Wait(until) => Err(CircuitOpen { until }),
            Admission::Probe => self.lease_half_open_probe(context, circuit, now).await,
        }
    }

    /// Permits an attempt although the circuit is open. Its answer counts like a probe's: success
    /// closes the circuit.
    pub(crate) fn bypass(&self, destination: &str) -> CircuitPermit {
        let circuit = self.known().circuits.get(destination).cloned();
        circuit.map_or(CircuitPermit::Unwatched, CircuitPermit::Watched)
    }

    /// Leases the probe of a half-open circuit, so that a single webhook tests whether the
    /// destination has recovered.
    async fn lease_half_open_probe(
        &self,
        context: &Context,
        circuit: Circuit,
        now: Timestamp,
    ) -> Result<CircuitPermit, CircuitOpen> {
        if planted::is(Bug::ProbeWithoutLease) {
            return Ok(CircuitPermit::Watched(circuit));
        }
        let leased = circuit.probe(&context.config.circuit, now);
        match context.store.write_circuit(Some(circuit.revision), &leased).await {
            Ok(()) => {
                self.known().circuits.insert(leased.destination.clone(), leased.clone());
                Ok(CircuitPermit::Probe(leased))
            }
            Err(WriteCircuitError::Changed) => {
                self.admit_after_conflict(context, &circuit.destination, now).await
            }
            Err(WriteCircuitError::Store(_)) => Ok(CircuitPermit::Unwatched),
        }
    }

    /// Another worker wrote the half-open circuit first.
    async fn admit_after_conflict(
        &self,
        context: &Context,
        destination: &str,
        now: Timestamp,
    ) -> Result<CircuitPermit, CircuitOpen> {
        match context.store.circuit(destination).await {
            Ok(Some(newer)) => {
                let admission = newer.admit(now);
                self.known().circuits.insert(newer.destination.clone(), newer.clone());
                match admission {
                    Admission::Wait(until) => Err(CircuitOpen { until }),
                    // Half-open again. The next look decides.
                    Admission::Probe => Err(CircuitOpen { until: now.plus(REFRESH_INTERVAL) }),
                    Admission::Go => Ok(CircuitPermit::Watched(newer)),
                }
            }
            Ok(None) => {
                self.known().circuits.remove(destination);
                Ok(CircuitPermit::Unwatched)
            }
            Err(_) => Ok(CircuitPermit::Unwatched),
        }
    }

    /// Records an answer. It writes only if the destination failed now or before.
    pub(crate) async fn record(
        &self,
        context: &Context,
        destination: &str,
        answer: &Answer,
        permit: &CircuitPermit,
    ) {
        let settings = &context.config.circuit;
        let is_failed = is_failure(answer.error, answer.status_code);
        let mut stored = match permit {
            CircuitPermit::Watched(circuit) | CircuitPermit::Probe(circuit) => {
                Some(circuit.clone())
            }
            CircuitPermit::Unwatched => None,
        };
        if settings.failures == 0 || (!is_failed && stored.is_none()) {
            return;
        }
        for _ in 0..MAX_WRITE_ATTEMPTS {
            let current = stored.clone().unwrap_or_else(|| Circuit::closed(destination));
            let next = if is_failed {
                current.failed(settings, context.clock.now())
            } else {
                current.succeeded()
            };
            let revision = stored.as_ref().map(|circuit| circuit.revision);
            match context.store.write_circuit(revision, &next).await {
                Ok(()) => return self.remember(context, &current, next),
                Err(WriteCircuitError::Changed) => match context.store.circuit(destination).await {
                    // Another worker has recorded a success.
                    Ok(None) if !is_failed => return,
                    Ok(newer) => stored = newer,
                    Err(_) => return,
                },
                // The attempt's outcome is recorded separately, and the next answer is recorded
                // here again.
                Err(WriteCircuitError::Store(_)) => return,
            }
        }
    }

    /// Returns the probe's lease if no attempt was made. The next webhook may probe.
    pub(crate) async fn release(&self, context: &Context, permit: &CircuitPermit) {
        let CircuitPermit::Probe(leased) = permit else { return };
        let released = leased.unprobe(context.clock.now());
        // If the write is refused, another worker has written the circuit. If it fails, the lease
        // expires.
        if context.store.write_circuit(Some(leased.revision), &released).await.is_ok() {
            self.known().circuits.insert(released.destination.clone(), released);
        }
    }

    fn remember(&self, context: &Context, before: &Circuit, after: Circuit) {
        let now = context.clock.now();
        let (old_state, new_state) = (before.state(now), after.state(now));
        if old_state != new_state {
            tracing::warn!(
                destination = after.destination,
                failures = after.failures,
                "The circuit of {} changed from {old_state:?} to {new_state:?}",
                after.destination
            );
        }
        let mut known = self.known();
        if after.is_idle() {
            known.circuits.remove(&after.destination);
        } else {
            known.circuits.insert(after.destination.clone(), after);
        }
    }

    async fn refresh(&self, context: &Context) {
        if self.is_fresh(context.clock.now()) {
            return;
        }
        let _reading = self.reading.lock().await;
        let now = context.clock.now();
        if self.is_fresh(now) {
            return;
        }
        match context.store.circuits().await {
            Ok(circuits) => {
                let mut known = self.known();
                // A full list may be incomplete, so the circuits that this process knows stay.
                if circuits.len() < MAX_DESTINATIONS {
                    known.circuits.clear();
                }
                known.circuits.retain(|_, circuit| now.since(circuit.touched_at) < MAX_AGE);
                known.circuits.extend(
                    circuits.into_iter().map(|circuit| (circuit.destination.clone(), circuit)),
                );
            }
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "Could not read the circuits");
            }
        }
        // Also after a failed read: the next attempts do not wait for another one.
        self.known().read_at = Some(now);
    }

    /// Whether the circuits were read within the interval. A clock that was set back does not make
    /// them fresh.
    fn is_fresh(&self, now: Timestamp) -> bool {
        if planted::is(Bug::CircuitsUnread) {
            return true;
        }
        self.known().read_at.is_some_and(|at| now.since(at) < REFRESH_INTERVAL && at <= now)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
