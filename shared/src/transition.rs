//! The life of a webhook as pure functions. A function takes a record and an event, and returns the
//! next record or a [`Refusal`].
//!
//! The functions do no I/O, read no clock and draw no random numbers. The caller writes the result
//! with [`Webhooks::write`](crate::store::Webhooks::write), which takes effect only if the stored
//! record is unchanged. After a conflict, the caller calls the function again with the newer record
//! ([`crate::apply`]). So each condition below holds at the moment of the write, and no backend
//! needs to know it.
//!
//! | function | from | to | due index |
//! |---|---|---|---|
//! | [`Rules::create`] | – | pending | only if scheduled |
//! | [`Rules::claim`] | pending, retrying; in progress, lease over | in progress | unchanged |
//! | [`Rules::conclude`] | in progress, our claim | delivered | leaves |
//! | | | retrying, failed | enters or moves |
//! | [`Rules::give_up`] | unfinished, no live lease | failed | enters or moves |
//! | [`Rules::defer`], [`Rules::defer_for_slot`] | pending, retrying; in progress, lease over |
//! retrying | enters or moves |
//! | [`Rules::throttle`] | in progress, our claim, no attempt spent | retrying | enters or moves |
//! | [`Rules::retry_interrupted`] | in progress with its lease over | retrying | enters or moves |
//! | [`Rules::give_back`] | in progress, our claim, nothing sent | retrying | enters or moves |
//! | [`Rules::requeue`] | anything due | same | moves on |
//! | [`Rules::adopt`], [`Rules::rescue`] | unfinished | same | enters or moves forward |
//! | [`Rules::take_back`] | due, with times of a clock that was ahead | same | moves forward |
//! | [`Rules::archive`] | failed | failed, archived | leaves |
//! | [`Rules::resend`], [`Rules::redrive`] | delivered, failed; dead letter | pending | enters |
//!
//! The delivery of a published message is a webhook that begins with [`Rules::delivery`]. The file
//! `messages.rs` has the transitions of messages.

mod finished;
mod giving_up;
mod holding;
mod interruption;
mod limits;
mod messages;
mod waiting;

pub use giving_up::GiveUp;
pub use holding::MAX_AHEAD;
pub use limits::Limits;
pub use messages::{EndpointTerms, MessageRefusal, NewMessage, Unstarted, with_endpoint_revision};
pub use waiting::{MAX_RATE_LIMITED, SlotWait};

use std::time::Duration;

use crate::{
    clock::Timestamp,
    id::WebhookId,
    model::{
        Attempt, Budget, Claim, ClaimId, Function, LastError, MAX_ATTEMPTS_KEPT, MAX_ERROR_BYTES,
        MAX_EXCERPT_BYTES, MAX_HISTORY_KEPT, SCHEMA, Step, Transition, Webhook, Why, truncated,
    },
    planted::{self, Bug},
    retry::{Outcome, RetryPolicy, Verdict},
    retry_override::RetryOverride,
    status::Status,
    trace::Trace,
};

use interruption::note_interruption;

/// Why a transition does not apply to a record. Each reason tells the caller what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The webhook is delivered or failed. Only an operator can send it again.
    #[error("it is finished: {0}")]
    Finished(Status),
    /// No attempt may start before this time.
    #[error("not allowed before {0}")]
    NotYet(Timestamp),
    /// Another worker's attempt may still be in flight.
    #[error("claimed until {0}")]
    Leased(Timestamp),
    /// Too many attempts were interrupted. The caller applies [`Rules::give_up`].
    #[error("too many attempts were interrupted")]
    Interrupted,
    /// The budget of deferrals or rescues is spent. The caller applies [`Rules::give_up`].
    #[error("its budget is spent")]
    BudgetSpent,
    /// The claim is not the current one. The caller must not write the outcome.
    #[error("another claim holds it")]
    NotOurClaim,
    /// The webhook's due time has changed since the read, or it is no longer in the due index.
    #[error("no longer due as read")]
    DueMoved,
    /// The due index has the webhook at this time or earlier.
    #[error("already in the due index")]
    Held,
    /// The webhook is not finished, so it cannot be resent.
    #[error("still on its way")]
    OnItsWay,
    /// Only failed webhooks can be archived or redriven.
    #[error("not failed")]
    NotFailed,
    /// The webhook is already archived.
    #[error("already archived")]
    Archived,
    /// The decision was made on an older record. The caller reads again.
    #[error("it has changed since")]
    Changed,
    /// The webhook has expired. It does not exist for readers, so no writer changes it.
    #[error("expired")]
    Expired,
    /// No attempt has started since the webhook was accepted or sent again, so it cannot be given
    /// up yet.
    #[error("no attempt has started")]
    Untried,
}

/// The fields of a new webhook.
#[derive(Clone, Debug)]
pub struct NewWebhook {
    /// The ID. Its time is the creation time.
    pub id: WebhookId,
    /// Whether the caller gave the reference id.
    pub referenced: bool,
    /// See [`Webhook::correlation_id`].
    pub correlation_id: String,
    /// See [`Webhook::event_type`].
    pub event_type: Option<String>,
    /// See [`Webhook::trace`].
    pub trace: Option<Trace>,
    /// See [`Webhook::destination`].
    pub destination: String,
    /// See [`Webhook::path_hash`].
    pub path_hash: Option<String>,
    /// See [`Webhook::retry`].
    pub retry: Option<RetryOverride>,
    /// The earliest time of the first attempt.
    pub deliver_at: Option<Timestamp>,
}

/// The result of one attempt, for the record.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// The part that the retry policy reads.
    pub outcome: Outcome,
    /// How long the attempt took.
    pub duration: Duration,
    /// The error message for people.
    pub message: Option<String>,
    /// The beginning of the response body.
    pub response_excerpt: Option<String>,
}

/// The transitions, with their settings.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rules {
    /// The retry policy.
    pub retry: RetryPolicy,
    /// The limits.
    pub limits: Limits,
}

impl Rules {
    /// Creates the record of an accepted webhook. A scheduled webhook enters the due index at that
    /// time, and no message is sent.
    pub fn create(&self, new: NewWebhook, now: Timestamp) -> Webhook {
        let scheduled = new.deliver_at.filter(|at| *at > now);
        let mut webhook = Webhook {
            schema: SCHEMA,
            revision: 0,
            id: new.id,
            application: None,
            referenced: new.referenced,
            correlation_id: new.correlation_id,
            event_type: new.event_type,
            trace: new.trace,
            destination: new.destination,
            path_hash: new.path_hash,
            status: Status::Pending,
            created_at: now,
            updated_at: now,
            allowed_at: Some(scheduled.unwrap_or(now)),
            due_at: scheduled,
            slot: None,
            claim: None,
            attempt_count: 0,
            budget: Budget::default(),
            retry: new.retry,
            last_error: None,
            attempts: Vec::new(),
            history: Vec::new(),
            delivered_at: None,
            failed_at: None,
            archived_at: None,
            expires_at: None,
        };
        let why = scheduled.map(|_| Why::Scheduled);
        note(&mut webhook, now, Function::Api, Transition::Create, scheduled, why);
        webhook
    }

    /// Claims the right to make one attempt, which starts now. An expired claim is recorded as an
    /// interrupted attempt. The claim's ID must be fresh and random.
    pub fn claim(
        &self,
        webhook: &Webhook,
        id: ClaimId,
        now: Timestamp,
    ) -> Result<Webhook, Refusal> {
        let mut next = unfinished(webhook)?;
        let mut why = None;
        let mut allowed_at = webhook.allowed_at;
        if planted::is(Bug::DueAsAllowed) {
            allowed_at = webhook.due_at;
        }
        if webhook.status == Status::InProgress {
            check_lease(webhook, now)?;
            self.check_interruptions(webhook)?;
            self.check_wait(webhook, now)?;
            note_interruption(&mut next);
            why = Some(Why::LeaseOver);
        } else if let Some(allowed_at) = allowed_at.filter(|at| *at > now) {
            return Err(Refusal::NotYet(allowed_at));
        }
        next.slot = None;
        next.attempt_count = next.attempt_count.saturating_add(1);
        next.claim = Some(Claim { id, started_at: now, lease_until: now.plus(self.limits.lease) });
        if planted::is(Bug::ClaimWithoutLease) {
            next.claim = Some(Claim { id, started_at: now, lease_until: now });
        }
        enter(&mut next, Status::InProgress);
        note(&mut next, now, Function::Deliver, Transition::Claim, None, why);
        Ok(next)
    }

    /// Records the outcome of the claim's attempt: delivered, retrying or failed, by the retry
    /// policy. `unit` is random, in `0.0..1.0`. The lease may have ended, as long as no other
    /// worker has claimed the webhook since.
    pub fn conclude(
        &self,
        webhook: &Webhook,
        claim: ClaimId,
        report: &Report,
        now: Timestamp,
        unit: f64,
    ) -> Result<Webhook, Refusal> {
        let mut next = unfinished(webhook)?;
        let mut ours = claim;
        if planted::is(Bug::OutcomeWithoutClaim) {
            ours = next.claim.as_ref().map_or(claim, |held| held.id);
        }
        let Some(held) = next.claim.take_if(|held| held.id == ours) else {
            return Err(Refusal::NotOurClaim);
        };
        next.budget.attempts = next.budget.attempts.saturating_add(1);
        next.budget.deferrals = 0;
        next.budget.interrupted = 0;
        if planted::is(Bug::InterruptionsKept) {
            next.budget.interrupted = webhook.budget.interrupted;
        }
        keep_attempt(&mut next, held.started_at, report);
        let policy = self.retry.with(webhook.retry.as_ref());
        match policy.verdict(&report.outcome, next.budget.attempts, unit) {
            Verdict::Delivered => {
                next.last_error = None;
                next.delivered_at = Some(now);
                next.expires_at = Some(not_before(webhook, now).plus(self.limits.retention));
                (next.allowed_at, next.due_at) = (None, None);
                enter(&mut next, Status::Delivered);
                note(&mut next, now, Function::Deliver, Transition::Deliver, None, None);
            }
            Verdict::Retry { wait, put_off } => {
                next.last_error = last_error(report);
                let allowed_at = now.plus(wait);
                self.wait_until(&mut next, allowed_at, now);
                let why = if put_off {
                    Some(Why::RetryAfter)
                } else {
                    report.outcome.error.map(Why::Error)
                };
                note(&mut next, now, Function::Deliver, Transition::Retry, Some(allowed_at), why);
            }
            Verdict::Fail => {
                next.last_error = last_error(report);
                self.fail(&mut next, now);
                note(
                    &mut next,
                    now,
                    Function::Deliver,
                    Transition::Fail,
                    None,
                    report.outcome.error.map(Why::Error),
                );
            }
        }
        Ok(next)
    }

    /// Fails the webhook. It stays in the due index until it is archived.
    fn fail(&self, next: &mut Webhook, now: Timestamp) {
        enter(next, Status::Failed);
        next.allowed_at = None;
        next.slot = None;
        next.failed_at = Some(now);
        next.due_at = Some(now.plus(self.limits.grace));
        if planted::is(Bug::FailedNotHeld) {
            next.due_at = None;
        }
    }
}

/// Whether the writer of this record must queue the webhook, because the sweep waits for a grace.
pub fn is_relayed(webhook: &Webhook) -> bool {
    webhook.status == Status::Retrying && webhook.due_at > webhook.allowed_at
}

/// The earliest time at which a worker can do anything with this record: when its attempt is
/// allowed or its lease ends.
pub fn next_look(webhook: &Webhook) -> Timestamp {
    let lease = webhook.claim.as_ref().map(|claim| claim.lease_until);
    lease.or(webhook.allowed_at).unwrap_or(webhook.updated_at)
}

/// The current time, but not before the last write of the record. A clock that is behind must not
/// let the record expire early.
fn not_before(webhook: &Webhook, now: Timestamp) -> Timestamp {
    now.max(webhook.updated_at)
}

fn unfinished(webhook: &Webhook) -> Result<Webhook, Refusal> {
    if webhook.status.is_finished() {
        Err(Refusal::Finished(webhook.status))
    } else {
        Ok(webhook.clone())
    }
}

fn check_lease(webhook: &Webhook, now: Timestamp) -> Result<(), Refusal> {
    if planted::is(Bug::ClaimIgnoresLease) {
        return Ok(());
    }
    match &webhook.claim {
        Some(claim) if claim.lease_until > now => Err(Refusal::Leased(claim.lease_until)),
        _ => Ok(()),
    }
}

fn enter(next: &mut Webhook, status: Status) {
    next.status = status;
    next.budget.requeues = 0;
    next.budget.unworked_rescues = 0;
}

fn last_error(report: &Report) -> Option<LastError> {
    let kind = report.outcome.error?;
    let message =
        truncated(report.message.as_deref().unwrap_or_default(), MAX_ERROR_BYTES).to_owned();
    Some(LastError { kind, status_code: report.outcome.status_code, message })
}

fn keep_attempt(next: &mut Webhook, started_at: Timestamp, report: &Report) {
    let failed = report.outcome.error.is_some();
    let kept = |text: &Option<String>, limit| {
        text.as_deref().map(|text| truncated(text, limit).to_owned())
    };
    push_bounded(
        &mut next.attempts,
        Attempt {
            number: next.attempt_count,
            started_at,
            duration_ms: report.duration.as_millis() as u64,
            error: report.outcome.error,
            status_code: report.outcome.status_code,
            endpoint_revision: None,
            message: kept(&report.message, MAX_ERROR_BYTES).filter(|_| failed),
            response_excerpt: kept(&report.response_excerpt, MAX_EXCERPT_BYTES),
        },
        MAX_ATTEMPTS_KEPT,
    );
}

fn note(
    next: &mut Webhook,
    at: Timestamp,
    function: Function,
    transition: Transition,
    allowed_at: Option<Timestamp>,
    why: Option<Why>,
) {
    next.revision = next.revision.saturating_add(1);
    next.updated_at = at;
    let counts = matches!(
        transition,
        Transition::Claim | Transition::Deliver | Transition::Retry | Transition::Fail
    );
    let attempt = if counts { next.attempt_count } else { 0 };
    let step = Step { at, function, transition, to: next.status, attempt, allowed_at, why };
    push_bounded(&mut next.history, step, MAX_HISTORY_KEPT);
}

/// Appends the item. A full list drops its second oldest item, because the beginning is worth more
/// than what came just after.
fn push_bounded<T>(list: &mut Vec<T>, item: T, limit: usize) {
    if list.len() >= limit {
        list.remove(1);
    }
    list.push(item);
}

/// Records for tests.
#[cfg(any(test, feature = "testing"))]
pub mod testing;

#[cfg(test)]
mod tests;
