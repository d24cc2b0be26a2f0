//! The circuit breaker of a target, as pure functions over a small record.
//!
//! A circuit is *closed* while attempts succeed. After [`Settings::failures`] failures in a row it
//! *opens*: webhooks are deferred without an attempt. When that time is over, it is *half-open*:
//! one worker leases the probe and makes an attempt. Success closes the circuit. Failure opens it
//! for twice as long, up to [`MAX_OPEN`].
//!
//! [`crate::traffic::target`] defines which failures count for which circuit.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    clock::Timestamp,
    planted::{self, Bug},
};

/// The longest time that a circuit stays open before the next probe: 10 minutes.
pub const MAX_OPEN: Duration = Duration::from_secs(600);

/// Failures that are older than this do not count as failures in a row: 10 minutes.
pub const MAX_FAILURE_GAP: Duration = MAX_OPEN;

/// When a circuit opens, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Failures in a row that open the circuit. 0 switches the breaker off.
    pub failures: u32,
    /// How long the circuit stays open the first time.
    pub open: Duration,
    /// How long a probe keeps other probes away.
    pub probe_lease: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self { failures: 5, open: Duration::from_secs(30), probe_lease: Duration::from_secs(45) }
    }
}

/// The circuit of a target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Circuit {
    /// Failures in a row.
    #[serde(rename = "f", skip_serializing_if = "crate::model::is_default")]
    pub failures: u32,
    /// Times in a row that it opened.
    #[serde(rename = "o", skip_serializing_if = "crate::model::is_default")]
    pub openings: u32,
    /// Until then no attempt is made. `None` while closed.
    #[serde(rename = "u", skip_serializing_if = "Option::is_none")]
    pub open_until: Option<Timestamp>,
    /// Until then a worker holds the probe.
    #[serde(rename = "p", skip_serializing_if = "Option::is_none")]
    pub probe_until: Option<Timestamp>,
    /// The circuit of an origin that opened because it answers 5xx on many paths. It defers only
    /// webhooks whose latest attempt got a 5xx, until failures in a row open it for all.
    #[serde(rename = "r", skip_serializing_if = "crate::model::is_default")]
    pub retries_only: bool,
}

/// The three states, with the numbers of the metric `circuit_breaker_status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Workers make attempts.
    Closed = 0,
    /// One probe decides.
    HalfOpen = 1,
    /// Workers make no attempts.
    Open = 2,
}

/// Whether an attempt may be made now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Closed.
    Go,
    /// Half-open, and no worker probes. Take the lease ([`Circuit::probed`]) first.
    Probe,
    /// Open, or another worker probes. No attempt before this time.
    Wait(Timestamp),
}

impl Circuit {
    /// Whether there is nothing to remember.
    pub const fn is_idle(&self) -> bool {
        self.failures == 0 && self.open_until.is_none()
    }

    /// Closed, open or half-open.
    pub fn state(&self, now: Timestamp) -> State {
        match self.open_until {
            None => State::Closed,
            Some(until) if until > now => State::Open,
            Some(_) => State::HalfOpen,
        }
    }

    /// Whether a worker may make an attempt.
    pub fn admit(&self, now: Timestamp) -> Admission {
        match (self.state(now), self.open_until, self.probe_until) {
            (State::Open, Some(until), _) => Admission::Wait(until),
            (State::HalfOpen, _, Some(until)) if until > now => Admission::Wait(until),
            (State::HalfOpen, ..) => Admission::Probe,
            _ => Admission::Go,
        }
    }

    /// The circuit after a worker leased the probe.
    #[must_use]
    pub fn probed(&self, settings: &Settings, now: Timestamp) -> Self {
        Self { probe_until: Some(now.plus(settings.probe_lease)), ..*self }
    }

    /// The circuit after the worker returned the probe, because it made no attempt.
    #[must_use]
    pub fn released(&self) -> Self {
        Self { probe_until: None, ..*self }
    }

    /// The circuit after `count` more failures. The latest one before them was at `touched_at`.
    #[must_use]
    pub fn failed(
        &self,
        count: u32,
        settings: &Settings,
        touched_at: Timestamp,
        now: Timestamp,
    ) -> Self {
        // A circuit that is open for retries counts on: more failures open it for all.
        let counts_on = self.open_until.is_none() || self.retries_only;
        let is_stale = counts_on && now.since(touched_at) > MAX_FAILURE_GAP;
        let before = if is_stale { 0 } else { self.failures };
        let next = Self { failures: before.saturating_add(count), ..*self };
        let mut most = settings.failures;
        if planted::is(Bug::CircuitOpensLate) {
            most += 1;
        }
        // An attempt that started before the circuit opened proves nothing new.
        let decides = self.state(now) != State::Open || self.retries_only;
        if decides && settings.failures > 0 && next.failures >= most {
            return Self { retries_only: false, ..next.opened(settings, now) };
        }
        if self.retries_only && self.state(now) == State::HalfOpen {
            return next.opened(settings, now);
        }
        next
    }

    /// The circuit after it opened.
    #[must_use]
    pub fn opened(&self, settings: &Settings, now: Timestamp) -> Self {
        let factor = 2_u32.saturating_pow(self.openings.min(16));
        let open = settings.open.saturating_mul(factor).min(MAX_OPEN);
        Self {
            openings: self.openings.saturating_add(1),
            open_until: Some(now.plus(open)),
            probe_until: None,
            ..*self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: Settings = Settings {
        failures: 3,
        open: Duration::from_secs(30),
        probe_lease: Duration::from_secs(45),
    };

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1000)
    }

    fn fail(circuit: &Circuit, at_s: i64) -> Circuit {
        circuit.failed(1, &SETTINGS, at(at_s), at(at_s))
    }

    fn after_failures(count: u32) -> Circuit {
        (0..count).fold(Circuit::default(), |circuit, _| fail(&circuit, 0))
    }

    #[test]
    fn opens_after_failures_in_a_row_and_not_before() {
        assert_eq!(after_failures(2).admit(at(0)), Admission::Go);
        assert_eq!(after_failures(3).admit(at(0)), Admission::Wait(at(30)));
        assert_eq!(after_failures(9).open_until, Some(at(30)), "late answers do not keep it open");
        let together = Circuit::default().failed(3, &SETTINGS, at(0), at(0));
        assert_eq!(together, after_failures(3));
    }

    #[test]
    fn old_failures_do_not_count() {
        let two = after_failures(2);
        assert_eq!(
            two.failed(1, &SETTINGS, at(0), at(600)).admit(at(600)),
            Admission::Wait(at(630))
        );
        let late = two.failed(1, &SETTINGS, at(0), at(601));
        assert_eq!((late.failures, late.admit(at(601))), (1, Admission::Go));
        let reopened = after_failures(3).failed(1, &SETTINGS, at(0), at(9000));
        assert_eq!(reopened.openings, 2, "an open circuit stays open until a probe succeeds");
    }

    #[test]
    fn one_probe_at_a_time_once_its_time_is_over() {
        let open = after_failures(3);
        assert_eq!((open.state(at(29)), open.state(at(30))), (State::Open, State::HalfOpen));
        assert_eq!(open.admit(at(30)), Admission::Probe);
        let probed = open.probed(&SETTINGS, at(30));
        assert_eq!(probed.admit(at(74)), Admission::Wait(at(75)));
        assert_eq!(probed.admit(at(75)), Admission::Probe, "the worker that probed died");
        assert_eq!(probed.released().admit(at(31)), Admission::Probe, "it made no attempt");
    }

    #[test]
    fn a_failed_probe_doubles_the_time_up_to_ten_minutes() {
        let mut circuit = after_failures(3);
        let mut waits = Vec::new();
        for _ in 0..7 {
            let now = circuit.open_until.unwrap();
            circuit = circuit.probed(&SETTINGS, now).failed(1, &SETTINGS, now, now);
            waits.push(circuit.open_until.unwrap().since(now).as_secs());
        }
        assert_eq!(waits, [60, 120, 240, 480, 600, 600, 600]);
    }

    #[test]
    fn a_circuit_that_is_open_for_retries_opens_for_all_after_failures_in_a_row() {
        let for_retries =
            Circuit { retries_only: true, ..Circuit::default().opened(&SETTINGS, at(0)) };
        let one = fail(&for_retries, 1);
        assert_eq!((one.failures, one.retries_only, one.open_until), (1, true, Some(at(30))));
        let three = fail(&fail(&one, 2), 3);
        assert_eq!(
            (three.retries_only, three.openings, three.open_until),
            (false, 2, Some(at(63)))
        );
        let probed = for_retries.probed(&SETTINGS, at(30));
        let failed = fail(&probed, 31);
        assert_eq!((failed.retries_only, failed.open_until), (true, Some(at(91))), "its probe");
        assert_eq!(failed.probe_until, None);
    }

    #[test]
    fn idle_is_without_failures_and_closed() {
        assert!(Circuit::default().is_idle());
        assert!(!after_failures(1).is_idle() && !after_failures(3).is_idle());
        assert!(!Circuit { open_until: Some(at(1)), ..Circuit::default() }.is_idle());
    }

    #[test]
    fn switched_off_it_never_opens() {
        let off = Settings { failures: 0, ..SETTINGS };
        let circuit = Circuit::default().failed(99, &off, at(0), at(0));
        assert_eq!(circuit.admit(at(0)), Admission::Go);
    }
}
