//! JSON responses.

use axum::{
    Json,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;

/// A response with `value` as its body.
pub(crate) fn json(status: StatusCode, value: &impl Serialize) -> Response {
    (status, Json(value)).into_response()
}

/// A response whose body is JSON already. Responses that are stored for an idempotency key exist as
/// text.
pub(crate) fn json_text(status: StatusCode, body: impl Into<axum::body::Body>) -> Response {
    let content_type = [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
    (status, content_type, body.into()).into_response()
}

/// The JSON text of a response body.
pub(crate) fn to_json(value: &impl Serialize) -> String {
    // Serialization fails only for maps with non-string keys and for custom implementations of
    // `Serialize`. No response has either.
    serde_json::to_string(value).unwrap_or_default()
}
