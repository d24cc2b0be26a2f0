//! The checks of the circuits: when a circuit opens, how long it stays open, and that only one
//! probe at a time makes an attempt meanwhile.

use std::time::Duration;

use shared::{
    circuit::{Circuit, MAX_OPEN, State},
    clock::Timestamp,
};

use crate::{state::tracking::Circuits, world::Process};

/// The maximum time until a worker knows that a circuit has opened. It reads the circuits every 2
/// s, and makes some calls before a claim.
const MAX_UNAWARE: Duration = Duration::from_millis(2500);

type Violation = Option<String>;

fn require(violation: &mut Violation, holds: bool, else_what: impl FnOnce() -> String) {
    if !holds {
        violation.get_or_insert_with(else_what);
    }
}

impl Circuits {
    /// Called before a write takes effect.
    pub(super) fn written(
        &mut self,
        violation: &mut Violation,
        process: &Process,
        before: Option<&Circuit>,
        after: &Circuit,
        now: Timestamp,
    ) {
        let destination = &after.destination;
        let closed = Circuit::closed(destination);
        let before = before.unwrap_or(&closed);
        let name = || format!("{process}, circuit of {destination}");
        require(violation, after.revision > before.revision, || {
            format!("{}: the revision did not increase", name())
        });
        if after.is_idle() {
            self.opened_at.remove(destination);
            self.probes.remove(destination);
            return;
        }
        let local = process.local_now();
        let failed = after.failures == before.failures + 1;
        require(violation, failed || after.failures == before.failures, || {
            format!("{}: the count of failures did not increase by one", name())
        });
        let opens = after.open_until != before.open_until;
        if failed {
            let due = after.failures >= self.settings.failures
                && before.state(after.touched_at) != State::Open;
            require(violation, opens == due, || {
                format!("{}: {} failures, and opens: {opens}", name(), after.failures)
            });
        }
        if opens {
            let doubled = self
                .settings
                .open
                .saturating_mul(2_u32.saturating_pow(before.openings.min(16)))
                .min(MAX_OPEN);
            let open = after.open_until.map(|until| until.since(after.touched_at));
            require(violation, failed && open == Some(doubled), || {
                format!("{}: opens for {open:?}, not {doubled:?}", name())
            });
            self.opened_at.insert(destination.clone(), now);
            self.probes.remove(destination);
        }
        let leased = after.probe_until.is_some() && after.probe_until != before.probe_until;
        if leased {
            let is_free = before.probe_until.is_none_or(|until| until <= local);
            let half_open = before.state(local) == State::HalfOpen;
            require(violation, is_free && half_open, || {
                format!("{}: a second probe, or an early one: {before:?}", name())
            });
            self.probes.insert(destination.clone(), (process.number, 0));
        }
    }

    /// Called when a worker has claimed a webhook of this destination for an attempt.
    pub(super) fn claimed(
        &mut self,
        violation: &mut Violation,
        process: &Process,
        destination: &str,
        circuit: Option<&Circuit>,
        now: Timestamp,
        overdue: impl FnOnce(Timestamp) -> bool,
    ) {
        let Some(circuit) = circuit.filter(|_| self.is_known) else { return };
        // A webhook that was deferred for the maximum time and had no attempt ignores the circuit.
        let until = circuit.probe_until.max(circuit.open_until).unwrap_or(now);
        let unaware = overdue(until)
            || self.opened_at.get(destination).is_none_or(|at| now.since(*at) <= MAX_UNAWARE);
        let name = || format!("{process}, circuit of {destination}");
        match circuit.state(process.local_now()) {
            State::Closed => {}
            State::Open => {
                require(violation, unaware, || format!("{}: an attempt while open", name()));
            }
            State::HalfOpen => {
                let probe =
                    self.probes.get_mut(destination).filter(|probe| probe.0 == process.number);
                let claims = probe.map(|probe| {
                    probe.1 += 1;
                    probe.1
                });
                require(violation, claims == Some(1) || unaware, || {
                    format!(
                        "{}: an attempt while half-open, without the probe's lease or in addition \
                         to the probe",
                        name()
                    )
                });
            }
        }
    }
}
