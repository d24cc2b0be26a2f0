//! The checks of the circuits: when a circuit opens, how long it stays open, and that only one
//! probe at a time makes an attempt meanwhile.

use std::time::Duration;

use shared::{
    circuit::{MAX_FAILURE_GAP, MAX_OPEN, State},
    clock::Timestamp,
    traffic::target::Target,
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
        before: Option<&Target>,
        after_write: &Target,
        now: Timestamp,
    ) {
        let key = &after_write.key;
        let idle = Target::idle(key.clone());
        let before_write = before.unwrap_or(&idle);
        let name = || format!("{process}, circuit of {key}");
        require(violation, after_write.revision > before_write.revision, || {
            format!("{}: the revision did not increase", name())
        });
        let touched_at = after_write.touched_at;
        let (before, after) = (before_write.circuit, after_write.circuit);
        if after.is_idle() {
            self.opened_at.remove(key);
            self.probes.remove(key);
            return;
        }
        let local = process.local_now();
        // The first failure in a row that a process sees is written with its second. Old failures
        // do not count.
        let is_old = touched_at.since(before_write.touched_at) > MAX_FAILURE_GAP;
        let counted = if is_old && before.open_until.is_none() { 0 } else { before.failures };
        let failed = matches!(after.failures.saturating_sub(counted), 1 | 2)
            && after.failures != before.failures;
        let reopened = after.retries_only && after.openings > before.openings;
        require(violation, failed || reopened || after.failures == before.failures, || {
            format!("{}: {} failures after {}", name(), after.failures, before.failures)
        });
        let opens = after.open_until != before.open_until;
        if failed {
            let due =
                after.failures >= self.settings.failures && before.state(touched_at) != State::Open;
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
            let open = after.open_until.map(|until| until.since(touched_at));
            require(violation, (failed || reopened) && open == Some(doubled), || {
                format!("{}: opens for {open:?}, not {doubled:?}", name())
            });
            self.opened_at.insert(key.clone(), now);
            self.probes.remove(key);
        }
        let leased = after.probe_until.is_some() && after.probe_until != before.probe_until;
        if leased {
            let is_free = before.probe_until.is_none_or(|until| until <= local);
            let half_open = before.state(local) == State::HalfOpen;
            require(violation, is_free && half_open, || {
                format!("{}: a second probe, or an early one: {before:?}", name())
            });
            self.probes.insert(key.clone(), (process.number, 0));
        }
    }

    /// Called when a worker has claimed a webhook of this target for an attempt.
    pub(super) fn claimed(
        &mut self,
        violation: &mut Violation,
        process: &Process,
        target: Option<&Target>,
        now: Timestamp,
        overdue: impl FnOnce(Timestamp) -> bool,
    ) {
        let Some(target) = target.filter(|_| self.is_known) else { return };
        let (key, circuit) = (&target.key, &target.circuit);
        // A webhook that was deferred for the maximum time and had no attempt ignores the circuit.
        let until = circuit.probe_until.max(circuit.open_until).unwrap_or(now);
        let unaware = overdue(until)
            || self.opened_at.get(key).is_none_or(|at| now.since(*at) <= MAX_UNAWARE);
        let name = || format!("{process}, circuit of {key}");
        match circuit.state(process.local_now()) {
            State::Closed => {}
            State::Open => {
                require(violation, unaware, || format!("{}: an attempt while open", name()));
            }
            State::HalfOpen => {
                let probe = self.probes.get_mut(key).filter(|probe| probe.0 == process.number);
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
