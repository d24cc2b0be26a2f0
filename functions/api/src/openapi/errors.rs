//! The errors of calls, as they are answered: each example is a real problem.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use utoipa::{
    IntoResponses,
    openapi::{RefOr, response::Response},
};

use crate::problem::{FieldErrors, Problem, ProblemKind};

/// Sets of errors for annotations to name: what a call can answer besides what every call can.
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
    // Whatever reads a body.
    Body: [400, 408, 409, 413, 415];
    // Whatever takes an idempotency key and no body.
    Keyed: [400, 409];
    // A cursor or a filter that is missing.
    Unclear: [400];
    // Something that is not there.
    Missing: [404];
}

/// How errors are answered.
const MEDIA_TYPE: &str = "application/problem+json";

/// What every call can answer.
const COMMON: [u16; 6] = [401, 403, 405, 422, 500, 503];

/// Every status of an error, and the name that it is described under.
const NAMES: [(u16, &str); 12] = [
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
    (500, "Internal"),
    (503, "Unavailable"),
];

/// What each error is, by its name.
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

/// Writes the errors into an operation's responses: those that every call can answer, and those
/// that its annotation names.
pub(crate) fn complete(responses: &mut Map<String, Value>) {
    for status in COMMON {
        responses.entry(status.to_string()).or_insert(Value::Null);
    }
    for (status, name) in NAMES {
        let Some(response) = responses.get_mut(&status.to_string()) else { continue };
        if response["content"].is_object() {
            // A call that says more in the same status.
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
        400 => "The request cannot be understood.",
        401 => "No key, or one that is not valid. Only where keys are set.",
        403 => {
            "A web page of another origin, or another host name. Only where no keys are set, on \
             one machine."
        }
        404 => "There is no such thing, or no more.",
        405 => "The route has other methods, not the one that was used.",
        408 => "The body took too long to come.",
        409 => "Not possible now, or the idempotency key stands for another request.",
        413 => "The body or the payload exceeds its limit.",
        415 => "The body is compressed, or its `content-type` is missing or not JSON.",
        422 => "Fields or parameters are wrong; each is named. Unknown ones are wrong, too.",
        503 => {
            "The store does not answer or is full, too many requests are being answered, or nobody \
             has set who may call."
        }
        _ => "A fault of Posthaste, whose log says more.",
    }
}

fn header(status: u16) -> Option<(String, Value)> {
    let (name, what, schema) = match status {
        401 => ("www-authenticate", "How to authenticate.", json!({"type": "string"})),
        405 => ("allow", "The methods that the route has.", json!({"type": "string"})),
        503 => (
            "retry-after",
            "Seconds until it is worth trying again.",
            json!({"type": "integer", "minimum": 0}),
        ),
        _ => return None,
    };
    Some((name.to_owned(), json!({"description": what, "required": true, "schema": schema})))
}

/// The name of an example is that of its `type`.
fn example(problem: &Problem) -> (String, Value) {
    let value = serde_json::to_value(problem).unwrap_or_default();
    let name = value["type"]
        .as_str()
        .and_then(|kind| kind.rsplit(':').next())
        .unwrap_or_default()
        .to_owned();
    (name, json!({"value": value}))
}

/// What can be answered with this status.
fn problems(status: u16) -> Vec<Problem> {
    match status {
        400 => vec![
            Problem::new(
                ProblemKind::MalformedJson,
                "The body is not JSON: syntax error at line 1 column 8.",
            ),
            Problem::about(
                ProblemKind::BadRequest,
                "cursor",
                "must be the next_cursor of an earlier answer of this list, as it was",
            ),
        ],
        401 => vec![Problem::new(
            ProblemKind::Unauthorized,
            "The API key is not valid. Send one as 'Authorization: Bearer KEY' or 'x-api-key: \
             KEY'.",
        )],
        403 => vec![Problem::new(
            ProblemKind::Forbidden,
            "Without API_KEYS, a web page of another origin may not change anything; set API_KEYS.",
        )],
        404 => vec![Problem::no_such_webhook()],
        405 => vec![Problem::new(
            ProblemKind::MethodNotAllowed,
            "This route does not have this method; the allow header names those it has.",
        )],
        408 => {
            vec![Problem::new(ProblemKind::RequestTimeout, "The body did not come within 30 s.")]
        }
        409 => vec![
            Problem::new(
                ProblemKind::Conflict,
                "The webhook is still on its way (retrying); it can be sent again once it is \
                 delivered or failed.",
            ),
            Problem::new(
                ProblemKind::KeyReused,
                "This Idempotency-Key was sent with another request in the last 24 hours; use a \
                 new key for each.",
            ),
        ],
        413 => {
            vec![Problem::about(ProblemKind::TooLarge, "payload", "is larger than 262144 bytes")]
        }
        415 => vec![Problem::new(
            ProblemKind::UnsupportedMediaType,
            "The body must be JSON. Send the header 'content-type: application/json'.",
        )],
        422 => {
            let mut field_errors = FieldErrors::default();
            field_errors.add("url", "the scheme must be http or https");
            field_errors.add("retry.factor", "must be a number from 1 to 100");
            field_errors.check().err().into_iter().collect()
        }
        500 => vec![Problem::new(ProblemKind::Internal, "Something went wrong.")],
        503 => vec![
            Problem::new(
                ProblemKind::Unavailable,
                "The store cannot be reached at the moment; try again.",
            ),
            Problem::new(
                ProblemKind::Overloaded,
                "Too many concurrent requests. Try again shortly.",
            ),
            Problem::new(
                ProblemKind::NotConfigured,
                "The API is not set up to be called; its log says why.",
            ),
        ],
        _ => Vec::new(),
    }
}
