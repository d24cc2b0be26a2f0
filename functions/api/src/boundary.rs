//! Around every request: its correlation id, who may call, and the one place that logs what went
//! wrong.

use std::{panic::AssertUnwindSafe, sync::Arc};

use axum::{
    body::{Body, HttpBody, to_bytes},
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderValue, Method, StatusCode, Uri, header};

use crate::{
    app::{App, Call},
    auth::{self, Access},
    body::{BODY_PATHS, discard},
    correlation::{self, CORRELATION_ID},
    problem::{Cause, Kind, Problem},
    room::{Share, Taken},
    trace,
};

/// Lets the request in, or not; adds to the answer what every answer has.
pub(crate) async fn around(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let correlation_id = correlation::of(request.headers(), &*app.context.random);
    // Both are cheap to clone: neither copies its text.
    let (method, uri) = (request.method().clone(), request.uri().clone());
    let (mut parts, body) = request.into_parts();
    let xray_trace_id = trace::xray_id(&parts).map(str::to_owned);
    let mut response = match auth::admit(&app.access, &parts) {
        Ok(caller) => {
            let share = app.room.share_of(&parts.headers);
            match turn(&app, &method, &uri, share) {
                Ok(turn) => {
                    let trace = trace::of(&parts);
                    parts.extensions.insert(Call {
                        correlation_id: Arc::clone(&correlation_id),
                        caller,
                        share,
                        trace,
                    });
                    let handler = next.run(Request::from_parts(parts, body));
                    // What is done to its end keeps its turn until then, also when the caller has
                    // gone.
                    let handler = async move {
                        let _turn = turn;
                        handler.await
                    };
                    with_room(&app, &method, share, answer(&method, handler).await).await
                }
                Err(full) => {
                    discard(body).await;
                    full.into_response()
                }
            }
        }
        Err(problem) => problem.into_response(),
    };
    log(&method, &uri, (&correlation_id, xray_trace_id.as_deref()), &response);
    let headers = response.headers_mut();
    // What a status says is true only now; but the page, which has a rule of its own, holds nothing
    // of that kind.
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    if let Ok(value) = HeaderValue::from_str(&correlation_id) {
        headers.insert(CORRELATION_ID, value);
    }
    response
}

/// A turn for a request, or a 503. Who watches Posthaste gets through when it is full, which is
/// when it matters; those answers are small and their bodies are not read. A request whose body is
/// read gets its turn when the body is there (`read_json`).
fn turn(app: &App, method: &Method, uri: &Uri, share: Share) -> Result<Option<Taken>, Problem> {
    let reads_body = method == Method::POST && BODY_PATHS.contains(&uri.path());
    let is_watching = matches!(uri.path(), "/health" | "/metrics");
    if reads_body || is_watching { Ok(None) } else { app.room.turn(share).map(Some) }
}

/// A large answer takes room until it is sent. If there is none, what only reads is answered 503;
/// the answer to what changed something is sent all the same, since it is small enough and cannot
/// be had again.
async fn with_room(app: &App, method: &Method, share: Share, response: Response) -> Response {
    let length =
        response.body().size_hint().exact().and_then(|length| usize::try_from(length).ok());
    let taken = match app.room.answer(share, length.unwrap_or(0)) {
        Some(Ok(taken)) => taken,
        Some(Err(full)) if method.is_safe() => return full.into_response(),
        Some(Err(_)) | None => return response,
    };
    let (parts, body) = response.into_parts();
    match to_bytes(body, usize::MAX).await {
        // The bytes themselves keep the room: the server holds them until the caller has read them.
        Ok(bytes) => Response::from_parts(
            parts,
            Body::from(Bytes::from_owner(Kept { bytes, _taken: taken })),
        ),
        Err(_) => internal_error().into_response(),
    }
}

/// An answer's bytes, with the room that they take.
struct Kept {
    bytes: Bytes,
    _taken: Taken,
}

impl AsRef<[u8]> for Kept {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Lets the request in, or not.
pub(crate) async fn admitted_only(
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

/// What changes something is done to its end, whether or not the client still waits for the answer:
/// between create and send lies the hand-over, and nobody should have to wait for the audit because
/// a connection broke.
///
/// Nothing here is meant to panic. If it does, the caller still gets an answer.
async fn answer(
    method: &Method,
    handler: impl Future<Output = Response> + Send + 'static,
) -> Response {
    let answered = if method.is_safe() {
        AssertUnwindSafe(handler).catch_unwind().await.ok()
    } else {
        tokio::spawn(handler).await.ok()
    };
    answered.unwrap_or_else(|| internal_error().into_response())
}

/// No such route. `routes` are the paths that there are, from which a trailing slash is told.
pub(crate) fn not_found(routes: &[&str], uri: &Uri) -> Problem {
    let path = uri.path();
    let without = path.trim_end_matches('/');
    if without.len() < path.len() && routes.iter().any(|route| is_of_route(without, route)) {
        let detail = format!("There is no such route. Use '{without}' without a trailing slash.");
        return Problem::new(Kind::NotFound, detail);
    }
    Problem::new(Kind::NotFound, "There is no such route.")
}

/// Whether this path is one of a route such as `/webhooks/{webhook_id}/explain`.
fn is_of_route(path: &str, route: &str) -> bool {
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

/// The route has other methods; axum names them in `allow`. To ask for them is no mistake.
pub(crate) async fn other_method(method: Method) -> Response {
    if method == Method::OPTIONS {
        return StatusCode::NO_CONTENT.into_response();
    }
    Problem::new(
        Kind::MethodNotAllowed,
        "This route does not have this method; the allow header names those it has.",
    )
    .into_response()
}

fn internal_error() -> Problem {
    Problem::new(Kind::Internal, "Something went wrong.").because(Panicked)
}

/// The panic hook has written the details.
#[derive(Debug, thiserror::Error)]
#[error("a handler panicked")]
struct Panicked;

/// The path only: queries can hold what must not be logged, such as a URL's secrets.
fn log(
    method: &Method,
    uri: &Uri,
    (correlation_id, xray_trace_id): (&str, Option<&str>),
    response: &Response,
) {
    let Some(Cause(cause)) = response.extensions().get::<Cause>() else { return };
    let (path, status) = (uri.path(), response.status().as_u16());
    let error = &**cause as &(dyn std::error::Error + 'static);
    tracing::error!(correlation_id, xray_trace_id, %method, path, status, error,
        "[{correlation_id}] {method} {path} was answered {status}");
}
