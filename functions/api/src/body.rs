//! Reading a request's body: what it must say of itself, and how much of it there may be.

use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use http::{HeaderMap, HeaderValue, header};

use crate::{
    app::{App, Call},
    problem::{Kind, Problem},
    room::{BodyRoom, Taken},
};

/// What a request may hold besides its payload: URL, headers, the other fields, blanks.
pub(crate) const ENVELOPE_BYTES: usize = 64 * 1024;

/// The largest body: what Lambda passes to a function at once.
pub(crate) const MAX_BODY_BYTES: usize = 6 * 1024 * 1024;

/// How long a body may take to come: who sends slowly on purpose must not take up the room of
/// others.
const PATIENCE: Duration = Duration::from_secs(30);

/// The paths whose handlers read a body: a request for one of them gets its turn here, when its
/// body is there.
pub(crate) const BODY_PATHS: [&str; 3] = ["/webhooks", "/webhooks/batch", "/test-webhook"];

/// The body, if it has at most `limit` bytes and comes within 30 s. A body that is not empty must
/// be declared as JSON. With it comes the room that the request takes, to be kept until the request
/// is done; 503 if there is none.
///
/// A web page can send any body to any site without asking first, unless the body has this type (a
/// "preflighted" request of the Fetch standard). So the type is required, not guessed.
pub(crate) async fn read_json(
    app: &App,
    call: &Call,
    headers: &HeaderMap,
    body: Body,
    limit: usize,
) -> Result<(Bytes, Taken), Problem> {
    let declared = check_declared(headers)?;
    let length = announced(headers).unwrap_or(0);
    let mut room = match app.room.body(call.share, length.min(limit)) {
        Ok(room) => room,
        Err(full) => {
            discard(body).await;
            return Err(full);
        }
    };
    let read =
        declared.check(read_within(PATIENCE, headers, body, (limit, Some(&mut room))).await?)?;
    Ok((read, room.with_turn()?))
}

/// Bytes of a body that are read only to be dropped.
const MAX_DISCARDED_BYTES: usize = 2 * 1024 * 1024;

/// How long that may take.
const DISCARD_PATIENCE: Duration = Duration::from_secs(5);

/// Reads a body that nobody wants, and keeps none of it: many clients see no answer before they
/// have sent everything, and a connection that is closed in the middle of a body may lose the
/// answer.
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
    // What has not come by then is left to the connection's end.
    let _ = tokio::time::timeout(DISCARD_PATIENCE, drain).await;
}

/// How many bytes a body may have, and the room that they take.
type Bounds<'a, 'r> = (usize, Option<&'a mut BodyRoom<'r>>);

async fn read_within(
    patience: Duration,
    headers: &HeaderMap,
    body: Body,
    bounds: Bounds<'_, '_>,
) -> Result<Bytes, Problem> {
    let too_slow = |_| {
        Problem::new(
            Kind::RequestTimeout,
            format!("The body did not come within {} s.", patience.as_secs()),
        )
    };
    tokio::time::timeout(patience, read(headers, body, bounds)).await.map_err(too_slow)?
}

fn announced(headers: &HeaderMap) -> Option<usize> {
    headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok())
}

async fn read(
    headers: &HeaderMap,
    body: Body,
    (limit, mut room): Bounds<'_, '_>,
) -> Result<Bytes, Problem> {
    let announced = announced(headers);
    // A little more than the limit is read and dropped, since many clients see no answer before
    // they have sent everything.
    if announced.is_some_and(|length| length > limit.saturating_mul(2)) {
        return Err(too_large(limit));
    }
    let mut chunks = body.into_data_stream();
    let mut read = Bytes::new();
    let mut more = BytesMut::new();
    let mut length = 0;
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|_| {
            Problem::new(Kind::BadRequest, "The body ended before its length was reached.")
        })?;
        length += chunk.len();
        if let Some(room) = &mut room
            && let Err(full) = room.grow_to(length.min(limit))
        {
            room.release();
            drop((read, more));
            discard_rest(chunks).await;
            return Err(full);
        }
        if length > limit {
            more.clear();
            read.clear();
            if length > limit.saturating_mul(2) {
                break;
            }
        } else if read.is_empty() && more.is_empty() {
            // Most bodies are one chunk, which needs no copy.
            read = chunk;
        } else {
            if more.is_empty() {
                more.reserve(announced.unwrap_or(length).min(limit));
                more.extend_from_slice(&std::mem::take(&mut read));
            }
            more.extend_from_slice(&chunk);
        }
    }
    if length > limit {
        return Err(too_large(limit));
    }
    Ok(if more.is_empty() { read } else { more.freeze() })
}

fn too_large(limit: usize) -> Problem {
    Problem::new(Kind::TooLarge, format!("The body is larger than {limit} bytes."))
}

/// Whether the headers declare the body as JSON.
#[derive(Clone, Copy)]
struct Declared(bool);

impl Declared {
    /// The body, if it is declared or empty.
    fn check(self, body: Bytes) -> Result<Bytes, Problem> {
        if self.0 || body.is_empty() { Ok(body) } else { Err(not_json()) }
    }
}

/// An error if the body is compressed, or declared as something other than JSON.
fn check_declared(headers: &HeaderMap) -> Result<Declared, Problem> {
    if headers.get(header::CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity") {
        return Err(Problem::new(
            Kind::UnsupportedMediaType,
            "The body must not be compressed; leave content-encoding out.",
        ));
    }
    match headers.get(header::CONTENT_TYPE) {
        Some(value) if !is_json(value) => Err(not_json()),
        declared => Ok(Declared(declared.is_some())),
    }
}

fn not_json() -> Problem {
    Problem::new(
        Kind::UnsupportedMediaType,
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

    /// With all the room that it needs.
    async fn read_json(headers: &HeaderMap, body: Body, limit: usize) -> Result<Bytes, Problem> {
        let declared = check_declared(headers)?;
        declared.check(read_within(PATIENCE, headers, body, (limit, None)).await?)
    }

    async fn read_all(chunks: &[&'static [u8]], limit: usize) -> Result<Bytes, Kind> {
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
            assert_eq!(read_all(chunks, 3).await, Err(Kind::TooLarge));
        }
    }

    /// A body that stops coming is given up.
    #[tokio::test]
    async fn a_body_is_not_waited_for_for_ever() {
        let stuck = Body::from_stream(
            stream::iter([Ok::<_, std::io::Error>("{")]).chain(stream::pending()),
        );
        let patience = Duration::from_millis(20);
        let read = tokio::time::timeout(
            patience * 500,
            read_within(patience, &HeaderMap::new(), stuck, (9, None)),
        )
        .await;
        assert_eq!(read.unwrap().unwrap_err().kind(), Kind::RequestTimeout);
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
            assert_eq!(problem.kind(), Kind::UnsupportedMediaType, "{other}");
        }
        assert!(read_json(&HeaderMap::new(), Body::empty(), 9).await.unwrap().is_empty());
        let undeclared = read_json(&HeaderMap::new(), Body::from("1"), 9).await.unwrap_err();
        assert_eq!(undeclared.kind(), Kind::UnsupportedMediaType);
        let gzip =
            HeaderMap::from_iter([(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"))]);
        assert_eq!(
            read_json(&gzip, Body::from("1"), 9).await.unwrap_err().kind(),
            Kind::UnsupportedMediaType
        );
    }
}
