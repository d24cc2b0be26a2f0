//! The budgets of attempts, deferrals and rescues.

use std::time::Duration;

use shared::{
    model::{Function, Transition, Webhook, Why},
    status::Status,
    transition::MAX_RATE_LIMITED,
};

use super::deliveries::is_endpoint_gone;
use crate::{
    state::{records::short, tracking::Checks},
    world::Process,
};

/// Whether the delivery failed because of its endpoint, or because it did not start in time. Other
/// checks tell whether that is right.
fn may_fail_untried(after: &Webhook) -> bool {
    let is_abandoned = after.id.is_delivery() && after.revision == 1;
    is_abandoned || is_endpoint_gone(after)
}

impl Checks {
    /// Whether the secret of the delivery's endpoint is not usable.
    fn is_tampered(&self, after: &Webhook) -> bool {
        after.id.endpoint.is_some_and(|id| self.published.tampered.contains(&id))
    }

    /// No webhook fails before its first attempt.
    pub(super) fn failed(&mut self, stored: &Webhook, after: &Webhook) {
        let fails = after.status == Status::Failed && stored.status != Status::Failed;
        let attempts = self.progress.entry(after.id.clone()).or_default().attempts;
        let may_be_untried = may_fail_untried(after) || self.is_tampered(after);
        self.require(!fails || attempts > 0 || may_be_untried, || {
            format!("{} failed before its first attempt: {:?}", short(after), after.last_error)
        });
    }

    /// A rescue is spent only if `deliver` has worked on the webhook since the last one. Otherwise
    /// the webhook is due again after a wait.
    pub(super) fn rescued(&mut self, process: &Process, stored: &Webhook, after: &Webhook) {
        let limits = self.rules.limits.clone();
        let progress = self.progress.entry(after.id.clone()).or_default();
        if process.function == Function::Deliver {
            (progress.worked_on, progress.unworked) = (true, 0);
        }
        let rescue = after.history.last().is_some_and(|step| step.why == Some(Why::Rescue));
        if process.function != Function::Dlq || !rescue {
            return;
        }
        let (worked_on, unworked) = (progress.worked_on, progress.unworked);
        progress.worked_on = false;
        progress.unworked += u32::from(!worked_on);
        let spent = after.budget.rescues > stored.budget.rescues;
        let name = short(after);
        self.require(!spent || worked_on, || {
            format!("{name}: a rescue was spent, and no worker had worked on it since the last one")
        });
        let wait = match unworked.checked_sub(1) {
            Some(doublings) if !worked_on => {
                limits.grace.saturating_mul(2_u32.saturating_pow(doublings)).min(limits.max_grace)
            }
            _ => Duration::ZERO,
        };
        let due = after.due_at.is_some_and(|at| at >= after.updated_at.plus(wait));
        self.require(due, || {
            format!(
                "{name}: no worker works on it, and it is due at {:?}, not {wait:?} later",
                after.due_at
            )
        });
    }

    /// The host limit, the circuit, pauses and configured rates count their deferrals separately.
    pub(super) fn deferred(&mut self, stored: &Webhook, after: &Webhook) {
        let Some(step) = after.history.last().filter(|step| step.transition == Transition::Defer)
        else {
            return;
        };
        let (before, budget) = (stored.budget, after.budget);
        let used = [
            budget.deferred_ms != before.deferred_ms,
            budget.host_deferred_ms != before.host_deferred_ms,
            budget.paused_ms != before.paused_ms,
            budget.rate_limited_ms != before.rate_limited_ms,
        ];
        let matches = match (step.why, used) {
            (Some(Why::RateLimit), [circuit, _, pause, _]) => !circuit && !pause,
            (Some(Why::RetryAfter), [circuit, host, _, rate]) => !circuit && !host && !rate,
            (Some(Why::Unsent), _) => true,
            (_, [_, host, pause, rate]) => !host && !pause && !rate,
        };
        self.require(matches, || {
            format!(
                "{}: deferred for {:?}, and {budget:?} counts another reason",
                short(after),
                step.why
            )
        });
    }

    pub(super) fn budgets(&mut self, after: &Webhook) {
        let (name, budget, limits) = (short(after), after.budget, self.rules.limits.clone());
        let progress = self.progress.entry(after.id.clone()).or_default();
        let (outcomes, interruptions) = (progress.outcomes, progress.interruptions);
        self.require(budget.attempts == outcomes, || {
            format!("{name}: {outcomes} outcomes, and {} attempts spent", budget.attempts)
        });
        self.require(budget.interrupted == interruptions, || {
            format!("{name}: {interruptions} interruptions, and {} spent", budget.interrupted)
        });
        self.require(interruptions <= limits.max_interrupted, || {
            format!("{name}: {interruptions} interruptions")
        });
        self.require(budget.relays <= limits.max_relays, || {
            format!("{name}: {} relays", budget.relays)
        });
        self.require(budget.rescues <= limits.max_rescues, || {
            format!("{name}: {} rescues", budget.rescues)
        });
        self.require(budget.rescues == 0 || !self.mild, || {
            format!("{name}: a rescue in a world without faults")
        });
        let rate_limited = Duration::from_millis(budget.rate_limited_ms);
        self.require(rate_limited <= MAX_RATE_LIMITED, || {
            format!("{name}: a configured rate deferred it for {rate_limited:?}")
        });
        let bounded = [budget.deferred_ms, budget.host_deferred_ms, budget.paused_ms];
        for deferred in bounded.map(u128::from) {
            self.require(deferred <= limits.max_defer.as_millis(), || {
                format!("{name}: deferred for {deferred} ms")
            });
        }
    }
}
