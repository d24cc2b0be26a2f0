//! Changes of a webhook's place in the due index by the sweep, the audit and the rescue. The status
//! stays.

use std::time::Duration;

use super::{Refusal, Rules, check_lease, next_look, note, unfinished};
use crate::{
    clock::Timestamp,
    model::{Function, Step, Transition, Webhook, Why},
    planted::{self, Bug},
    status::Status,
};

/// A record with a time further ahead than this was written with a wrong clock.
pub const MAX_AHEAD: Duration = Duration::from_secs(60);

impl Rules {
    /// Moves the webhook on in the due index, because the sweep has sent a message for it. `seen`
    /// is the due time that the sweep read.
    ///
    /// The grace doubles with each requeue of the same state, so a long backlog does not feed
    /// itself.
    pub fn requeue(
        &self,
        webhook: &Webhook,
        seen: Timestamp,
        now: Timestamp,
    ) -> Result<Webhook, Refusal> {
        if planted::is(Bug::RequeueWithoutGrace) {
            return requeued(webhook, seen, now, Duration::ZERO);
        }
        let doubled = 2_u32.saturating_pow(webhook.budget.requeues.min(16));
        let grace = self.limits.grace.saturating_mul(doubled).min(self.limits.max_grace);
        requeued(webhook, seen, now, grace)
    }

    /// Does the same while a backlog waits in the queue. For a repeated message
    /// ([`Rules::is_repeat`]), the grace is the longest at once, because the first message probably
    /// waits too. So a webhook adds at most one message to the backlog in that time.
    pub fn requeue_in_backlog(
        &self,
        webhook: &Webhook,
        seen: Timestamp,
        now: Timestamp,
    ) -> Result<Webhook, Refusal> {
        if planted::is(Bug::BacklogFeedsItself) {
            return self.requeue(webhook, seen, now);
        }
        if !self.is_repeat(webhook, seen) {
            return self.requeue(webhook, seen, now);
        }
        requeued(webhook, seen, now, self.limits.max_grace)
    }

    /// Whether a requeue repeats a message that was sent a grace ago or earlier. A webhook whose
    /// first message the sweep sends is due at its allowed time.
    pub fn is_repeat(&self, webhook: &Webhook, seen: Timestamp) -> bool {
        seen >= next_look(webhook).plus(self.limits.grace)
    }

    /// Enters the due index at `due_at`, or moves forward to it, because the webhook may have no
    /// message.
    pub fn adopt(
        &self,
        webhook: &Webhook,
        due_at: Timestamp,
        who: (Function, Why),
        now: Timestamp,
    ) -> Result<Webhook, Refusal> {
        let mut next = unfinished(webhook)?;
        if webhook.due_at.is_some_and(|at| at <= due_at) {
            return Err(Refusal::Held);
        }
        next.due_at = Some(due_at);
        note(&mut next, now, who.0, Transition::Adopt, None, Some(who.1));
        Ok(moved(webhook, next))
    }

    /// Enters the due index after one grace, because the audit found the unfinished webhook in no
    /// index.
    pub fn audit(&self, webhook: &Webhook, now: Timestamp) -> Result<Webhook, Refusal> {
        if webhook.due_at.is_some() {
            return Err(Refusal::Held);
        }
        self.adopt(
            webhook,
            next_look(webhook).max(now.plus(self.limits.grace)),
            (Function::Sweep, Why::Audit),
            now,
        )
    }

    /// Takes back the times of a record that a clock wrote that was ahead of this one. A waiting
    /// attempt waits as long from now on, a lease lasts one lease from now on, and the webhook is
    /// due when a worker can do something. Returns [`Refusal::Held`] if the record needs no change.
    ///
    /// So no wait gets shorter than intended, whichever of the two clocks is wrong. A time of day
    /// that the caller scheduled stays.
    pub fn take_back(&self, webhook: &Webhook, now: Timestamp) -> Result<Webhook, Refusal> {
        if planted::is(Bug::DueNeverTakenBack) {
            return Err(Refusal::Held);
        }
        let is_ahead = |at: Timestamp| at > now.plus(MAX_AHEAD);
        // The audit finds a webhook that has no holder, unless it was created in the future.
        let is_ours = webhook.due_at.is_some()
            || (is_ahead(webhook.created_at) && !webhook.status.is_finished());
        if !is_ahead(webhook.updated_at) || !is_ours {
            return Err(Refusal::Held);
        }
        let mut next = webhook.clone();
        if let (Some(allowed_at), Some(decided_at)) = (webhook.allowed_at, allowed_since(webhook))
            && is_ahead(decided_at)
        {
            next.allowed_at = Some(now.plus(allowed_at.since(decided_at)));
        }
        if let Some(claim) = next.claim.as_mut().filter(|claim| is_ahead(claim.started_at)) {
            claim.lease_until = now.plus(self.limits.lease);
        }
        let look_at = if next.status.is_finished() { now } else { next_look(&next).max(now) };
        next.due_at = Some(look_at);
        note(&mut next, now, Function::Sweep, Transition::Adopt, None, None);
        Ok(next)
    }

    /// Makes the webhook due, because the queue gave up on its message: at once, or when its lease
    /// ends or its attempt is allowed.
    ///
    /// A rescue counts only if `deliver` has worked on the webhook since the last one. Otherwise,
    /// for example while `deliver` is throttled, the lost messages say nothing about the webhook.
    /// Then it waits, longer each time, and is not given up. It is not given up before its first
    /// attempt either.
    pub fn rescue(&self, webhook: &Webhook, now: Timestamp) -> Result<Webhook, Refusal> {
        let mut next = unfinished(webhook)?;
        let mut spent = webhook.budget.rescues >= self.limits.max_rescues;
        if planted::is(Bug::RescueUnbounded) {
            spent = false;
        }
        let mut worked_on = is_worked_on(webhook);
        if planted::is(Bug::RescueWithoutChange) {
            worked_on = true;
        }
        if !worked_on || (spent && !webhook.was_attempted()) {
            return Ok(self.wait_unworked(next, now));
        }
        if spent && check_lease(webhook, now).is_ok() {
            return Err(Refusal::BudgetSpent);
        }
        next.budget.rescues = next.budget.rescues.saturating_add(u32::from(!spent));
        next.due_at = Some(next_look(webhook).max(now));
        note(&mut next, now, Function::Dlq, Transition::Adopt, None, Some(Why::Rescue));
        next.budget.rescued_revision = next.revision;
        Ok(next)
    }

    /// Due at once the first time in a row, then after a grace, two graces, and so on, up to the
    /// longest grace.
    fn wait_unworked(&self, mut next: Webhook, now: Timestamp) -> Webhook {
        let mut wait = match next.budget.unworked_rescues.checked_sub(1) {
            Some(doublings) => self
                .limits
                .grace
                .saturating_mul(2_u32.saturating_pow(doublings.min(16)))
                .min(self.limits.max_grace),
            None => Duration::ZERO,
        };
        if planted::is(Bug::UnworkedWithoutWait) {
            wait = Duration::ZERO;
        }
        let due_at = next_look(&next).max(now.plus(wait));
        next.due_at = Some(due_at);
        next.budget.unworked_rescues = next.budget.unworked_rescues.saturating_add(1);
        note(&mut next, now, Function::Dlq, Transition::Adopt, Some(due_at), Some(Why::Rescue));
        next.budget.rescued_revision = next.revision;
        next
    }
}

/// Whether `deliver` has worked on the webhook since it was accepted or sent again, and since the
/// queue last gave up on it.
fn is_worked_on(webhook: &Webhook) -> bool {
    webhook.status != Status::Pending && webhook.budget.rescued_revision != webhook.revision
}

/// Records a move within the due index, which is not work of `deliver`.
fn moved(before: &Webhook, mut next: Webhook) -> Webhook {
    if before.budget.rescued_revision == before.revision {
        next.budget.rescued_revision = next.revision;
    }
    next
}

/// When the allowed time was decided. `None` if it is a time of day that the caller scheduled.
fn allowed_since(webhook: &Webhook) -> Option<Timestamp> {
    let decided =
        |step: &&Step| step.allowed_at == webhook.allowed_at || Some(step.at) == webhook.allowed_at;
    let step = webhook.history.iter().rev().find(decided)?;
    let is_scheduled = step.transition == Transition::Create && step.allowed_at.is_some();
    (!is_scheduled).then_some(step.at)
}

/// Moves the record to another due time, if it is due as it was read.
fn requeued(
    webhook: &Webhook,
    seen: Timestamp,
    now: Timestamp,
    grace: Duration,
) -> Result<Webhook, Refusal> {
    if webhook.due_at != Some(seen) {
        return Err(Refusal::DueMoved);
    }
    let mut next = webhook.clone();
    next.due_at = Some(next_look(webhook).max(now).plus(grace));
    next.budget.requeues = next.budget.requeues.saturating_add(1);
    note(&mut next, now, Function::Sweep, Transition::Requeue, None, None);
    Ok(moved(webhook, next))
}
