//! Reads a request's body within its limits of size, time and memory.

use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use http::{HeaderMap, HeaderValue, Method, header};

use crate::{
    app::{App, Call},
    capacity::{BodyPermit, Permit},
    problem::{Problem, ProblemKind},
};

/// How long a body may take to arrive. A slow client must not hold memory that others need.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// The routes whose handlers read a body on POST, PUT or PATCH. Their requests get a slot in
/// [`read_json`], when the body is complete.
const BODY_ROUTES: [&str; 13] = [
    "/webhooks",
    "/webhooks/batch",
    "/test-webhook",
    "/applications/{application_id}",
    "/applications/{application_id}/endpoints",
    "/applications/{application_id}/endpoints/{endpoint_id}",
    "/applications/{application_id}/endpoints/{endpoint_id}/enable",
    "/applications/{application_id}/endpoints/{endpoint_id}/disable",
    "/applications/{application_id}/endpoints/{endpoint_id}/test",
    "/applications/{application_id}/messages",
    "/applications/{application_id}/messages/batch",
    "/applications/{application_id}/messages/{message_id}/resend",
    "/applications/{application_id}/keys",
];

/// Whether the handler of this route reads a body.
pub(crate) fn is_read(method: &Method, route: &str) -> bool {
    let may_have_body = matches!(*method, Method::POST | Method::PUT | Method::PATCH);
    may_have_body && BODY_ROUTES.contains(&route)
}

/// The bytes of a refused body that are read and dropped.
const MAX_DISCARDED_BYTES: usize = 2 * 1024 * 1024;

/// How long the rest of a refused body is read.
const DISCARD_TIMEOUT: Duration = Duration::from_secs(5);

/// Reads a body of at most `limit` bytes that arrives within [`BODY_TIMEOUT`]. The caller keeps the
/// permit until the request is done.
///
/// A non-empty body must have the content type of JSON. A browser sends a body of that type to
/// another site only after a preflight request (Fetch standard), so the check stops forged requests
/// of web pages.
pub(crate) async fn read_json(
    app: &App,
    call: &Call,
    headers: &HeaderMap,
    body: Body,
    limit: usize,
) -> Result<(Bytes, Permit), Problem> {
    let declared = check_declared(headers)?;
    let length = content_length(headers).unwrap_or(0);
    let mut permit = match app.capacity.body(&call.share, length.min(limit)) {
        Ok(permit) => permit,
        Err(overloaded) => {
            discard(body).await;
            return Err(overloaded);
        }
    };
    let bounds = (limit, Some(&mut permit));
    let read = declared.check(read_within(BODY_TIMEOUT, headers, body, bounds).await?)?;
    Ok((read, permit.with_slot()?))
}

/// Reads and drops a body. Many clients read the response only after they have sent the whole body,
/// and a connection that is closed within a body may lose the response.
pub(crate) async fn discard(body: Body) {
    discard_rest(body.into_data_stream()).await;
}

async fn discard_rest(mut chunks: BodyDataStream) {
    let drain = async {
        let mut length = 0;
        while let Some(Ok(chunk)) = chunks.next().await {
            length += chunk.len();
            if length > MAX_DISCARDED_BYTES {
                break;
            }
        }
    };
    // After the timeout the connection is closed.
    let _ = tokio::time::timeout(DISCARD_TIMEOUT, drain).await;
}

/// The largest size of a body, and the memory that it may use.
type Bounds<'a, 'p> = (usize, Option<&'a mut BodyPermit<'p>>);

async fn read_within(
    timeout: Duration,
    headers: &HeaderMap,
    body: Body,
    bounds: Bounds<'_, '_>,
) -> Result<Bytes, Problem> {
    let timed_out = |_| {
        let detail = format!("The body did not arrive within {} s.", timeout.as_secs());
        Problem::new(ProblemKind::RequestTimeout, detail)
    };
    tokio::time::timeout(timeout, read(headers, body, bounds)).await.map_err(timed_out)?
}

fn content_length(headers: &HeaderMap) -> Option<usize> {
    headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok())
}

async fn read(
    headers: &HeaderMap,
    body: Body,
    (limit, mut permit): Bounds<'_, '_>,
) -> Result<Bytes, Problem> {
    let announced = content_length(headers);
    // Up to twice the limit is read and dropped, because many clients read the response only after
    // they have sent the whole body.
    if announced.is_some_and(|length| length > limit.saturating_mul(2)) {
        return Err(too_large(limit));
    }
    let mut chunks = body.into_data_stream();
    let mut first = Bytes::new();
    let mut joined = BytesMut::new();
    let mut length = 0;
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|_| {
            Problem::new(ProblemKind::BadRequest, "The body ended before its content-length.")
        })?;
        length += chunk.len();
        if let Some(permit) = &mut permit
            && let Err(overloaded) = permit.grow_to(length.min(limit))
        {
            permit.release();
            drop((first, joined));
            discard_rest(chunks).await;
            return Err(overloaded);
        }
        if length > limit {
            joined.clear();
            first.clear();
            if length > limit.saturating_mul(2) {
                break;
            }
        } else if first.is_empty() && joined.is_empty() {
            // Most bodies are one chunk, which needs no copy.
            first = chunk;
        } else {
            if joined.is_empty() {
                joined.reserve(announced.unwrap_or(length).min(limit));
                joined.extend_from_slice(&std::mem::take(&mut first));
            }
            joined.extend_from_slice(&chunk);
        }
    }
    if length > limit {
        return Err(too_large(limit));
    }
    Ok(if joined.is_empty() { first } else { joined.freeze() })
}

fn too_large(limit: usize) -> Problem {
    Problem::new(ProblemKind::TooLarge, format!("The body is larger than {limit} bytes."))
}

/// Whether the request has a content type, which is JSON then.
#[derive(Clone, Copy)]
struct DeclaredJson(bool);

impl DeclaredJson {
    /// The body, if it is declared or empty.
    fn check(self, body: Bytes) -> Result<Bytes, Problem> {
        if self.0 || body.is_empty() { Ok(body) } else { Err(not_json()) }
    }
}

/// An error if the body is compressed, or if its content type is not JSON.
fn check_declared(headers: &HeaderMap) -> Result<DeclaredJson, Problem> {
    if headers.get(header::CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity") {
        return Err(Problem::new(
            ProblemKind::UnsupportedMediaType,
            "Compressed bodies are not supported. Send the body uncompressed, without \
             content-encoding.",
        ));
    }
    match headers.get(header::CONTENT_TYPE) {
        Some(value) if !is_json(value) => Err(not_json()),
        declared => Ok(DeclaredJson(declared.is_some())),
    }
}

fn not_json() -> Problem {
    Problem::new(
        ProblemKind::UnsupportedMediaType,
        "The body must be JSON. Send the header 'content-type: application/json'.",
    )
}

fn is_json(value: &HeaderValue) -> bool {
    let Ok(text) = value.to_str() else { return false };
    let essence = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json"
        || (essence.starts_with("application/") && essence.ends_with("+json"))
}

#[cfg(test)]
mod tests {
    use futures_util::stream;

    use super::*;

    fn headers(content_type: &str) -> HeaderMap {
        HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_str(content_type).unwrap())])
    }

    fn chunked(chunks: &[&'static [u8]]) -> Body {
        Body::from_stream(stream::iter(
            chunks.iter().map(|chunk| Ok::<_, std::io::Error>(*chunk)).collect::<Vec<_>>(),
        ))
    }

    /// Without a limit on memory.
    async fn read_json(headers: &HeaderMap, body: Body, limit: usize) -> Result<Bytes, Problem> {
        let declared = check_declared(headers)?;
        declared.check(read_within(BODY_TIMEOUT, headers, body, (limit, None)).await?)
    }

    async fn read_all(chunks: &[&'static [u8]], limit: usize) -> Result<Bytes, ProblemKind> {
        read_json(&headers("application/json"), chunked(chunks), limit)
            .await
            .map_err(|problem| problem.kind())
    }

    #[tokio::test]
    async fn a_body_is_read_up_to_its_limit() {
        assert_eq!(read_all(&[], 0).await.unwrap(), "");
        assert_eq!(read_all(&[b"abc"], 3).await.unwrap(), "abc");
        assert_eq!(read_all(&[b"", b"a", b"", b"b", b"c"], 3).await.unwrap(), "abc");
        for chunks in
            [&[&b"abcd"[..]][..], &[b"ab", b"cd"], &[b"abc", b"d", b"e"], &[&b"a"[..]; 100]]
        {
            assert_eq!(read_all(chunks, 3).await, Err(ProblemKind::TooLarge));
        }
    }

    #[tokio::test]
    async fn a_body_that_stops_arriving_times_out() {
        let stuck = Body::from_stream(
            stream::iter([Ok::<_, std::io::Error>("{")]).chain(stream::pending()),
        );
        let timeout = Duration::from_millis(20);
        let read = tokio::time::timeout(
            timeout * 500,
            read_within(timeout, &HeaderMap::new(), stuck, (9, None)),
        )
        .await;
        assert_eq!(read.unwrap().unwrap_err().kind(), ProblemKind::RequestTimeout);
    }

    #[tokio::test]
    async fn only_json_is_read() {
        for json in
            ["application/json", "Application/JSON; charset=utf-8", "application/cloudevents+json"]
        {
            assert!(read_json(&headers(json), Body::from("1"), 9).await.is_ok(), "{json}");
        }
        for other in [
            "text/plain",
            "text/x+json",
            "application/x-www-form-urlencoded",
            "application/jsonp",
            "json",
            "",
        ] {
            let problem = read_json(&headers(other), Body::from("1"), 9).await.unwrap_err();
            assert_eq!(problem.kind(), ProblemKind::UnsupportedMediaType, "{other}");
        }
        assert!(read_json(&HeaderMap::new(), Body::empty(), 9).await.unwrap().is_empty());
        let undeclared = read_json(&HeaderMap::new(), Body::from("1"), 9).await.unwrap_err();
        assert_eq!(undeclared.kind(), ProblemKind::UnsupportedMediaType);
        let gzip =
            HeaderMap::from_iter([(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"))]);
        assert_eq!(
            read_json(&gzip, Body::from("1"), 9).await.unwrap_err().kind(),
            ProblemKind::UnsupportedMediaType
        );
    }
}
