//! Examples of applications, endpoints and keys.

use serde_json::{Value, json};

const APPLICATION: &str = "customer-7";

const ENDPOINT: &str = "ep-mzxw6ytbojtg633c";

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYo=";

/// An example of each schema that is a whole request or a whole response.
pub(super) fn of_schemas() -> Vec<(&'static str, Value)> {
    let with = |mut object: Value, more: Value| {
        if let (Some(object), Value::Object(more)) = (object.as_object_mut(), more) {
            object.extend(more);
        }
        object
    };
    let application = json!({
        "application_id": APPLICATION, "name": "Customer 7", "keep_unmatched": false,
        "metadata": {"plan": "gold"}, "endpoint_count": 1,
        "created_at": "2026-01-31T12:00:00.000Z", "updated_at": "2026-01-31T12:00:05.000Z",
    });
    let state = json!({"endpoints": [{
        "endpoint_id": ENDPOINT, "url": "https://example.com/hooks", "enabled": true,
        "disabled": null, "circuit": "open", "open_until": "2026-01-31T12:01:00.000Z",
        "paused_until": null, "success_share": 0.75, "attempts": 20, "failed": 5,
        "last_error": {"kind": "timeout", "status_code": null, "message": "no answer",
            "at": "2026-01-31T12:00:30.000Z"},
    }]});
    let new = json!({
        "url": "https://example.com/hooks", "event_types": ["order.*"],
        "headers": {"authorization": "Bearer s3cr3t"}, "description": "Orders",
    });
    let endpoint = json!({
        "endpoint_id": ENDPOINT, "url": "https://example.com/hooks", "event_types": ["order.*"],
        "headers": {"authorization": "***"}, "retry": null, "timeout_ms": null,
        "description": "Orders", "metadata": {}, "enabled": true, "disabled": null,
        "created_at": "2026-01-31T12:00:05.000Z", "updated_at": "2026-01-31T12:00:05.000Z",
    });
    let changed = with(endpoint.clone(), json!({"applies_from": "2026-01-31T12:00:07.000Z"}));
    let key = json!({
        "key_id": "key-0123456789abcdef", "name": "shop backend", "scopes": ["publish"],
        "expires_at": null,
    });
    let whole_key = json!({
        "key": format!("pha.{APPLICATION}.key-0123456789abcdef.{}", "A".repeat(43)),
    });
    let secret = json!({
        "id": "sec-0123456789abcdef", "kind": "v1", "secret": SECRET, "expires_at": null,
    });
    let page = |item: &Value| json!({"items": [item], "page_size": 20, "next_cursor": null});
    vec![
        ("NewApplication", json!({"name": "Customer 7", "metadata": {"plan": "gold"}})),
        ("ApplicationList", page(&application)),
        ("ApplicationState", with(application.clone(), state)),
        ("Application", application),
        (
            "ChangeList",
            json!({"items": [{
                "at": "2026-01-31T12:00:05.000Z", "by": "API_KEYS",
                "what": format!("endpoint.created {ENDPOINT}"),
            }]}),
        ),
        ("NewEndpoint", new),
        ("NewEndpointResult", with(changed.clone(), json!({"secret": SECRET}))),
        ("EndpointPatch", json!({"event_types": null, "enabled": false})),
        ("ChangedEndpoint", changed),
        ("EndpointList", page(&endpoint)),
        ("Endpoint", endpoint),
        ("EndpointSecrets", json!({"secrets": [secret]})),
        ("NewKey", json!({"name": "shop backend", "scopes": ["publish"]})),
        ("NewKeyResult", with(key.clone(), whole_key)),
        ("ApplicationKeyList", json!({"items": [key]})),
        ("Nothing", json!({})),
    ]
}
