//! The circuits of all destinations, as far as this process knows them.
//!
//! A destination that works costs nothing: no read and no write. The circuits that are stored,
//! which are those of destinations that fail, are read together at most once per [`REFRESH`]; so a
//! worker learns of an opened circuit that late.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
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

/// How long the circuits that were read count as known.
const REFRESH: Duration = Duration::from_secs(2);

/// Tries to write a circuit that others write too.
const MAX_ROUNDS: u32 = 4;

/// Whether an attempt may be made.
#[derive(Debug)]
pub(crate) enum Admitted {
    /// Yes; nothing is known against the destination.
    Yes,
    /// Yes, and what is known of the destination is this.
    Watched(Circuit),
    /// Yes, as the one probe; its lease is in this circuit.
    Probe(Circuit),
    /// Not before this time.
    No(Timestamp),
}

/// What this process knows of the circuits.
#[derive(Debug, Default)]
pub(crate) struct Breaker {
    // A std mutex: it is held for a look-up, never across an await.
    known: Mutex<Known>,
    /// Held while the circuits are read, so that of attempts that start together one reads, and the
    /// others know what it read.
    reading: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Known {
    read_at: Option<Timestamp>,
    circuits: HashMap<String, Circuit>,
}

impl Breaker {
    /// Asks before a claim. Trouble with the store never stops a delivery: the breaker is there to
    /// spare the destination.
    pub(crate) async fn admit(&self, context: &Context, destination: &str) -> Admitted {
        if context.config.circuit.failures == 0 {
            return Admitted::Yes;
        }
        self.refresh(context).await;
        let now = context.clock.now();
        let Some(circuit) = self.known().circuits.get(destination).cloned() else {
            return Admitted::Yes;
        };
        match circuit.admit(now) {
            Admission::Go => Admitted::Watched(circuit),
            Admission::Wait(until) => Admitted::No(until),
            Admission::Probe if planted::is(Bug::ProbeWithoutLease) => Admitted::Watched(circuit),
            Admission::Probe => self.probe(context, circuit, now).await,
        }
    }

    /// An attempt that is made although the circuit is open. Its answer counts as a probe's does:
    /// success closes the circuit.
    pub(crate) fn go_ahead(&self, destination: &str) -> Admitted {
        self.known().circuits.get(destination).cloned().map_or(Admitted::Yes, Admitted::Watched)
    }

    /// Takes the lease of the probe, so that a single webhook tries whether the destination is
    /// back.
    async fn probe(&self, context: &Context, circuit: Circuit, now: Timestamp) -> Admitted {
        let probed = circuit.probe(&context.config.circuit, now);
        match context.store.write_circuit(Some(circuit.revision), &probed).await {
            Ok(()) => {
                self.known().circuits.insert(probed.destination.clone(), probed.clone());
                Admitted::Probe(probed)
            }
            Err(WriteCircuitError::Changed) => {
                match context.store.circuit(&circuit.destination).await {
                    Ok(Some(newer)) => {
                        let admission = newer.admit(now);
                        self.known().circuits.insert(newer.destination.clone(), newer.clone());
                        match admission {
                            Admission::Wait(until) => Admitted::No(until),
                            // Half-open again already: the next look will tell.
                            Admission::Probe => Admitted::No(now.plus(REFRESH)),
                            Admission::Go => Admitted::Watched(newer),
                        }
                    }
                    Ok(None) => {
                        self.known().circuits.remove(&circuit.destination);
                        Admitted::Yes
                    }
                    Err(_) => Admitted::Yes,
                }
            }
            Err(_) => Admitted::Yes,
        }
    }

    /// Takes note of an answer. Writes only if the destination failed, or had failed before.
    pub(crate) async fn note(
        &self,
        context: &Context,
        destination: &str,
        answer: &Answer,
        admitted: &Admitted,
    ) {
        let settings = &context.config.circuit;
        let failed = is_failure(answer.error, answer.status_code);
        let mut stored = match admitted {
            Admitted::Watched(circuit) | Admitted::Probe(circuit) => Some(circuit.clone()),
            _ => None,
        };
        if settings.failures == 0 || (!failed && stored.is_none()) {
            return;
        }
        for _ in 0..MAX_ROUNDS {
            let current = stored.clone().unwrap_or_else(|| Circuit::closed(destination));
            let next = if failed {
                current.failed(settings, context.clock.now())
            } else {
                current.succeeded()
            };
            match context
                .store
                .write_circuit(stored.as_ref().map(|circuit| circuit.revision), &next)
                .await
            {
                Ok(()) => return self.remember(context, &current, next),
                Err(WriteCircuitError::Changed) => match context.store.circuit(destination).await {
                    // Somebody else has noted that it is well.
                    Ok(None) if !failed => return,
                    Ok(newer) => stored = newer,
                    Err(_) => return,
                },
                // The outcome itself is recorded all the same; the next answer is noted again.
                Err(WriteCircuitError::Store(_)) => return,
            }
        }
    }

    /// Gives the probe's lease back if no attempt came of it; the next webhook may probe.
    pub(crate) async fn release(&self, context: &Context, admitted: &Admitted) {
        let Admitted::Probe(probed) = admitted else { return };
        let released = probed.unprobe(context.clock.now());
        // Refused or failed: somebody else has written it since, or its lease runs out.
        if context.store.write_circuit(Some(probed.revision), &released).await.is_ok() {
            self.known().circuits.insert(released.destination.clone(), released);
        }
    }

    fn remember(&self, context: &Context, before: &Circuit, after: Circuit) {
        let now = context.clock.now();
        let (was, is) = (before.state(now), after.state(now));
        if was != is {
            tracing::warn!(
                destination = after.destination,
                failures = after.failures,
                "Circuit of {} went from {was:?} to {is:?}",
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
                // If there are more than are told, those that this process knows of itself stay.
                if circuits.len() < MAX_DESTINATIONS {
                    known.circuits.clear();
                }
                known.circuits.retain(|_, circuit| now.since(circuit.touched_at) < MAX_AGE);
                known.circuits.extend(
                    circuits.into_iter().map(|circuit| (circuit.destination.clone(), circuit)),
                );
            }
            Err(error) => tracing::warn!(
                error = &error as &dyn std::error::Error,
                "The circuits cannot be read now"
            ),
        }
        // Also if they cannot be read: the next attempts do not wait for that again.
        self.known().read_at = Some(now);
    }

    /// Whether the circuits were read lately. A clock that was set back does not make them fresh.
    fn is_fresh(&self, now: Timestamp) -> bool {
        planted::is(Bug::CircuitsUnread)
            || self.known().read_at.is_some_and(|at| now.since(at) < REFRESH && at <= now)
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
