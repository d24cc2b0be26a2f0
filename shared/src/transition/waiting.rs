//! Waits without an attempt that is spent: deferrals, and refusals with a pause.

use std::time::Duration;

use super::{
    Refusal, Report, Rules, check_lease, enter, interruption::note_interruption, keep_attempt,
    last_error, note, unfinished,
};
use crate::{
    clock::Timestamp,
    model::{Budget, ClaimId, Function, Slot, Transition, Webhook, Why},
    planted::{self, Bug},
    status::Status,
};

/// How long a configured rate defers a webhook at most: 7 days.
pub const MAX_RATE_LIMITED: Duration = Duration::from_secs(7 * 24 * 3600);

/// A wait for a slot within the rate of a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotWait {
    /// No attempt starts before this time.
    pub until: Timestamp,
    /// The slot that the webhook keeps.
    pub slot: Option<Slot>,
    /// Whether the rate is the learned one, which follows a pause, and not a configured one.
    pub is_learned: bool,
}

/// The budget that a wait counts against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WaitBudget {
    Circuit,
    HostLimit,
    Pause,
    RateLimit,
}

impl WaitBudget {
    fn of_deferral(why: Why) -> Self {
        if planted::is(Bug::DeferralsShareBudget) {
            return Self::Circuit;
        }
        match why {
            Why::RateLimit => Self::HostLimit,
            _ => Self::Circuit,
        }
    }

    const fn of_slot(wait: &SlotWait) -> Self {
        if wait.is_learned { Self::Pause } else { Self::RateLimit }
    }

    fn used(self, budget: &mut Budget) -> &mut u64 {
        match self {
            Self::Circuit => &mut budget.deferred_ms,
            Self::HostLimit => &mut budget.host_deferred_ms,
            Self::Pause => &mut budget.paused_ms,
            Self::RateLimit => &mut budget.rate_limited_ms,
        }
    }
}

impl Rules {
    /// The webhook is deferred until `until` without an attempt. Never forward: an outcome or
    /// `Retry-After` may have deferred it further since the caller read it. The host limit
    /// ([`Why::RateLimit`]) and the circuit each have a budget of their own.
    pub fn defer(
        &self,
        webhook: &Webhook,
        until: Timestamp,
        why: Why,
        now: Timestamp,
    ) -> Result<Webhook, Refusal> {
        self.defer_within(WaitBudget::of_deferral(why), webhook, until, (why, None), now)
    }

    /// Whether this budget covers a deferral.
    pub fn has_deferrals_left(
        &self,
        mut budget: Budget,
        until: Timestamp,
        why: Why,
        now: Timestamp,
    ) -> bool {
        self.spend(WaitBudget::of_deferral(why), &mut budget, until.since(now)).is_ok()
    }

    /// Whether this budget covers a wait for a slot.
    pub fn has_slot_waits_left(&self, mut budget: Budget, wait: &SlotWait, now: Timestamp) -> bool {
        self.spend(WaitBudget::of_slot(wait), &mut budget, wait.until.since(now)).is_ok()
    }

    /// The webhook waits for a slot. A learned rate and a configured one each have a budget of
    /// their own.
    pub fn defer_for_slot(
        &self,
        webhook: &Webhook,
        wait: &SlotWait,
        now: Timestamp,
    ) -> Result<Webhook, Refusal> {
        // Older versions know no other reasons.
        let why = if wait.is_learned { Why::RetryAfter } else { Why::RateLimit };
        let budget = WaitBudget::of_slot(wait);
        self.defer_within(budget, webhook, wait.until, (why, wait.slot.clone()), now)
    }

    fn defer_within(
        &self,
        budget: WaitBudget,
        webhook: &Webhook,
        until: Timestamp,
        (why, slot): (Why, Option<Slot>),
        now: Timestamp,
    ) -> Result<Webhook, Refusal> {
        let mut next = unfinished(webhook)?;
        check_lease(webhook, now)?;
        if webhook.status == Status::InProgress {
            self.check_interruptions(webhook)?;
            self.check_wait(webhook, now)?;
            note_interruption(&mut next);
        }
        if let Some(allowed_at) = webhook.allowed_at.filter(|at| *at > until) {
            return Err(Refusal::NotYet(allowed_at));
        }
        self.spend(budget, &mut next.budget, until.since(now))?;
        next.budget.deferrals = next.budget.deferrals.saturating_add(1);
        if planted::is(Bug::DeferralSpendsAttempt) {
            next.budget.attempts = next.budget.attempts.saturating_add(1);
        }
        next.slot = slot;
        self.wait_until(&mut next, until, now);
        note(&mut next, now, Function::Deliver, Transition::Defer, Some(until), Some(why));
        Ok(next)
    }

    /// The destination refused the request with a pause, and the holder of the claim writes it. The
    /// attempt is listed and not spent. The webhook waits for its slot.
    ///
    /// [`Refusal::BudgetSpent`] if pauses have deferred it for too long: then
    /// [`Rules::conclude`] decides as it does about any other failure.
    pub fn throttle(
        &self,
        webhook: &Webhook,
        claim: ClaimId,
        report: &Report,
        wait: &SlotWait,
        now: Timestamp,
    ) -> Result<Webhook, Refusal> {
        let mut next = unfinished(webhook)?;
        let Some(held) = next.claim.take_if(|held| held.id == claim) else {
            return Err(Refusal::NotOurClaim);
        };
        self.spend(WaitBudget::Pause, &mut next.budget, wait.until.since(now))?;
        next.budget.throttled = next.budget.throttled.saturating_add(1);
        if planted::is(Bug::ThrottleSpendsAttempt) {
            next.budget.attempts = next.budget.attempts.saturating_add(1);
        }
        next.budget.interrupted = 0;
        keep_attempt(&mut next, held.started_at, report);
        next.last_error = last_error(report);
        next.slot.clone_from(&wait.slot);
        self.wait_until(&mut next, wait.until, now);
        let why = Some(Why::RetryAfter);
        note(&mut next, now, Function::Deliver, Transition::Defer, Some(wait.until), why);
        Ok(next)
    }

    /// Adds a wait to its budget, unless that exceeds it.
    fn spend(
        &self,
        wait: WaitBudget,
        budget: &mut Budget,
        duration: Duration,
    ) -> Result<(), Refusal> {
        let used = wait.used(budget);
        *used = used.saturating_add(duration.as_millis() as u64);
        let mut most = match wait {
            WaitBudget::RateLimit => MAX_RATE_LIMITED,
            _ => self.limits.max_defer,
        };
        if planted::is(Bug::DeferralsUnbounded) {
            most = Duration::MAX;
        }
        if u128::from(*used) > most.as_millis() { Err(Refusal::BudgetSpent) } else { Ok(()) }
    }

    /// Makes the webhook wait for `allowed_at`. `deliver` queues it if that is soon and its relays
    /// are not used up. Otherwise the sweep queues it when it is due.
    pub(super) fn wait_until(&self, next: &mut Webhook, allowed_at: Timestamp, now: Timestamp) {
        enter(next, Status::Retrying);
        next.allowed_at = Some(allowed_at);
        let mut may_relay = next.budget.relays < self.limits.max_relays;
        if planted::is(Bug::RelaysUnbounded) {
            may_relay = true;
        }
        if may_relay && allowed_at.since(now) <= self.limits.relay_within {
            next.budget.relays = next.budget.relays.saturating_add(1);
            next.due_at = Some(allowed_at.plus(self.limits.grace));
        } else {
            next.due_at = Some(allowed_at);
        }
    }
}
