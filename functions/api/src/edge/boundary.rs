//! The middleware around every request: correlation ID, access, capacity, and the one log line for
//! a request that failed.

use std::{error::Error, panic::AssertUnwindSafe, sync::Arc};

use axum::{
    body::{Body, HttpBody, to_bytes},
    extract::{MatchedPath, Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderValue, Method, StatusCode, Uri, header, request::Parts};
use shared::{context::Context, logging};
use tracing::Instrument;

use crate::{
    app::{App, Call},
    capacity::{KeyShare, Permit},
    edge::{
        application_key,
        auth::{self, Access, Admitted, Caller},
        correlation::{self, CORRELATION_ID},
        permission, trace,
    },
    input::body::{self, discard},
    problem::{Cause, Problem, ProblemKind},
};

/// Runs a request within its span, and adds the headers that every response has.
pub(crate) async fn handle(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let correlation_id = correlation::of(request.headers(), &*app.context.random);
    let (parts, body) = request.into_parts();
    let span = logging::request_span(&correlation_id, trace::xray_id(&parts));
    let mut response = respond(&app, &correlation_id, (parts, body), next).instrument(span).await;
    let headers = response.headers_mut();
    // A status is true only at this moment. The operator's page sets its own rule: it holds no such
    // data.
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    if let Ok(value) = HeaderValue::from_str(&correlation_id) {
        headers.insert(CORRELATION_ID, value);
    }
    response
}

async fn respond(
    app: &App,
    correlation_id: &Arc<str>,
    (mut parts, body): (Parts, Body),
    next: Next,
) -> Response {
    // Both are cheap to clone: neither copies its text.
    let (method, uri) = (parts.method.clone(), parts.uri.clone());
    let response = match admit(&app.access, &app.context, &parts).await {
        Err(problem) => problem.into_response(),
        Ok(caller) => {
            let share = app.capacity.share_of(&caller, &parts.headers);
            match slot(app, &parts, &share) {
                Err(overloaded) => {
                    discard(body).await;
                    overloaded.into_response()
                }
                Ok(slot) => {
                    let correlation_id = Arc::clone(correlation_id);
                    let trace = trace::of(&parts);
                    let call = Call { correlation_id, caller, share: share.clone(), trace };
                    parts.extensions.insert(call);
                    let handler = next.run(Request::from_parts(parts, body));
                    let response = run(&method, slot, handler).await;
                    hold_memory(app, &method, &share, response).await
                }
            }
        }
    };
    log(&method, &uri, &response);
    response
}

/// Admits the caller of a request. An application key is not admitted outside of its application.
async fn admit(access: &Access, context: &Context, parts: &Parts) -> Result<Caller, Problem> {
    let caller = match auth::admit(access, parts)? {
        Admitted::Caller(caller) => caller,
        Admitted::Key(key) => application_key::caller(context, &key).await?,
    };
    permission::ask_outside(&caller, parts.uri.path())?;
    Ok(caller)
}

/// A slot for the request, or a 503. Requests whose body is read get their slot when the body is
/// complete (`read_json`). Monitoring must work while Posthaste is overloaded, so `/health` and
/// `/metrics` need no slot: their responses are small and their bodies are not read.
fn slot(app: &App, parts: &Parts, share: &KeyShare) -> Result<Option<Permit>, Problem> {
    let route = parts.extensions.get::<MatchedPath>();
    let reads_body = route.is_some_and(|route| body::is_read(&parts.method, route.as_str()));
    let is_monitoring = matches!(parts.uri.path(), "/health" | "/metrics");
    if reads_body || is_monitoring { Ok(None) } else { app.capacity.slot(share).map(Some) }
}

/// Runs the handler. A request that changes something runs to its end even if the client
/// disconnects: after the create, the message must still be sent.
///
/// A panic is a bug, but the caller still gets a 500.
async fn run(
    method: &Method,
    slot: Option<Permit>,
    handler: impl Future<Output = Response> + Send + 'static,
) -> Response {
    // The slot is held until the handler ends, even if the client has disconnected.
    let handler = async move {
        let _slot = slot;
        handler.await
    };
    let response = if method.is_safe() {
        AssertUnwindSafe(handler).catch_unwind().await.ok()
    } else {
        tokio::spawn(handler.in_current_span()).await.ok()
    };
    response.unwrap_or_else(|| Problem::internal().because(Panicked).into_response())
}

/// Holds memory for a large response until it is sent. Without memory, a read gets a 503 instead. A
/// request that changed something still gets its response: that one is small enough, and the
/// client cannot get it again.
async fn hold_memory(app: &App, method: &Method, share: &KeyShare, response: Response) -> Response {
    let length =
        response.body().size_hint().exact().and_then(|length| usize::try_from(length).ok());
    let permit = match app.capacity.response(share, length.unwrap_or(0)) {
        Some(Ok(permit)) => permit,
        Some(Err(overloaded)) if method.is_safe() => return overloaded.into_response(),
        Some(Err(_)) | None => return response,
    };
    let (parts, body) = response.into_parts();
    match to_bytes(body, usize::MAX).await {
        // The bytes own the permit: the server keeps them until the client has read them.
        Ok(bytes) => Response::from_parts(
            parts,
            Body::from(Bytes::from_owner(PermittedBytes { bytes, _permit: permit })),
        ),
        Err(error) => Problem::internal().because(error).into_response(),
    }
}

/// The bytes of a response, with the memory that is reserved for them.
struct PermittedBytes {
    bytes: Bytes,
    _permit: Permit,
}

impl AsRef<[u8]> for PermittedBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Applies the access rule only. The API behind it checks an application key.
pub(crate) async fn admit_only(
    State(access): State<Arc<Access>>,
    request: Request,
    next: Next,
) -> Response {
    let (parts, body) = request.into_parts();
    match auth::admit(&access, &parts) {
        Ok(_) => next.run(Request::from_parts(parts, body)).await,
        Err(problem) => problem.into_response(),
    }
}

/// The response for an unknown path. If one of `routes` matches without a trailing slash, the
/// response names that path.
pub(crate) fn not_found(routes: &[String], uri: &Uri) -> Problem {
    let path = uri.path();
    let without = path.trim_end_matches('/');
    if without.len() < path.len() && routes.iter().any(|route| matches_route(without, route)) {
        let detail = format!("No such route. Use '{without}' without a trailing slash.");
        return Problem::new(ProblemKind::NotFound, detail);
    }
    Problem::new(
        ProblemKind::NotFound,
        "No such route. GET /openapi.json lists the routes of the API.",
    )
}

/// Whether this path matches a route such as `/webhooks/{webhook_id}/explain`.
fn matches_route(path: &str, route: &str) -> bool {
    let (mut path, mut route) = (path.split('/'), route.split('/'));
    loop {
        match (path.next(), route.next()) {
            (None, None) => return true,
            (Some(given), Some(part))
                if part == given || (part.starts_with('{') && !given.is_empty()) => {}
            _ => return false,
        }
    }
}

/// The response for a method that the route does not have. axum adds `allow`. `OPTIONS` is a
/// legitimate question, so it gets a 204.
pub(crate) async fn method_not_allowed(method: Method) -> Response {
    if method == Method::OPTIONS {
        return StatusCode::NO_CONTENT.into_response();
    }
    Problem::new(
        ProblemKind::MethodNotAllowed,
        "This route does not support this method. Use a method from the allow header.",
    )
    .into_response()
}

/// A handler panicked. The panic hook has written the details.
#[derive(Debug, thiserror::Error)]
#[error("a handler panicked")]
struct Panicked;

/// Logs the cause of a failed request. Only the path is logged: a query can contain secrets, such
/// as those of a URL.
fn log(method: &Method, uri: &Uri, response: &Response) {
    let Some(Cause(cause)) = response.extensions().get::<Cause>() else { return };
    let (path, status) = (uri.path(), response.status().as_u16());
    tracing::error!(%method, path, status, error = &**cause as &dyn Error,
        "{method} {path} failed with status {status}");
}
