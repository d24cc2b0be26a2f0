//! Admission: decides whether an attempt may start now. It checks, in this order, for a free slot,
//! the destination's concurrency limit and the destination's circuit.
//!
//! A webhook that has used up its deferrals for the host limit starts its attempt beyond the limit:
//! Posthaste's own limit never fails a webhook. One that has used up its deferrals for an open
//! circuit is given up, but only after it has had an attempt.

use std::time::Duration;

use shared::{
    clock::Timestamp,
    model::Webhook,
    planted::{self, Bug},
    transition::GiveUp,
};
use tokio::sync::SemaphorePermit;

use crate::{
    circuit_breaker::{CircuitOpen, CircuitPermit},
    deferral::Deferral,
    host_limiter::{HostPermit, Rejected},
    worker::Deliver,
};

/// The decision on one attempt.
pub(crate) enum AdmissionDecision<'a> {
    /// Make the attempt.
    Go(AttemptPermit<'a>),
    /// Make no attempt now. Hold the reservation until the deferral is written: an attempt that is
    /// being deferred counts against the limits too.
    Defer(Deferral, Reservation<'a>),
    /// Make no further attempt: the webhook's deferrals are used up.
    GiveUp(GiveUp),
    /// Hand the message back: this invocation has no time left for an attempt.
    HandBack,
}

/// A place within the limits of this process. Dropping it returns the slot and the host permit.
pub(crate) struct Reservation<'a> {
    /// The host limiter returns it before the attempt ends if the request hangs.
    pub(crate) slot: Option<SemaphorePermit<'a>>,
    /// `None`: no permit was free in time.
    pub(crate) host: Option<HostPermit<'a>>,
}

/// The right to make one attempt. Dropping it returns the reservation. The probe lease of the
/// circuit permit must be released explicitly.
pub(crate) struct AttemptPermit<'a> {
    pub(crate) reservation: Reservation<'a>,
    pub(crate) circuit: CircuitPermit,
}

impl Deliver {
    /// Decides on an attempt for `webhook` in an invocation that ends at `until`.
    pub(crate) async fn admission<'a>(
        &'a self,
        webhook: &Webhook,
        until: Timestamp,
    ) -> AdmissionDecision<'a> {
        let slot = self.free_slot(until).await;
        if slot.is_none() {
            return AdmissionDecision::HandBack;
        }
        let host = match self.hosts.acquire(&webhook.destination).await {
            Ok(permit) if self.is_in_time(until) => Some(permit),
            late_or_rejected => {
                let rejected = late_or_rejected.err();
                let silence = rejected.map_or(Duration::ZERO, |Rejected { silence }| silence);
                let deferral = self.defer_for_host_limit(webhook, silence);
                if self.has_deferrals_left(webhook, deferral) {
                    return AdmissionDecision::Defer(deferral, Reservation { slot, host: None });
                }
                None
            }
        };
        let reservation = Reservation { slot, host };
        if !self.is_in_time(until) {
            return AdmissionDecision::HandBack;
        }
        let circuit = match self.breaker.admit(&self.context, &webhook.destination).await {
            Ok(permit) => permit,
            Err(CircuitOpen { until: open_until }) => {
                let deferral = self.defer_for_open_circuit(webhook, open_until);
                if self.has_deferrals_left(webhook, deferral) {
                    return AdmissionDecision::Defer(deferral, reservation);
                }
                if planted::is(Bug::FailedUntried) {
                    return AdmissionDecision::GiveUp(GiveUp::CircuitOpen);
                }
                if webhook.was_attempted() {
                    return AdmissionDecision::GiveUp(GiveUp::CircuitOpen);
                }
                if !self.is_in_time(until) {
                    return AdmissionDecision::HandBack;
                }
                // The failures of other webhooks must not fail one that was never attempted.
                self.breaker.bypass(&webhook.destination)
            }
        };
        AdmissionDecision::Go(AttemptPermit { reservation, circuit })
    }

    /// Waits for a slot while a claim still has a full lease before `until`.
    async fn free_slot(&self, until: Timestamp) -> Option<SemaphorePermit<'_>> {
        let latest_claim = self.latest_claim(until);
        let wait = latest_claim.since(self.context.clock.now());
        tokio::select! {
            biased;
            permit = self.slots.acquire() => permit.ok().filter(|_| self.is_in_time(until)),
            () = self.context.clock.sleep(wait) => None,
        }
    }

    /// The latest time for a claim whose lease ends before `until`.
    fn latest_claim(&self, until: Timestamp) -> Timestamp {
        until.minus(self.context.rules.limits.lease)
    }

    /// Whether the lease of a claim that is made now ends before `until`.
    fn is_in_time(&self, until: Timestamp) -> bool {
        self.context.clock.now() <= self.latest_claim(until)
    }

    /// Whether the budget of `webhook` covers this deferral. Writing the deferral checks everything
    /// else, against the stored record.
    fn has_deferrals_left(&self, webhook: &Webhook, deferral: Deferral) -> bool {
        let now = self.context.clock.now();
        self.context.rules.has_deferrals_left(webhook.budget, deferral.until, deferral.why(), now)
    }
}
