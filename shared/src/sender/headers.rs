//! The headers of a request: those of Posthaste and those of the caller.

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{ACCEPT, CONTENT_TYPE, USER_AGENT},
};

use url::Url;

use super::{Request, target};
use crate::signing::{self, Secret};

/// The value of `user-agent`.
const AGENT: &str = concat!("Posthaste/", env!("CARGO_PKG_VERSION"));

const ANYTHING: HeaderValue = HeaderValue::from_static("*/*");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");
const WEBHOOK_TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const WEBHOOK_SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");
const CORRELATION_ID: HeaderName = HeaderName::from_static("x-correlation-id");
const ATTEMPT: HeaderName = HeaderName::from_static("x-webhook-attempt");
const EVENT: HeaderName = HeaderName::from_static("x-webhook-event");

/// Names that callers must not set: Posthaste sets them, they belong to the connection (RFC 9110,
/// 7.6.1), or they control framing or routing.
const RESERVED: [&str; 15] = [
    "connection",
    "content-length",
    "expect",
    "host",
    "http2-settings",
    "keep-alive",
    "max-forwards",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "x-correlation-id",
    "x-webhook-attempt",
    "x-webhook-event",
];

/// Prefixes of reserved names: those of Standard Webhooks, and those between a client and a proxy.
const RESERVED_PREFIXES: [&str; 2] = ["webhook-", "proxy-"];

/// Why a header of the caller is refused. The message is for the caller and continues a sentence
/// that begins with the header. It does not contain the value, which can be a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// The name is not a token of RFC 9110.
    #[error("is not a valid header name. Use letters, digits, and hyphens")]
    InvalidName,
    /// Posthaste sets the header, or it belongs to the connection.
    #[error("is reserved. Posthaste or the HTTP connection sets this header")]
    Reserved,
    /// The value contains control characters such as CR, LF, or NUL, or non-ASCII characters.
    #[error("has an invalid value. Use printable ASCII characters and tabs")]
    InvalidValue,
}

/// Checks a header of the caller. The API calls this before it accepts a webhook.
///
/// A caller can replace `content-type`, but no other header that Posthaste sets.
pub fn check_header(name: &str, value: &str) -> Result<(), HeaderError> {
    parse(name, value).map(|_| ())
}

fn parse(name: &str, value: &str) -> Result<(HeaderName, HeaderValue), HeaderError> {
    // `HeaderName` is in lower case.
    let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| HeaderError::InvalidName)?;
    // CGI and WSGI convert `-` to `_` (RFC 3875, section 4.1.18), so a receiver cannot distinguish
    // them.
    let spelling = name.as_str().replace('_', "-");
    if RESERVED.contains(&&*spelling)
        || RESERVED_PREFIXES.iter().any(|prefix| spelling.starts_with(prefix))
    {
        return Err(HeaderError::Reserved);
    }
    Ok((name, ascii(value).ok_or(HeaderError::InvalidValue)?))
}

/// The request line and all header lines, including the final blank line. `host` is the first
/// header (RFC 9110, 7.2). Names are in lower case, as most libraries send them.
pub(super) fn request_head(request: &Request<'_>, url: &Url, secrets: &[Secret]) -> Vec<u8> {
    let headers = compose(request, secrets);
    let mut head = Vec::with_capacity(1024);
    let mut push = |parts: &[&[u8]]| parts.iter().for_each(|part| head.extend_from_slice(part));
    push(&[b"POST ", target::request_target(request.url, url).as_bytes(), b" HTTP/1.1\r\n"]);
    push(&[b"host: ", target::host(url).as_bytes(), b"\r\n"]);
    for (name, value) in &headers {
        push(&[name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"]);
    }
    push(&[b"content-length: ", request.payload.len().to_string().as_bytes(), b"\r\n\r\n"]);
    head
}

/// All headers of a request except `host` and `content-length`.
///
/// A stored header that older rules accepted and the current rules refuse is left out, so that the
/// webhook can still be delivered.
pub(super) fn compose(request: &Request<'_>, secrets: &[Secret]) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(request.headers.len() + 8);
    headers.insert(CONTENT_TYPE, JSON);
    for (name, value) in request.headers.iter().filter_map(|(name, value)| parse(name, value).ok())
    {
        if name == CONTENT_TYPE {
            headers.insert(name, value);
        } else {
            headers.append(name, value);
        }
    }
    let id = match request.webhook_id.message_id() {
        Some(message_id) => message_id.to_string(),
        None => request.webhook_id.to_string(),
    };
    let seconds = request.timestamp.as_seconds();
    if !secrets.is_empty() {
        headers.insert(
            WEBHOOK_SIGNATURE,
            printable(&signing::sign(secrets, &id, seconds, &request.payload)),
        );
    }
    headers.insert(WEBHOOK_ID, printable(&id));
    headers.insert(WEBHOOK_TIMESTAMP, seconds.into());
    headers.insert(CORRELATION_ID, printable(request.correlation_id));
    headers.insert(ATTEMPT, request.attempt.into());
    if let Some(event) = request.event_type {
        headers.insert(EVENT, printable(event));
    }
    headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
    headers.entry(ACCEPT).or_insert(ANYTHING);
    headers
}

/// The text as a header value, if it consists of printable ASCII and tabs. The library accepts any
/// UTF-8, which receivers interpret differently.
fn ascii(text: &str) -> Option<HeaderValue> {
    if text.is_ascii() { HeaderValue::from_str(text).ok() } else { None }
}

/// The text as a header value, with `?` in place of invalid characters. Only event types can
/// contain such characters.
fn printable(text: &str) -> HeaderValue {
    ascii(text).unwrap_or_else(|| {
        let clean: String =
            text.chars().map(|c| if (' '..='~').contains(&c) { c } else { '?' }).collect();
        ascii(&clean).unwrap_or(HeaderValue::from_static("?"))
    })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::clock::Timestamp;

    #[test]
    fn the_callers_own_headers_are_accepted() {
        for (name, value) in [
            ("authorization", "Bearer a.b-c=="),
            ("X-Api-Key", "k"),
            ("content-type", "application/cloudevents+json"),
            ("Content-Encoding", "identity"),
            ("cookie", "a=b; c=d"),
            ("x-tab", "a\tb"),
            ("x_under", ""),
            ("webhook", "1"),
            ("x-webhook-source", "orders"),
            ("webhookid", "1"),
            ("hosted", "1"),
            ("idempotency-key", "17"),
        ] {
            assert_eq!(check_header(name, value), Ok(()), "{name}");
        }
    }

    #[test]
    fn reserved_names_are_refused_in_any_case() {
        for name in RESERVED
            .into_iter()
            .chain(["webhook-id", "webhook-timestamp", "webhook-signature", "webhook-anything"])
            .chain([
                "Proxy-Authorization",
                "proxy-connection",
                "Host",
                "CONTENT-LENGTH",
                "Transfer-Encoding",
                "User-Agent",
                "X-Correlation-ID",
                "Webhook-Id",
                "webhook_id",
                "Webhook_Signature",
                "x_correlation_id",
                "X-Correlation_Id",
                "content_length",
                "proxy_authorization",
            ])
        {
            assert_eq!(check_header(name, "x"), Err(HeaderError::Reserved), "{name}");
        }
    }

    #[test]
    fn nothing_can_be_smuggled_in() {
        for name in
            ["", " ", "a b", "a:", ":authority", "a\r\nb", "a\0", "ä", "a(b)", "host ", "x-a\n"]
        {
            assert_eq!(check_header(name, "x"), Err(HeaderError::InvalidName), "{name:?}");
        }
        for value in ["a\r\nHost: b", "a\n", "\r", "a\0", "\u{7f}", "\u{1b}[0m", "ä", "\u{2028}"] {
            assert_eq!(check_header("x-a", value), Err(HeaderError::InvalidValue), "{value:?}");
        }
    }

    /// Ours stand, whatever is stored; the caller's content type replaces ours and others may come
    /// twice.
    #[test]
    fn stored_headers_never_override_ours() {
        let webhook_id = "o_01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap();
        let stored = [
            ("Webhook-Id", "fake"),
            ("webhook_id", "fake"),
            ("host", "evil.example"),
            ("x-correlation-id", "fake"),
            ("x-broken", "a\r\nb"),
            ("Content-Type", "text/a"),
            ("content-type", "text/b"),
            ("x-many", "1"),
            ("x-many", "2"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
        let request = Request {
            url: "https://example.com/",
            headers: &stored,
            payload: Bytes::from_static(b"{}"),
            webhook_id: &webhook_id,
            secrets: None,
            correlation_id: "cor",
            event_type: Some("a\r\nb: ä"),
            attempt: 3,
            timestamp: Timestamp::from_millis(1_700_000_000_999),
        };
        let headers = compose(&request, &[]);
        let mut shown: Vec<_> = headers
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect();
        shown.sort_unstable();
        let agent = format!("user-agent: {AGENT}");
        let expected = [
            "accept: */*",
            "content-type: text/b",
            &agent,
            "webhook-id: o_01890a5d-ac96-774b-bcce-b302099a8057",
            "webhook-timestamp: 1700000000",
            "x-correlation-id: cor",
            "x-many: 1",
            "x-many: 2",
            "x-webhook-attempt: 3",
            "x-webhook-event: a??b: ?",
        ];
        assert_eq!(shown, expected);
        let secrets = Secret::parse_list("YQ== Yg==").unwrap();
        let signature =
            compose(&request, &secrets)["webhook-signature"].to_str().unwrap().to_owned();
        assert_eq!(
            signature,
            signing::sign(&secrets, &webhook_id.to_string(), 1_700_000_000, b"{}")
        );
    }
}
