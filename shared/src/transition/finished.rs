//! The transitions of finished webhooks: archive, resend and redrive.

use super::{Refusal, Rules, enter, not_before, note};
use crate::{
    clock::Timestamp,
    model::{Budget, Function, Transition, Webhook},
    planted::{self, Bug},
    status::Status,
};

impl Rules {
    /// Turns the failed webhook into a dead letter.
    pub fn archive(&self, webhook: &Webhook, now: Timestamp) -> Result<Webhook, Refusal> {
        if planted::is(Bug::ArchiveWithoutCondition) {
            return Ok(self.archived(webhook, now));
        }
        match (webhook.status, webhook.archived_at) {
            (Status::Failed, None) => Ok(self.archived(webhook, now)),
            (Status::Failed, Some(_)) => Err(Refusal::Archived),
            _ => Err(Refusal::NotFailed),
        }
    }

    fn archived(&self, webhook: &Webhook, now: Timestamp) -> Webhook {
        let mut next = webhook.clone();
        next.archived_at = Some(now);
        next.expires_at = Some(not_before(webhook, now).plus(self.limits.dead_letter_retention));
        next.due_at = None;
        note(&mut next, now, Function::Dlq, Transition::Archive, None, None);
        next
    }

    /// Sends a finished webhook again, with a fresh budget. It enters the due index one grace from
    /// now. The caller sends a message, and calls [`Rules::adopt`] for now if the send fails.
    pub fn resend(&self, webhook: &Webhook, now: Timestamp) -> Result<Webhook, Refusal> {
        self.start_again(webhook, Transition::Resend, now)
    }

    /// Does the same as [`Rules::resend`], only for a dead letter.
    pub fn redrive(&self, webhook: &Webhook, now: Timestamp) -> Result<Webhook, Refusal> {
        if !webhook.is_dead_letter() {
            return Err(Refusal::NotFailed);
        }
        self.start_again(webhook, Transition::Redrive, now)
    }

    fn start_again(
        &self,
        webhook: &Webhook,
        transition: Transition,
        now: Timestamp,
    ) -> Result<Webhook, Refusal> {
        if !webhook.status.is_finished() {
            return Err(Refusal::OnItsWay);
        }
        if webhook.is_expired(now) {
            return Err(Refusal::Expired);
        }
        let mut next = webhook.clone();
        next.budget = Budget::default();
        (next.delivered_at, next.failed_at, next.archived_at, next.expires_at) =
            (None, None, None, None);
        if planted::is(Bug::BudgetKept) {
            next.budget = webhook.budget;
        }
        if planted::is(Bug::NumbersStartAgain) {
            next.attempt_count = 0;
        }
        if planted::is(Bug::ResendKeepsExpiry) {
            next.expires_at = webhook.expires_at;
        }
        next.allowed_at = Some(now);
        next.due_at = Some(now.plus(self.limits.grace));
        enter(&mut next, Status::Pending);
        note(&mut next, now, Function::Api, transition, None, None);
        Ok(next)
    }
}
