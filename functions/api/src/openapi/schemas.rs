//! Schemas that cannot be derived: identifiers and times, whose types belong to another crate, and
//! requests, which have no type because they are read field by field. Their limits are the same
//! constants that the readers use.

mod applications;
mod messages;

use serde_json::{Map, Value, json};
use shared::{
    circuit::State,
    id::MAX_REFERENCE_CHARS,
    model::ErrorKind,
    retry::{MAX_ATTEMPTS_LIMIT, MAX_DELAY_LIMIT},
    sender::guard::MAX_URL_BYTES,
    status::Status as WebhookStatus,
};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        RefOr,
        schema::{Object as ObjectSchema, Schema},
    },
};

use crate::limits::{
    MAX_BATCH_ITEMS, MAX_EVENT_TYPE_BYTES, MAX_FIELD_ERRORS, MAX_HEADERS, MAX_HEADERS_BYTES,
    MAX_SCHEDULE_AHEAD,
};

/// Types that annotations name. [`written`] has their schemas.
macro_rules! names {
    ($($name:ident),+ $(,)?) => {$(
        pub(crate) struct $name;

        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                ObjectSchema::new().into()
            }
        }

        impl ToSchema for $name {}
    )+};
}

names!(
    AnyWebhookId,
    Anything,
    ApplicationId,
    CircuitState,
    DeliveryId,
    DisabledReason,
    EndpointId,
    EndpointPatch,
    ErrorName,
    EventPattern,
    EventType,
    HttpUrl,
    KeyId,
    KeyName,
    MessageId,
    NewApplication,
    NewBatch,
    NewEndpoint,
    NewKey,
    NewMessage,
    NewMessages,
    NewResend,
    NewWebhook,
    Nothing,
    Problem,
    ReferenceId,
    Retry,
    Scope,
    Secret,
    SecretId,
    SignatureKind,
    Status,
    TaskId,
    TestMessage,
    Time,
    WebhookId,
);

/// The pattern of a UUIDv7.
const UUID_V7: &str = "[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}";

/// A character of a reference ID.
const REFERENCE: &str = "[A-Za-z0-9_-]";

/// A generated reference ID: `auto-` and a task ID in base64.
const GENERATED: &str = "^auto-[A-Za-z0-9_-]{8}[c-f][A-Za-z0-9_-]{12}[AQgw]$";

/// A token of RFC 9110, section 5.6.2.
const TOKEN: &str = "^[!#$%&'*+.^_`|~0-9A-Za-z-]+$";

/// Printable ASCII and tabs.
const HEADER_VALUE: &str = "^[\\t -~]*$";

/// The schema of each of these types.
pub(crate) fn written() -> Map<String, Value> {
    let mut schemas = Map::new();
    schemas.extend(identifiers());
    schemas.extend(requests());
    schemas.extend(applications::written());
    schemas.extend(messages::written());
    schemas.insert("Anything".to_owned(), json!({"description": "Any JSON, including null."}));
    schemas.insert("Problem".to_owned(), problem());
    schemas
}

fn identifiers() -> [(String, Value); 7] {
    let reference = format!("^{REFERENCE}{{1,{MAX_REFERENCE_CHARS}}}$");
    [
        (
            "ReferenceId".to_owned(),
            json!({
                "description": "The caller's ID of the object that the webhook is about. Several \
                    webhooks can have the same one. Generated if omitted.",
                "type": "string", "minLength": 1, "maxLength": MAX_REFERENCE_CHARS,
                "pattern": reference,
                "examples": ["order-1"],
            }),
        ),
        (
            "TaskId".to_owned(),
            json!({
                "description": "A UUIDv7 (RFC 9562). Task IDs sort by the time of acceptance.",
                "type": "string", "format": "uuid", "pattern": format!("^{UUID_V7}$"),
                "examples": ["01890a5d-ac96-774b-bcce-b302099a8057"],
            }),
        ),
        (
            "WebhookId".to_owned(),
            json!({
                "description": "`{reference_id}_{task_id}`. Every attempt sends it to the \
                    destination as `webhook-id`.",
                "type": "string", "maxLength": MAX_REFERENCE_CHARS + 37,
                "pattern": format!("^{REFERENCE}{{1,{MAX_REFERENCE_CHARS}}}_{UUID_V7}$"),
                "examples": ["order-1_01890a5d-ac96-774b-bcce-b302099a8057"],
            }),
        ),
        (
            "Time".to_owned(),
            json!({
                "description": "An RFC 3339 time in UTC with milliseconds.",
                "type": "string", "format": "date-time",
                "pattern": r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\.\d{3}Z$",
                "examples": ["2026-01-31T12:00:00.000Z"],
            }),
        ),
        (
            "Status".to_owned(),
            json!({
                "description": "The status of a webhook. `delivered` and `failed` are final, \
                    unless an operator sends the webhook again.",
                "type": "string", "enum": WebhookStatus::ALL.map(WebhookStatus::as_str),
            }),
        ),
        (
            "CircuitState".to_owned(),
            json!({
                "description": "The circuit breaker of a destination. It opens after repeated \
                    failures. While it is open, webhooks wait without an attempt until a probe \
                    succeeds.",
                "type": "string", "enum": [State::Closed, State::HalfOpen, State::Open],
            }),
        ),
        (
            "ErrorName".to_owned(),
            json!({
                "description": "Why an attempt or a webhook failed.",
                "type": "string", "enum": ErrorKind::ALL.map(ErrorKind::as_str),
            }),
        ),
    ]
}

fn not_generated() -> Value {
    nullable(&json!({
        "description": "Must not be a generated one.",
        "allOf": [{"$ref": "#/components/schemas/ReferenceId"}],
        "not": {"pattern": GENERATED},
    }))
}

fn deliver_at() -> Value {
    json!({
        "description": format!(
            "The earliest time of the first attempt (RFC 3339), at most {} days in the future. A \
             time in the past means now.",
            MAX_SCHEDULE_AHEAD.as_secs() / 86_400
        ),
        "type": ["string", "null"], "format": "date-time",
    })
}

fn requests() -> [(String, Value); 3] {
    let webhook = json!({
        "description": "A null field counts as omitted, except `payload`. Unknown fields are \
            refused.",
        "type": "object", "required": ["url", "payload"], "additionalProperties": false,
        "properties": {
            "url": {
                "description": "The destination: an http or https URL without user name and \
                    password, which the deployment allows.",
                "type": "string", "format": "uri", "maxLength": MAX_URL_BYTES,
                "pattern": "^[Hh][Tt][Tt][Pp][Ss]?://[^\\s\\\\]+$",
            },
            "payload": {
                "description": "The body of the delivery. The destination receives exactly these \
                    bytes. At most `MAX_PAYLOAD_BYTES`, by default 256 KiB.",
            },
            "reference_id": not_generated(),
            "headers": headers(),
            "event_type": {
                "description": "Sent as `x-webhook-event`. Printable ASCII characters.",
                "type": ["string", "null"], "minLength": 1, "maxLength": MAX_EVENT_TYPE_BYTES,
                "pattern": "^[ -~]+$",
            },
            "deliver_at": deliver_at(),
            "retry": nullable(&json!({"$ref": "#/components/schemas/Retry"})),
        },
    });
    let batch = json!({
        "type": "object", "required": ["webhooks"], "additionalProperties": false,
        "properties": {"webhooks": {
            "description": "Each item is accepted or refused on its own. An invalid item has an \
                error in its place among the results.",
            "type": "array", "minItems": 1, "maxItems": MAX_BATCH_ITEMS,
            "items": {"$ref": "#/components/schemas/NewWebhook"},
        }},
    });
    [
        ("NewWebhook".to_owned(), webhook),
        ("NewBatch".to_owned(), batch),
        ("Retry".to_owned(), retry()),
    ]
}

/// Custom headers of a webhook or an endpoint.
fn headers() -> Value {
    json!({
        "description": format!(
            "Custom headers for the destination, at most {MAX_HEADERS_BYTES} bytes in total. Names \
             are case-insensitive. Reserved names are `webhook-*`, `proxy-*`, `x-correlation-id`, \
             `x-webhook-attempt`, `x-webhook-event`, `user-agent`, and the headers of the \
             connection (RFC 9110, section 7.6.1)."
        ),
        "type": ["object", "null"], "maxProperties": MAX_HEADERS,
        "propertyNames": {"pattern": TOKEN},
        "additionalProperties": {"type": "string", "pattern": HEADER_VALUE},
    })
}

fn retry() -> Value {
    let delay = |description: &str| {
        json!({"description": description, "type": ["integer", "null"], "minimum": 0,
        "maximum": MAX_DELAY_LIMIT.as_millis() as u64})
    };
    let attempts = json!({
        "description": "The total number of attempts.", "type": ["integer", "null"], "minimum": 1,
        "maximum": MAX_ATTEMPTS_LIMIT,
    });
    json!({
        "description": "The retry policy. Omitted fields have the deployment's \
            settings. `schedule_ms` determines the number of attempts, so it cannot be combined \
            with `max_attempts`.",
        "type": "object", "additionalProperties": false,
        "properties": {
            "max_attempts": attempts,
            "base_delay_ms": delay("The wait before the first retry."),
            "factor": {"description": "The factor between one wait and the next.",
                "type": ["number", "null"], "minimum": 1, "maximum": 100},
            "max_delay_ms": delay("The maximum wait, before jitter."),
            "jitter": {"description": "The random variation. With 0.2, a wait is 80 % to 120 % of \
                its length.",
                "type": ["number", "null"], "minimum": 0, "maximum": 1},
            "schedule_ms": {
                "description": "The waits before each retry.", "type": ["array", "null"],
                "minItems": 1, "maxItems": MAX_ATTEMPTS_LIMIT - 1,
                "items": {"type": "integer", "minimum": 0,
                    "maximum": MAX_DELAY_LIMIT.as_millis() as u64},
            },
        },
        "anyOf": [
            {"properties": {"max_attempts": {"type": "null"}}},
            {"properties": {"schedule_ms": {"type": "null"}}},
        ],
    })
}

fn nullable(schema: &Value) -> Value {
    json!({"oneOf": [schema, {"type": "null"}]})
}

fn problem() -> Value {
    json!({
        "description": "An error (RFC 9457). `type` is for programs, `detail` is for people.",
        "type": "object", "required": ["type", "title", "status", "detail"],
        "properties": {
            "type": {"type": "string", "format": "uri-reference",
                "examples": ["urn:posthaste:invalid-fields"]},
            "title": {"type": "string"},
            "status": {"type": "integer", "minimum": 400, "maximum": 599},
            "detail": {"type": "string"},
            "errors": {
                "description": "The invalid fields or parameters.",
                "type": "array", "minItems": 1, "maxItems": MAX_FIELD_ERRORS,
                "items": {
                    "type": "object", "required": ["field", "message"],
                    "properties": {
                        "field": {"type": "string", "examples": ["webhooks[3].url"]},
                        "message": {"type": "string"},
                    },
                },
            },
        },
    })
}

#[cfg(test)]
mod tests {
    use regex::Regex;
    use shared::{
        clock::Timestamp,
        id::{ReferenceId, TaskId},
    };

    use super::{GENERATED, written};
    use crate::{
        input::{
            application, endpoint, publication,
            submission::{FIELDS, RETRY_FIELDS},
        },
        routes::message_resend,
    };

    fn properties(schema: &str) -> Vec<String> {
        written()[schema]["properties"].as_object().unwrap().keys().cloned().collect()
    }

    #[test]
    fn the_pattern_of_generated_ids_is_exact() {
        let pattern = Regex::new(GENERATED).unwrap();
        for seed in 0..=255 {
            let generated = ReferenceId::generated(TaskId::mint(
                Timestamp::from_millis(1_700_000_000_000 + i64::from(seed)),
                [seed; 10],
            ));
            assert!(pattern.is_match(generated.as_str()), "{generated}");
        }
        for other in [
            "auto-AaIDPI3dcF-pVeP9dl63u",
            "auto-AaIDPI3dgF-pVeP9dl63ug",
            "auto-AaIDPI3dcF-pVeP9dl63ub",
            "auto-1",
        ] {
            assert!(
                !pattern.is_match(other)
                    && other.parse::<ReferenceId>().unwrap().generated_for().is_none(),
                "{other}"
            );
        }
    }

    #[test]
    fn the_schemas_have_exactly_the_fields_that_are_read() {
        let patch: Vec<&str> =
            endpoint::FIELDS.into_iter().filter(|field| *field != "secret").collect();
        for (schema, read) in [
            ("NewWebhook", &FIELDS[..]),
            ("Retry", &RETRY_FIELDS[..]),
            ("NewApplication", &application::FIELDS[..]),
            ("NewKey", &application::KEY_FIELDS[..]),
            ("NewEndpoint", &endpoint::FIELDS[..]),
            ("EndpointPatch", &patch[..]),
            ("Nothing", &[]),
            ("NewMessage", &publication::FIELDS[..]),
            ("TestMessage", &publication::TEST_FIELDS[..]),
            ("NewResend", &message_resend::FIELDS[..]),
        ] {
            let mut read = read.to_vec();
            let mut described = properties(schema);
            read.sort_unstable();
            described.sort_unstable();
            assert_eq!(described, read, "{schema}");
        }
    }
}
