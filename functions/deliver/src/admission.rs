//! Admission: decides whether an attempt may start now. It checks, in this order, the rates of the
//! targets, for a free slot of this process, the destination's concurrency limit, the rates again,
//! and the circuits of the targets. A webhook behind an open circuit takes no slot within a rate,
//! so that it leaves it to others.
//!
//! A webhook that has used up its deferrals for the host limit starts its attempt beyond the limit:
//! Posthaste's own limit never fails a webhook. One that has used up its deferrals for an open
//! circuit is given up, but only after it has had an attempt.

use std::time::Duration;

use shared::{
    clock::Timestamp,
    model::Webhook,
    planted::{self, Bug},
    transition::{GiveUp, SlotWait},
};
use tokio::sync::SemaphorePermit;

use crate::{
    circuit_breaker::{CircuitOpen, CircuitPermit},
    deferral::Deferral,
    endpoint::Work,
    host_limiter::{HostPermit, Rejected},
    rate_limiter::HeldSlots,
    turn::HeldTurn,
    worker::Deliver,
};

/// Why no attempt starts now.
pub(crate) enum NoAttempt<'a> {
    /// The webhook waits. Hold the reservation until the deferral is written: an attempt that is
    /// being deferred counts against the limits too.
    Defer(Deferral, Reservation<'a>),
    /// Its slot within a rate opens later.
    WaitForSlot(SlotWait),
    /// No further attempt: the webhook's deferrals are used up.
    GiveUp(GiveUp),
    /// This invocation has no time left for an attempt. Hand the message back.
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
    /// Whether only a webhook that was never attempted has this right.
    pub(crate) only_if_untried: bool,
}

/// What admission has found out about a webhook.
struct Pass {
    /// Its slots within the rates.
    held: HeldSlots,
    /// Whether it waited for as long as it may, so that only a webhook that was never attempted
    /// goes ahead.
    only_if_untried: bool,
}

impl Deliver {
    /// Decides on an attempt for `webhook` in an invocation that ends at `until`.
    pub(crate) async fn admission<'a>(
        &'a self,
        webhook: &Webhook,
        work: &Work<'_>,
        until: Timestamp,
    ) -> Result<Box<AttemptPermit<'a>>, NoAttempt<'a>> {
        let turn = work.turn;
        let held = HeldSlots::of(turn.slot.clone().or_else(|| webhook.slot.clone()));
        let mut pass = Pass { held, only_if_untried: false };
        // Before the limits of this process, so that a webhook that waits does not use them up.
        if !self.is_circuit_open(webhook).await {
            self.wait_for_turn(webhook, turn, &mut pass).await?;
        }
        let slot = Some(self.free_slot(until).await.ok_or(NoAttempt::HandBack)?);
        let host = match self.hosts.acquire_at(work.place(webhook)).await {
            Ok(permit) if self.is_in_time(until) => Some(permit),
            late_or_rejected => {
                let rejected = late_or_rejected.err();
                let silence = rejected.map_or(Duration::ZERO, |Rejected { silence }| silence);
                let deferral = self.defer_for_host_limit(webhook, silence);
                if self.has_deferrals_left(webhook, deferral) {
                    return Err(NoAttempt::Defer(deferral, Reservation { slot, host: None }));
                }
                None
            }
        };
        let reservation = Reservation { slot, host };
        // A rate may have changed while the webhook waited for the limits.
        let is_circuit_open = self.is_circuit_open(webhook).await;
        if !is_circuit_open {
            self.wait_for_turn(webhook, turn, &mut pass).await?;
        }
        if !self.is_in_time(until) {
            return Err(NoAttempt::HandBack);
        }
        let (circuit, reservation) = self.circuits(webhook, reservation, until, &mut pass).await?;
        // The circuit has closed meanwhile, or does not hold the webhook up any longer.
        if is_circuit_open {
            let mut turn = self.wait_for_turn(webhook, turn, &mut pass).await;
            if !self.is_in_time(until) {
                turn = Err(NoAttempt::HandBack);
            }
            if let Err(reason) = turn {
                self.breaker.release(&self.context, circuit).await;
                return Err(reason);
            }
        }
        let only_if_untried = pass.only_if_untried;
        Ok(Box::new(AttemptPermit { reservation, circuit, only_if_untried }))
    }

    /// The permission of the circuits, with the reservation.
    async fn circuits<'a>(
        &self,
        webhook: &Webhook,
        reservation: Reservation<'a>,
        until: Timestamp,
        pass: &mut Pass,
    ) -> Result<(CircuitPermit, Reservation<'a>), NoAttempt<'a>> {
        let open_until = match self.breaker.admit(&self.context, webhook).await {
            Ok(permit) => return Ok((permit, reservation)),
            Err(CircuitOpen { until }) => until,
        };
        let deferral = self.defer_for_open_circuit(webhook, open_until);
        if self.has_deferrals_left(webhook, deferral) {
            return Err(NoAttempt::Defer(deferral, reservation));
        }
        if planted::is(Bug::FailedUntried) {
            return Err(NoAttempt::GiveUp(GiveUp::CircuitOpen));
        }
        if webhook.was_attempted() {
            return Err(NoAttempt::GiveUp(GiveUp::CircuitOpen));
        }
        if !self.is_in_time(until) {
            return Err(NoAttempt::HandBack);
        }
        // The failures of other webhooks must not fail one that was never attempted.
        pass.only_if_untried = true;
        Ok((self.breaker.bypass(webhook), reservation))
    }

    /// Whether a circuit would make the webhook wait.
    async fn is_circuit_open(&self, webhook: &Webhook) -> bool {
        self.breaker.open_until(&self.context, webhook).await.is_some()
    }

    /// Waits for the slots within the rates of the targets.
    async fn wait_for_turn<'a>(
        &self,
        webhook: &Webhook,
        turn: &HeldTurn,
        pass: &mut Pass,
    ) -> Result<(), NoAttempt<'a>> {
        let targets = &self.breaker.targets;
        let budget = turn.budget(webhook.budget, &self.context.rules.limits);
        // The refusals of other webhooks must not fail one that was never attempted. It still keeps
        // the configured rate, for which it may wait much longer.
        for ignore_learned in [false, true] {
            let held = &mut pass.held;
            let turn = self.rates.turn(&self.context, targets, webhook, held, ignore_learned);
            let Err(wait) = turn.await else { return Ok(()) };
            if self.context.rules.has_slot_waits_left(budget, &wait, self.context.clock.now()) {
                return Err(NoAttempt::WaitForSlot(wait));
            }
            if webhook.was_attempted() {
                return Err(NoAttempt::GiveUp(GiveUp::RateLimited));
            }
            pass.only_if_untried = true;
        }
        Ok(())
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
    pub(crate) fn has_deferrals_left(&self, webhook: &Webhook, deferral: Deferral) -> bool {
        let now = self.context.clock.now();
        self.context.rules.has_deferrals_left(webhook.budget, deferral.until, deferral.why(), now)
    }
}
