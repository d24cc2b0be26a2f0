//! The schemas of messages and deliveries.

use serde_json::{Value, json};
use shared::{applications::event_type::MAX_EVENT_TYPE_CHARS, id::MAX_REFERENCE_CHARS};

use super::{REFERENCE, UUID_V7, deliver_at, not_generated, nullable};
use crate::limits::{MAX_BATCH_ITEMS, MAX_PAYLOAD_DEPTH};

/// The schema of each type of messages.
pub(super) fn written() -> impl Iterator<Item = (String, Value)> {
    identifiers().into_iter().chain(requests())
}

fn identifiers() -> [(String, Value); 4] {
    let endpoint = "ep-[a-z2-7]{16}";
    let message = format!("{REFERENCE}{{1,{MAX_REFERENCE_CHARS}}}_{UUID_V7}");
    let id = |name: &str, description: &str, pattern: &str, example: &str| {
        (
            name.to_owned(),
            json!({"description": description, "type": "string",
                "pattern": format!("^{pattern}$"), "examples": [example]}),
        )
    };
    let event_type = format!("[A-Za-z0-9_.-]{{1,{MAX_EVENT_TYPE_CHARS}}}");
    let delivery = format!("{message}\\.{endpoint}");
    [
        id("EventType", "The type of an event. There is no registry.", &event_type, "order.paid"),
        id(
            "MessageId",
            "`{reference_id}_{task_id}`. Every attempt sends it to the endpoint as `webhook-id`.",
            &message,
            "order-1_01890a5d-ac96-774b-bcce-b302099a8057",
        ),
        id(
            "DeliveryId",
            "`{message_id}.{endpoint_id}`.",
            &delivery,
            "order-1_01890a5d-ac96-774b-bcce-b302099a8057.ep-mzxw6ytbojtg633c",
        ),
        id(
            "AnyWebhookId",
            "The ID of a direct webhook, `{reference_id}_{task_id}`, or of a delivery, \
             `{message_id}.{endpoint_id}`.",
            &format!("{message}(\\.{endpoint})?"),
            "order-1_01890a5d-ac96-774b-bcce-b302099a8057",
        ),
    ]
}

fn requests() -> [(String, Value); 4] {
    let event_type = json!({"$ref": "#/components/schemas/EventType"});
    let payload = json!({
        "description": format!(
            "The body of each delivery. The endpoints receive exactly these bytes. At most \
             `MAX_PAYLOAD_BYTES`, by default 256 KiB, and {MAX_PAYLOAD_DEPTH} levels of arrays and \
             objects."
        ),
    });
    let message = json!({
        "description": "A null field counts as omitted, except `payload`. Unknown fields are \
            refused.",
        "type": "object", "required": ["event_type", "payload"], "additionalProperties": false,
        "properties": {
            "event_type": event_type,
            "payload": payload,
            "reference_id": not_generated(),
            "deliver_at": deliver_at(),
        },
    });
    let batch = json!({
        "type": "object", "required": ["messages"], "additionalProperties": false,
        "properties": {"messages": {
            "description": "Each item is accepted or refused on its own. An invalid item has an \
                error in its place among the results.",
            "type": "array", "minItems": 1, "maxItems": MAX_BATCH_ITEMS,
            "items": {"$ref": "#/components/schemas/NewMessage"},
        }},
    });
    let test = json!({
        "description": "Without a body, the event type is `posthaste.test` and the payload \
            `{\"test\": true}`.",
        "type": "object", "additionalProperties": false,
        "properties": {"event_type": nullable(&event_type), "payload": payload},
    });
    let resend = json!({
        "description": "Without `endpoint_id`, every delivery that has failed is sent again.",
        "type": "object", "additionalProperties": false,
        "properties": {
            "endpoint_id": nullable(&json!({"$ref": "#/components/schemas/EndpointId"})),
        },
    });
    [
        ("NewMessage".to_owned(), message),
        ("NewMessages".to_owned(), batch),
        ("TestMessage".to_owned(), test),
        ("NewResend".to_owned(), resend),
    ]
}
