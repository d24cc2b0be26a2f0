//! Attempts without an outcome: interrupted attempts, whose worker died or lost its lease, and
//! claims that are given back because nothing was sent.
//!
//! After the first interruption in a row, the next attempt starts at once. From the second on it
//! waits, longer each time, so a process that is killed repeatedly does not use up the attempts of
//! all webhooks in flight. The waits differ between webhooks, so a webhook that kills its worker
//! meets few others in flight.

use std::time::Duration;

use super::{MAX_ATTEMPTS_KEPT, Refusal, Rules, check_lease, note, push_bounded, unfinished};
use crate::{
    clock::Timestamp,
    model::{
        Attempt, ClaimId, ErrorKind, Function, LastError, MAX_ERROR_BYTES, Transition, Webhook,
        Why, truncated,
    },
    planted::{self, Bug},
    status::Status,
};

/// The shortest wait after the second interruption in a row: 1 s, even if the retry policy has no
/// base delay.
const MIN_INTERRUPTION_WAIT: Duration = Duration::from_secs(1);

impl Rules {
    /// When the next attempt may start if the current one is interrupted. `None`: no attempt is in
    /// flight.
    ///
    /// At the lease's end for the first interruption in a row. Then a base delay later, two base
    /// delays later, and so on, up to the policy's longest delay, plus up to as much again by the
    /// claim's random ID.
    pub fn resumes_at(&self, webhook: &Webhook) -> Option<Timestamp> {
        let claim = webhook.claim.as_ref()?;
        let Some(doublings) = webhook.budget.interrupted.checked_sub(1) else {
            return Some(claim.lease_until);
        };
        let policy = self.retry.with(webhook.retry.as_ref());
        let base = policy
            .schedule
            .first()
            .copied()
            .unwrap_or(policy.base_delay)
            .max(MIN_INTERRUPTION_WAIT);
        let wait = base
            .saturating_mul(2_u32.saturating_pow(doublings.min(16)))
            .min(policy.max_delay.max(MIN_INTERRUPTION_WAIT));
        Some(claim.lease_until.plus(wait.mul_f64(1.0 + claim.id.fraction())))
    }

    /// How long the webhook must wait after its interrupted attempt. `None`: a worker may claim it
    /// or give it up.
    pub fn must_wait_until(&self, webhook: &Webhook, now: Timestamp) -> Option<Timestamp> {
        if planted::is(Bug::InterruptionWithoutWait) {
            return None;
        }
        let may_wait =
            check_lease(webhook, now).is_ok() && self.check_interruptions(webhook).is_ok();
        self.resumes_at(webhook).filter(|at| *at > now && may_wait)
    }

    /// Records an interrupted attempt after another one. The next attempt waits
    /// ([`Rules::resumes_at`]).
    pub fn retry_interrupted(&self, webhook: &Webhook, now: Timestamp) -> Result<Webhook, Refusal> {
        let mut next = unfinished(webhook)?;
        check_lease(webhook, now)?;
        self.check_interruptions(webhook)?;
        let Some(resumes_at) = self.must_wait_until(webhook, now) else {
            return Err(Refusal::Changed);
        };
        note_interruption(&mut next);
        self.wait_until(&mut next, resumes_at, now);
        let why = Some(Why::Error(ErrorKind::Interrupted));
        note(&mut next, now, Function::Deliver, Transition::Retry, Some(resumes_at), why);
        Ok(next)
    }

    /// Gives the claim back, because its holder sent nothing for an internal reason. The webhook
    /// waits until `until`. The record shows the attempt with that reason, and no budget is used.
    pub fn give_back(
        &self,
        webhook: &Webhook,
        claim: ClaimId,
        reason: &str,
        until: Timestamp,
        now: Timestamp,
    ) -> Result<Webhook, Refusal> {
        let mut next = unfinished(webhook)?;
        let Some(held) = next.claim.take_if(|held| held.id == claim) else {
            return Err(Refusal::NotOurClaim);
        };
        next.budget.deferrals = next.budget.deferrals.saturating_add(1);
        keep_interrupted(&mut next, held.started_at, now, truncated(reason, MAX_ERROR_BYTES));
        self.wait_until(&mut next, until, now);
        note(&mut next, now, Function::Deliver, Transition::Defer, Some(until), Some(Why::Unsent));
        Ok(next)
    }

    /// Whether the budget allows another attempt after the current one is interrupted.
    pub(super) fn check_interruptions(&self, webhook: &Webhook) -> Result<(), Refusal> {
        if planted::is(Bug::InterruptionsUnbounded) {
            return Ok(());
        }
        let spent = webhook.budget.interrupted.saturating_add(1) >= self.limits.max_interrupted;
        let is_interrupted = webhook.status == Status::InProgress;
        if is_interrupted && spent { Err(Refusal::Interrupted) } else { Ok(()) }
    }

    /// Whether the wait after an interrupted attempt is over.
    pub(super) fn check_wait(&self, webhook: &Webhook, now: Timestamp) -> Result<(), Refusal> {
        self.must_wait_until(webhook, now).map_or(Ok(()), |at| Err(Refusal::NotYet(at)))
    }
}

/// Records the claimed attempt as interrupted: its lease has ended without an outcome.
pub(super) fn note_interruption(next: &mut Webhook) {
    let Some(claim) = next.claim.take() else { return };
    next.budget.interrupted = next.budget.interrupted.saturating_add(1);
    let message = "no outcome was recorded: the worker died or lost its lease";
    keep_interrupted(next, claim.started_at, claim.lease_until, message);
}

fn keep_interrupted(next: &mut Webhook, started_at: Timestamp, ended_at: Timestamp, message: &str) {
    push_bounded(
        &mut next.attempts,
        Attempt {
            number: next.attempt_count,
            started_at,
            duration_ms: ended_at.since(started_at).as_millis() as u64,
            error: Some(ErrorKind::Interrupted),
            status_code: None,
            endpoint_revision: None,
            message: Some(message.to_owned()),
            response_excerpt: None,
        },
        MAX_ATTEMPTS_KEPT,
    );
    next.last_error = Some(LastError {
        kind: ErrorKind::Interrupted,
        status_code: None,
        message: message.to_owned(),
    });
}
