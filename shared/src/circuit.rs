//! The circuit breaker of one destination (scheme, host, port), as pure functions over a small
//! record that all workers share.
//!
//! - *Closed* while deliveries succeed. The store then has no record.
//! - *Open* after [`Settings::failures`] failures in a row. Webhooks are deferred without an
//!   attempt.
//! - *Half-open* once the open time is over. One worker takes a lease and probes. Success closes
//!   the circuit. Failure opens it for twice as long, up to [`MAX_OPEN`].

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    clock::Timestamp,
    model::ErrorKind,
    planted::{self, Bug},
};

/// The longest time that a circuit stays open before the next probe: 10 minutes.
pub const MAX_OPEN: Duration = Duration::from_secs(600);

/// How long a circuit is kept after its last write: 24 h.
pub const MAX_AGE: Duration = Duration::from_secs(24 * 3600);

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

/// What workers know about a destination that fails. A destination without a record is closed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Circuit {
    /// Scheme, host and port.
    pub destination: String,
    /// The number of writes. Each write is conditional on it.
    pub revision: u64,
    /// Failures in a row.
    pub failures: u32,
    /// How often in a row the circuit opened.
    pub openings: u32,
    /// When the circuit becomes half-open. `None` while it is closed.
    pub open_until: Option<Timestamp>,
    /// When the lease of the current probe ends.
    pub probe_until: Option<Timestamp>,
    /// When the record was last written. After [`MAX_AGE`] without a write it is deleted.
    pub touched_at: Timestamp,
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
    /// Half-open, and no worker probes. Take the lease ([`Circuit::probe`]) first.
    Probe,
    /// Open, or another worker probes. No attempt before this time.
    Wait(Timestamp),
}

impl Circuit {
    /// The circuit of a destination without a stored record.
    pub fn closed(destination: &str) -> Self {
        Self { destination: destination.to_owned(), ..Self::default() }
    }

    /// Whether the circuit needs no record.
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

    /// Takes the probe's lease.
    #[must_use]
    pub fn probe(&self, settings: &Settings, now: Timestamp) -> Self {
        let probe_until = Some(now.plus(settings.probe_lease));
        Self {
            revision: self.revision.saturating_add(1),
            probe_until,
            touched_at: now,
            ..self.clone()
        }
    }

    /// Gives the probe's lease back, because its worker made no attempt. Another worker may probe.
    #[must_use]
    pub fn unprobe(&self, now: Timestamp) -> Self {
        Self {
            revision: self.revision.saturating_add(1),
            probe_until: None,
            touched_at: now,
            ..self.clone()
        }
    }

    /// Counts a failed attempt that speaks against the destination.
    #[must_use]
    pub fn failed(&self, settings: &Settings, now: Timestamp) -> Self {
        let failures = self.failures.saturating_add(1);
        let mut next = Self {
            revision: self.revision.saturating_add(1),
            failures,
            touched_at: now,
            ..self.clone()
        };
        // An attempt that started before the circuit opened says nothing new.
        let decides = self.state(now) != State::Open;
        let mut most = settings.failures;
        if planted::is(Bug::CircuitOpensLate) {
            most += 1;
        }
        if decides && settings.failures > 0 && next.failures >= most {
            let open = settings
                .open
                .saturating_mul(2_u32.saturating_pow(self.openings.min(16)))
                .min(MAX_OPEN);
            next.openings = next.openings.saturating_add(1);
            next.open_until = Some(now.plus(open));
            next.probe_until = None;
        }
        next
    }

    /// Closes the circuit, because the destination responded.
    #[must_use]
    pub fn succeeded(&self) -> Self {
        Self { revision: self.revision.saturating_add(1), ..Self::closed(&self.destination) }
    }
}

/// Whether this outcome speaks against the whole destination: a network or TLS error, a timeout, or
/// a 5xx. `None`: the webhook was delivered.
pub fn is_failure(error: Option<ErrorKind>, status_code: Option<u16>) -> bool {
    match error {
        Some(ErrorKind::Network | ErrorKind::Timeout | ErrorKind::Tls) => true,
        Some(ErrorKind::HttpStatus) => status_code.is_some_and(|code| code >= 500),
        _ => false,
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

    fn after_failures(count: u32) -> Circuit {
        (0..count).fold(Circuit::closed("https://example.com:443"), |circuit, _| {
            circuit.failed(&SETTINGS, at(0))
        })
    }

    #[test]
    fn opens_after_failures_in_a_row_and_not_before() {
        assert_eq!(after_failures(2).admit(at(0)), Admission::Go);
        assert_eq!(
            after_failures(2).succeeded().failed(&SETTINGS, at(0)).admit(at(0)),
            Admission::Go
        );
        assert_eq!(after_failures(3).admit(at(0)), Admission::Wait(at(30)));
        assert_eq!(after_failures(9).open_until, Some(at(30)), "late answers do not keep it open");
    }

    #[test]
    fn one_probe_at_a_time_once_its_time_is_over() {
        let open = after_failures(3);
        assert_eq!((open.state(at(29)), open.state(at(30))), (State::Open, State::HalfOpen));
        assert_eq!(open.admit(at(30)), Admission::Probe);
        let probed = open.probe(&SETTINGS, at(30));
        assert_eq!(probed.admit(at(74)), Admission::Wait(at(75)));
        assert_eq!(probed.admit(at(75)), Admission::Probe, "the worker that probed died");
        assert_eq!(probed.unprobe(at(31)).admit(at(31)), Admission::Probe, "it made no attempt");
    }

    #[test]
    fn a_failed_probe_doubles_the_time_up_to_ten_minutes_and_success_closes() {
        let mut circuit = after_failures(3);
        let mut waits = Vec::new();
        for _ in 0..7 {
            let now = circuit.open_until.unwrap();
            circuit = circuit.probe(&SETTINGS, now).failed(&SETTINGS, now);
            waits.push(circuit.open_until.unwrap().since(now).as_secs());
        }
        assert_eq!(waits, [60, 120, 240, 480, 600, 600, 600]);
        assert!(circuit.succeeded().is_idle());
    }

    /// Every change increases the revision and updates the time, because writes are conditional on
    /// the revision and expire. None forgets the destination.
    #[test]
    fn every_write_is_told_from_the_one_before() {
        let open = after_failures(3);
        assert_eq!((open.revision, open.touched_at), (3, at(0)));
        for next in
            [open.probe(&SETTINGS, at(7)), open.unprobe(at(7)), open.failed(&SETTINGS, at(7))]
        {
            assert_eq!(
                (next.revision, next.touched_at, &next.destination),
                (4, at(7), &open.destination)
            );
        }
        let closed = open.succeeded();
        assert_eq!((closed.revision, &*closed.destination), (4, "https://example.com:443"));
        assert_eq!(Circuit::closed("https://example.com:443"), Circuit { revision: 0, ..closed });
    }

    /// Only an idle circuit needs no record.
    #[test]
    fn idle_is_without_failures_and_closed() {
        assert!(Circuit::closed("x").is_idle());
        assert!(!after_failures(1).is_idle() && !after_failures(3).is_idle());
        assert!(!Circuit { open_until: Some(at(1)), ..Circuit::closed("x") }.is_idle());
    }

    #[test]
    fn it_is_remembered_for_a_day() {
        assert_eq!(MAX_AGE.as_secs(), 86_400);
    }

    #[test]
    fn switched_off_it_never_opens() {
        let off = Settings { failures: 0, ..SETTINGS };
        let circuit = (0..99).fold(Circuit::closed("x"), |circuit, _| circuit.failed(&off, at(0)));
        assert_eq!(circuit.admit(at(0)), Admission::Go);
    }

    #[test]
    fn only_what_speaks_against_the_destination_counts() {
        for (error, code) in [
            (ErrorKind::Network, None),
            (ErrorKind::Timeout, None),
            (ErrorKind::HttpStatus, Some(500)),
        ] {
            assert!(is_failure(Some(error), code), "{error:?}");
        }
        for (error, code) in [
            (ErrorKind::HttpStatus, Some(404)),
            (ErrorKind::HttpStatus, Some(429)),
            (ErrorKind::RefusedAddress, None),
        ] {
            assert!(!is_failure(Some(error), code), "{error:?}");
        }
        assert!(!is_failure(None, Some(200)));
    }
}
