//! The error responses of operations. Each example is a real [`Problem`].

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use shared::applications::change::ChangeError;
use utoipa::{
    IntoResponses,
    openapi::{RefOr, response::Response},
};

use crate::problem::{FieldErrors, Problem, ProblemKind};

/// Sets of error statuses. An operation's annotation names the sets that it has in addition to
/// [`COMMON`].
macro_rules! sets {
    ($($name:ident: [$($status:literal),+];)+) => {$(
        pub(crate) struct $name;

        impl IntoResponses for $name {
            fn responses() -> BTreeMap<String, RefOr<Response>> {
                [$($status),+].into_iter().map(|status: u16| (status.to_string(),
                    Response::new("").into())).collect()
            }
        }
    )+};
}

sets! {
    // Operations that read a body.
    Body: [400, 408, 409, 413, 415];
    // Operations with an idempotency key and without a body.
    Keyed: [400, 409];
    // Operations with a cursor or a required filter.
    Unclear: [400];
    // Operations on one object, or below one.
    Missing: [404];
    // Operations that one process limits.
    Limited: [429];
}

/// The content type of errors.
const MEDIA_TYPE: &str = "application/problem+json";

/// The error statuses of every operation.
const COMMON: [u16; 6] = [401, 403, 405, 422, 500, 503];

/// The name of the component for each error status.
const NAMES: [(u16, &str); 13] = [
    (400, "BadRequest"),
    (401, "Unauthorized"),
    (403, "Forbidden"),
    (404, "NotFound"),
    (405, "MethodNotAllowed"),
    (408, "RequestTimeout"),
    (409, "Conflict"),
    (413, "TooLarge"),
    (415, "UnsupportedMediaType"),
    (422, "InvalidFields"),
    (429, "TooManyRequests"),
    (500, "Internal"),
    (503, "Unavailable"),
];

/// The components, by their names.
pub(crate) fn responses(correlation_id: &Value) -> Map<String, Value> {
    let describe = |(status, name): (u16, &str)| {
        let mut headers = Map::from_iter([("x-correlation-id".to_owned(), correlation_id.clone())]);
        headers.extend(header(status));
        let response = json!({"description": description(status),
            "content": {MEDIA_TYPE: content(status)}, "headers": headers});
        (name.to_owned(), response)
    };
    NAMES.into_iter().map(describe).collect()
}

/// Adds the errors of every operation to this operation's responses, and describes those that its
/// annotation names.
pub(crate) fn complete(responses: &mut Map<String, Value>) {
    for status in COMMON {
        responses.entry(status.to_string()).or_insert(Value::Null);
    }
    for (status, name) in NAMES {
        let Some(response) = responses.get_mut(&status.to_string()) else { continue };
        if response["content"].is_object() {
            // The operation itself has a response with this status, as `/health` has with 503.
            response["content"][MEDIA_TYPE] = content(status);
            response["headers"] = Value::Object(header(status).into_iter().collect());
        } else {
            *response = json!({"$ref": format!("#/components/responses/{name}")});
        }
    }
}

fn content(status: u16) -> Value {
    let examples: Map<String, Value> = problems(status).iter().map(example).collect();
    json!({"schema": {"$ref": "#/components/schemas/Problem"}, "examples": examples})
}

fn description(status: u16) -> &'static str {
    match status {
        400 => "The request is malformed.",
        401 => "The API key is missing or invalid. This occurs only if API keys are configured.",
        403 => {
            "The application key lacks the permission. Or the request is from a web page of \
             another origin, or has another host name, which occurs only on a local machine \
             without API keys."
        }
        404 => "The object or route does not exist, or belongs to another application.",
        405 => "The route does not support the method.",
        408 => "The body did not arrive in time.",
        409 => {
            "The state of the object does not allow the request, or the application has no room, \
             or the idempotency key was used for a different request."
        }
        413 => "The body or the payload exceeds its limit.",
        415 => "The body is compressed, or its `content-type` is missing or not JSON.",
        422 => "Fields or parameters are invalid or unknown. `errors` names each.",
        429 => "The call was made too often.",
        503 => {
            "The store is unavailable or full, there are too many concurrent requests, or the \
             deployment does not state who may call the API or has no master key."
        }
        _ => "An internal error. The log has the details.",
    }
}

fn header(status: u16) -> Option<(String, Value)> {
    let (name, description, schema) = match status {
        401 => ("www-authenticate", "How to authenticate.", json!({"type": "string"})),
        405 => ("allow", "The methods that the route supports.", json!({"type": "string"})),
        429 | 503 => (
            "retry-after",
            "Seconds to wait before a retry.",
            json!({"type": "integer", "minimum": 0}),
        ),
        _ => return None,
    };
    Some((name.to_owned(), json!({"description": description, "required": true, "schema": schema})))
}

/// An example, named after its `type`.
fn example(problem: &Problem) -> (String, Value) {
    let value = serde_json::to_value(problem).unwrap_or_default();
    let name = value["type"]
        .as_str()
        .and_then(|kind| kind.rsplit(':').next())
        .unwrap_or_default()
        .to_owned();
    (name, json!({"value": value}))
}

/// Examples of errors with this status.
fn problems(status: u16) -> Vec<Problem> {
    match status {
        400 => vec![
            Problem::new(
                ProblemKind::MalformedJson,
                "The body is not valid JSON: syntax error at line 1 column 8.",
            ),
            Problem::about(
                ProblemKind::BadRequest,
                "cursor",
                "must be an unchanged next_cursor of an earlier response of this list.",
            ),
        ],
        401 => vec![Problem::new(
            ProblemKind::Unauthorized,
            "The API key is invalid. Send one as 'Authorization: Bearer KEY' or 'x-api-key: \
             KEY'.",
        )],
        403 => vec![Problem::new(
            ProblemKind::Forbidden,
            "The application key lacks the scope 'manage'. Use a key that has it.",
        )],
        404 => vec![Problem::no_such_webhook()],
        405 => vec![Problem::new(
            ProblemKind::MethodNotAllowed,
            "This route does not support this method. Use a method from the allow header.",
        )],
        408 => {
            vec![Problem::new(ProblemKind::RequestTimeout, "The body did not arrive within 30 s.")]
        }
        409 => vec![
            Problem::new(
                ProblemKind::Conflict,
                "The webhook is retrying. Wait until it is delivered or failed, then send it \
                 again.",
            ),
            Problem::new(
                ProblemKind::KeyReused,
                "This Idempotency-Key was used for a different request in the last 24 hours. Use a \
                 new key for each request.",
            ),
            ChangeError::TooManyEndpoints.into(),
        ],
        413 => {
            vec![Problem::about(ProblemKind::TooLarge, "payload", "is larger than 262144 bytes.")]
        }
        415 => vec![Problem::new(
            ProblemKind::UnsupportedMediaType,
            "The body must be JSON. Send the header 'content-type: application/json'.",
        )],
        422 => {
            let mut field_errors = FieldErrors::default();
            field_errors.add("url", "must begin with http:// or https://.");
            field_errors.add("retry.factor", "must be a number from 1 to 100.");
            field_errors.check().err().into_iter().collect()
        }
        429 => vec![Problem::new(
            ProblemKind::TooManyRequests,
            "An endpoint gets at most one test message a second. Try again shortly.",
        )],
        500 => vec![Problem::internal()],
        503 => vec![
            Problem::new(
                ProblemKind::Unavailable,
                "The store is not available. Try again shortly.",
            ),
            Problem::new(
                ProblemKind::Overloaded,
                "Too many concurrent requests. Try again shortly.",
            ),
            Problem::new(
                ProblemKind::NotConfigured,
                "The API is not configured to admit callers. The log states which setting is \
                 missing.",
            ),
        ],
        _ => Vec::new(),
    }
}
