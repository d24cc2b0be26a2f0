//! `GET /webhooks/{webhook_id}/explain`: what happened to a webhook and why, and what happens next.
//! Both follow from the record alone.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::{RawQuery, State},
    response::Response,
};
use http::StatusCode;
use serde::Serialize;
use shared::{
    clock::{Timestamp, rfc3339},
    id::WebhookId,
    model::{ErrorKind, MAX_HISTORY_KEPT, Step, Transition, Webhook, Why},
    status::Status,
    transition::{Rules, is_relayed},
};

#[cfg(feature = "openapi")]
use crate::openapi::{errors, parameters, schemas};
use crate::{
    app::{App, Named},
    idempotency::answer,
    problem::Problem,
    query,
    view::{attempts_granted, to_json},
};

#[cfg_attr(feature = "openapi", utoipa::path(
    get, path = "/webhooks/{webhook_id}/explain", tag = "Webhooks",
    operation_id = "explain_webhook",
    summary = "What happened to a webhook and why, and what happens next",
    params(parameters::WebhookId),
    responses((status = 200, description = "Every transition, in order.",
        body = Explanation<'static>), errors::Missing),
))]
pub(crate) async fn explain(
    State(app): State<Arc<App>>,
    Named(id): Named,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    query::none(query.as_deref())?;
    let webhook = app.context.store.get(&id).await?.ok_or_else(Problem::no_such_webhook)?;
    let explanation =
        Explanation::of(&webhook, &app.context.rules, app.context.config.audit_age, app.now());
    Ok(answer(StatusCode::OK, to_json(&explanation)))
}

#[derive(Debug, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
struct Explanation<'a> {
    #[cfg_attr(feature = "openapi", schema(value_type = schemas::WebhookId))]
    webhook_id: &'a WebhookId,
    #[cfg_attr(feature = "openapi", schema(value_type = schemas::Status))]
    status: Status,
    #[serde(with = "rfc3339")]
    #[cfg_attr(feature = "openapi", schema(value_type = schemas::Time))]
    now: Timestamp,
    #[cfg_attr(feature = "openapi", schema(max_items = 50))]
    steps: Vec<StepView>,
    next: Next,
    budget: BudgetView,
}

#[derive(Debug, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = Step))]
struct StepView {
    #[serde(with = "rfc3339")]
    #[cfg_attr(feature = "openapi", schema(value_type = schemas::Time))]
    at: Timestamp,
    function: &'static str,
    transition: &'static str,
    #[cfg_attr(feature = "openapi", schema(value_type = Option<schemas::Status>))]
    from: Option<Status>,
    #[cfg_attr(feature = "openapi", schema(value_type = schemas::Status))]
    to: Status,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(nullable = false, minimum = 1))]
    attempt: Option<u32>,
    why: String,
    #[serde(with = "rfc3339::option", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = schemas::Time, required = false))]
    next_attempt_at: Option<Timestamp>,
}

/// What happens next by itself.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
struct Next {
    what: String,
    /// `None`: as soon as somebody gets to it.
    #[serde(with = "rfc3339::option")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<schemas::Time>))]
    at: Option<Timestamp>,
    /// Which function; `None` if only an operator can do something.
    by: Option<&'static str>,
}

/// What has been used up since it was accepted or last sent again, and what there is.
#[derive(Debug, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = Budget))]
struct BudgetView {
    attempts: Used,
    interrupted_attempts: Used,
    rescues: Used,
    /// Waits for an open circuit.
    deferred_ms: Used,
    /// Waits for the destination's share of the attempts.
    host_deferred_ms: Used,
}

#[derive(Debug, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
struct Used {
    used: u64,
    of: u64,
}

impl<'a> Explanation<'a> {
    fn of(webhook: &'a Webhook, rules: &Rules, audit_age: Duration, now: Timestamp) -> Self {
        let budget = &webhook.budget;
        let used = |used: u32, of: u32| Used { used: u64::from(used), of: u64::from(of) };
        let max_defer_ms = rules.limits.max_defer.as_millis() as u64;
        Self {
            webhook_id: &webhook.id,
            status: webhook.status,
            now,
            steps: steps(webhook),
            next: next(webhook, rules, audit_age, now),
            budget: BudgetView {
                attempts: used(budget.attempts, attempts_granted(webhook, rules)),
                interrupted_attempts: used(budget.interrupted, rules.limits.max_interrupted),
                rescues: used(budget.rescues, rules.limits.max_rescues),
                deferred_ms: Used { used: budget.deferred_ms, of: max_defer_ms },
                host_deferred_ms: Used { used: budget.host_deferred_ms, of: max_defer_ms },
            },
        }
    }
}

fn steps(webhook: &Webhook) -> Vec<StepView> {
    let history = &webhook.history;
    let before = |index: usize| {
        // Of a long history the second entries went, so what the second one came from is not known.
        let known = index != 1 || history.len() < MAX_HISTORY_KEPT;
        index.checked_sub(1).filter(|_| known).map(|index| history[index].to)
    };
    let view = |(index, step): (usize, &Step)| StepView {
        at: step.at,
        function: step.function.as_str(),
        transition: step.transition.as_str(),
        from: before(index),
        to: step.to,
        attempt: (step.attempt > 0).then_some(step.attempt),
        why: why(webhook, step),
        next_attempt_at: step.allowed_at,
    };
    history.iter().enumerate().map(view).collect()
}

fn why(webhook: &Webhook, step: &Step) -> String {
    let n = step.attempt;
    let ended = || outcome(webhook, n);
    match (step.transition, step.why) {
        (Transition::Create, Some(Why::Scheduled)) => {
            "Accepted, to be delivered later, as its caller \
                asked."
                .to_owned()
        }
        (Transition::Create, _) => "Accepted.".to_owned(),
        (Transition::Claim, Some(Why::LeaseOver)) => format!(
            "Attempt {n} started. The attempt before it ended without a recorded answer (its \
             worker died or was stopped), so its request may have arrived."
        ),
        (Transition::Claim, _) => format!("Attempt {n} started."),
        (Transition::Deliver, _) => format!("Attempt {n} {}.", ended()),
        (Transition::Retry, Some(Why::RetryAfter)) => {
            format!(
                "Attempt {n} {}; the destination asked by Retry-After to wait for longer than \
                planned.",
                ended()
            )
        }
        (Transition::Retry, Some(Why::Error(ErrorKind::Interrupted))) => format!(
            "Attempt {n} ended without a recorded answer (its worker died or was stopped), and so \
             did the one before it. Its request may have arrived. The next attempt waits, longer \
             after each such end."
        ),
        (Transition::Retry, _) => {
            format!("Attempt {n} {}; the retry policy grants another one.", ended())
        }
        (Transition::Fail, Some(Why::Error(ErrorKind::Interrupted))) => {
            "Given up: too many attempts in a row ended without a recorded answer.".to_owned()
        }
        (Transition::Fail, Some(Why::Error(ErrorKind::CircuitOpen))) => {
            "Given up: it was put off for as long as it may be, while the destination's circuit \
             was open."
                .to_owned()
        }
        (Transition::Fail, Some(Why::Error(ErrorKind::Undeliverable))) => {
            "Given up: the queue gave up on its message again and again.".to_owned()
        }
        (Transition::Fail, _) => {
            format!("Attempt {n} {}; the retry policy grants no further one.", ended())
        }
        (Transition::Defer, Some(Why::RateLimit)) => {
            "Deferred without an attempt: the concurrency limit of the destination, or of \
             destinations that have not answered lately, was reached."
                .to_owned()
        }
        (Transition::Defer, Some(Why::Unsent)) => {
            "Put off: the attempt that had started sent nothing, for a reason on Posthaste's side, \
             and uses up nothing."
                .to_owned()
        }
        (Transition::Defer, _) => {
            "Put off without an attempt: the destination's circuit is open after failures in a \
             row."
                .to_owned()
        }
        (Transition::Requeue, _) => "It was due, so a message for it was queued.".to_owned(),
        (Transition::Adopt, Some(Why::Audit)) => {
            "The audit found it unfinished; from now on the sweep watches it, whatever becomes of \
             its message."
                .to_owned()
        }
        (Transition::Adopt, Some(Why::Rescue)) if step.allowed_at.is_some() => {
            "The queue had given up on its message, and no worker had looked at it: it is queued \
             again, later each time."
                .to_owned()
        }
        (Transition::Adopt, Some(Why::Rescue)) => "The queue had given up on its message; it was \
                rescued."
            .to_owned(),
        (Transition::Adopt, None) => {
            "A clock that was ahead had written its times; they were taken \
                back."
                .to_owned()
        }
        (Transition::Adopt, _) => {
            "The queue did not take its message, so the sweep will queue it.".to_owned()
        }
        (Transition::Archive, _) => "It became a dead letter.".to_owned(),
        (Transition::Resend, _) => {
            "An operator had it sent again, with a fresh budget of attempts.".to_owned()
        }
        (Transition::Redrive, _) => "An operator redrove the dead letter, with a fresh budget of \
                attempts."
            .to_owned(),
    }
}

/// How an attempt ended, to follow its number in a sentence.
fn outcome(webhook: &Webhook, number: u32) -> String {
    let Some(attempt) = webhook.attempts.iter().find(|attempt| attempt.number == number) else {
        return "ended".to_owned();
    };
    let took = attempt.duration_ms;
    match (attempt.error, attempt.status_code) {
        (None, Some(code)) => format!("was answered {code} after {took} ms"),
        (None, None) => format!("was answered after {took} ms"),
        (Some(ErrorKind::HttpStatus), Some(code)) => {
            format!("failed: it was answered {code} after {took} ms")
        }
        (Some(ErrorKind::HttpStatus), None) => format!("failed after {took} ms"),
        (Some(ErrorKind::Network), _) => {
            format!("failed: there was no connection, or it broke, after {took} ms")
        }
        (Some(ErrorKind::Timeout), _) => {
            format!("failed: there was no complete answer within {took} ms")
        }
        (Some(ErrorKind::Tls), _) => "failed: the TLS handshake did".to_owned(),
        (Some(ErrorKind::RefusedAddress), _) => {
            "failed: Posthaste must not connect to where the destination's name leads".to_owned()
        }
        (Some(kind), _) => format!("failed: {}", kind.as_str()),
    }
}

fn next(webhook: &Webhook, rules: &Rules, audit_age: Duration, now: Timestamp) -> Next {
    match webhook.status {
        Status::Pending | Status::Retrying => next_attempt(webhook, audit_age, now),
        Status::InProgress => next_of_claimed(webhook, rules, now),
        Status::Failed if webhook.archived_at.is_none() => {
            let again = webhook.due_at.map_or_else(String::new, |at| {
                format!("; should its message be lost, the sweep sends another at {at}")
            });
            Next {
                what: format!("It becomes a dead letter within moments{again}."),
                at: None,
                by: Some("dlq"),
            }
        }
        Status::Failed => {
            let what =
                "Nothing, unless an operator redrives or deletes it; then it expires.".to_owned();
            Next { what, at: webhook.expires_at, by: None }
        }
        Status::Delivered => Next {
            what: "Nothing: it is delivered. Its record expires.".to_owned(),
            at: webhook.expires_at,
            by: None,
        },
    }
}

fn next_attempt(webhook: &Webhook, audit_age: Duration, now: Timestamp) -> Next {
    let n = webhook.attempt_count.saturating_add(1);
    let allowed_at = webhook.allowed_at.filter(|at| *at > now);
    let given_up_by_queue =
        webhook.history.last().is_some_and(|step| step.why == Some(Why::Rescue));
    match (webhook.due_at, allowed_at) {
        (Some(due_at), None) if given_up_by_queue && due_at > now => Next {
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
                "Its message is queued: attempt {n} starts as soon as a worker takes it. Should \
                 the message be lost, the audit finds the webhook soon after {audit_at}."
            );
            Next { what, at, by: Some("deliver") }
        }
        (Some(due_at), Some(at)) if is_relayed(webhook) => {
            let what = format!(
                "Its message waits in the queue, then attempt {n} starts. Should the message be \
                 lost, the sweep sends another at {due_at}."
            );
            Next { what, at: Some(at), by: Some("deliver") }
        }
        (Some(_), Some(at)) => Next {
            what: format!("The sweep queues it when it falls due, then attempt {n} starts."),
            at: Some(at),
            by: Some("sweep"),
        },
        (Some(due_at), None) if due_at <= now => Next {
            what: format!("It is due: the next sweep queues it, then attempt {n} starts."),
            at: None,
            by: Some("sweep"),
        },
        (Some(due_at), None) => {
            let what = format!(
                "Its message is queued: attempt {n} starts as soon as a worker takes it. Should \
                 the message be lost, the sweep sends another at {due_at}."
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
            format!("Attempt {n} is under way; its outcome is written before its lease ends.");
        return Next { what, at: Some(lease_until), by: Some("deliver") };
    }
    let then = if webhook.budget.interrupted.saturating_add(1) >= rules.limits.max_interrupted {
        "the webhook fails, since too many attempts in a row ended so".to_owned()
    } else {
        let wait = rules
            .must_wait_until(webhook, now)
            .map_or_else(String::new, |at| format!(", not before {at}"));
        format!("attempt {} starts{wait}", n.saturating_add(1))
    };
    let what = format!(
        "The worker of attempt {n} is gone: at the next look the attempt is noted as interrupted, \
         and {then}."
    );
    Next { what, at: webhook.due_at.filter(|at| *at > now), by: Some("deliver") }
}

#[cfg(test)]
mod tests {
    use shared::{
        model::{ClaimId, Function},
        retry::Outcome,
        transition::{NewWebhook, Report, testing},
    };

    use super::*;

    const AUDIT_AGE: Duration = Duration::from_secs(900);

    fn start() -> Timestamp {
        Timestamp::from_millis(1_700_000_000_000)
    }

    fn after(seconds: u64) -> Timestamp {
        start().plus(Duration::from_secs(seconds))
    }

    fn report(error: Option<ErrorKind>, code: Option<u16>, retry_after_s: Option<u64>) -> Report {
        let retry_after = retry_after_s.map(Duration::from_secs);
        let outcome = Outcome { error, status_code: code, retry_after };
        Report {
            outcome,
            duration: Duration::from_millis(7),
            message: None,
            response_excerpt: None,
        }
    }

    fn concluded(webhook: &Webhook, report: &Report, now: Timestamp) -> Webhook {
        let rules = Rules::default();
        let claimed = rules.claim(webhook, ClaimId(1), now).unwrap();
        rules.conclude(&claimed, ClaimId(1), report, now, 0.5).unwrap()
    }

    fn coming(
        webhook: &Webhook,
        now: Timestamp,
    ) -> (Option<&'static str>, Option<Timestamp>, String) {
        let next = next(webhook, &Rules::default(), AUDIT_AGE, now);
        (next.by, next.at, next.what)
    }

    #[test]
    fn what_comes_next_for_what_is_queued_scheduled_or_due() {
        let rules = Rules::default();
        let new = testing::webhook(start());
        let (by, at, what) = coming(&new, start());
        assert_eq!((by, at), (Some("deliver"), None));
        assert!(what.contains("attempt 1") && what.contains(&after(900).to_string()), "{what}");

        let later =
            NewWebhook { deliver_at: Some(after(3600)), ..testing::new_webhook(new.id.task) };
        let scheduled = rules.create(later, start());
        assert_eq!(coming(&scheduled, start()).0, Some("sweep"));
        assert_eq!(coming(&scheduled, start()).1, Some(after(3600)));

        let unsent = rules.adopt(&new, start(), (Function::Api, Why::Unsent), start()).unwrap();
        let (by, _, what) = coming(&unsent, start());
        assert!(by == Some("sweep") && what.contains("next sweep"), "{what}");
        let audited = rules.audit(&new, after(900)).unwrap();
        assert_eq!(coming(&audited, after(900)).0, Some("deliver"));
    }

    #[test]
    fn what_comes_next_after_an_attempt() {
        let rules = Rules::default();
        let new = testing::webhook(start());
        let claimed = rules.claim(&new, ClaimId(1), start()).unwrap();
        assert_eq!(coming(&claimed, start()).1, Some(after(45)));
        assert!(coming(&claimed, after(46)).2.contains("attempt 2 starts"));

        let retrying =
            concluded(&new, &report(Some(ErrorKind::HttpStatus), Some(500), None), start());
        let (by, at, what) = coming(&retrying, start());
        assert_eq!((by, at), (Some("deliver"), Some(after(5))));
        assert!(what.contains(&after(905).to_string()), "{what}");
        let put_off =
            concluded(&new, &report(Some(ErrorKind::HttpStatus), Some(503), Some(600)), start());
        assert_eq!(
            (coming(&put_off, start()).0, coming(&put_off, start()).1),
            (Some("sweep"), Some(after(600)))
        );

        let failed =
            concluded(&new, &report(Some(ErrorKind::HttpStatus), Some(410), None), start());
        assert_eq!(coming(&failed, start()).0, Some("dlq"));
        let archived = rules.archive(&failed, after(1)).unwrap();
        assert_eq!(
            (coming(&archived, after(1)).0, coming(&archived, after(1)).1),
            (None, archived.expires_at)
        );
        let delivered = concluded(&new, &report(None, Some(204), None), start());
        assert_eq!(
            (coming(&delivered, start()).0, coming(&delivered, start()).1),
            (None, delivered.expires_at)
        );
    }

    #[test]
    fn interrupted_attempts_end_in_failure_at_their_limit() {
        let rules = Rules::default();
        let mut webhook = testing::webhook(start());
        for round in 0..5 {
            webhook = rules.claim(&webhook, ClaimId(round), after(round * 460)).unwrap();
        }
        assert!(coming(&webhook, after(9999)).2.contains("the webhook fails"));
        assert!(steps(&webhook)[2].why.contains("may have arrived"));
    }

    /// The second interruption in a row makes it wait: said before it is noted, and after.
    #[test]
    fn the_wait_after_an_interruption_is_told() {
        let rules = Rules::default();
        let once = rules.claim(&testing::webhook(start()), ClaimId(0), start()).unwrap();
        let twice = rules.claim(&once, ClaimId(0), after(45)).unwrap();
        let resumes_at = after(45 + 45 + 5);
        let (_, _, what) = coming(&twice, after(90));
        assert!(what.contains(&format!("attempt 3 starts, not before {resumes_at}")), "{what}");
        let waiting = rules.retry_interrupted(&twice, after(90)).unwrap();
        assert_eq!(
            (coming(&waiting, after(90)).0, coming(&waiting, after(90)).1),
            (Some("deliver"), Some(resumes_at))
        );
        let told = steps(&waiting).pop().unwrap();
        assert!(told.why.starts_with("Attempt 2 ended without a recorded answer"), "{}", told.why);
        assert_eq!(
            (told.transition, told.attempt, told.next_attempt_at),
            ("retry", Some(2), Some(resumes_at))
        );
    }

    /// What the queue gave up on while no worker looked at it, and what sent nothing, are told as
    /// what they are.
    #[test]
    fn what_is_ours_is_told_as_ours() {
        let rules = Rules::default();
        let once = rules.rescue(&testing::webhook(start()), start()).unwrap();
        let twice = rules.rescue(&once, start()).unwrap();
        let (by, at, what) = coming(&twice, start());
        assert_eq!((by, at), (Some("sweep"), Some(after(900))));
        assert!(what.starts_with("The queue gave up on its message."), "{what}");
        assert!(steps(&twice)[2].why.contains("no worker had looked at it"));

        let claimed = rules.claim(&testing::webhook(start()), ClaimId(3), start()).unwrap();
        let back = rules
            .give_back(&claimed, ClaimId(3), "nothing was sent", after(60), after(31))
            .unwrap();
        assert!(steps(&back)[2].why.contains("sent nothing"));
        assert_eq!(
            (coming(&back, after(31)).0, coming(&back, after(31)).1),
            (Some("deliver"), Some(after(60)))
        );
    }

    #[test]
    fn every_step_says_from_where_to_where_and_why() {
        let rules = Rules::default();
        let failing = report(Some(ErrorKind::HttpStatus), Some(500), None);
        let once = concluded(&testing::webhook(start()), &failing, start());
        let put_off =
            rules.defer(&once, after(60), Why::Error(ErrorKind::CircuitOpen), after(5)).unwrap();
        let done = concluded(&put_off, &report(None, Some(204), None), after(60));
        let again = rules.resend(&done, after(61)).unwrap();
        let shown: Vec<(Option<Status>, Status, String)> =
            steps(&again).into_iter().map(|step| (step.from, step.to, step.why)).collect();
        let (pending, busy, retrying, delivered) =
            (Status::Pending, Status::InProgress, Status::Retrying, Status::Delivered);
        let expected = [
            (None, pending, "Accepted."),
            (Some(pending), busy, "Attempt 1 started."),
            (
                Some(busy),
                retrying,
                "Attempt 1 failed: it was answered 500 after 7 ms; the retry policy grants another \
                 one.",
            ),
            (
                Some(retrying),
                retrying,
                "Put off without an attempt: the destination's circuit is open after failures in a \
                 row.",
            ),
            (Some(retrying), busy, "Attempt 2 started."),
            (Some(busy), delivered, "Attempt 2 was answered 204 after 7 ms."),
            (
                Some(delivered),
                pending,
                "An operator had it sent again, with a fresh budget of attempts.",
            ),
        ];
        assert_eq!(shown, expected.map(|(from, to, why)| (from, to, why.to_owned())));
    }

    #[test]
    fn a_shortened_history_does_not_invent_what_came_before() {
        let rules = Rules::default();
        let mut webhook = testing::webhook(start());
        webhook.due_at = Some(start());
        for _ in 0..MAX_HISTORY_KEPT {
            webhook = rules.requeue(&webhook, webhook.due_at.unwrap(), start()).unwrap();
        }
        let steps = steps(&webhook);
        assert_eq!(
            (steps.len(), steps[1].from, steps[2].from),
            (MAX_HISTORY_KEPT, None, Some(Status::Pending))
        );
    }
}
