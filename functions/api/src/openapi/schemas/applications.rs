//! The schemas of applications, endpoints and keys.

use serde_json::{Value, json};
use shared::{
    applications::{
        application::MAX_NAME_BYTES,
        endpoint::{MAX_DESCRIPTION_BYTES, MAX_EVENT_TYPES, MAX_METADATA_BYTES, MIN_TIMEOUT_MS},
        event_type::MAX_EVENT_TYPE_CHARS,
        id::MAX_APPLICATION_ID_CHARS,
        keys::{MAX_KEY_NAME_CHARS, Scope},
    },
    sender::guard::MAX_URL_BYTES,
};

use super::{headers, nullable};

/// 24 to 64 bytes in padded standard base64.
const SECRET: &str = "(?:[A-Za-z0-9+/]{4}){8,20}(?:[A-Za-z0-9+/]{4}|\
    (?:[A-Za-z0-9+/]{4})?[A-Za-z0-9+/][AQgw]==|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=)?";

/// The schema of each type of applications.
pub(super) fn written() -> Vec<(String, Value)> {
    let mut schemas = identifiers();
    schemas.extend(values());
    schemas.extend(requests());
    schemas.into_iter().map(|(name, schema)| (name.to_owned(), schema)).collect()
}

fn identifiers() -> Vec<(&'static str, Value)> {
    let hexadecimal = |prefix: &str, description: &str| {
        json!({"description": description, "type": "string",
            "pattern": format!("^{prefix}-[0-9a-f]{{16}}$"),
            "examples": [format!("{prefix}-0123456789abcdef")]})
    };
    vec![
        (
            "ApplicationId",
            json!({
                "description": "The caller's ID of a customer. Case matters. `posthaste` is \
                    reserved.",
                "type": "string", "minLength": 1, "maxLength": MAX_APPLICATION_ID_CHARS,
                "pattern": "^[A-Za-z0-9_-]+$", "examples": ["customer-7"],
            }),
        ),
        (
            "EndpointId",
            json!({
                "description": "The ID of an endpoint. It is never used again.",
                "type": "string", "pattern": "^ep-[a-z2-7]{16}$",
                "examples": ["ep-mzxw6ytbojtg633c"],
            }),
        ),
        ("KeyId", hexadecimal("key", "The ID of an application key. It is not secret.")),
        ("SecretId", hexadecimal("sec", "The ID of a secret. It is not secret.")),
    ]
}

fn values() -> Vec<(&'static str, Value)> {
    vec![
        (
            "HttpUrl",
            json!({
                "description": "An http or https URL without user name and password, which the \
                    deployment allows.",
                "type": "string", "format": "uri", "maxLength": MAX_URL_BYTES,
                "pattern": "^[Hh][Tt][Tt][Pp][Ss]?://[^\\s\\\\]+$",
            }),
        ),
        (
            "EventPattern",
            json!({
                "description": "An event type, a prefix such as `order.*`, or `*` for every event \
                    type. `order.*` matches `order.paid` and not `order`.",
                "type": "string",
                "pattern": format!(
                    r"^(\*|[A-Za-z0-9_.-]{{1,{MAX_EVENT_TYPE_CHARS}}}(\.\*)?)$"
                ),
                "examples": ["order.*"],
            }),
        ),
        (
            "DisabledReason",
            json!({"type": "string", "enum": ["failing", "gone", "customer", "operator"]}),
        ),
        (
            "Secret",
            json!({
                "description": "A signing secret of Standard Webhooks: `whsec_` and 24 to 64 bytes \
                    in padded standard base64.",
                "type": "string", "pattern": format!("^whsec_{SECRET}$"),
                "examples": ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYo="],
            }),
        ),
        (
            "SignatureKind",
            json!({"description": "`v1`: HMAC-SHA256.", "type": "string", "enum": ["v1"]}),
        ),
        (
            "KeyName",
            json!({
                "description": "A name that people tell the key by.", "type": "string",
                "minLength": 1, "maxLength": MAX_KEY_NAME_CHARS,
                "pattern": r"^[^\u0000-\u001f\u007f-\u009f]+$",
            }),
        ),
        (
            "Scope",
            json!({
                "description": "What a key may do in its application. `manage` includes `read`. \
                    None includes `publish`.",
                "type": "string", "enum": Scope::ALL.map(Scope::as_str),
            }),
        ),
    ]
}

fn metadata() -> Value {
    json!({
        "description": format!(
            "Your own data, at most {MAX_METADATA_BYTES} bytes as JSON. Posthaste does not read it."
        ),
        "type": ["object", "null"], "additionalProperties": {"type": "string"},
    })
}

/// The fields that a new endpoint and a change of one have in common. `timeout_ms` also has the
/// limit `DELIVERY_TIMEOUT_MS`.
fn endpoint_fields() -> Value {
    json!({
        "url": {"$ref": "#/components/schemas/HttpUrl"},
        "event_types": {
            "description": "The events that the endpoint receives. Null: all.",
            "type": ["array", "null"], "minItems": 1, "maxItems": MAX_EVENT_TYPES,
            "items": {"$ref": "#/components/schemas/EventPattern"},
        },
        "headers": headers(),
        "retry": nullable(&json!({"$ref": "#/components/schemas/Retry"})),
        "timeout_ms": {
            "description": "The deadline of an attempt, at most `DELIVERY_TIMEOUT_MS`, which is \
                also the default.",
            "type": ["integer", "null"], "minimum": MIN_TIMEOUT_MS,
        },
        "description": {
            "description": format!("For people. At most {MAX_DESCRIPTION_BYTES} bytes."),
            "type": ["string", "null"], "maxLength": MAX_DESCRIPTION_BYTES,
        },
        "metadata": metadata(),
        "enabled": {
            "description": "Whether messages go to it. Null: true.",
            "type": ["boolean", "null"],
        },
    })
}

fn requests() -> Vec<(&'static str, Value)> {
    let mut new = endpoint_fields();
    new["secret"] = json!({
        "description": "The secret that signs its webhooks, with or without `whsec_`. Omit it to \
            get a generated one.",
        "type": ["string", "null"], "pattern": format!("^(whsec_)?{SECRET}$"),
    });
    let object = |description: &str, required: &[&str], properties: Value| {
        json!({"description": description, "type": "object", "additionalProperties": false,
            "required": required, "properties": properties})
    };
    let application = json!({
        "name": {
            "description": format!("For people. At most {MAX_NAME_BYTES} bytes."),
            "type": ["string", "null"], "maxLength": MAX_NAME_BYTES,
        },
        "keep_unmatched": {
            "description": "Whether a message is stored that no endpoint matches. Default: false.",
            "type": ["boolean", "null"],
        },
        "metadata": metadata(),
    });
    let key = json!({
        "name": {"$ref": "#/components/schemas/KeyName"},
        "scopes": {"type": "array", "minItems": 1,
            "items": {"$ref": "#/components/schemas/Scope"}},
        "expires_at": {
            "description": "When the key becomes invalid, in the future. Null: it does not expire.",
            "type": ["string", "null"], "format": "date-time",
        },
    });
    let unknown = "A null field counts as omitted. Unknown fields are refused.";
    vec![
        ("NewApplication", object(unknown, &[], application)),
        ("NewEndpoint", object(unknown, &["url"], new)),
        (
            "EndpointPatch",
            object(
                "An omitted field stays, a null field gets its default. Unknown fields are \
                 refused. The secret cannot be changed.",
                &[],
                endpoint_fields(),
            ),
        ),
        ("NewKey", object(unknown, &["name", "scopes"], key)),
        ("Nothing", object("No fields.", &[], json!({}))),
    ]
}

#[cfg(test)]
mod tests {
    use base64::{Engine, engine::general_purpose::STANDARD};
    use regex::Regex;
    use shared::applications::secrets::EndpointSecret;

    use super::SECRET;

    #[test]
    fn the_pattern_of_secrets_is_exact() {
        let pattern = Regex::new(&format!("^{SECRET}$")).unwrap();
        for length in 0..100 {
            let text = STANDARD.encode(vec![0xff; length]);
            let is_valid = text.parse::<EndpointSecret>().is_ok();
            assert_eq!(pattern.is_match(&text), is_valid, "{length} bytes");
        }
        for text in ["A".repeat(33) + "B==", "A".repeat(34) + "B="] {
            assert!(!pattern.is_match(&text) && text.parse::<EndpointSecret>().is_err(), "{text}");
        }
    }
}
