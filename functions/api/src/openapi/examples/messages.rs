//! Examples of messages and deliveries.

use serde_json::{Value, json};

use super::{ID, attempt};

const APPLICATION: &str = "customer-7";

const ENDPOINT: &str = "ep-mzxw6ytbojtg633c";

const DELIVERY: &str = "order-1_01890a5d-ac96-774b-bcce-b302099a8057.ep-mzxw6ytbojtg633c";

/// Examples of requests and responses about messages and deliveries.
pub(super) fn of_schemas() -> Vec<(&'static str, Value)> {
    let new = json!({"event_type": "order.paid", "payload": {"order": 1, "paid": true},
        "reference_id": "order-1"});
    let published = json!({
        "message_id": ID, "application_id": APPLICATION, "reference_id": "order-1",
        "event_type": "order.paid", "kept": true,
        "deliveries": [{"delivery_id": DELIVERY, "endpoint_id": ENDPOINT}], "disabled": [],
    });
    let unmatched = json!({
        "message_id": null, "application_id": APPLICATION, "reference_id": null,
        "event_type": "order.seen", "kept": false, "deliveries": [], "disabled": [],
    });
    let page = |item: Value| json!({"items": [item], "page_size": 20, "next_cursor": null});
    vec![
        ("NewMessage", new.clone()),
        ("NewMessages", json!({"messages": [new, {"event_type": "order.seen", "payload": null}]})),
        ("TestMessage", json!({"event_type": "order.paid"})),
        ("NewResend", json!({"endpoint_id": ENDPOINT})),
        ("Published", published.clone()),
        ("PublishedResults", json!({"results": [published, unmatched]})),
        ("MessageList", page(message(&json!({"delivery_id": DELIVERY, "endpoint_id": ENDPOINT})))),
        ("Message", message(&delivery_state())),
        (
            "ResentMessage",
            json!({"message_id": ID, "application_id": APPLICATION,
                "deliveries": [{"delivery_id": DELIVERY, "endpoint_id": ENDPOINT}],
                "skipped": []}),
        ),
        (
            "Resent",
            json!({"delivery_id": DELIVERY, "endpoint_id": ENDPOINT, "message_id": ID,
                "application_id": APPLICATION, "status": "pending"}),
        ),
        ("Delivery", delivery()),
        ("DeliveryList", page(delivery())),
    ]
}

fn message(delivery: &Value) -> Value {
    json!({
        "message_id": ID, "application_id": APPLICATION, "reference_id": "order-1",
        "event_type": "order.paid", "correlation_id": "b9f1c3a0",
        "created_at": "2026-01-31T12:00:00.000Z", "deliver_at": "2026-01-31T12:00:00.000Z",
        "deleting": false, "disabled": [], "deliveries": [delivery],
    })
}

fn delivery_state() -> Value {
    json!({
        "delivery_id": DELIVERY, "endpoint_id": ENDPOINT, "status": "retrying",
        "dead_letter": false, "attempt_count": 1, "next_attempt_at": "2026-01-31T12:00:05.041Z",
        "delivered_at": null, "failed_at": null,
        "last_error": {"kind": "http_status", "status_code": 503, "message": "answered 503"},
    })
}

fn delivery() -> Value {
    let mut delivery = delivery_state();
    let more = json!({
        "message_id": ID, "application_id": APPLICATION, "reference_id": "order-1",
        "event_type": "order.paid", "correlation_id": "b9f1c3a0",
        "url": "https://customer.example/hooks", "max_attempts": 10,
        "created_at": "2026-01-31T12:00:00.000Z", "updated_at": "2026-01-31T12:00:00.041Z",
        "attempts": [attempt()],
    });
    for (name, value) in more.as_object().into_iter().flatten() {
        delivery[name] = value.clone();
    }
    delivery
}
