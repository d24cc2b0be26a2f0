//! Examples of requests and responses. `tests/openapi-check` validates each against its schema.

mod applications;
mod messages;

use serde_json::{Value, json};

const ID: &str = "order-1_01890a5d-ac96-774b-bcce-b302099a8057";

const TASK: &str = "01890a5d-ac96-774b-bcce-b302099a8057";

/// An example of each schema that is a whole request or a whole response.
pub(crate) fn of_schemas() -> Vec<(&'static str, Value)> {
    let accepted = json!({
        "webhook_id": ID, "reference_id": "order-1", "task_id": TASK, "correlation_id": "b9f1c3a0",
        "status": "pending",
    });
    let new = json!({
        "url": "https://example.com/hooks", "payload": {"order": 1, "paid": true},
        "reference_id": "order-1", "event_type": "order.paid",
        "headers": {"x-shop": "7"}, "retry": {"max_attempts": 5},
    });
    let refused = json!({"error": {
        "type": "urn:posthaste:invalid-fields", "title": "Invalid fields", "status": 422,
        "detail": "webhooks[1].url: is required.",
        "errors": [{"field": "webhooks[1].url", "message": "is required."}],
    }});
    let mut examples = vec![
        ("NewWebhook", new.clone()),
        (
            "NewBatch",
            json!({"webhooks": [new, {"url": "https://example.com/hooks", "payload": null}]}),
        ),
        ("Retry", json!({"schedule_ms": [5000, 300_000, 1_800_000]})),
        ("Accepted", accepted.clone()),
        ("BatchResults", json!({"results": [accepted, refused]})),
        (
            "TestAccepted",
            json!({
                "status": "webhook_queued", "webhook_id": format!("TEST-099a8057_{TASK}"),
                "reference_id": "TEST-099a8057", "task_id": TASK,
                "message": "Test webhook queued for delivery",
            }),
        ),
        ("Webhook", webhook()),
        (
            "WebhookList",
            json!({"items": [webhook()], "page": 1, "page_size": 20, "next_cursor": null}),
        ),
        ("Deleted", json!({"deleted": 3, "more": false})),
        ("Redriven", json!({"redriven": 3, "more": false})),
        ("DeadLetter", dead_letter()),
        ("DeadLetterList", json!({"items": [dead_letter()], "page_size": 20, "next_cursor": null})),
        ("Explanation", explanation()),
        (
            "DestinationList",
            json!({"items": [{
                "destination": "https://example.com:443", "application_id": null,
                "endpoint_id": null, "host": "example.com", "circuit": "open",
                "open_until": "2026-01-31T12:01:00.000Z", "rate_limit": "100/60s",
                "success_share": 0.75, "attempts": 20, "failed": 5, "waiting": 2,
                "last_error": {"kind": "timeout", "status_code": null, "message": "no answer",
                    "at": "2026-01-31T12:00:30.000Z"},
                "targets": [open_target(), paused_target()],
            }]}),
        ),
        (
            "Health",
            json!({
                "status": "healthy", "checked_at": "2026-01-31T12:00:59.500Z",
                "store": {"status": "healthy", "backend": "sqlite"},
                "queue": {"status": "healthy", "backend": "sqlite", "depths": {
                    "webhooks": {"ready": 0, "in_flight": 1, "delayed": 2},
                    "dead_letters": {"ready": 0, "in_flight": 0, "delayed": 0},
                }},
                "sweep": {"status": "healthy", "last_run_at": "2026-01-31T12:00:00.000Z",
                    "lag_ms": 0}, "circuits": [],
            }),
        ),
        ("HealthWord", json!({"status": "healthy"})),
    ];
    examples.extend(applications::of_schemas());
    examples.extend(messages::of_schemas());
    examples
}

fn attempt() -> Value {
    json!({
        "number": 1, "started_at": "2026-01-31T12:00:00.010Z", "duration_ms": 31,
        "outcome": "failed", "status_code": 503,
        "error": {"kind": "http_status", "message": null}, "response_excerpt": "out of order",
        "endpoint_revision": null,
    })
}

fn webhook() -> Value {
    json!({
        "webhook_id": ID, "application_id": null, "endpoint_id": null, "reference_id": "order-1",
        "task_id": TASK, "correlation_id": "b9f1c3a0", "event_type": "order.paid",
        "url": "https://example.com/hooks", "status": "retrying", "attempt_count": 1,
        "max_attempts": 3,
        "created_at": "2026-01-31T12:00:00.000Z", "updated_at": "2026-01-31T12:00:00.041Z",
        "next_attempt_at": "2026-01-31T12:00:05.041Z",
        "delivered_at": null, "last_error": {"kind": "http_status", "status_code": 503,
            "message": "answered 503"}, "attempts": [attempt()],
    })
}

fn dead_letter() -> Value {
    json!({
        "webhook_id": ID, "application_id": null, "endpoint_id": null, "reference_id": "order-1",
        "correlation_id": "b9f1c3a0", "url": "https://example.com/hooks",
        "payload": {"order": 1, "paid": true}, "attempt_count": 1,
        "last_error": {"kind": "http_status", "status_code": 410, "message": "answered 410"},
        "attempts": [attempt()],
        "failed_at": "2026-01-31T12:00:00.041Z", "expires_at": "2026-03-02T12:00:00.050Z",
    })
}

/// A destination that does not answer.
fn open_target() -> Value {
    json!({
        "target": "https://example.com:443", "circuit": "open",
        "open_until": "2026-01-31T12:01:00.000Z", "retries_only": false,
        "paused_until": null, "paused_by": null, "learned_rate": null, "waiting": 0,
    })
}

/// A URL that answered 429 with `Retry-After`.
fn paused_target() -> Value {
    json!({
        "target": "https://example.com:443#Q1YypBnd-rU", "circuit": "closed", "open_until": null,
        "retries_only": false, "paused_until": "2026-01-31T12:00:40.000Z", "paused_by": 429,
        "learned_rate": 1.0, "waiting": 12,
    })
}

fn explanation() -> Value {
    let used = |used: u64, of: u64| json!({"used": used, "of": of});
    json!({
        "webhook_id": ID, "status": "pending", "now": "2026-01-31T12:00:01.000Z",
        "steps": [{
            "at": "2026-01-31T12:00:00.000Z", "function": "api", "transition": "create",
            "from": null, "to": "pending", "why": "Accepted.",
        }],
        "next": {"what": "Its message is queued. Attempt 1 starts when a worker receives it. Its \
            URL is paused until 2026-01-31T12:00:40.000Z because the destination answered 429. \
            Until then a worker that receives its message sends it again with a delay.",
            "at": "2026-01-31T12:00:40.000Z", "by": "deliver"},
        "traffic": {"targets": [paused_target()], "rate_limit": null, "slot_opens_at": null},
        "budget": {
            "attempts": used(0, 3), "refused_attempts": 0, "interrupted_attempts": used(0, 5),
            "rescues": used(0, 3), "deferred_ms": used(0, 86_400_000),
            "host_deferred_ms": used(0, 86_400_000), "paused_ms": used(0, 86_400_000),
            "rate_limited_ms": used(0, 604_800_000),
        },
    })
}

/// The operations on a webhook that this operation has accepted.
pub(crate) fn links(operation: &str) -> Option<Value> {
    let about = |operation: &str| {
        json!({"operationId": operation,
        "parameters": {"webhook_id": "$response.body#/webhook_id"}})
    };
    matches!(operation, "accept_webhook" | "send_test_webhook").then(|| {
        json!({
            "status": about("show_webhook"), "explain": about("explain_webhook"),
            "resend": about("resend_webhook"),
            "delete": about("delete_webhook"),
        })
    })
}
