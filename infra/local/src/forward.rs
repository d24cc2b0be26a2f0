//! The API where the function `api` runs in a process of its own: requests go on to its function
//! URL.

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

/// Where the function URL is, below the endpoint.
const FUNCTION_URL: &str = "/lambda-url/api";

/// What concerns one connection only, and is not passed on (RFC 9110, section 7.6.1).
const HOP_BY_HOP: [HeaderName; 6] = [
    header::CONNECTION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::PROXY_AUTHORIZATION,
];

/// How long a client may be told to wait for functions that are away.
const RETRY_AFTER_SECONDS: u64 = 5;

/// Passes every request that `access` admits to the function, and its answer back.
pub fn router(functions: Functions, access: Access) -> Router {
    api::guarded(Router::new().fallback(forward).with_state(functions), access)
}

async fn forward(State(functions): State<Functions>, mut request: Request) -> Response {
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    let path = format!("{FUNCTION_URL}{path}");
    strip(request.headers_mut());
    match functions.send(&path, request).await {
        Ok(answer) => {
            let mut answer = answer.map(Body::new);
            strip(answer.headers_mut());
            answer
        }
        Err(error) => unreachable(&functions, &error),
    }
}

fn strip(headers: &mut HeaderMap) {
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

/// In the shape of the API's own errors. A request that broke off may have been worked on, as
/// behind any gateway: 502.
fn unreachable(functions: &Functions, error: &CallError) -> Response {
    let (status, title, detail) = match error {
        CallError::NotTaken(_) => (
            StatusCode::SERVICE_UNAVAILABLE,
            "Service unavailable",
            "The functions cannot be reached. Start them with 'cargo lambda watch', or start the \
             stack without --functions.",
        ),
        CallError::Failed(_) | CallError::Late(_) => (
            StatusCode::BAD_GATEWAY,
            "Bad gateway",
            "The function did not answer; it may have done what it was asked for.",
        ),
    };
    tracing::warn!(endpoint = %functions.endpoint(), %error,
        "A request could not be passed to the function api");
    let problem =
        json!({"type": "about:blank", "title": title, "status": status.as_u16(), "detail": detail});
    let mut response = Response::new(Body::from(problem.to_string()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    headers.insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER_SECONDS));
    response
}
