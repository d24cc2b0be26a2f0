//! The API if the function `api` runs in another process: forwards requests to its function URL.

use api::Access;
use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    response::Response,
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use serde_json::json;

use crate::functions::{CallError, Functions};

/// The path of the function URL at the endpoint.
const FUNCTION_URL: &str = "/lambda-url/api";

/// Headers of a single connection, which are not forwarded (RFC 9110, section 7.6.1).
const HOP_BY_HOP: [HeaderName; 6] = [
    header::CONNECTION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::PROXY_AUTHORIZATION,
];

/// `retry-after` while the functions are unreachable.
const RETRY_AFTER_SECONDS: u64 = 5;

/// Forwards every request that `access` admits to the function.
pub fn router(functions: Functions, access: Access) -> Router {
    api::guarded(Router::new().fallback(forward).with_state(functions), access)
}

async fn forward(State(functions): State<Functions>, mut request: Request) -> Response {
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    let path = format!("{FUNCTION_URL}{path}");
    strip_hop_by_hop(request.headers_mut());
    match functions.send(&path, request).await {
        Ok(response) => {
            let mut response = response.map(Body::new);
            strip_hop_by_hop(response.headers_mut());
            response
        }
        Err(error) => problem(&functions, &error),
    }
}

fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|names| names.split(',').filter_map(|name| name.trim().parse().ok()))
        .collect();
    for name in named.into_iter().chain(HOP_BY_HOP).chain([HeaderName::from_static("keep-alive")]) {
        headers.remove(name);
    }
}

/// An error in the API's own format. A request that failed halfway may have been processed, as
/// behind any gateway: 502.
fn problem(functions: &Functions, error: &CallError) -> Response {
    let (status, title, detail) = match error {
        CallError::NotAccepted(_) => (
            StatusCode::SERVICE_UNAVAILABLE,
            "Service unavailable",
            "The functions are unreachable. Start them with 'cargo lambda watch', or start the \
             stack without --functions.",
        ),
        CallError::Failed(_) | CallError::TimedOut(_) => (
            StatusCode::BAD_GATEWAY,
            "Bad gateway",
            "The function did not respond. It may have processed the request.",
        ),
    };
    tracing::warn!(endpoint = %functions.endpoint(), %error,
        "Could not forward a request to the function api");
    let body =
        json!({"type": "about:blank", "title": title, "status": status.as_u16(), "detail": detail});
    let mut response = Response::new(Body::from(body.to_string()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    headers.insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER_SECONDS));
    response
}
