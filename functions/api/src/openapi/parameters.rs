//! The parameters of calls. What a query may hold is read by `query`, with the same limits.

use serde_json::{Value, json};
use shared::{id::MAX_REFERENCE_CHARS, status::Status as WebhookStatus};
use utoipa::{
    IntoParams,
    openapi::{
        Required,
        path::{Parameter, ParameterBuilder, ParameterIn},
    },
};

use crate::limits::{
    DEFAULT_PAGE_SIZE, MAX_CURSOR_BYTES, MAX_IDEMPOTENCY_KEY_BYTES, MAX_OLDER_THAN_DAYS, MAX_PAGE,
    MAX_PAGE_SIZE,
};

/// What is said of the one header that every call takes.
pub(crate) const CORRELATION_ID_TEXT: &str = "Follows the webhook to its destination, and is in \
    every log line about it. One that is not 1 to 128 printable ASCII characters without blanks is \
    replaced by a new one.";

/// A parameter: its name, where it stands, whether it must be there, what it is for, and its
/// schema.
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

        /// The schema of each, by its name: all that JSON Schema knows, of which the builder above
        /// knows a part.
        pub(crate) fn schema_of(name: &str) -> Option<Value> {
            match name {
                $($text => Some($schema),)+
                "x-correlation-id" => Some(json!({"type": "string", "examples": ["b9f1c3a0"]})),
                _ => None,
            }
        }
    };
}

parameters! {
    WebhookId: "webhook_id", Path, True, "As the API answered it.",
    json!({"$ref": "#/components/schemas/WebhookId"});
    Include: "include", Query, False,
    "`payload` adds the member of that name, byte for byte as it was accepted.",
        empty_or(&json!({"const": "payload"}));
    Reference: "reference_id", Query, False, "Only webhooks with this reference id.",
    empty_or(&json!({
        "pattern": format!("^[A-Za-z0-9_-]{{1,{MAX_REFERENCE_CHARS}}}$"),
    }));
    Status: "status", Query, False, "Only webhooks in this status.",
    empty_or(&json!({"enum": WebhookStatus::ALL.map(WebhookStatus::as_str)}));
    OlderThan: "older_than_days", Query, False,
    "Only webhooks accepted longer ago; fractions are fine.",
        json!({"type": "number", "minimum": 0, "maximum": MAX_OLDER_THAN_DAYS});
    PageSize: "page_size", Query, False,
    "Entries on a page. A page may be short and still have a `next_cursor`.",
        json!({"type": "integer", "minimum": 1, "maximum": MAX_PAGE_SIZE,
            "default": DEFAULT_PAGE_SIZE});
    Page: "page", Query, False,
    "Which page, for people: everything before it is read too. Not together with `cursor`; `page` \
     times `page_size` is at most 1000.", json!({"type": "integer", "minimum": 1,
         "maximum": MAX_PAGE, "default": 1});
    Cursor: "cursor", Query, False,
    "The `next_cursor` of an earlier answer of the same call, as it was.",
        json!({"type": "string", "maxLength": MAX_CURSOR_BYTES});
    WebhookUrl: "webhook_url", Query, True, "Where the test webhook goes, percent-encoded.",
        json!({"type": "string", "format": "uri", "minLength": 1,
            "pattern": "^[Hh][Tt][Tt][Pp][Ss]?://[^\\s\\\\]+$"});
    IdempotencyKey: "Idempotency-Key", Header, False,
    "The same key and request within 24 h is answered as the first was, with `idempotent-replayed: \
     true`, and does nothing; the same key with another request is 409. A key belongs to the \
     caller's identity: all API keys are one identity, and under IAM an identity is an account and \
     a role or user.",
        json!({"type": "string", "minLength": 1, "maxLength": MAX_IDEMPOTENCY_KEY_BYTES,
            "pattern": "^[!-~]+$"});
    TraceParent: "traceparent", Header, False,
    "W3C Trace Context: goes on to the destination, with a new span id for each attempt. One that \
     is not valid is ignored.", json!({"type": "string",
         "examples": ["00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"]});
    TraceState: "tracestate", Header, False,
    "W3C Trace Context: goes on to the destination as it is, with a valid `traceparent` only.",
        json!({"type": "string", "examples": ["vendor=value"]});
}

/// An empty value counts as a missing one.
fn empty_or(schema: &Value) -> Value {
    json!({"type": "string", "anyOf": [schema, {"const": ""}]})
}
