//! The checks of the circuits: when one opens and for how long, and that while it is open nobody
//! makes an attempt but one probe at a time.

use std::time::Duration;

use shared::{
    circuit::{Circuit, MAX_OPEN, State},
    clock::Timestamp,
};

use crate::{state::books::Circuits, world::Process};

/// How long a worker may not know that a circuit has opened: it reads them every 2 s, and some
/// calls lie between that and a claim.
const UNAWARE: Duration = Duration::from_millis(2500);

type Violation = Option<String>;

fn must(violation: &mut Violation, holds: bool, else_what: impl FnOnce() -> String) {
    if !holds {
        violation.get_or_insert_with(else_what);
    }
}

impl Circuits {
    /// A write is about to take effect.
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
        must(violation, after.revision > before.revision, || {
            format!("{}: the revision did not grow", name())
        });
        if after.is_idle() {
            self.opened_at.remove(destination);
            self.probes.remove(destination);
            return;
        }
        let local = process.local_now();
        let failed = after.failures == before.failures + 1;
        must(violation, failed || after.failures == before.failures, || {
            format!("{}: failures are not counted one by one", name())
        });
        let opens = after.open_until != before.open_until;
        if failed {
            let due = after.failures >= self.settings.failures
                && before.state(after.touched_at) != State::Open;
            must(violation, opens == due, || {
                format!("{}: {} failures, and it opens: {opens}", name(), after.failures)
            });
        }
        if opens {
            let doubled = self
                .settings
                .open
                .saturating_mul(2_u32.saturating_pow(before.openings.min(16)))
                .min(MAX_OPEN);
            let open = after.open_until.map(|until| until.since(after.touched_at));
            must(violation, failed && open == Some(doubled), || {
                format!("{}: opens for {open:?}, not {doubled:?}", name())
            });
            self.opened_at.insert(destination.clone(), now);
            self.probes.remove(destination);
        }
        let leased = after.probe_until.is_some() && after.probe_until != before.probe_until;
        if leased {
            let free = before.probe_until.is_none_or(|until| until <= local);
            let half_open = before.state(local) == State::HalfOpen;
            must(violation, free && half_open, || {
                format!("{}: a second probe, or one before its time: {before:?}", name())
            });
            self.probes.insert(destination.clone(), (process.number, 0));
        }
    }

    /// A worker has claimed a webhook of this destination, and makes an attempt.
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
        // Whoever has waited for as long as it may, and has had no attempt, makes one whatever the
        // circuit says.
        let until = circuit.probe_until.max(circuit.open_until).unwrap_or(now);
        let unaware = overdue(until)
            || self.opened_at.get(destination).is_none_or(|at| now.since(*at) <= UNAWARE);
        let name = || format!("{process}, circuit of {destination}");
        match circuit.state(process.local_now()) {
            State::Closed => {}
            State::Open => {
                must(violation, unaware, || format!("{}: an attempt while it is open", name()));
            }
            State::HalfOpen => {
                let probe =
                    self.probes.get_mut(destination).filter(|probe| probe.0 == process.number);
                let claims = probe.map(|probe| {
                    probe.1 += 1;
                    probe.1
                });
                must(violation, claims == Some(1) || unaware, || {
                    format!(
                        "{}: an attempt while it is half-open, without the probe's lease or beside \
                         the probe",
                        name()
                    )
                });
            }
        }
    }
}
