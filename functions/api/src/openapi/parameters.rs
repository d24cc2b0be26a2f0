//! The parameters of operations. `input::query` reads them with the same limits.

use serde_json::{Value, json};
use shared::{
    applications::event_type::MAX_EVENT_TYPE_CHARS, id::MAX_REFERENCE_CHARS,
    status::Status as WebhookStatus,
};
use utoipa::{
    IntoParams,
    openapi::{
        Required,
        path::{Parameter, ParameterBuilder, ParameterIn},
    },
};

use crate::limits::{
    DEAD, DEFAULT_PAGE_SIZE, MAX_CURSOR_BYTES, MAX_IDEMPOTENCY_KEY_BYTES, MAX_OLDER_THAN_DAYS,
    MAX_PAGE, MAX_PAGE_SIZE,
};

/// The description of the header that every operation accepts.
pub(crate) const CORRELATION_ID_TEXT: &str = "An ID of the request. It is sent to the \
    destination and is in the log lines about the webhook. An ID that is not 1 to 128 printable \
    ASCII characters without spaces is replaced by a new one.";

/// A parameter: its name, its location, whether it is required, its description and its schema.
macro_rules! parameters {
    ($($name:ident: $text:literal, $place:ident, $required:ident, $what:expr, $schema:expr;)+) => {
        $(pub(crate) struct $name;

        impl IntoParams for $name {
            fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
                let parameter = ParameterBuilder::new()
                    .name($text)
                    .parameter_in(ParameterIn::$place)
                    .required(Required::$required);
                vec![parameter.description(Some($what)).build()]
            }
        })+

        /// The schema of a parameter. utoipa's builder supports only a part of JSON Schema. Several
        /// operations have a parameter of the same name, so the description tells them apart.
        pub(crate) fn schema_of(name: &str, description: &str) -> Option<Value> {
            $(if name == $text && description == $what {
                return Some($schema);
            })+
            (name == "x-correlation-id")
                .then(|| json!({"type": "string", "examples": ["b9f1c3a0"]}))
        }
    };
}

parameters! {
    WebhookId: "webhook_id", Path, True, "The `webhook_id` of a response.",
    json!({"$ref": "#/components/schemas/AnyWebhookId"});
    ApplicationId: "application_id", Path, True, "The ID of the application.",
    json!({"$ref": "#/components/schemas/ApplicationId"});
    EndpointId: "endpoint_id", Path, True, "The ID of an endpoint of the application.",
    json!({"$ref": "#/components/schemas/EndpointId"});
    KeyId: "key_id", Path, True, "The ID of a key of the application.",
    json!({"$ref": "#/components/schemas/KeyId"});
    MessageId: "message_id", Path, True, "The `message_id` of a response.",
    json!({"$ref": "#/components/schemas/MessageId"});
    DeliveryId: "delivery_id", Path, True, "The `delivery_id` of a response.",
    json!({"$ref": "#/components/schemas/DeliveryId"});
    Include: "include", Query, False,
    "`payload` adds the payload to the response, exactly as it was accepted.",
        empty_or(&json!({"const": "payload"}));
    Reference: "reference_id", Query, False, "Only webhooks with this reference ID.",
    empty_or(&json!({
        "pattern": format!("^[A-Za-z0-9_-]{{1,{MAX_REFERENCE_CHARS}}}$"),
    }));
    Status: "status", Query, False, "Only webhooks with this status.",
    empty_or(&json!({"enum": WebhookStatus::ALL.map(WebhookStatus::as_str)}));
    DeliveryStatus: "status", Query, False,
    "Only deliveries with this status. `dead` finds dead letters: failed deliveries that were \
     archived.",
        empty_or(&json!({"enum": delivery_statuses()}));
    ByEndpoint: "endpoint_id", Query, False, "Only those of this endpoint.",
        empty_or(&json!({"pattern": "^ep-[a-z2-7]{16}$"}));
    EventType: "event_type", Query, False, "Only messages with this event type.",
        empty_or(&json!({"pattern": format!("^[A-Za-z0-9_.-]{{1,{MAX_EVENT_TYPE_CHARS}}}$")}));
    Since: "since", Query, False, "Only messages that were published at this time or later.",
        empty_or(&json!({"format": "date-time"}));
    Until: "until", Query, False, "Only messages that were published before this time.",
        empty_or(&json!({"format": "date-time"}));
    OlderThan: "older_than_days", Query, False,
    "Only webhooks that were accepted more than this number of days ago. Fractions are allowed.",
        json!({"type": "number", "minimum": 0, "maximum": MAX_OLDER_THAN_DAYS});
    PageSize: "page_size", Query, False,
    "The maximum number of items. A page with fewer items can have a `next_cursor` too.",
        json!({"type": "integer", "minimum": 1, "maximum": MAX_PAGE_SIZE,
            "default": DEFAULT_PAGE_SIZE});
    Page: "page", Query, False,
    "The number of the page. It cannot be combined with `cursor`. All pages before it are read \
     too, so `page` times `page_size` is at most 1000.", json!({"type": "integer", "minimum": 1,
         "maximum": MAX_PAGE, "default": 1});
    Cursor: "cursor", Query, False,
    "The unchanged `next_cursor` of an earlier response of the same operation.",
        json!({"type": "string", "maxLength": MAX_CURSOR_BYTES});
    WebhookUrl: "webhook_url", Query, True, "The URL of the destination, percent-encoded.",
        json!({"type": "string", "format": "uri", "minLength": 1,
            "pattern": "^[Hh][Tt][Tt][Pp][Ss]?://[^\\s\\\\]+$"});
    IdempotencyKey: "Idempotency-Key", Header, False,
    "A unique ID of the request. A repeated request with the same key within 24 hours gets the \
     first response with `idempotent-replayed: true`, and has no further effect. The same key \
     with a different request is a 409. A key belongs to the caller's identity. All API keys are \
     one identity. With IAM, an identity is an account and a role or user. Below \
     `/applications/{application_id}/` a key belongs to the application.",
        json!({"type": "string", "minLength": 1, "maxLength": MAX_IDEMPOTENCY_KEY_BYTES,
            "pattern": "^[!-~]+$"});
    TraceParent: "traceparent", Header, False,
    "W3C Trace Context. Sent to the destination with a new span ID for each attempt. An invalid \
     value is ignored.", json!({"type": "string",
         "examples": ["00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"]});
    TraceState: "tracestate", Header, False,
    "W3C Trace Context. Sent to the destination unchanged if `traceparent` is valid.",
        json!({"type": "string", "examples": ["vendor=value"]});
}

fn delivery_statuses() -> Vec<&'static str> {
    [&WebhookStatus::ALL.map(WebhookStatus::as_str)[..], &[DEAD]].concat()
}

/// An empty value counts as omitted.
fn empty_or(schema: &Value) -> Value {
    json!({"type": "string", "anyOf": [schema, {"const": ""}]})
}
