//! Webhooks and dead letters as responses show them. A member that has no value is null. Only
//! payloads and attempts can be omitted.

use serde::Serialize;
use serde_json::value::RawValue;
use shared::{
    applications::id::{ApplicationId, EndpointId},
    clock::{Timestamp, rfc3339},
    id::{ReferenceId, TaskId, WebhookId},
    model::{Attempt, ErrorKind, LastError, Webhook},
    status::Status,
    transition::Rules,
};

use utoipa::ToSchema;

use crate::{openapi::schemas, respond::to_json};

/// The response to an accept, a resend or a redrive.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Accepted<'a> {
    #[schema(value_type = schemas::AnyWebhookId)]
    webhook_id: &'a WebhookId,
    #[schema(value_type = schemas::ReferenceId)]
    reference_id: &'a ReferenceId,
    #[schema(value_type = schemas::TaskId)]
    task_id: TaskId,
    correlation_id: &'a str,
    #[schema(value_type = schemas::Status)]
    status: Status,
}

impl<'a> Accepted<'a> {
    /// The status is always `pending`. So a repeated response is the same, even if the status has
    /// changed since.
    pub(crate) fn of(webhook: &'a Webhook) -> Self {
        Self {
            webhook_id: &webhook.id,
            reference_id: &webhook.id.reference,
            task_id: webhook.id.task,
            correlation_id: &webhook.correlation_id,
            status: Status::Pending,
        }
    }
}

/// The response body for an accepted webhook.
pub(crate) fn accepted(webhook: &Webhook) -> String {
    to_json(&Accepted::of(webhook))
}

/// The response to an accepted test webhook.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TestAccepted<'a> {
    status: &'static str,
    #[schema(value_type = schemas::WebhookId)]
    webhook_id: &'a WebhookId,
    #[schema(value_type = schemas::ReferenceId)]
    reference_id: &'a ReferenceId,
    #[schema(value_type = schemas::TaskId)]
    task_id: TaskId,
    message: &'static str,
}

/// The response body for an accepted test webhook.
pub(crate) fn test_accepted(webhook: &Webhook) -> String {
    to_json(&TestAccepted {
        status: "webhook_queued",
        webhook_id: &webhook.id,
        reference_id: &webhook.id.reference,
        task_id: webhook.id.task,
        message: "Test webhook queued for delivery",
    })
}

/// A webhook.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Webhook)]
pub(crate) struct WebhookView<'a> {
    #[schema(value_type = schemas::AnyWebhookId)]
    webhook_id: &'a WebhookId,
    /// The application of a delivery. Null for a direct webhook.
    #[schema(value_type = Option<schemas::ApplicationId>)]
    application_id: Option<&'a ApplicationId>,
    /// The endpoint of a delivery. Null for a direct webhook.
    #[schema(value_type = Option<schemas::EndpointId>)]
    endpoint_id: Option<EndpointId>,
    #[schema(value_type = schemas::ReferenceId)]
    reference_id: &'a ReferenceId,
    #[schema(value_type = schemas::TaskId)]
    task_id: TaskId,
    correlation_id: &'a str,
    event_type: Option<&'a str>,
    /// The destination's URL. For a delivery, the URL of its endpoint, or null if the endpoint was
    /// deleted.
    url: Option<&'a str>,
    #[schema(value_type = schemas::Status)]
    status: Status,
    /// The number of attempts that have started.
    attempt_count: u32,
    /// The number of the last attempt if all attempts fail like the latest one.
    max_attempts: u32,
    #[serde(with = "rfc3339")]
    #[schema(value_type = schemas::Time)]
    created_at: Timestamp,
    #[serde(with = "rfc3339")]
    #[schema(value_type = schemas::Time)]
    updated_at: Timestamp,
    #[serde(with = "rfc3339::option")]
    #[schema(value_type = Option<schemas::Time>)]
    next_attempt_at: Option<Timestamp>,
    #[serde(with = "rfc3339::option")]
    #[schema(value_type = Option<schemas::Time>)]
    delivered_at: Option<Timestamp>,
    last_error: Option<ErrorView<'a>>,
    /// The recorded attempts, oldest first.
    #[schema(max_items = 50)]
    attempts: Vec<AttemptView<'a>>,
    /// Present with `include=payload`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = schemas::Anything, required = false)]
    payload: Option<&'a RawValue>,
}

impl<'a> WebhookView<'a> {
    pub(crate) fn new(webhook: &'a Webhook, url: Option<&'a str>, rules: &Rules) -> Self {
        Self {
            webhook_id: &webhook.id,
            application_id: webhook.application.as_ref(),
            endpoint_id: webhook.id.endpoint,
            reference_id: &webhook.id.reference,
            task_id: webhook.id.task,
            correlation_id: &webhook.correlation_id,
            event_type: webhook.event_type.as_deref(),
            url,
            status: webhook.status,
            attempt_count: webhook.attempt_count,
            max_attempts: max_attempts(webhook, rules),
            created_at: webhook.created_at,
            updated_at: webhook.updated_at,
            next_attempt_at: next_attempt_at(webhook),
            delivered_at: webhook.delivered_at,
            last_error: webhook.last_error.as_ref().map(ErrorView::of),
            attempts: webhook.attempts.iter().map(AttemptView::of).collect(),
            payload: None,
        }
    }

    /// Adds the payload.
    pub(crate) fn with_payload(self, payload: &'a RawValue) -> Self {
        Self { payload: Some(payload), ..self }
    }
}

/// A dead letter.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = DeadLetter)]
pub(crate) struct DeadLetterView<'a> {
    #[schema(value_type = schemas::AnyWebhookId)]
    webhook_id: &'a WebhookId,
    /// The application of a delivery. Null for a direct webhook.
    #[schema(value_type = Option<schemas::ApplicationId>)]
    application_id: Option<&'a ApplicationId>,
    /// The endpoint of a delivery. Null for a direct webhook.
    #[schema(value_type = Option<schemas::EndpointId>)]
    endpoint_id: Option<EndpointId>,
    #[schema(value_type = schemas::ReferenceId)]
    reference_id: &'a ReferenceId,
    correlation_id: &'a str,
    /// The destination's URL. For a delivery, the URL of its endpoint, or null if the endpoint was
    /// deleted. Empty for an unreadable queue message.
    url: Option<&'a str>,
    /// Absent in lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = schemas::Anything, required = false)]
    payload: Option<&'a RawValue>,
    /// The number of attempts that have started.
    attempt_count: u32,
    last_error: Option<ErrorView<'a>>,
    /// The recorded attempts, oldest first. Absent in lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, max_items = 50)]
    attempts: Option<Vec<AttemptView<'a>>>,
    #[serde(with = "rfc3339::option")]
    #[schema(value_type = Option<schemas::Time>)]
    failed_at: Option<Timestamp>,
    #[serde(with = "rfc3339::option")]
    #[schema(value_type = Option<schemas::Time>)]
    expires_at: Option<Timestamp>,
}

impl<'a> DeadLetterView<'a> {
    /// An item of a list, without payload and attempts.
    pub(crate) fn summary(webhook: &'a Webhook, url: Option<&'a str>) -> Self {
        Self {
            webhook_id: &webhook.id,
            application_id: webhook.application.as_ref(),
            endpoint_id: webhook.id.endpoint,
            reference_id: &webhook.id.reference,
            correlation_id: &webhook.correlation_id,
            url,
            payload: None,
            attempt_count: webhook.attempt_count,
            last_error: webhook.last_error.as_ref().map(ErrorView::of),
            attempts: None,
            failed_at: webhook.failed_at,
            expires_at: webhook.expires_at,
        }
    }

    /// With payload and attempts.
    pub(crate) fn full(webhook: &'a Webhook, url: Option<&'a str>, payload: &'a RawValue) -> Self {
        let attempts = Some(webhook.attempts.iter().map(AttemptView::of).collect());
        Self { payload: Some(payload), attempts, ..Self::summary(webhook, url) }
    }
}

/// Why the latest attempt failed, or why the webhook failed.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = LastError)]
pub(crate) struct ErrorView<'a> {
    #[schema(value_type = schemas::ErrorName)]
    kind: &'static str,
    status_code: Option<u16>,
    message: &'a str,
}

impl<'a> ErrorView<'a> {
    pub(crate) fn of(error: &'a LastError) -> Self {
        Self { kind: error.kind.as_str(), status_code: error.status_code, message: &error.message }
    }
}

/// The latest error of a destination.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct LatestError<'a> {
    #[serde(flatten)]
    error: ErrorView<'a>,
    /// When the attempt ended.
    #[serde(with = "rfc3339")]
    #[schema(value_type = schemas::Time)]
    at: Timestamp,
}

impl<'a> LatestError<'a> {
    pub(crate) fn of(error: &'a LastError, at: Timestamp) -> Self {
        Self { error: ErrorView::of(error), at }
    }
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Attempt)]
pub(crate) struct AttemptView<'a> {
    number: u32,
    #[serde(with = "rfc3339")]
    #[schema(value_type = schemas::Time)]
    started_at: Timestamp,
    duration_ms: u64,
    /// `delivered`, `failed` or `interrupted`. The request of an interrupted attempt may have
    /// arrived, unless its error states that nothing was sent.
    outcome: &'static str,
    status_code: Option<u16>,
    error: Option<AttemptError<'a>>,
    /// The first 256 bytes of the response body. Null if the attempt succeeded, unless
    /// `RESPONSE_EXCERPTS` is `all`.
    response_excerpt: Option<&'a str>,
    /// The revision of the endpoint that the attempt used. Null for a direct webhook.
    endpoint_revision: Option<u64>,
}

#[derive(Debug, Serialize, ToSchema)]
struct AttemptError<'a> {
    #[schema(value_type = schemas::ErrorName)]
    kind: &'static str,
    message: Option<&'a str>,
}

impl<'a> AttemptView<'a> {
    pub(crate) fn of(attempt: &'a Attempt) -> Self {
        Self {
            number: attempt.number,
            started_at: attempt.started_at,
            duration_ms: attempt.duration_ms,
            outcome: match attempt.error {
                None => "delivered",
                Some(ErrorKind::Interrupted) => "interrupted",
                Some(_) => "failed",
            },
            status_code: attempt.status_code,
            error: attempt.error.map(|kind| AttemptError {
                kind: kind.as_str(),
                message: attempt.message.as_deref(),
            }),
            response_excerpt: attempt.response_excerpt.as_deref(),
            endpoint_revision: attempt.endpoint_revision,
        }
    }
}

/// The earliest time of the next attempt.
pub(crate) fn next_attempt_at(webhook: &Webhook) -> Option<Timestamp> {
    webhook.allowed_at.filter(|_| webhook.status != Status::InProgress)
}

/// Whether this is the dead letter of an unreadable queue message, and no webhook.
pub(crate) fn is_queue_message(webhook: &Webhook) -> bool {
    webhook.destination.is_empty()
}

/// How many attempts in all the retry policy allows after the latest outcome, counted since the
/// webhook was accepted or last sent again.
pub(crate) fn attempts_granted(webhook: &Webhook, rules: &Rules) -> u32 {
    let policy = rules.retry.with(webhook.retry.as_ref());
    let granted = webhook
        .last_error
        .as_ref()
        .map(|error| policy.attempts_granted(error.kind, error.status_code));
    granted.unwrap_or(policy.max_attempts).max(webhook.budget.attempts)
}

/// The number of the last attempt if all attempts fail like the latest one. A resend does not reset
/// the numbers, so this adds the attempts before the resend, and the interrupted ones.
pub(crate) fn max_attempts(webhook: &Webhook, rules: &Rules) -> u32 {
    let in_flight = u32::from(webhook.status == Status::InProgress);
    let before =
        webhook.attempt_count.saturating_sub(webhook.budget.attempts.saturating_add(in_flight));
    before.saturating_add(attempts_granted(webhook, rules))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use shared::{
        model::ClaimId,
        retry::Outcome,
        transition::{Report, testing},
    };

    use super::*;

    fn failed(status_code: u16) -> Report {
        let outcome = Outcome {
            error: Some(ErrorKind::HttpStatus),
            status_code: Some(status_code),
            retry_after: None,
        };
        Report {
            outcome,
            duration: Duration::from_millis(12),
            message: None,
            response_excerpt: Some("no".to_owned()),
        }
    }

    fn attempt(rules: &Rules, webhook: &Webhook, status_code: u16) -> Webhook {
        let now = webhook.allowed_at.unwrap();
        let claimed = rules.claim(webhook, ClaimId(1), now).unwrap();
        assert_eq!(max_attempts(&claimed, rules), max_attempts(webhook, rules));
        rules.conclude(&claimed, ClaimId(1), &failed(status_code), now, 0.5).unwrap()
    }

    #[test]
    fn max_attempts_follows_the_latest_outcome_and_continues_after_a_resend() {
        let rules = Rules::default();
        let new = testing::webhook(Timestamp::from_millis(1_700_000_000_000));
        assert_eq!(max_attempts(&new, &rules), 3);
        let gone = attempt(&rules, &new, 410);
        assert_eq!((gone.attempt_count, max_attempts(&gone, &rules)), (1, 1));
        let once = attempt(&rules, &new, 404);
        assert_eq!((once.attempt_count, max_attempts(&once, &rules)), (1, 2));
        let twice = attempt(&rules, &once, 404);
        assert_eq!(
            (twice.status, twice.attempt_count, max_attempts(&twice, &rules)),
            (Status::Failed, 2, 2)
        );
        let again = rules.resend(&twice, twice.updated_at).unwrap();
        let third = attempt(&rules, &again, 503);
        assert_eq!((third.attempt_count, max_attempts(&third, &rules)), (3, 5));
    }

    #[test]
    fn a_webhook_has_every_documented_member() {
        let rules = Rules::default();
        let webhook =
            attempt(&rules, &testing::webhook(Timestamp::from_millis(1_700_000_000_000)), 500);
        let shown: serde_json::Value = serde_json::from_str(&to_json(&WebhookView::new(
            &webhook,
            Some("https://example.com/"),
            &rules,
        )))
        .unwrap();
        let members: Vec<&str> = shown.as_object().unwrap().keys().map(String::as_str).collect();
        let mut expected = [
            "webhook_id",
            "application_id",
            "endpoint_id",
            "reference_id",
            "task_id",
            "correlation_id",
            "event_type",
            "url",
            "status",
            "attempt_count",
            "max_attempts",
            "created_at",
            "updated_at",
            "next_attempt_at",
            "delivered_at",
            "last_error",
            "attempts",
        ];
        expected.sort_unstable();
        assert_eq!(members, expected);
        assert_eq!(shown["created_at"], "2023-11-14T22:13:20.000Z");
        assert_eq!(shown["next_attempt_at"], "2023-11-14T22:13:25.000Z");
        assert_eq!(
            shown["last_error"],
            serde_json::json!({"kind": "http_status", "status_code": 500, "message": ""})
        );
        let attempt = serde_json::json!({
            "number": 1, "started_at": "2023-11-14T22:13:20.000Z", "duration_ms": 12,
            "outcome": "failed", "status_code": 500,
            "error": {"kind": "http_status", "message": null}, "response_excerpt": "no",
            "endpoint_revision": null,
        });
        assert_eq!(shown["attempts"], serde_json::json!([attempt]));
    }
}
