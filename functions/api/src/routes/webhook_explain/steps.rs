//! What happened to a webhook: its transitions, each with a sentence that gives the reason.

use serde::Serialize;
use shared::{
    clock::{Timestamp, rfc3339},
    model::{ErrorKind, Function, MAX_HISTORY_KEPT, Step, Transition, Webhook, Why},
    status::Status,
};
use utoipa::ToSchema;

use crate::{openapi::schemas, view::is_queue_message};

/// A transition.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Step)]
pub(super) struct StepView {
    #[serde(with = "rfc3339")]
    #[schema(value_type = schemas::Time)]
    pub(super) at: Timestamp,
    /// The function that made the transition.
    pub(super) function: &'static str,
    pub(super) transition: &'static str,
    /// The status before. Null for the creation, and if it is unknown because a long history was
    /// shortened.
    #[schema(value_type = Option<schemas::Status>)]
    pub(super) from: Option<Status>,
    #[schema(value_type = schemas::Status)]
    pub(super) to: Status,
    /// The number of the attempt, if the transition belongs to one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, minimum = 1)]
    pub(super) attempt: Option<u32>,
    /// The reason, in sentences for people.
    pub(super) why: String,
    /// The earliest time of the next attempt, if the transition sets one.
    #[serde(with = "rfc3339::option", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = schemas::Time, required = false)]
    pub(super) next_attempt_at: Option<Timestamp>,
}

pub(super) fn steps(webhook: &Webhook) -> Vec<StepView> {
    let history = &webhook.history;
    let status_before = |index: usize| {
        // A long history loses the entries after the first, so the status before the second entry
        // is unknown.
        let is_known = index != 1 || history.len() < MAX_HISTORY_KEPT;
        index.checked_sub(1).filter(|_| is_known).map(|index| history[index].to)
    };
    let view = |(index, step): (usize, &Step)| StepView {
        at: step.at,
        function: step.function.as_str(),
        transition: step.transition.as_str(),
        from: status_before(index),
        to: step.to,
        attempt: refused_attempt(webhook, index)
            .or_else(|| (step.attempt > 0).then_some(step.attempt)),
        why: why(webhook, index, step),
        next_attempt_at: step.allowed_at,
    };
    history.iter().enumerate().map(view).collect()
}

fn why(webhook: &Webhook, index: usize, step: &Step) -> String {
    if let Some(number) = refused_attempt(webhook, index) {
        return of_refused_attempt(webhook, number, step);
    }
    if let Some(rate) = configured_rate(webhook, index) {
        return format!(
            "Deferred without an attempt: the configured rate of the destination, {rate}s, was \
             reached. The webhook waits for its slot."
        );
    }
    let known = if is_queue_message(webhook) {
        of_queue_message(step.transition)
    } else if webhook.id.is_delivery() {
        of_delivery(step).or_else(|| without_attempt(step))
    } else {
        without_attempt(step)
    };
    known.map_or_else(|| of_attempt(webhook, step), str::to_owned)
}

/// The configured rate for whose slot this deferral waits. The record has the slot of the latest
/// deferral alone.
fn configured_rate(webhook: &Webhook, index: usize) -> Option<&str> {
    let is_deferral = |step: &Step| step.transition == Transition::Defer;
    let latest = webhook.history.iter().rposition(is_deferral)?;
    let is_of_rate = webhook.history[latest].why == Some(Why::RateLimit);
    let slot = webhook.slot.as_ref().filter(|_| latest == index && is_of_rate)?;
    Some(&slot.generation)
}

/// The number of the attempt whose refusal this deferral records. Such a deferral follows the claim
/// of the attempt. One that follows the claim of an interrupted attempt only waits.
fn refused_attempt(webhook: &Webhook, index: usize) -> Option<u32> {
    let step = webhook.history.get(index)?;
    let claim = webhook.history.get(index.checked_sub(1)?)?;
    let is_refusal = (step.transition, step.why) == (Transition::Defer, Some(Why::RetryAfter))
        && claim.transition == Transition::Claim;
    let was_interrupted = |number: u32| {
        let attempt = webhook.attempts.iter().find(|attempt| attempt.number == number);
        attempt.is_some_and(|attempt| attempt.error == Some(ErrorKind::Interrupted))
    };
    (is_refusal && !was_interrupted(claim.attempt)).then_some(claim.attempt)
}

fn of_refused_attempt(webhook: &Webhook, number: u32, step: &Step) -> String {
    let attempt = webhook.attempts.iter().find(|attempt| attempt.number == number);
    let answered = attempt
        .and_then(|attempt| attempt.status_code)
        .map_or_else(|| "refused it".to_owned(), |code| format!("answered {code}"));
    let next = step
        .allowed_at
        .map_or_else(String::new, |at| format!(" The next look at its turn is at {at}."));
    format!(
        "Attempt {number}: the destination {answered} and asked to wait. The attempt does not \
         count.{next}"
    )
}

/// The reason for a transition that belongs to an attempt.
fn of_attempt(webhook: &Webhook, step: &Step) -> String {
    let n = step.attempt;
    let outcome = outcome(webhook, n);
    match (step.transition, step.why) {
        (Transition::Claim, Some(Why::LeaseOver)) => format!(
            "Attempt {n} started. The attempt before it ended without a recorded outcome because \
             its worker crashed or was stopped. Its request may have arrived."
        ),
        (Transition::Claim, _) => format!("Attempt {n} started."),
        (Transition::Retry, Some(Why::RetryAfter)) => format!(
            "Attempt {n} {outcome}. The destination requested a longer wait with Retry-After."
        ),
        (Transition::Retry, Some(Why::Error(ErrorKind::Interrupted))) => format!(
            "Attempt {n} ended without a recorded outcome because its worker crashed or was \
             stopped, like the attempt before it. Its request may have arrived. The wait before \
             the next attempt grows each time."
        ),
        (Transition::Retry, _) => {
            format!("Attempt {n} {outcome}. The retry policy allows another attempt.")
        }
        (Transition::Fail, _) => {
            format!("Attempt {n} {outcome}. The retry policy allows no further attempt.")
        }
        _ => format!("Attempt {n} {outcome}."),
    }
}

/// The reason for a transition of the dead letter that keeps an unreadable queue message.
fn of_queue_message(transition: Transition) -> Option<&'static str> {
    match transition {
        Transition::Create => Some("The queue held a message that cannot be read. It was kept."),
        Transition::Fail => {
            Some("Failed: the message names no webhook, so there is nothing to attempt.")
        }
        Transition::Archive => Some("It became a dead letter."),
        _ => None,
    }
}

/// The reason for a transition that a direct webhook does not have, or not for this reason.
fn of_delivery(step: &Step) -> Option<&'static str> {
    let reason = match (step.transition, step.why, step.function) {
        (Transition::Create, Some(Why::Scheduled), _) => {
            "The message was published for a later time, and planned for this endpoint."
        }
        (Transition::Create, ..) => "The message was published, and planned for this endpoint.",
        (Transition::Fail, Some(Why::Error(ErrorKind::EndpointDeleted)), _) => {
            "Failed without a further attempt: the endpoint was deleted."
        }
        (Transition::Fail, Some(Why::Error(ErrorKind::EndpointDisabled)), _) => {
            "Failed without a further attempt: the endpoint was disabled."
        }
        (Transition::Fail, Some(Why::Error(ErrorKind::Undeliverable)), Function::Deliver) => {
            "Failed: no attempt started within 14 days of the time at which it was allowed."
        }
        (Transition::Defer, Some(Why::Error(ErrorKind::CircuitOpen)), _) => {
            "Deferred without an attempt: the circuit of its endpoint is open after repeated \
             failures."
        }
        _ => return None,
    };
    Some(reason)
}

/// The reason for a transition that does not belong to an attempt.
fn without_attempt(step: &Step) -> Option<&'static str> {
    let reason = match (step.transition, step.why) {
        (Transition::Fail, Some(Why::Error(ErrorKind::Interrupted))) => {
            "Failed: too many attempts in a row ended without a recorded outcome."
        }
        (Transition::Fail, Some(Why::Error(ErrorKind::CircuitOpen))) => {
            "Failed: an open circuit, a pause or a rate deferred it for the maximum time."
        }
        (Transition::Fail, Some(Why::Error(ErrorKind::Undeliverable))) => {
            "Failed: the queue gave up on its message too many times."
        }
        (Transition::Create, Some(Why::Scheduled)) => {
            "Accepted. The caller scheduled it for a later time."
        }
        (Transition::Create, _) => "Accepted.",
        (Transition::Defer, Some(Why::RateLimit)) => {
            "Deferred without an attempt: a concurrency limit or the configured rate of the \
             destination was reached."
        }
        (Transition::Defer, Some(Why::Unsent)) => {
            "Deferred: the attempt sent nothing, for a reason within Posthaste. It does not count \
             as an attempt."
        }
        (Transition::Defer, Some(Why::RetryAfter)) => {
            "Deferred without an attempt: the destination asked for fewer requests, so the webhook \
             waits for its turn."
        }
        (Transition::Defer, _) => {
            "Deferred without an attempt: the circuit of its URL or destination is open after \
             repeated failures."
        }
        (Transition::Requeue, _) => "It was due, so the sweep queued a message for it.",
        (Transition::Adopt, Some(Why::Audit)) => {
            "The audit found it unfinished. From now on the sweep watches it, even if its message \
             is lost."
        }
        (Transition::Adopt, Some(Why::Rescue)) if step.allowed_at.is_some() => {
            "The queue gave up on its message although no worker had processed it. It is queued \
             again after a wait that grows each time."
        }
        (Transition::Adopt, Some(Why::Rescue)) => {
            "The queue gave up on its message, so the webhook was rescued."
        }
        (Transition::Adopt, None) => {
            "A clock that was ahead had set its times. They were corrected."
        }
        (Transition::Adopt, _) => "The queue refused its message, so the sweep will queue it.",
        (Transition::Archive, _) => "It became a dead letter.",
        (Transition::Resend, _) => "An operator resent it, with a new budget of attempts.",
        (Transition::Redrive, _) => {
            "An operator redrove the dead letter, with a new budget of attempts."
        }
        (Transition::Claim | Transition::Deliver | Transition::Retry | Transition::Fail, _) => {
            return None;
        }
    };
    Some(reason)
}

/// The outcome of an attempt, as the predicate of a sentence.
fn outcome(webhook: &Webhook, number: u32) -> String {
    let Some(attempt) = webhook.attempts.iter().find(|attempt| attempt.number == number) else {
        return "ended".to_owned();
    };
    let took = attempt.duration_ms;
    match (attempt.error, attempt.status_code) {
        (None, Some(code)) => format!("succeeded with status {code} after {took} ms"),
        (None, None) => format!("succeeded after {took} ms"),
        (Some(ErrorKind::HttpStatus), Some(code)) => {
            format!("failed with status {code} after {took} ms")
        }
        (Some(ErrorKind::HttpStatus), None) => format!("failed after {took} ms"),
        (Some(ErrorKind::Network), _) => {
            format!("failed after {took} ms: it could not connect, or the connection broke")
        }
        (Some(ErrorKind::Timeout), _) => {
            format!("failed: there was no complete response within {took} ms")
        }
        (Some(ErrorKind::Tls), _) => "failed during the TLS handshake".to_owned(),
        (Some(ErrorKind::RefusedAddress), _) => {
            "failed: the destination's name resolves to an address that is not allowed".to_owned()
        }
        (Some(kind), _) => format!("failed: {}", kind.as_str()),
    }
}
