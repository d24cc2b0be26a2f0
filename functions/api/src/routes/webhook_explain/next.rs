//! What happens to a webhook next if no operator acts.

use std::time::Duration;

use serde::Serialize;
use shared::{
    clock::{Timestamp, rfc3339},
    model::{Webhook, Why},
    status::Status,
    transition::{Rules, is_relayed},
};
use utoipa::ToSchema;

use super::{Surroundings, traffic::Restraint};
use crate::{deliveries::EndpointState, openapi::schemas, view::is_queue_message};

/// What happens next if no operator acts.
#[derive(Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(super) struct Next {
    /// In sentences for people.
    pub(super) what: String,
    /// When it happens. Null means as soon as a worker is free.
    #[serde(with = "rfc3339::option")]
    #[schema(value_type = Option<schemas::Time>)]
    pub(super) at: Option<Timestamp>,
    /// The function that does it. Null if only an operator can change the webhook.
    pub(super) by: Option<&'static str>,
}

pub(super) fn next(
    webhook: &Webhook,
    surroundings: &Surroundings,
    rules: &Rules,
    audit_age: Duration,
    now: Timestamp,
) -> Next {
    let Surroundings { traffic, endpoint, message_due_at } = surroundings;
    let endpoint = endpoint.as_ref();
    match webhook.status {
        Status::Pending | Status::Retrying => {
            let next = if webhook.revision == 0 {
                first_look(webhook, *message_due_at, audit_age, now)
            } else {
                next_attempt(webhook, audit_age, now)
            };
            match endpoint.filter(|endpoint| endpoint.obstacle().is_some()) {
                Some(endpoint) => without_receiver(&next, endpoint),
                None => held_back(next, traffic.restraint(webhook, now)),
            }
        }
        Status::InProgress => next_of_claimed(webhook, rules, now),
        Status::Failed if webhook.archived_at.is_none() => {
            let if_lost = webhook.due_at.map_or_else(String::new, |at| {
                format!(" If its message is lost, the sweep sends another one at {at}.")
            });
            let what = format!("It becomes a dead letter shortly.{if_lost}");
            Next { what, at: None, by: Some("dlq") }
        }
        Status::Failed if is_queue_message(webhook) => Next {
            what:
                "It expires, unless an operator deletes it first. It has no URL, so it cannot be \
                   sent."
                    .to_owned(),
            at: webhook.expires_at,
            by: None,
        },
        Status::Failed => {
            let expires = "It expires, unless an operator redrives or deletes it first.";
            let what = match endpoint.and_then(EndpointState::obstacle) {
                None => expires.to_owned(),
                Some(obstacle) => format!(
                    "It expires, unless an operator deletes it first. Its endpoint {obstacle}, so \
                     it cannot be sent again."
                ),
            };
            Next { what, at: webhook.expires_at, by: None }
        }
        Status::Delivered => Next {
            what: "It is delivered. Its record expires.".to_owned(),
            at: webhook.expires_at,
            by: None,
        },
    }
}

/// What comes next, with what holds the webhook back.
fn held_back(next: Next, restraint: Restraint) -> Next {
    let Restraint { until, mut reasons } = restraint;
    let is_queued = next.by == Some("deliver");
    if is_queued && until > next.at {
        // Such a wait can do without a write, so the record does not show it.
        let wait = "Until then a worker that receives its message sends it again with a delay.";
        reasons.push(wait.to_owned());
    }
    let at = if is_queued { until.max(next.at) } else { next.at };
    let what = std::iter::once(next.what).chain(reasons).collect::<Vec<_>>().join(" ");
    Next { what, at, by: next.by }
}

/// What comes next for a delivery whose endpoint receives nothing.
fn without_receiver(next: &Next, endpoint: &EndpointState) -> Next {
    let then = match endpoint {
        EndpointState::NoApplication => {
            "Its application was not found. Until it is there, no attempt starts."
        }
        EndpointState::Disabled(_) => {
            "Its endpoint is disabled, so it then fails without an attempt."
        }
        _ => "Its endpoint was deleted, so it then fails without an attempt.",
    };
    let what = match next.by {
        Some("sweep") => format!("The sweep queues it. {then}"),
        _ => format!("A worker looks at it. {then}"),
    };
    Next { what, at: next.at, by: next.by }
}

/// What comes next for a delivery without a record. Its message is in the due index in its place,
/// or a look at it is queued.
fn first_look(
    webhook: &Webhook,
    message_due_at: Option<Timestamp>,
    audit_age: Duration,
    now: Timestamp,
) -> Next {
    let allowed_at = webhook.allowed_at.filter(|at| *at > now);
    match (message_due_at, allowed_at) {
        (Some(_), Some(at)) => Next {
            what: "Its message is scheduled. The sweep queues it when it is due, then attempt 1 \
                   starts."
                .to_owned(),
            at: Some(at),
            by: Some("sweep"),
        },
        (Some(due_at), None) if due_at <= now => Next {
            what: "Its message is due. The next sweep queues it, then attempt 1 starts.".to_owned(),
            at: None,
            by: Some("sweep"),
        },
        (due_at, at) => {
            let if_lost = due_at.map_or_else(
                || {
                    let audit_at = webhook.created_at.plus(audit_age);
                    format!("the audit finds its message soon after {audit_at}")
                },
                |due_at| format!("the sweep sends another one at {due_at}"),
            );
            let what = format!(
                "It waits for its first look, which is queued. Attempt 1 starts when a worker \
                 receives it. If the look is lost, {if_lost}."
            );
            Next { what, at, by: Some("deliver") }
        }
    }
}

fn next_attempt(webhook: &Webhook, audit_age: Duration, now: Timestamp) -> Next {
    let n = webhook.attempt_count.saturating_add(1);
    let allowed_at = webhook.allowed_at.filter(|at| *at > now);
    let queue_gave_up = webhook.history.last().is_some_and(|step| step.why == Some(Why::Rescue));
    match (webhook.due_at, allowed_at) {
        (Some(due_at), None) if queue_gave_up && due_at > now => Next {
            what: format!(
                "The queue gave up on its message. The sweep queues another one, then attempt {n} \
                 starts."
            ),
            at: Some(due_at),
            by: Some("sweep"),
        },
        (None, at) => {
            let audit_at = webhook.created_at.plus(audit_age);
            let what = format!(
                "Its message is queued. Attempt {n} starts when a worker receives it. If the \
                 message is lost, the audit finds the webhook soon after {audit_at}."
            );
            Next { what, at, by: Some("deliver") }
        }
        (Some(due_at), Some(at)) if is_relayed(webhook) => {
            let what = format!(
                "Its message waits in the queue, then attempt {n} starts. If the message is lost, \
                 the sweep sends another one at {due_at}."
            );
            Next { what, at: Some(at), by: Some("deliver") }
        }
        (Some(_), Some(at)) => Next {
            what: format!("The sweep queues its message when it is due, then attempt {n} starts."),
            at: Some(at),
            by: Some("sweep"),
        },
        (Some(due_at), None) if due_at <= now => Next {
            what: format!("It is due. The next sweep queues its message, then attempt {n} starts."),
            at: None,
            by: Some("sweep"),
        },
        (Some(due_at), None) => {
            let what = format!(
                "Its message is queued. Attempt {n} starts when a worker receives it. If the \
                 message is lost, the sweep sends another one at {due_at}."
            );
            Next { what, at: None, by: Some("deliver") }
        }
    }
}

fn next_of_claimed(webhook: &Webhook, rules: &Rules, now: Timestamp) -> Next {
    let n = webhook.attempt_count;
    let lease_until = webhook.claim.as_ref().map_or(now, |claim| claim.lease_until);
    if lease_until > now {
        let what =
            format!("Attempt {n} is in progress. Its outcome is recorded before its lease ends.");
        return Next { what, at: Some(lease_until), by: Some("deliver") };
    }
    let then = if webhook.budget.interrupted.saturating_add(1) >= rules.limits.max_interrupted {
        "the webhook fails because too many attempts in a row were interrupted".to_owned()
    } else {
        let wait = rules
            .must_wait_until(webhook, now)
            .map_or_else(String::new, |at| format!(", not before {at}"));
        format!("attempt {} starts{wait}", n.saturating_add(1))
    };
    let what = format!(
        "The worker of attempt {n} is gone. The next worker records the attempt as interrupted. \
         Then {then}."
    );
    Next { what, at: webhook.due_at.filter(|at| *at > now), by: Some("deliver") }
}
