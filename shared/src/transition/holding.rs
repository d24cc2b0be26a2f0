//! Who looks at a webhook next: what the sweep, the audit and the rescue change of its place in the
//! due index. Its status stays.

use std::time::Duration;

use super::{Refusal, Rules, check_lease, next_look, note, unfinished};
use crate::{
    clock::Timestamp,
    model::{Function, Step, Transition, Webhook, Why},
    planted::{self, Bug},
    status::Status,
};

/// A record that was written further ahead than this was written with a wrong clock.
pub const MAX_AHEAD: Duration = Duration::from_secs(60);

impl Rules {
    /// The sweep has sent a message for it, and says when somebody must look next. `seen` is the
    /// due time that it read.
    ///
    /// The grace doubles with each requeue of the same state, so that a long backlog does not feed
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

    /// The same, while a backlog waits in the queue. Where this repeats a message
    /// ([`Rules::is_repeat`]), which then probably waits there too, the grace is the longest at
    /// once: for the length of that, a webhook adds one message to the backlog, and no more.
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

    /// Whether a requeue repeats a message that somebody sent before, a grace ago or more: what the
    /// sweep is the first to send is due when it is allowed.
    pub fn is_repeat(&self, webhook: &Webhook, seen: Timestamp) -> bool {
        seen >= next_look(webhook).plus(self.limits.grace)
    }

    /// It enters the due index for `due_at`, or moves forward to it, because its message may not
    /// exist.
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

    /// The audit found it: unfinished and in no index. Somebody looks after one grace.
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

    /// A clock that was ahead of this one wrote the record. What it wrote is taken back: an attempt
    /// that was to wait waits that long from now on, a lease lasts one lease from now on, and
    /// somebody looks when there is something to do. [`Refusal::Held`] if the record is as it
    /// should be.
    ///
    /// So no wait gets shorter than it was meant to be, whichever of the two clocks is wrong. What
    /// a caller scheduled for a time of day stays.
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

    /// The queue gave up on its message although it is not finished: due at once, or when its lease
    /// ends or its attempt is allowed.
    ///
    /// A rescue is spent only if `deliver` has worked on the webhook since the last one. If it has
    /// not, as while it is throttled, the messages that the queue gave up on say nothing of the
    /// webhook: it waits instead, longer each time, and is not given up. Nor is it given up while
    /// no attempt has started.
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

    /// Due at once the first time in a row, then after a grace, twice that, and so on up to the
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

/// Whether `deliver` has worked on it since it was accepted or sent again, and since the queue last
/// gave up on it.
fn is_worked_on(webhook: &Webhook) -> bool {
    webhook.status != Status::Pending && webhook.budget.rescued_revision != webhook.revision
}

/// It was only moved within the due index: that is no work on it.
fn moved(before: &Webhook, mut next: Webhook) -> Webhook {
    if before.budget.rescued_revision == before.revision {
        next.budget.rescued_revision = next.revision;
    }
    next
}

/// When it was decided from when on an attempt is allowed. `None` if that is a time of day which a
/// caller gave.
fn allowed_since(webhook: &Webhook) -> Option<Timestamp> {
    let decided =
        |step: &&Step| step.allowed_at == webhook.allowed_at || Some(step.at) == webhook.allowed_at;
    let step = webhook.history.iter().rev().find(decided)?;
    let is_scheduled = step.transition == Transition::Create && step.allowed_at.is_some();
    (!is_scheduled).then_some(step.at)
}

/// Moved on in the due index, where it is still as it was seen there.
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
